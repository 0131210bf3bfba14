"""udmabuf: dma-bufs made of a memfd's pages (drivers/dma-buf/udmabuf.c)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from operator import index
from pathlib import Path
from typing import Protocol, SupportsIndex

from . import _uapi
from ._fd import OwnedFd
from .dma_buf import DmaBuf

__all__ = ["create", "from_memfd"]

_DEVICE = "/dev/udmabuf"
_LIMIT = Path("/sys/module/udmabuf/parameters/size_limit_mb")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def _open() -> OwnedFd:
    try:
        return OwnedFd._taking(os.open, _DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        text = "no udmabuf: the kernel needs CONFIG_UDMABUF, or the module: modprobe udmabuf"
        raise FileNotFoundError(errno.ENOENT, text, _DEVICE) from error
    except PermissionError as error:
        text = "udmabuf is root's unless a udev rule gives it to others"
        raise PermissionError(error.errno, text, _DEVICE) from error


def _refuse_seals(fd: int) -> None:
    """Raise what the kernel would, EINVAL, but say which seal it is."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return  # not a memfd, or not open: the kernel has its own word for that, EBADFD
    wrong = None
    if not seals & fcntl.F_SEAL_SHRINK:
        wrong = "lacks F_SEAL_SHRINK: fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK)"
        if seals & fcntl.F_SEAL_SEAL:
            wrong = "lacks F_SEAL_SHRINK and can't get it: make it with MFD_ALLOW_SEALING"
    elif seals & fcntl.F_SEAL_WRITE:
        wrong = "has F_SEAL_WRITE, and devices write"
    elif seals & _uapi.F_SEAL_FUTURE_WRITE:
        wrong = "has F_SEAL_FUTURE_WRITE, and devices write"
    if wrong:
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: UDMABUF_CREATE: memfd {fd} {wrong}")


def from_memfd(memfd: SupportsIndex | _HasFileno, offset: int, size: int) -> DmaBuf:
    """Return a buffer of ``size`` bytes of ``memfd`` from ``offset`` on: the same pages, seen through either.

    The pages stay in memory as long as the buffer lives. Closing the memfd does not matter; punching a hole in it parts
    the two. Meanwhile F_SEAL_WRITE can't be added to it.

    Args:
        memfd: a descriptor, or an object with ``fileno()``, of a memfd with F_SEAL_SHRINK and neither F_SEAL_WRITE nor
            F_SEAL_FUTURE_WRITE. It stays the caller's.
        offset, size: bytes, whole pages (int, ``__u64``), within the memfd.
    Raises:
        TypeError, ValueError: ``memfd`` is no descriptor; a range that is negative, empty, not of whole pages or beyond
            the memfd's end.
        FileNotFoundError, PermissionError: no /dev/udmabuf, or not for this user; the message says what to do.
        OSError: EINVAL, a seal, or more than the module's size_limit_mb, the message says which; EBADFD, not a memfd,
            or not open; EMFILE; ENOMEM.

    Mirrors UDMABUF_CREATE (``udmabuf_create``). Threads: lets go of the GIL.
    """
    fd = memfd.fileno() if hasattr(memfd, "fileno") else index(memfd)
    start, length = index(offset), index(size)
    if not 0 <= fd < 1 << 31:
        raise ValueError(f"not a descriptor: {fd}")
    if not (0 <= start < 1 << 64 and 0 < length < 1 << 64) or start % mmap.PAGESIZE or length % mmap.PAGESIZE:
        raise ValueError(f"offset and size must be whole pages of {mmap.PAGESIZE} bytes, not {start} and {length}")
    with _open() as device:
        _refuse_seals(fd)
        data = _uapi.UdmabufCreate(memfd=fd, flags=_uapi.UDMABUF_FLAGS_CLOEXEC, offset=start, size=length)
        try:
            return DmaBuf._taking(
                _uapi.ioctl, device.fileno(), _uapi.UDMABUF_CREATE, data, f"UDMABUF_CREATE of memfd {fd}"
            )
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EFBIG):  # the page cache's, before memfd_pin_folios (Linux 6.11)
                raise
            if start + length > (end := os.fstat(fd).st_size):
                raise ValueError(f"{length} bytes from {start} on are not within memfd {fd} of {end} bytes") from error
            limit = int(_LIMIT.read_text()) if _LIMIT.exists() else 64
            if length > limit << 20:
                text = f"a udmabuf has at most {limit} MiB (size_limit_mb in {_LIMIT.parent}), not {length} bytes"
                raise OSError(errno.EINVAL, f"{error.strerror}: {text}") from error
            raise


def create(size: int) -> DmaBuf:
    """Return a buffer of pages of its own, filled with zeros; the memfd behind it is made here and not left open.

    Args:
        size: bytes (0 < int < 2**63), rounded up to whole pages.
    Raises:
        TypeError, ValueError: ``size`` is no int, or out of range.
        OSError: as ``from_memfd``.

    Mirrors memfd_create(2) and UDMABUF_CREATE. Threads: as ``from_memfd``.
    """
    pages = -(-index(size) // mmap.PAGESIZE) * mmap.PAGESIZE
    if not 0 < pages < 1 << 63:
        raise ValueError(f"size must be between 1 and 2**63 - {mmap.PAGESIZE} bytes, not {size}")
    with OwnedFd._taking(os.memfd_create, "udmabuf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) as memfd:
        os.ftruncate(memfd.fileno(), pages)
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return from_memfd(memfd, 0, pages)
