"""The pytest plugin on a machine without fences: what it says, and that it is quiet where nobody asks for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from linuxsync import sw_sync
from linuxsync.inspect import examine

pytest_plugins = ["pytester"]

needs_no_fences = pytest.mark.skipif(sw_sync.available(), reason="this machine has sw_sync")


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """A function that runs pytest, as somebody else's project would, on the text of a test file."""
    monkeypatch.delenv("LINUXSYNC_REQUIRE_VM", raising=False)

    def run(text: str, *options: str, ini: str = "") -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess("-ra", "--strict-markers", "-p", "no:hypothesispytest", *options)

    return run


FIXTURES = {
    "sw_sync_timeline": "sw_sync",
    "dma_buf": "heaps",
    "vgem": "drm:vgem",
    "vkms": "drm:vkms",
    "syncobj_device": "syncobj",
    "fence_device": "fencedev",
    "fence_trace": "tracefs",
}


@needs_no_fences
@pytest.mark.parametrize(("fixture", "feature"), FIXTURES.items())
def test_fixtures_skip_with_a_reason(fixture: str, feature: str, runs) -> None:
    """Where the thing is missing, with what doctor says, at the line of the test."""
    known = {one.name: one for one in examine()}
    if feature == "tracefs" and known[feature].state.value == "ok":
        pytest.skip("this machine has tracefs")
    done = runs(f"\n\ndef test_it({fixture}): pass")
    done.assert_outcomes(skipped=1)
    why = known[feature].why if feature in known else "no DRM device of driver"
    (line,) = [line for line in done.outlines if line.startswith("SKIPPED")]
    assert re.match(rf"SKIPPED \[1\] test_\w+\.py:\d+: needs {feature}: {re.escape(why)}", line)
    assert line.endswith("; pytest --linuxsync-vm runs it where it is there")
    assert "try: " not in line, "one advice will do"
    assert done.ret == 0


@needs_no_fences
def test_marker_skips(runs) -> None:
    """For all that is missing, of the function's markers and its class's, before any fixture is made."""
    done = runs(
        """
        import pytest

        @pytest.fixture
        def made():
            raise AssertionError("too late")

        @pytest.mark.linuxsync(requires=["sw_sync", "kcmp"])
        class TestIt:
            @pytest.mark.linuxsync(requires=("drm:vkms",))
            def test_it(self, made):
                pass

        @pytest.mark.linuxsync(requires=["hidepid"])
        def test_has_it():
            pass

        @pytest.mark.linuxsync
        def test_needs_nothing():
            pass
        """
    )
    done.assert_outcomes(skipped=1, passed=2)
    (line,) = [line for line in done.outlines if line.startswith("SKIPPED")]
    assert "needs drm:vkms: " in line
    assert "needs sw_sync: " in line
    assert "kcmp" not in line


@needs_no_fences
def test_strict(runs) -> None:
    """Nothing is skipped, neither by the marker nor by a fixture."""
    text = "import pytest\n@pytest.mark.linuxsync(requires=['sw_sync'])\ndef test_a(): pass\ndef test_b(vgem): pass"
    done = runs(text, "--linuxsync-strict")
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["needs sw_sync: *; with --linuxsync-strict nothing is skipped", "needs drm:vgem: *"])


WRONG = {
    "requires=['swsync']": "*there is no such name; there are *fencedev,*sw_sync,*and drm:DRIVER",
    "requires='sw_sync'": "the marker is written linuxsync(requires=*not linuxsync(requires='sw_sync')",
    "'sw_sync'": "the marker is written linuxsync(requires=*not linuxsync('sw_sync')",
    "require=['sw_sync']": "the marker is written linuxsync(requires=*not linuxsync(require=*",
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.items())
def test_wrong_markers(arguments: str, said: str, runs) -> None:
    """A slip of the pen is no skip, which nobody would read."""
    done = runs(f"import pytest\n@pytest.mark.linuxsync({arguments})\ndef test_a(): pass")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([said])


def test_registered(runs) -> None:
    """The marker, the options and each fixture with what it is for."""
    done = runs("", "--markers")
    done.stdout.fnmatch_lines(["@pytest.mark.linuxsync(requires=*sw_sync or drm:vkms*"])
    done = runs("", "--help")
    done.stdout.fnmatch_lines(["*--linuxsync-vm *", "*--linuxsync-kernel=*", "*linuxsync_leak_check (bool):*"])
    done = runs("", "--fixtures")
    for name in [*FIXTURES, "fence_leak_check"]:
        assert re.search(
            rf"^{name} -- .*linuxsync/pytest_plugin/__init__.py:\d+\n    \S", str(done.stdout), re.MULTILINE
        )


