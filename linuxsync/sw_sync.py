"""sw_sync: timelines that this process advances, for tests (drivers/dma-buf/sw_sync.c). Needs debugfs and root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ._fd import may_open
from ._mounts import mounts
from ._native import sw_sync as _native
from .sync_file import FenceStatus, SyncFile

__all__ = ["Timeline", "available", "find"]


def find() -> str:
    """Return the path of the sw_sync file, under whichever debugfs is mounted. Nothing is mounted or loaded.

    Raises:
        FileNotFoundError: there is none; the message says whether the kernel has no debugfs, debugfs is not mounted, or
            the kernel has no CONFIG_SW_SYNC, and what to do.
        PermissionError: debugfs may not be entered; usually only root may.
    """
    places = [path for path, _ in mounts("debugfs")]
    refused = None
    for mount in places:
        path = mount / "sync" / "sw_sync"
        try:
            path.stat()
        except FileNotFoundError:
            continue
        except PermissionError:
            refused = refused or path
            continue
        return str(path)
    if refused:
        raise PermissionError(
            errno.EACCES, "sw_sync needs root: debugfs may not be entered by others; try sudo", str(refused)
        )
    if places:
        raise FileNotFoundError(
            errno.ENOENT,
            f"debugfs is mounted on {places[0]} but has no sync/sw_sync: this kernel was built without CONFIG_SW_SYNC; "
            "boot one that has it (linuxsync vm does)",
        )
    if "\tdebugfs\n" in Path("/proc/filesystems").read_text():
        raise FileNotFoundError(
            errno.ENOENT, "sw_sync lives in debugfs, which is not mounted: mount -t debugfs none /sys/kernel/debug"
        )
    raise FileNotFoundError(
        errno.ENOENT,
        "sw_sync lives in debugfs, and this kernel was built without CONFIG_DEBUG_FS (linuxsync vm boots one with)",
    )


def available() -> bool:
    """Whether ``Timeline()`` would find a sw_sync file that this process may open.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM: of our own.

    Mirrors faccessat(2) of ``find()``, with AT_EACCESS.
    """
    try:
        return may_open(find())
    except (FileNotFoundError, PermissionError):
        return False


class Timeline(_native.Timeline):
    """A sw_sync timeline: fences are points on it, and ``inc`` signals those that it passes.

    Closing the last descriptor of a timeline fails the fences that are still ahead, with ENOENT. Linux, as of 6.12,
    hangs a CPU there if nothing holds one of them any more but a syncobj's eventfd or a poll(2) of a dma-buf that waits
    for it: ``inc`` past such fences first, or keep a SyncFile of them. A descriptor that came from elsewhere becomes a
    Timeline through ``from_fd``, which duplicates it: what came is yours to close.

    Args:
        name: the timeline's name in the kernel, at most 15 bytes of UTF-8 without NUL; None leaves it to the kernel,
            which takes the calling thread's. The thread is not left renamed.
        path: the sw_sync file; None asks ``find()``.
    Raises:
        ValueError: the name is too long or has a NUL.
        TypeError: the name is no str.
        FileNotFoundError, PermissionError: no sw_sync, or not for this user; see ``find``.
        OSError: EMFILE; ENOMEM; ENOTTY, ``path`` is something else.

    Mirrors open(2) of debugfs sync/sw_sync (``sw_sync_debugfs_open``). Values are 32-bit and compared by their signed
    difference: on a new timeline, at 0, the fences 1 to 2**31 - 1 are ahead and 2**31 and more have passed.

    Threads: every method may be called from many threads at once as long as none closes the object.
    """

    __slots__ = ()

    def __init__(self, name: str | None = None, path: str | os.PathLike[str] | None = None) -> None:
        encoded = None
        if name is not None:
            if not isinstance(name, str):
                raise TypeError(f"a timeline's name is a str, not {type(name).__name__}")
            encoded = name.encode("utf-8", "surrogateescape")
            if len(encoded) > 15 or b"\0" in encoded:
                raise ValueError(f"a timeline's name has at most 15 bytes of UTF-8 and no NUL, not {name!r}")
        where = os.fsencode(find() if path is None else path)
        if b"\0" in where:
            raise ValueError(f"embedded NUL in path {path!r}")
        self._open(where, encoded)

    def create_fence(self, value: int) -> SyncFile:
        """Return a new fence that signals when the timeline reaches ``value``.

        The fence is independent of this object: it may outlive it. To give it a name, merge it with itself.

        Args:
            value: 0 <= value < 2**32 (``__u32``); already signaled if the timeline is there or past it.
        Raises:
            ValueError: closed; ``value`` is no u32.
            OSError: EMFILE; ENOMEM.

        Mirrors SW_SYNC_IOC_CREATE_FENCE (``sw_sync_ioctl_create_fence``), whose name argument the kernel ignores.
        """
        return self._create_fence(value, SyncFile)

    @property
    def name(self) -> str:
        """What the kernel calls the timeline: ``obj_name`` of its fences.

        The kernel tells it through a fence only, so one is made and closed again. It must be an active one (from Linux
        6.17 on signaled fences have lost their timeline); of four values around the circle one is always ahead.
        """
        for value in (0x40000000, 0x80000000, 0xC0000000, 0):
            with self.create_fence(value) as fence:
                point = fence.fences[0]
                if point.status == FenceStatus.ACTIVE:
                    return point.obj_name
        raise AssertionError("four values around the circle cannot all have been passed")
