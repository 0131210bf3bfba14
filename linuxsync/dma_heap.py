"""dma_heap: buffers from the kernel's heaps, for devices without memory of their own (drivers/dma-buf/dma-heap.c)."""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
from ctypes import c_int32
from operator import index
from pathlib import Path

from . import _uapi
from ._fd import OwnedFd
from .dma_buf import Access, DmaBuf

__all__ = ["DmaHeap"]

_HEAPS = Path("/dev/dma_heap")
_MODES = {Access.READ: os.O_RDONLY, Access.WRITE: os.O_WRONLY, Access.RW: os.O_RDWR}


def _available() -> int:
    """Bytes of memory that can be had without swapping (MemAvailable in proc_meminfo(5))."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise OSError("/proc/meminfo has no MemAvailable")
    return int(found[1]) * 1024


class DmaHeap(OwnedFd):
    """A heap, from which buffers are allocated; they outlive it.

    Args:
        name: which one; ``DmaHeap.names()`` has them.
    Raises:
        TypeError, ValueError: ``name`` is no str, or no file name.
        FileNotFoundError: there is no such heap; the message says which there are, or which option gives them.
        OSError: EACCES, not for this user; EMFILE; ENOTTY, it is no heap.

    Mirrors open(2) of /dev/dma_heap/NAME. Threads: every method may be called from many threads at once as long as none
    closes the object.
    """

    __slots__ = ()

    def __init__(self, name: str = "system") -> None:
        if not isinstance(name, str):
            raise TypeError(f"a heap's name is a str, not {type(name).__name__}; from_fd takes descriptors")
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"not a heap's name: {name!r}")
        path = _HEAPS / name
        try:
            self._take(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            there = ", ".join(self.names())
            why = (
                f"there are: {there}"
                if there
                else "the kernel needs CONFIG_DMABUF_HEAPS and CONFIG_DMABUF_HEAPS_SYSTEM"
            )
            raise FileNotFoundError(errno.ENOENT, f"no such dma-heap; {why}", str(path)) from error

    @staticmethod
    def names() -> list[str]:
        """Return the names of all heaps, sorted; none where the kernel has no heaps. Lists /dev/dma_heap."""
        try:
            return sorted(entry.name for entry in _HEAPS.iterdir())
        except FileNotFoundError:
            return []

    def _device(self) -> Path:
        """The device's folder in /sys."""
        status = os.fstat(self.fileno())
        # A regular file has an st_rdev too, of nothing.
        number = status.st_rdev if stat.S_ISCHR(status.st_mode) else 0
        return Path(f"/sys/dev/char/{os.major(number)}:{os.minor(number)}").resolve(strict=True)

    def _check(self) -> None:
        # Not by an ioctl: any number of drivers say EINVAL to what they do not know, as heaps do to a length of 0.
        try:
            kind = (self._device() / "subsystem").resolve(strict=True).name
        except FileNotFoundError:  # a file of a file system, which is no device
            kind = ""
        if kind != "dma_heap":
            raise OSError(errno.ENOTTY, f"{os.strerror(errno.ENOTTY)}: fd {self.fileno()} is not a dma-heap")

    @property
    def name(self) -> str:
        """What the kernel calls it; the ``exporter`` of its buffers."""
        return self._device().name

    def alloc(self, size: int, access: Access = Access.RW, force: bool = False) -> DmaBuf:
        """Return a new buffer, filled with zeros.

        Args:
            size: bytes (0 < int < 2**64, ``__u64 len``), rounded up to whole pages.
            access: what its descriptor is open for. READ can't be mapped to write, WRITE not at all.
            force: ask the kernel for more than is available. It knows no bound: it kills processes for memory, and then
                panics.
        Raises:
            ValueError: closed; a bad ``size`` or ``access``.
            TypeError: ``size`` is no int.
            MemoryError: ``size`` is more than MemAvailable in /proc/meminfo.
            OSError: ENOMEM; EMFILE; EINVAL, ``size`` rounded up is 0 again.

        Mirrors DMA_HEAP_IOCTL_ALLOC (``dma_heap_ioctl_allocate``). Threads: lets go of the GIL. Only SIGKILL ends it.
        """
        length = index(size)
        if not 0 < length < 1 << 64:
            raise ValueError(f"size must be between 1 and 2**64 - 1 bytes, not {length}")
        if not isinstance(access, int) or access not in _MODES:
            raise ValueError(f"access must be Access.READ, WRITE or RW, not {access!r}")
        fd = self.fileno()
        pages = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        if not force and pages > (available := _available()):
            raise MemoryError(
                f"a buffer of {pages} bytes of dma-heap {self.name!r}, but only {available} are available"
            )
        data = _uapi.DmaHeapAllocationData(len=length, fd_flags=os.O_CLOEXEC | _MODES[access])
        made = c_int32.from_buffer(data, _uapi.DmaHeapAllocationData.fd.offset)
        name = f"DMA_HEAP_IOCTL_ALLOC of {pages} bytes"
        return DmaBuf._taking(_uapi.ask, fd, _uapi.DMA_HEAP_IOCTL_ALLOC, data, name, made)
