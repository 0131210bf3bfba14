"""files: how many descriptors a command may hold."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["hold_many"]


def hold_many() -> None:
    """Raise our own limit of descriptors as far as it goes, for what holds one for each fence."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # that is for root
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
