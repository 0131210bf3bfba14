"""ddi: who sees which bytes of a dma-buf, in the words of Solaris's ddi_dma_sync(9F).

A device and the CPU may each have a view of the same memory: caches, write buffers, bounce buffers. Linux brackets what
the CPU does, START ... END. Solaris says which view is to catch up: FORDEV after the CPU has written and before the
device reads, FORCPU after the device has written and before the CPU reads; and it syncs by itself when memory is bound
to a handle and when it is unbound. This module says the second by means of the first::

                        DDI_DMA_WRITE         DDI_DMA_READ          DDI_DMA_RDWR
                        memory to device      device to memory
    bind, FORDEV        END|WRITE             END|READ              END|RW
    FORCPU, FORKERNEL   START|WRITE           START|READ            START|RW
    unbind              START|WRITE           START|READ            START|RW

START waits for the buffer's implicit fences, as ``ddi_dma_sync`` stalls until buffers have drained; END waits for
nothing. On a machine whose views are always the same, x86 without bounce buffers, none of it moves a byte, and what is
forgotten here shows on the first that is not, or in a guest booted with ``swiotlb=force``.

What Linux has no word for:

- a part of a buffer. ``struct dma_buf_sync`` has flags and no range, so a range is checked to the byte and the whole
  buffer is synced: ``DmaHandle.granularity`` says so. (Drivers can sync parts among themselves, with
  ``dma_buf_begin_cpu_access_partial`` in vendors' kernels; there is no request for it.)
- the kernel's view apart from a process's: FORKERNEL is the hint that 9F allows it to be, and does as FORCPU does.
- consistent and streaming memory: which it is, the exporter has decided. The flags are taken, and as on Solaris neither
  makes a sync unnecessary.
- windows onto memory that is too large to map: an importer maps all or fails, so PARTIAL allows what never comes.
"""

from __future__ import annotations

import errno
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, IntFlag
from operator import index
from types import TracebackType
from typing import overload

from .dma_buf import Access, DmaBuf

__all__ = [
    "DDI_DMA_SYNC_FORCPU",
    "DDI_DMA_SYNC_FORDEV",
    "DDI_DMA_SYNC_FORKERNEL",
    "DDI_FAILURE",
    "DDI_SUCCESS",
    "BindError",
    "BindResult",
    "CoherenceError",
    "DmaFlags",
    "DmaHandle",
    "DmaMemory",
    "RangeError",
    "SyncType",
    "ddi_dma_addr_bind_handle",
    "ddi_dma_alloc_handle",
    "ddi_dma_buf_bind_handle",
    "ddi_dma_free_handle",
    "ddi_dma_sync",
    "ddi_dma_unbind_handle",
    "strict",
]

DDI_SUCCESS = 0
DDI_FAILURE = -1


class SyncType(IntEnum):
    """Whose view is to catch up (``DDI_DMA_SYNC_*`` of illumos, sys/sunddi.h)."""

    FORDEV = 0
    FORCPU = 1
    FORKERNEL = 2


DDI_DMA_SYNC_FORDEV = SyncType.FORDEV
DDI_DMA_SYNC_FORCPU = SyncType.FORCPU
DDI_DMA_SYNC_FORKERNEL = SyncType.FORKERNEL


class DmaFlags(IntFlag):
    """What memory is bound for (``DDI_DMA_*`` of illumos, sys/ddidmareq.h); one of WRITE, READ and RDWR must be there.

    The direction is the device's: WRITE is memory to device, READ device to memory.
    """

    WRITE = 0x01
    READ = 0x02
    RDWR = 0x03
    REDZONE = 0x04
    PARTIAL = 0x08
    CONSISTENT = 0x10
    EXCLUSIVE = 0x20
    STREAMING = 0x40


class BindResult(IntEnum):
    """What binding came to (``DDI_DMA_*`` of illumos, sys/ddidmareq.h); the negative ones are failures."""

    MAPPED = 0
    PARTIAL_MAP = 1
    DONE = 2
    NORESOURCES = -1
    NOMAPPING = -2
    TOOBIG = -3
    TOOSMALL = -4
    LOCKED = -5
    BADLIMITS = -6
    STALE = -7
    BADATTR = -8
    INUSE = -9
    USE_PHYSICAL = -10


