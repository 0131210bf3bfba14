"""What a user installs: an sdist that holds everything, and a wheel built from it in isolation."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT, tracked
from linuxsync.vm.fencedev import sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

TOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
# The folders that become packages of another name.
MOVED = {"native/": "linuxsync/_native/", "vm/": "linuxsync/vm/", "linuxsync/": "linuxsync/"}


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    """The one."""
    return next(built.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The other."""
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that runs the Python of a clean environment with the wheel in it, and returns what it prints."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv/bin/python")

    def run(*arguments: str) -> str:
        command = [python, "-W", "error", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=300, cwd=folder)
    return run


def test_the_sdist_has_all_that_git_has(sdist: Path) -> None:
    """As check-manifest sees it, with what [tool.check-manifest] leaves out."""
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    ignored = TOOLS["check-manifest"]["ignore"]
    expected = {name for name in tracked() if not any(fnmatchcase(name, pattern) for pattern in ignored)}
    made = {name for name in names if re.fullmatch(r"PKG-INFO|setup\.cfg|linuxsync\.egg-info/.*", name)}
    assert names - made == expected


def test_check_manifest() -> None:
    """check-manifest, which builds an sdist of its own, misses nothing either; it is what CI runs."""
    command = [sys.executable, "-m", "check_manifest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """All but the sources of extension modules, which are there compiled; from the sdist as from the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not re.match(r"linuxsync-[^/]*\.(dist-info|data)/", name)}
    expected = {
        name.replace(old, new, 1) for name in tracked() for old, new in MOVED.items() if name.startswith(old)
    } - {"linuxsync/_native/fencedev/.gitignore"}
    modules = {name for name in expected if name.endswith(".pyx")}
    compiled = {name for name in names if name.endswith(".so")}
    assert names - compiled == expected - modules
    assert {name.partition(".")[0] for name in compiled} == {name.removesuffix(".pyx") for name in modules}


def test_the_wheel_has_what_people_need(wheel: Path) -> None:
    """Types, the guest with programs that can be executed, the module's source, the pages, the licenses."""
    with zipfile.ZipFile(wheel) as archive:
        modes = {member.filename: member.external_attr >> 16 for member in archive.infolist()}
        metadata = archive.read(next(name for name in modes if name.endswith("/METADATA"))).decode()
        record = archive.read(next(name for name in modes if name.endswith("/WHEEL"))).decode()
    assert {
        "linuxsync/py.typed",
        "linuxsync/_native/sync_file.pyi",
        "linuxsync/vm/guest.sh",
        "linuxsync/vm/kernel.config",
        "linuxsync/trace/page/page.html",
        *(f"linuxsync/_native/fencedev/{path.name}" for path in [*sources(), Path("COPYING")]),
    } <= modes.keys()
    for program in ("run", "qemu-wrapper"):
        assert modes[f"linuxsync/vm/{program}"] & stat.S_IXUSR
    assert {Path(name).name for name in modes if "/licenses/" in name} == {"LICENSE", "COPYING"}
    assert "License-Expression: LGPL-2.1-or-later AND GPL-2.0-only" in metadata
    assert "Root-Is-Purelib: false" in record


def test_twine_and_check_wheel_contents(sdist: Path, wheel: Path) -> None:
    """PyPI would take both and show the README; the wheel installs nothing beside the package."""
    for command in (["twine", "check", "--strict", str(sdist), str(wheel)], ["check_wheel_contents", str(wheel)]):
        command = [sys.executable, "-m", *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_works_in_a_clean_environment(installed: Callable[..., str]) -> None:
    """With nothing else around it every module can be imported, from where it was installed, and asks the kernel."""
    told = installed(str(ROOT / "tests/import_all.py"))
    count, where = re.match(r"(\d+) modules of (\S+);", told).groups()  # type: ignore[union-attr]
    assert not Path(where).is_relative_to(ROOT)
    files = [name for name in tracked() if re.match(r"(linuxsync|native|vm)/.*\.py[x]?$", name)]
    programs = [name for name in files if name.endswith("__main__.py")]
    left_out = told.partition("extras: ")[2].split("; ")
    # Each one's own name is not counted, and what lies in a package that can't be imported is not looked at.
    hidden = sum(name.startswith("linuxsync/pytest_plugin/") for name in files) - 1
    assert int(count) + len(left_out) + hidden == len(files) - len(programs) - 1
    assert {re.match(r"[\w.]+", line)[0] for line in left_out} == {  # type: ignore[index]
        "linuxsync.cli.exposition",
        "linuxsync.pytest_plugin",
        "linuxsync.trace.packets",
        "linuxsync.trace.perfetto",
    }


def test_the_command_of_a_clean_environment(installed: Callable[..., str]) -> None:
    """linuxsync knows its commands, the guest's among them, and where the module's source is."""
    assert " vm " in installed("-m", "linuxsync.cli", "--help")
    counted = "from linuxsync.vm import fencedev; print(len(fencedev.sources()))"
    assert int(installed("-c", counted)) == len(sources())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="cibuildwheel needs Python 3.11")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_which_wheels_are_built(machine: str) -> None:
    """[tool.cibuildwheel] is what cibuildwheel understands: CPython 3.10 to 3.14 on manylinux."""
    command = [sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--archs", machine]
    done = subprocess.run(
        [*command, "--print-build-identifiers"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"cp3{minor}-manylinux_{machine}" for minor in range(10, 15)]
    assert TOOLS["cibuildwheel"]["test-command"] == "python {package}/tests/import_all.py"
