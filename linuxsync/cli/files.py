"""files: how many descriptors a command may hold."""

from __future__ import annotations

import resource

__all__ = ["hold_many"]


def hold_many() -> None:
    """Raise our own limit of descriptors as far as it goes, for what holds one for each fence."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
