"""files: how many descriptors a command may hold, and bytes for stdout."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import BinaryIO

__all__ = ["hold_many", "write_all"]


def hold_many() -> None:
    """Raise our own limit of descriptors as far as it goes, for what holds one for each fence."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # that is for root
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write_all(stream: BinaryIO, content: bytes) -> None:
    """Write all of it: stdout is not buffered where PYTHONUNBUFFERED is set, and may take a part only."""
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]
