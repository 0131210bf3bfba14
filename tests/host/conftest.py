"""The kernel of the guests that tests boot, and a cache for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels
from linuxsync.vm.bootstrap import KERNEL, OLDEST


@pytest.fixture(scope="session")
def kernel() -> kernels.Kernel:
    """The project's own."""
    return kernels.ensure()


@pytest.fixture(scope="session", params=[KERNEL, OLDEST])
def each_kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    """The project's own, and the oldest."""
    return kernels.ensure(request.param)


@pytest.fixture
def cache(tmp_path: Path, kernel: kernels.Kernel) -> Path:
    """A cache of the test's own, with the real kernel in it: what a run leaves there can be seen."""
    (tmp_path / "linuxsync").mkdir()
    (tmp_path / "linuxsync" / "kernels").symlink_to(kernel.image.parent.parent.parent)
    return tmp_path
