"""Hold, merge, wait for, inspect and provoke the Linux kernel's fences.

`SyncFile` is a sync_file descriptor with one or more fences; `Timeline` is a sw_sync timeline that makes and signals
them. `DmaBuf` is a buffer, whose implicit fences come and go as SyncFiles; `DmaHeap`, `udmabuf` and `DrmDevice` make
them. `VgemDevice`, `Syncobj` and `kms.commit` are where else fences come from and go to, and `FenceDevice` is a device
that takes fences, works on buffers and gives fences. The kernel does all of it: every method is an ioctl(2) or poll(2)
on a real descriptor. `inspect` says who holds what on this machine, `trace` what happens to it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import ddi, drm, fencedev, kms, sw_sync, udmabuf, vgem
from ._fd import OwnedFd
from .dma_buf import Access, DmaBuf
from .dma_heap import DmaHeap
from .drm import DrmDevice, GemBuffer
from .errors import FenceError
from .fencedev import FenceDevice
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
from .syncobj import Syncobj
from .vgem import FenceExpired, VgemDevice, VgemFence

if TYPE_CHECKING:
    from . import inspect as inspect
    from . import trace as trace
else:

    def __getattr__(name: str) -> object:
        """Import what stands on all this when it is asked for: who only waits for a fence need not wait for it."""
        if name in ("inspect", "trace"):
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Access",
    "DmaBuf",
    "DmaHeap",
    "DrmDevice",
    "FenceDevice",
    "FenceError",
    "FenceExpired",
    "FenceInfo",
    "FenceStatus",
    "GemBuffer",
    "OwnedFd",
    "SyncFile",
    "SyncFileInfo",
    "Syncobj",
    "Timeline",
    "VgemDevice",
    "VgemFence",
    "as_completed",
    "ddi",
    "drm",
    "fencedev",
    "kms",
    "merge",
    "sw_sync",
    "udmabuf",
    "vgem",
    "wait_all",
    "wait_any",
]
