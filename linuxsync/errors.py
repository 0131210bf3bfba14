"""What goes wrong with a fence itself; a call that the kernel refuses is a plain OSError."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._native.sync_file import SyncFileInfo

__all__ = ["FenceError", "RangeError"]

# What a call answers that found this process, or this machine, without room: it says nothing of what was asked for.
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFAULT})


class FenceError(OSError):
    """A fence signaled with an error: whoever had to finish the work behind it failed, was reset or went away.

    Attributes:
        errno: the fence's error as a positive errno; ENOENT where a sw_sync timeline was closed before its time.
        info: the SyncFileInfo in which it was seen, None if there is none.
    """

    info: SyncFileInfo | None = None

    @classmethod
    def of(cls, info: SyncFileInfo, context: str) -> FenceError:
        """Make the error for the first fence of ``info`` that has failed; ``context`` says where it was met."""
        failed = next(fence for fence in info.fences if fence.status < 0)
        error = cls(
            -failed.status,
            f"{os.strerror(-failed.status)}: fence {info.name!r} of {failed.driver_name}, "
            f"timeline {failed.obj_name!r}, signaled with an error ({context})",
        )
        error.info = info
        return error


class RangeError(ValueError):
    """A range to sync is not within what was bound: ``ddi_dma_sync`` returns DDI_FAILURE, and nothing is synced."""
