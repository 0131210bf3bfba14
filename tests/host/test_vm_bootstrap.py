"""The set-up of a fresh machine: what is missing is named exactly, and what is there is not done again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from linuxsync.vm import __main__ as front
from linuxsync.vm import bootstrap, fencedev, runner, tests
from linuxsync.vm.command import Options
from linuxsync.vm.kernel import Kernel
from linuxsync.vm.tests import phases, worst

CHECKOUT = bootstrap.CHECKOUT
RUN = CHECKOUT / "vm" / "run"
LIMIT = 600.0
EX_UNAVAILABLE = 69
NOBODY = [shutil.which("setpriv") or "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def front_door(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RUN), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, **environment},
    )


def test_help_teaches_without_any_setup(tmp_path: Path) -> None:
    """A copy of two files, nothing else: no .venv, no PATH."""
    for name in ("run", "bootstrap.py"):
        shutil.copy(CHECKOUT / "vm" / name, tmp_path)
    texts = set()
    for line in ("--help", "-h", "--kernel x --help", "shell --help", "kernel -h", "demo -h", "torture --help"):
        words = line.split()
        command = [sys.executable, str(tmp_path / "run"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env={"PATH": ""})
        assert (done.returncode, done.stderr) == (0, "")
        texts.add(done.stdout)
    [text] = texts
    for word in ("demo", "test", "shell", "bench", "kernel", "-- CMD", "--timeout", "69", "Examples:"):
        assert word in text
    done = subprocess.run([sys.executable, str(tmp_path / "run")], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", text)
    assert not list(tmp_path.glob("__pycache__"))


def test_second_run_finds_everything_done() -> None:
    """Nothing is named as a step, so nothing was done: what is said is the command's own."""
    if bootstrap.read_stamp() != bootstrap.wanted_stamp():
        pytest.skip("vm/run would make .venv again, under this Python's feet")
    done = front_door("--kernel", "/nonexistent", "kernel")
    assert done.returncode == EX_UNAVAILABLE
    known = ", ".join(bootstrap.known_kernels())
    assert done.stderr == f"vm: /nonexistent: No such file or folder, nor a version; known are {known}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_without_root_it_says_what_is_missing(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcc", "make"):
        (programs / name).symlink_to(shutil.which(name) or "")
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.owner() == "root" and folder.stat().st_mode & 0o5 != 0o5:
            pytest.fail(f"{folder} cannot be entered by nobody") if folder == Path("/") else folder.chmod(0o755)
    for name in ("run", "bootstrap.py"):
        shutil.copy(CHECKOUT / "vm" / name, tmp_path)
    python = "/usr/bin/python3"
    command = [*NOBODY, python, str(tmp_path / "run"), "demo"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, env={"PATH": str(programs)}
    )
    assert (done.returncode, done.stdout) == (EX_UNAVAILABLE, "")
    assert "installing packages takes root or sudo, and this is missing:" in done.stderr
    assert "  - the program qemu-system-x86_64\n" in done.stderr
    assert "  - the program flex\n" in done.stderr
    assert "To get it, as root: apt-get install --no-install-recommends " in done.stderr
    assert "the program gcc\n" not in done.stderr
    assert "the program make\n" not in done.stderr


def missing_needs() -> list[bootstrap.Need]:
    return [
        bootstrap.Need("the program a", lambda: False, {"debian": "a", "fedora": "a-tools"}),
        bootstrap.Need("the header b.h", lambda: False, {"debian": "b-dev"}),
    ]


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ("ID=fedora\n", ["To get it, as root: dnf install a-tools", "is known here for: the header b.h"]),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', ["is known here for: the program a; the header b.h"]),
        ("", ["  - the program a\n  - the header b.h"]),
    ],
)
def test_another_distribution(tmp_path: Path, os_release: str, expected: list[str]) -> None:
    file = tmp_path / "os-release"
    file.write_text(os_release)
    with pytest.raises(bootstrap.UnavailableError) as error:
        bootstrap.install_packages(missing_needs(), yes=True, os_release=file)
    said = str(error.value)
    assert said.startswith("packages can be installed from here on Debian and Ubuntu only, and this is missing:\n")
    for text in expected:
        assert text in said