class BindError(ValueError):
    """Memory can't be bound so.

    Attributes:
        result: what ``ddi_dma_buf_bind_handle`` returns for it.
    """

    def __init__(self, result: BindResult, message: str) -> None:
        super().__init__(f"DDI_DMA_{result.name}: {message}")
        self.result = result


class RangeError(ValueError):
    """A range to sync is not within what was bound: ``ddi_dma_sync`` returns DDI_FAILURE, and nothing is synced."""


class CoherenceError(RuntimeError):
    """Under ``strict()``: somebody used bytes that the other side has changed since, with no sync in between."""


_strict = 0


@contextmanager
def strict() -> Iterator[None]:
    """While the block runs, have every handle check who uses its memory when; CoherenceError says who did it wrong.

    An access of the CPU through ``DmaHandle.memory`` after the device has written and before FORCPU; the device's after
    the CPU has written and before FORDEV; FORCPU on top of what the CPU has written, which it would throw away. The
    message has both places in the source. What the device does it learns from ``device_reads`` and ``device_writes``.

    Threads: for all of them.
    """
    global _strict
    _strict += 1
    try:
        yield
    finally:
        _strict -= 1


def _place() -> str:
    """Where in the source this module was called from."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"


class DmaMemory:
    """The bound memory as the CPU sees it: ``memory[3]``, ``memory[8:16] = data``. DmaHandle.memory makes it.

    Attributes:
        raw: a memoryview of it, for numpy and the like; ``strict()`` does not see what goes through that.
    """

    __slots__ = ("_handle", "raw")

    def __init__(self, handle: DmaHandle, raw: memoryview) -> None:
        self._handle = handle
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if _strict:
            self._handle._cpu_uses("read")
        return bytes(self.raw[key]) if isinstance(key, slice) else self.raw[key]

    @overload
    def __setitem__(self, key: int, value: int) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: bytes | bytearray | memoryview) -> None: ...
    def __setitem__(self, key: int | slice, value: int | bytes | bytearray | memoryview) -> None:
        if _strict:
            self._handle._cpu_uses("wrote")
            self._handle._dirty = _place()
        self.raw[key] = value  # type: ignore[index, assignment]


class DmaHandle:
    """A DMA handle (``ddi_dma_handle_t``): memory that is bound to it is shared with a device, one view at a time.

    Use it with ``with``, and ``bind`` too. It holds a duplicate of the buffer's descriptor while something is bound.

    Threads: one at a time, as a driver locks its handles.
    """

    __slots__ = ("_buf", "_closed", "_dirty", "_mapped", "_memory", "_stale", "flags", "length", "offset")

    def __init__(self) -> None:
        self._closed = False
        self._buf: DmaBuf | None = None
        self._mapped: mmap.mmap | None = None
        self._memory: DmaMemory | None = None
        self._dirty: str | None = None  # where the CPU has written since FORDEV; kept under strict() only
        self._stale: str | None = None  # where the device has written since FORCPU
        self.flags = DmaFlags(0)
        self.offset = 0
        self.length = 0

    @property
    def bound(self) -> bool:
        """Whether memory is bound to it."""
        return self._buf is not None

    @property
    def granularity(self) -> int:
        """Bytes that any sync comes to, whatever its range (int): all of the buffer. ValueError: nothing is bound."""
        return self._bound().size

    @property
    def memory(self) -> DmaMemory:
        """The bound range as the CPU sees it, until ``unbind``.

        Raises:
            ValueError: nothing is bound.
            OSError: EINVAL, the exporter can't be mapped; ENOMEM.
        """
        buf = self._bound()
        if self._memory is None:
            try:
                self._mapped = buf.mmap(Access.RW)
            except PermissionError:  # a descriptor that is open for reading
                self._mapped = buf.mmap(Access.READ)
            view = memoryview(self._mapped)
            self._memory = DmaMemory(self, view[self.offset : self.offset + self.length])
        return self._memory

    def bind(self, buf: DmaBuf, flags: DmaFlags, offset: int = 0, length: int = 0) -> DmaHandle:
        """Bind a range of a buffer, and have the device see what the CPU has written there; returns the handle.

        Args:
            flags: the direction, and what else DmaFlags has; see the module for what that means here.
            offset: bytes into the buffer (int >= 0).
            length: bytes; 0 for all from ``offset`` on.
        Raises:
            BindError: something is bound already (INUSE); the range is not within the buffer (NOMAPPING); no direction
                (BADATTR). It is a ValueError.
            ValueError: the handle, or the buffer, is closed.
            OSError: EMFILE; what the exporter answers to END.

        Mirrors ddi_dma_addr_bind_handle(9F) and DMA_BUF_IOCTL_SYNC with END.
        """
        if self._closed:
            raise ValueError("operation on freed DmaHandle")
        if self._buf is not None:
            raise BindError(BindResult.INUSE, f"{self!r} is bound already")
        if not flags & DmaFlags.RDWR:
            raise BindError(BindResult.BADATTR, "flags must have a direction: DmaFlags.WRITE, READ or RDWR")
        size, start, count = buf.size, index(offset), index(length)
        count = count or size - start
        if not (0 <= start < size and 0 < count <= size - start):
            raise BindError(BindResult.NOMAPPING, f"{length} bytes from {offset} on are not within {size} bytes")
        own = buf.dup()
        try:
            _publish(own, flags)
        except BaseException:
            own.close()
            raise
        self._buf, self.flags, self.offset, self.length = own, DmaFlags(flags), start, count
        self._dirty = self._stale = None
        return self

    def sync(self, type: SyncType, offset: int = 0, length: int = 0) -> None:
        """Have the device (FORDEV) or the CPU (FORCPU, FORKERNEL) see what the other has written.

        Args:
            type: whose view is to catch up.
            offset: bytes into what is bound (int >= 0).
            length: bytes; 0 for all from ``offset`` on. More than the range is synced, see ``granularity``.
        Raises:
            RangeError: the range is not within what is bound; nothing was synced.
            ValueError: nothing is bound; ``type`` is none.
            OSError: what the exporter answers.
            CoherenceError: under ``strict()``, FORCPU would throw away what the CPU has written.

        Mirrors ddi_dma_sync(9F) and DMA_BUF_IOCTL_SYNC. FORCPU waits for the buffer's implicit fences, without a limit.
        """
        buf = self._bound()
        kind = SyncType(type)
        start, count = index(offset), index(length)
        if not (0 <= start < self.length and 0 <= count <= self.length - start):
            raise RangeError(f"{length} bytes from {offset} on are not within the {self.length} that are bound")
        if kind is SyncType.FORDEV:
            _publish(buf, self.flags)
            self._dirty = None
        else:
            if _strict and self._dirty is not None and self.flags & DmaFlags.READ:
                raise CoherenceError(f"{kind.name} at {_place()} throws away what the CPU wrote at {self._dirty}")
            _fetch(buf, self.flags)
            self._stale = None

    def unbind(self) -> None:
        """Have the CPU see what the device has written, and let go of the memory.

        Raises:
            ValueError: nothing is bound.
            OSError: what the exporter answers; then it is still bound.

        Mirrors ddi_dma_unbind_handle(9F) and DMA_BUF_IOCTL_SYNC with START, which waits for the implicit fences.
        """
        buf = self._bound()
        _fetch(buf, self.flags)
        if self._memory is not None:
            self._memory.raw.release()
        self._buf = self._memory = self._mapped = None
        buf.close()

    def free(self) -> None:
        """End the handle; a second call does nothing. ValueError while something is bound (there it is a panic).

        Mirrors ddi_dma_free_handle(9F).
        """
        if self._buf is not None:
            raise ValueError(f"{self!r} is still bound: unbind it first")
        self._closed = True

    def device_reads(self) -> None:
        """Say that the device reads the memory from now on: whoever gives it work does.

        Raises:
            CoherenceError: under ``strict()``, the CPU has written since the last FORDEV.
            ValueError: nothing is bound.
        """
        self._bound()
        if _strict and self._dirty is not None:
            raise CoherenceError(f"the device reads at {_place()} what the CPU wrote at {self._dirty}: no FORDEV since")

    def device_writes(self) -> None:
        """Say that the device writes to the memory: whoever gives it work does. Raises: as ``device_reads``."""
        self.device_reads()
        if _strict:
            self._stale = _place()

    def _cpu_uses(self, what: str) -> None:
        if self._stale is not None:
            raise CoherenceError(
                f"the CPU {what} at {_place()} what the device wrote at {self._stale}: no FORCPU since"
            )

    def _bound(self) -> DmaBuf:
        if self._buf is None:
            raise ValueError(f"nothing is bound to {self!r}")
        return self._buf

    def __enter__(self) -> DmaHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._buf is not None:
            self.unbind()
        self.free()

    def __repr__(self) -> str:
        if self._buf is None:
            return "<freed DmaHandle>" if self._closed else "<unbound DmaHandle>"
        return f"<DmaHandle of {self.length} bytes from {self.offset} on of {self._buf!r}, {self.flags!r}>"


def _access(flags: DmaFlags) -> Access:
    """What the CPU does so that there is something to sync: to a device that reads, it writes."""
    if flags & DmaFlags.RDWR == DmaFlags.RDWR:
        return Access.RW
    return Access.WRITE if flags & DmaFlags.WRITE else Access.READ


def _publish(buf: DmaBuf, flags: DmaFlags) -> None:
    """END, which a udmabuf refuses before its first START (``end_cpu_udmabuf``)."""
    access = _access(flags)
    try:
        buf.end_cpu_access(access)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        buf.begin_cpu_access(access)
        buf.end_cpu_access(access)


def _fetch(buf: DmaBuf, flags: DmaFlags) -> None:
    """START, once the fences have signaled: it fetches first and waits then (``dma_buf_begin_cpu_access``)."""
    access = _access(flags)
    buf.poll(access, None)
    buf.begin_cpu_access(access)


def ddi_dma_alloc_handle() -> tuple[int, DmaHandle]:
    """Return DDI_SUCCESS and a new handle. Mirrors ddi_dma_alloc_handle(9F)."""
    return DDI_SUCCESS, DmaHandle()


def ddi_dma_addr_bind_handle(handle: DmaHandle, buf: DmaBuf, offset: int, length: int, flags: DmaFlags) -> BindResult:
    """Bind a range: MAPPED, or which failure it was; see DmaHandle.bind. Mirrors ddi_dma_addr_bind_handle(9F)."""
    try:
        handle.bind(buf, flags, offset, length)
    except BindError as error:
        return error.result
    except OSError:
        return BindResult.NORESOURCES
    return BindResult.MAPPED


def ddi_dma_buf_bind_handle(handle: DmaHandle, buf: DmaBuf, flags: DmaFlags) -> BindResult:
    """Bind a whole buffer; as ddi_dma_addr_bind_handle. Mirrors ddi_dma_buf_bind_handle(9F)."""
    return ddi_dma_addr_bind_handle(handle, buf, 0, 0, flags)


def ddi_dma_sync(handle: DmaHandle, offset: int, length: int, type: SyncType) -> int:
    """Return DDI_SUCCESS, or DDI_FAILURE for a range outside of what is bound; see DmaHandle.sync.

    Raises:
        ValueError: nothing is bound to the handle, which 9F has no answer for either.

    Mirrors ddi_dma_sync(9F).
    """
    try:
        handle.sync(type, offset, length)
    except RangeError:
        return DDI_FAILURE
    return DDI_SUCCESS


def ddi_dma_unbind_handle(handle: DmaHandle) -> int:
    """Return DDI_SUCCESS, or DDI_FAILURE where the exporter fails; see DmaHandle.unbind. Mirrors it of 9F."""
    try:
        handle.unbind()
    except OSError:
        return DDI_FAILURE
    return DDI_SUCCESS


def ddi_dma_free_handle(handle: DmaHandle) -> None:
    """End a handle; see DmaHandle.free. Mirrors ddi_dma_free_handle(9F)."""
    handle.free()
