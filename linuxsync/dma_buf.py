"""dma_buf: memory that devices and processes share without copying it (drivers/dma-buf/dma-buf.c)."""

from __future__ import annotations

import mmap as _mmap
import os
import re
from enum import IntFlag
from pathlib import Path

from ._native import dma_buf as _native
from .sync_file import SyncFile

__all__ = ["SYNC", "Access", "DmaBuf"]

SYNC = _native.SYNC


class Access(IntFlag):
    """What is done to a buffer, seen from the one who does it (``DMA_BUF_SYNC_READ``, ``WRITE`` and ``RW``)."""

    READ = _native.READ
    WRITE = _native.WRITE
    RW = _native.READ | _native.WRITE


class DmaBuf(_native.DmaBuf):
    """A buffer of a device or a heap, held by a dma-buf descriptor.

    Args:
        fd: an open dma-buf descriptor, which the object owns from here on (see OwnedFd). ``from_fd`` keeps yours.
    Raises:
        TypeError, ValueError: ``fd`` is no descriptor number.
        OSError: EBADF, not open; ENOTTY, not a dma-buf.

    Threads: every method may be called from many threads at once as long as none closes the object; close() may come
    while a ``cpu_access`` is open, which keeps its descriptor until it ends. A fork shares the memory, not the
    accesses: a child that opens one while the parent's is open may discard what the parent has not published.
    """

    __slots__ = ()

    @property
    def ino(self) -> int:
        """The inode number (int): unique to the buffer, the same for all its descriptors, in every process."""
        return os.fstat(self.fileno()).st_ino

    def _fdinfo(self) -> tuple[str, str | None, int]:
        """Exporter, name and count as /proc/self/fdinfo has them (``dma_buf_show_fdinfo``)."""
        text = os.fsdecode(Path(f"/proc/self/fdinfo/{self.fileno()}").read_bytes())
        # The name comes last and may have line breaks of its own.
        found = re.search(r"\ncount:\t(\d+)\nexp_name:\t([^\n]*)\n(?:name:\t(.*)\n)?\Z", text, re.DOTALL)
        if found is None:
            raise OSError(f"/proc/self/fdinfo/{self.fileno()} does not describe a dma-buf: {text!r}")
        return found[2], found[3], int(found[1])

    @property
    def exporter(self) -> str:
        """Who made it: ``system`` for that heap, ``udmabuf``, ``drm`` or a driver's name for GEM buffers."""
        return self._fdinfo()[0]

    @property
    def name(self) -> str | None:
        """What ``set_name`` gave it, in whichever process; None if nobody has."""
        return self._fdinfo()[1]

    @property
    def refcount(self) -> int:
        """References to the buffer's open file: descriptors in all processes, mappings, devices, fences polled for.

        One descriptor alone is 1. ``cpu_access`` keeps a mapping for the next time, which counts until close().
        """
        return self._fdinfo()[2]

    def mmap(self, access: Access = Access.RW) -> _mmap.mmap:
        """Map the whole buffer, shared, until the mmap object is closed; it keeps a descriptor of its own.

        Nothing synchronises it: bracket each use with ``begin_cpu_access`` and ``end_cpu_access``.

        Args:
            access: READ for a read-only mapping, else one to read and write (write-only memory there is none).
        Raises:
            ValueError: closed; ``access`` is none.
            OSError: EACCES, the descriptor is not open for that; EINVAL, the exporter can't be mapped; EMFILE; ENOMEM.

        Mirrors mmap(2) (``dma_buf_mmap``).
        """
        if access not in (Access.READ, Access.WRITE, Access.RW):
            raise ValueError(f"access must be Access.READ, WRITE or RW, not {access!r}")
        protection = _mmap.PROT_READ | (_mmap.PROT_WRITE if access & Access.WRITE else 0)
        try:
            return _mmap.mmap(self.fileno(), self.size, flags=_mmap.MAP_SHARED, prot=protection)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: mmap of {self!r}") from error

    def export_sync_file(self, access: Access) -> SyncFile:
        """Return the implicit fences that somebody must wait for who is about to do ``access``, as a SyncFile.

        A snapshot: fences that come later are not in it. An idle buffer gives a fence that has signaled long ago.

        Args:
            access: READ collects the fences of those who write, WRITE and RW of those who read too.
        Raises:
            ValueError: closed; ``access`` is none.
            OSError: EMFILE; ENOMEM; ENOTTY, the kernel lacks it (before 6.0, or without CONFIG_SYNC_FILE).

        Mirrors DMA_BUF_IOCTL_EXPORT_SYNC_FILE (``dma_buf_export_sync_file``).
        """
        return self._export_sync_file(access, SyncFile)
