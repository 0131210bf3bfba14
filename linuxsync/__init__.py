"""Hold, merge, wait for, inspect and provoke the Linux kernel's fences.

`SyncFile` is a sync_file descriptor with one or more fences; `Timeline` is a sw_sync timeline that makes and signals
them. The kernel does all of it: every method is one ioctl(2) or poll(2) on a real descriptor.
"""

from . import sw_sync
from ._fd import OwnedFd
from .errors import FenceError
from .sw_sync import Timeline
from .sync_file import (
    FenceInfo,
    FenceStatus,
    SyncFile,
    SyncFileInfo,
    as_completed,
    merge,
    wait_all,
    wait_any,
)

__all__ = [
    "FenceError",
    "FenceInfo",
    "FenceStatus",
    "OwnedFd",
    "SyncFile",
    "SyncFileInfo",
    "Timeline",
    "as_completed",
    "merge",
    "sw_sync",
    "wait_all",
    "wait_any",
]
