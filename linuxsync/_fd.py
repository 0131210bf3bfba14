"""Ownership of file descriptors: who closes what, and when; and whether one is to be had."""

from __future__ import annotations

import os

from ._native.fd import OwnedFd, check_access, watch_births
from .errors import OURS

__all__ = ["OwnedFd", "may_open", "watch_births"]


def may_open(path: str | os.PathLike[str], mode: int = os.R_OK | os.W_OK) -> bool:
    """Whether a file is there and this process may open it so; errors of our own are raised, and are no answer."""
    try:
        check_access(path, mode)
    except OSError as error:
        if error.errno in OURS:
            raise
        return False
    return True
