"""The kernel of the guests that tests boot, a cache for each, and what a user installs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT, copy_tracked
from linuxsync.vm import kernel as kernels
from linuxsync.vm.bootstrap import OLDEST, oldest_is_tested


@pytest.fixture(scope="session")
def kernel() -> kernels.Kernel:
    """The project's own."""
    return kernels.ensure()


@pytest.fixture(scope="session")
def oldest() -> kernels.Kernel:
    """The oldest, where it can be had: Debian 12 has its source, and CI runs there."""
    if not oldest_is_tested():
        pytest.skip(f"needs linux-source-{OLDEST}")
    return kernels.ensure(OLDEST)


@pytest.fixture(params=["kernel", "oldest"])
def each_kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    """The project's own, and the oldest."""
    found: kernels.Kernel = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def cache(tmp_path: Path, kernel: kernels.Kernel) -> Path:
    """A cache of the test's own, with the real kernel in it: what a run leaves there can be seen."""
    (tmp_path / "linuxsync").mkdir()
    (tmp_path / "linuxsync" / "kernels").symlink_to(kernel.image.parent.parent.parent)
    return tmp_path


BuildModule = Callable[[kernels.Kernel, str], Path]


@pytest.fixture(scope="module")
def build_module(tmp_path_factory: pytest.TempPathFactory) -> BuildModule:
    """A function that builds a kernel module of one file, out of the tree, with what the cache keeps for that."""

    def build(kernel: kernels.Kernel, text: str) -> Path:
        folder = tmp_path_factory.mktemp("module")
        (folder / "misbehave.c").write_text(text)
        (folder / "Kbuild").write_text("obj-m := misbehave.o\n")
        command = ["make", "-C", str(kernel.extmod), f"M={folder}", "modules"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout
        return folder / "misbehave.ko"

    return build


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder for a project that has tests."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist made from the tracked files, and the wheel made from that sdist.

    It is compiled as in the image of cibuildwheel: with headers of Linux 4.18.
    """
    folder = tmp_path_factory.mktemp("dist")
    copy_tracked(folder / "checkout")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(folder / "checkout")],
        timeout=600,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CFLAGS": f"-I{ROOT / 'tests/host/old_headers'}"},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return folder