REFUSED = {
    ("-p", "no:xdist"): "ERROR: --linuxsync-vm takes pytest-xdist * leave out -p no:xdist",
    ("--pdb",): "ERROR: --pdb and --trace can't reach into a guest; *",
    ("--trace",): "ERROR: --pdb and --trace can't reach into a guest; *",
    ("-n", "0"): "ERROR: --linuxsync-vm with -n 0 *",
    ("--tx", "popen"): "ERROR: --linuxsync-vm and --tx both *",
    ("nothere.py",): "ERROR: file or directory not found: nothere.py",
    (
        "test_it.py",
        "nothere/test_a.py::test_a[1]",
    ): "ERROR: file or directory not found: nothere/test_a.py::test_a[[]1]",
}


@pytest.mark.parametrize(("options", "said"), REFUSED.items(), ids=lambda value: " ".join(value))
def test_what_cannot_be(options: tuple[str, ...], said: str, runs) -> None:
    """Said before anything is booted, with pytest's status for wrong usage."""
    Path("test_it.py").touch()
    done = runs("def test_a(): pass", "--linuxsync-vm", *options)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([said])


def test_without_xdist(runs, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else works; --linuxsync-vm says how to install it."""
    plain = pytester.mkdir("plain")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = runs("def test_a(fence_leak_check): pass", "-p", "linuxsync.pytest_plugin", f"--rootdir={plain}")
    done.assert_outcomes(passed=1)
    done = runs("def test_a(): pass", "-p", "linuxsync.pytest_plugin", "--linuxsync-vm")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --linuxsync-vm takes pytest-xdist *: pip install 'linuxsync*vm,pytest]'"])


def test_a_folder_of_the_same_name(pytester: pytest.Pytester) -> None:
    """Where the program is not beside the Python, a folder linuxsync of the project is not taken for ours."""
    python = pytester.mkdir("bin") / "python"
    python.symlink_to(sys.executable)
    (pytester.path / "lib").symlink_to(Path(sys.prefix, "lib"))
    (pytester.path / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
    (pytester.mkpydir("linuxsync") / "cli.py").write_text("raise AssertionError('not this one')")
    pytester.makepyfile("def test_a(): pass")
    # As the program pytest does, which does not look in the current folder.
    start = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
    command = [python, "-c", start, "--linuxsync-vm", "-p", "no:hypothesispytest"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "vm: this Python has no virtme-ng: " in done.stderr
    assert "ERROR: no kernel for the guest: " in done.stderr


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--markers", "--help", "--version"])
def test_no_guest_for_nothing(option: str, runs) -> None:
    """What runs no test boots no guest, and needs neither a kernel nor QEMU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        done = runs("def test_a(): pass", "--linuxsync-vm", option)
    assert done.ret == 0


def test_in_the_guest_the_option_means_nothing(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --linuxsync-vm in addopts, `linuxsync vm run -- pytest` works, too."""
    monkeypatch.setenv("LINUXSYNC_VM", "1")
    done = runs(
        "import os\ndef test_a(): assert 'PYTEST_XDIST_WORKER' not in os.environ", ini="addopts = --linuxsync-vm"
    )
    done.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "said"),
    [
        ("linuxsync_kernel_log = yes", "linuxsync_kernel_log is on, off or guest, not 'yes'"),
        ("linuxsync_kernel_log_ignore = (", "linuxsync_kernel_log_ignore: '(' is none: missing ), unterminated*"),
    ],
)
def test_wrong_ini(ini: str, said: str, runs) -> None:
    """A value that means nothing is an error."""
    done = runs("def test_a(): pass", ini=ini)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: {said}"])


UNUSED = """
import gc, sys
def test_nothing(pytestconfig):
    assert gc.isenabled()
    ours = {name for name, _ in pytestconfig.pluginmanager.list_name_plugin() if "linuxsync" in name}
    assert ours == {"linuxsync", "linuxsync_verdicts", "linuxsync_pages"}
    assert not {name for name in sys.modules if name.startswith(("linuxsync.inspect", "linuxsync.trace", "asyncio"))}
"""


def test_quiet_when_unused(runs) -> None:
    """It neither looks at fences nor imports what looks at them, and changes nothing of what pytest prints."""
    done = runs(UNUSED, "-p", "no:xdist")
    done.assert_outcomes(passed=1)
    assert not [line for line in done.outlines if "linuxsync" in line and not line.startswith("plugins: ")]


def test_late_request(runs) -> None:
    """A check that begins in the middle of a test would be none."""
    done = runs("def test_a(request): request.getfixturevalue('fence_leak_check')")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*fence_leak_check has to be there before the test begins*"])
