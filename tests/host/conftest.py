"""The kernel of the guests that tests boot, and a cache for each."""

from __future__ import annotations

from pathlib import Path

import pytest
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