def test_ubuntu_is_like_debian(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n')
    assert bootstrap.distribution(file) == "debian"
    assert bootstrap.distribution(tmp_path / "missing") == "unknown"


@pytest.mark.skipif(os.geteuid() != 0, reason="without root another message comes first")
def test_nothing_is_installed_unasked(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text("ID=debian\n")
    command = "import sys; sys.path.insert(0, sys.argv[1]); import bootstrap; from pathlib import Path\n"
    command += "need = bootstrap.Need('the program a', lambda: False, {'debian': 'no-such-package'})\n"
    command += "bootstrap.install_packages([need], yes=False, os_release=Path(sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", command, str(CHECKOUT / "vm"), str(file)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert "there is no terminal to ask on, nor --yes, and this is missing:\n  - the program a\n" in done.stderr
    assert "apt-get install --no-install-recommends no-such-package" in done.stderr
    assert "apt-get update" not in done.stderr


def test_half_made_environment_is_made_again(tmp_path: Path) -> None:
    """An interruption while .venv is being made leaves no stamp, so the next run starts over."""
    copy = tmp_path / "checkout"
    (copy / "vm").mkdir(parents=True)
    for name in ("run", "bootstrap.py"):
        shutil.copy(CHECKOUT / "vm" / name, copy / "vm")
    # Less than the real thing, for speed: an installation that fails at once, and one that cannot.
    (copy / "setup.py").write_text("raise SystemExit('broken on purpose')\n")
    (copy / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nowhere'\n")
    (copy / ".venv").mkdir()
    (copy / ".venv" / "left-over").touch()
    command = [sys.executable, str(copy / "vm" / "run"), "--kernel", "x", "kernel"]
    for _ in range(2):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == EX_UNAVAILABLE
        assert "vm: making .venv\n" in done.stderr
        assert "into .venv failed with status " in done.stderr
        assert f"The whole log: {copy}/build/venv.log" in done.stderr
        assert not (copy / ".venv" / "left-over").exists()
        assert not (copy / ".venv" / ".linuxsync-stamp").exists()


def test_options_are_told_from_the_command() -> None:
    assert bootstrap.split(["--rw", "test", "--yes", "--", "-x", "y"]) == (["--rw", "test", "--yes"], ["--", "-x", "y"])
    assert bootstrap.split(["--timeout=5", "test", "--yes"]) == (["--timeout=5"], ["test", "--yes"])
    assert bootstrap.split([]) == ([], [])


@pytest.mark.parametrize(
    ("line", "versions"),
    [
        ("demo", ["6.12"]),
        ("--kernel 6.1 demo", ["6.1"]),
        ("--kernel=6.1 --yes -- true", ["6.1"]),
        ("--kernel 6.1 --kernel x demo", []),
        ("--kernel ./6.1 demo", []),
        ("test", ["6.12", "6.1"]),
        ("test -k merge", ["6.12"]),
        ("test tests", ["6.12", "6.1"]),
        ("test tests/host/", ["6.12", "6.1"]),
        ("test tests/host/test_host.py::test_x", ["6.12"]),
        ("test tests/vm", ["6.12"]),
        ("--kernel 6.1 test tests/vm", ["6.1"]),
        ("--kernel x test", ["6.12", "6.1"]),
        ("test --kernel 6.1 tests/vm", ["6.1"]),
        ("test tests/vm --kernel debug", ["6.12"]),
        ("test -q --kernel debug", ["6.12", "6.1"]),
        ("test --kernel README.md", ["6.12", "6.1"]),
        ("torture", ["6.12"]),
        ("--kernel 6.1 torture --minutes 3", ["6.1"]),
        ("torture -q --kernel 6.1", ["6.1"]),
        ("-- test", ["6.12"]),
    ],
)
def test_kernels_that_a_run_needs(line: str, versions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "oldest_is_tested", lambda: True)
    assert bootstrap.kernel_versions(*bootstrap.split(line.split())) == versions


def test_where_the_oldest_kernel_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Debian 12, and elsewhere where somebody has put its source; nobody else has to go and get it."""
    file = tmp_path / "os-release"
    for text, here in (("VERSION_CODENAME=bookworm\n", True), ("VERSION_CODENAME=noble\n", False)):
        file.write_text(text)
        monkeypatch.setattr(bootstrap, "sources", dict)
        assert bootstrap.oldest_is_tested(file) is here
        monkeypatch.setattr(bootstrap, "sources", lambda: {"6.1": file})
        assert bootstrap.oldest_is_tested(file)
    monkeypatch.setattr(bootstrap, "oldest_is_tested", lambda: False)
    assert bootstrap.kernel_versions([], ["test"]) == ["6.12"]


def test_kernel_that_the_distribution_has_not(tmp_path: Path) -> None:
    """It is said before anything is installed, and where else to get it."""
    file = tmp_path / "os-release"
    file.write_text("ID=fedora\n")
    need = bootstrap.source_need("6.1")
    with pytest.raises(bootstrap.UnavailableError) as error:
        bootstrap.install_packages([need], yes=True, os_release=file)
    where = "/usr/src/linux-source-6.1.tar.xz (or put kernel.org's there)"
    assert f"  - the source of Linux 6.1, packed, as {where}\n" in str(error.value)
    assert f"is known here for: the source of Linux 6.1, packed, as {where}" in str(error.value)


def test_newest_source_in_place_of_the_usual_one() -> None:
    """But not one that is asked for by its version, nor the oldest."""
    assert bootstrap.choose(["6.1", "6.12", "6.17"], "6.12") == "6.12"
    assert bootstrap.choose(["6.8.0", "6.17", "6.9"], "6.12") == "6.17"
    assert bootstrap.choose(["6.1"], "6.12") is None
    assert bootstrap.choose(["6.1", "6.12"], "6.1") == "6.1"
    assert bootstrap.choose(["6.12", "6.10"], "6.1") is None


def test_test_paths_choose_the_phases() -> None:
    host, guest = f"{CHECKOUT}/tests/host", f"{CHECKOUT}/tests/vm"
    this = f"{host}/{Path(__file__).name}"
    assert phases([], CHECKOUT) == (["tests/host"], ["tests/vm"])
    assert phases(["-k", "merge", "-x"], CHECKOUT) == (
        ["tests/host", "-k", "merge", "-x"],
        ["tests/vm", "-k", "merge", "-x"],
    )
    assert phases([f"tests/host/{Path(__file__).name}::test_x", "-v"], CHECKOUT) == (["-v", f"{this}::test_x"], None)
    assert phases(["tests/vm"], CHECKOUT) == (None, [guest])
    assert phases(["tests"], CHECKOUT) == ([host], [guest])


@pytest.fixture
def tortured(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[list[str], float]]:
    """What pytest in the guest is given by a command line, and the guest's time limit.

    No guest is booted, and the part on the host is not run: it says that it has tried 7 inputs.
    """
    runs: list[tuple[list[str], float]] = []

    def run(command: list[str], settings: runner.Settings, **others: object) -> int:
        runs.append((command[command.index("no:cacheprovider") + 1 :], settings.timeout))
        return 0

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(tests, "torture_on_the_host", lambda *arguments: (0, 7))
    monkeypatch.setattr(fencedev, "module", lambda kernel: None)
    monkeypatch.setattr(Options, "find_kernel", lambda self: Kernel(Path("/nonexistent"), "6.12"))

    def of(line: str) -> tuple[list[str], float]:
        assert front.run(["--no-kvm", *line.split()]) == 0
        return runs.pop()

    return of


@pytest.mark.parametrize(
    ("folder", "line", "words"),
    [
        (".", "", "tests/vm/test_security.py --inputs=7 tests/torture"),
        (".", "--minutes 10 -x", "-x tests/vm/test_security.py --inputs=7 tests/torture --minutes=9"),
        (".", "-k vm", "-k vm tests/torture"),
        (".", "-x -k examples -m linuxsync", "-x -k examples -m linuxsync tests/torture"),
        ("tests", "-k vm", "-k vm tests/torture"),
        ("/", "-k tmp", "-k tmp tests/torture"),
        (".", "--minutes 3 -k models", "-k models tests/torture --minutes=3"),
        (".", "tests/torture -x", "HERE -x"),
        (".", "tests/torture/test_models.py::test_x[a::b] -x", "HERE/test_models.py::test_x[a::b] -x"),
        ("/", "-x tests/torture/test_models.py", "-x HERE/test_models.py"),
        ("tests", "torture/test_models.py torture/test_faults_drm.py", "HERE/test_models.py HERE/test_faults_drm.py"),
        ("tests/torture", "test_models.py --minutes 1.5", "HERE/test_models.py --minutes=1.5"),
        (".", f"-c pyproject.toml --rootdir . {__file__}", f"-c pyproject.toml --rootdir . {__file__}"),
    ],
)
def test_torture_runs_what_is_named(
    folder: str, line: str, words: str, tortured: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of it where nothing is: an option's value is no path because a folder has the same name."""
    monkeypatch.chdir(CHECKOUT / folder)
    assert tortured(f"torture {line}")[0] == words.replace("HERE", f"{CHECKOUT}/tests/torture").split()


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("torture", 7200),
        ("torture --minutes 30", 7200),
        ("torture --minutes 120", 120 * 60 + 1800),
        ("--kernel 6.1 torture", 1800),
        ("--kernel 6.1 torture --minutes 10", 10 * 60 + 1800),
        ("--timeout 60 torture", 60),
        ("--timeout 60 --kernel 6.1 torture --minutes 30", 60),
        ("--timeout 9000 torture --minutes 1", 9000),
    ],
)
def test_torture_has_the_time_that_it_takes(line: str, limit: float, tortured: Callable) -> None:
    """Unless --timeout says otherwise."""
    assert tortured(line)[1] == limit


def test_worst_status_counts() -> None:
    assert worst([0, 0]) == 0
    assert worst([1, 0]) == 1
    assert worst([0, 2]) == 2
    # Nothing collected in one phase is no failure; in both it is.
    assert worst([5, 0]) == worst([0, 5]) == 0
    assert worst([5, 1]) == 1
    assert worst([5, 5]) == worst([5]) == 5
    # Killed by SIGSEGV.
    assert worst([0, -11]) == 139
