"""The kernel of the guests that tests boot, and a cache for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels


@pytest.fixture(scope="session")
def kernel() -> kernels.Kernel:
    """The project's own."""
    return kernels.ensure()


@pytest.fixture
def cache(tmp_path: Path, kernel: kernels.Kernel) -> Path:
    """A cache of the test's own, with the real kernel in it: what a run leaves there can be seen."""
    (tmp_path / "linuxsync").mkdir()
    (tmp_path / "linuxsync" / "kernels").symlink_to(kernel.image.parent.parent.parent)
    return tmp_path
