"""Somebody else's project, tests/adopter: its tests with an installed linuxsync, and nothing of this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from checkout import ROOT
from linuxsync.vm import kernel as kernels

from linuxsync import sw_sync

ADOPTER = ROOT / "tests" / "adopter"
LIMIT = 1200
TESTS = 10
# What Linux 6.1 has not, by the names of the tests that need it.
OLDEST_LACKS = {"set_deadline", "syncobj"}


class Project:
    """A copy of the adopter's project, and a Python that has one file of linuxsync installed and what that takes."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder = folder / "tinycomp"
        shutil.copytree(ADOPTER, self.folder, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
        venv.create(folder / "venv", with_pip=True)
        self.python = folder / "venv" / "bin" / "python"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("LINUXSYNC_", "PYTHON"))}
        self.env["PATH"] = os.defpath  # none of our .venv
        self.run("-m", "pip", "install", "--quiet", f"{package}[vm,pytest]")

    def run(self, *arguments: str) -> str:
        """Run its Python and return what it prints; it must succeed."""
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def skipped(self, printed: str) -> set[str]:
        """What was missing, by its names."""
        return set(re.findall(r"needs ([\w:]+): ", "".join(re.findall(r"^SKIPPED .*$", printed, re.MULTILINE))))


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def project(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with each of the two."""
    (package,) = built.glob("*.whl" if request.param == "wheel" else "*.tar.gz")
    return Project(tmp_path_factory.mktemp(request.param), package)


def test_bare_host(project: Project) -> None:
    """All is skipped that takes a fence, each with a reason, and the exit status is 0."""
    where = project.run("-c", "import linuxsync; print(linuxsync.__file__)")
    assert where.startswith(str(project.folder.parent)), where
    if sw_sync.available():
        pytest.skip("this machine has sw_sync")
    printed = project.run("-m", "pytest")
    assert re.search(rf"= {TESTS} skipped in ", printed), printed
    reasons = re.findall(r"^SKIPPED \[1\] tests/test_output.py:\d+: needs .*$", printed, re.MULTILINE)
    assert len(reasons) == TESTS
    assert all(reason.endswith("; pytest --linuxsync-vm runs it where it is there") for reason in reasons)
    assert project.skipped(printed) >= {"sw_sync", "drm:vgem", "drm:vkms", "fencedev", "syncobj", "heaps"}


def test_guest(project: Project, kernel: kernels.Kernel) -> None:
    """All tests pass, none is skipped."""
    printed = project.run("-m", "pytest", "--linuxsync-vm")
    assert re.search(rf"= {TESTS} passed in ", printed), printed


# The same code as the sdist's, which need not be there as well.
@pytest.mark.parametrize("project", ["wheel"], indirect=True)
def test_guest_of_the_oldest(project: Project, oldest: kernels.Kernel) -> None:
    """Exactly what that kernel lacks is skipped, with the reason; the rest passes."""
    printed = project.run("-m", "pytest", "--linuxsync-vm", "--linuxsync-kernel", "6.1")
    assert re.search(rf"= {TESTS - 2} passed, 2 skipped in ", printed), printed
    assert project.skipped(printed) == OLDEST_LACKS
