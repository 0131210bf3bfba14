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
forgotten here shows on the first that is not, or in a guest of ``vm/run --incoherent``, or under ``strict()``. Who is
synced is the exporter's business: with the system heap every importer, with udmabuf and GEM none of them
(``vm/run demo coherence`` shows that).

From bind to unbind the two views are alike, or one of them is behind::

    (nothing bound)  --bind-->           alike            --unbind-->  (nothing bound)  --free-->  (freed)
    alike            --CPU writes-->     device is behind --FORDEV-->          alike
    alike            --device writes-->  CPU is behind    --FORCPU, unbind-->  alike

Where one that is behind is used, or a sync the wrong way round overwrites what is new, ``strict()`` raises.

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

from enum import IntEnum, IntFlag
from operator import index
from types import TracebackType
from typing import overload

from . import _coherence
from ._coherence import CoherenceError, Watch, strict
from ._native import ddi as _native
from .dma_buf import Access, DmaBuf
from .errors import RangeError
from .sync_file import SyncFile

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
        if _coherence.on:
            self._handle._watched().cpu(writes=False)
        return bytes(self.raw[key]) if isinstance(key, slice) else self.raw[key]

    @overload
    def __setitem__(self, key: int, value: int) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: bytes | bytearray | memoryview) -> None: ...
    def __setitem__(self, key: int | slice, value: int | bytes | bytearray | memoryview) -> None:
        if _coherence.on:
            self._handle._watched().cpu(writes=True)
        self.raw[key] = value  # type: ignore[index, assignment]


class DmaHandle(_native.DmaHandle):
    """A DMA handle (``ddi_dma_handle_t``): memory that is bound to it is shared with a device, one view at a time.

    Use it with ``with``, and ``bind`` too. It holds a duplicate of the buffer's descriptor while something is bound.

    Attributes:
        flags: what was bound for (DmaFlags).
        offset: of the bound range in its buffer, in bytes (int >= 0).
        length: of the bound range, in bytes (int > 0); 0 while nothing is bound.

    Threads: one at a time, as a driver locks its handles.
    """

    __slots__ = ("_closed", "_memory", "flags", "offset")

    def __init__(self) -> None:
        self._closed = False
        self._memory: DmaMemory | None = None
        self.flags = DmaFlags(0)
        self.offset = 0

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
                mapped = buf.mmap(Access.RW)
            except PermissionError:  # a descriptor that is open for reading
                mapped = buf.mmap(Access.READ)
            self._memory = DmaMemory(self, memoryview(mapped)[self.offset : self.offset + self.length])
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
        direction = flags & DmaFlags.RDWR
        if not direction:
            raise BindError(BindResult.BADATTR, "flags must have a direction: DmaFlags.WRITE, READ or RDWR")
        size, start, count = buf.size, index(offset), index(length)
        count = count or size - start
        if not (0 <= start < size and 0 < count <= size - start):
            raise BindError(BindResult.NOMAPPING, f"{length} bytes from {offset} on are not within {size} bytes")
        self.flags, self.offset = DmaFlags(flags), start
        self._memory = self._watch = None
        own = buf.dup()
        try:
            self._publish_and_hold(own, _WHAT_THE_CPU_DOES[direction], count)
        except BaseException:
            self._drop()
            own.close()
            raise
        return self

    def unbind(self) -> None:
        """Have the CPU see what the device has written, and let go of the memory.

        Raises:
            ValueError: nothing is bound.
            OSError: what the exporter answers; then it is still bound.
            CoherenceError: under ``strict()``, as of FORCPU; unbound it is all the same.

        Mirrors ddi_dma_unbind_handle(9F) and DMA_BUF_IOCTL_SYNC with START, which waits for the implicit fences.
        """
        buf, watch, wrong = self._bound(), self._watch, None
        if watch is not None:
            buf.poll(_WHAT_THE_CPU_DOES[self.flags & DmaFlags.RDWR], None)
            try:
                watch.fetching()
            except CoherenceError as error:
                wrong = error
        self._fetch()
        self._drop()
        if watch is not None:
            watch.close()
        if self._memory is not None:
            self._memory.raw.release()
        self._memory = self._watch = None
        buf.close()
        if wrong is not None:
            raise wrong

    def free(self) -> None:
        """End the handle; a second call does nothing. ValueError while something is bound (there it is a panic).

        Mirrors ddi_dma_free_handle(9F).
        """
        if self._buf is not None:
            raise ValueError(f"{self!r} is still bound: unbind it first")
        self._closed = True

    def device_reads(self, fence: SyncFile | None = None) -> None:
        """Say that the device is given work that reads the memory; nothing happens but under ``strict()``.

        Args:
            fence: signals when the work has ended; it stays the caller's. Without one it has ended by FORCPU.
        Raises:
            CoherenceError: under ``strict()``, the CPU has written since the last FORDEV.
            ValueError: nothing is bound; ``fence`` is closed.
            OSError: EMFILE, under ``strict()``: it keeps a duplicate of the fence.
        """
        self._bound()
        if _coherence.on:
            self._watched().device(writes=False, fence=fence)

    def device_writes(self, fence: SyncFile | None = None) -> None:
        """Say that the device is given work that writes to the memory. Args, Raises: as ``device_reads``."""
        self._bound()
        if _coherence.on:
            self._watched().device(writes=True, fence=fence)

    def _watched(self) -> Watch:
        if self._watch is None:
            self._watch = Watch(fetches=bool(self.flags & DmaFlags.READ))
        watch: Watch = self._watch
        return watch

    def _bound(self) -> DmaBuf:
        buf: DmaBuf | None = self._buf
        if buf is None:
            raise ValueError(f"nothing is bound to {self!r}")
        return buf

    def __enter__(self) -> DmaHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._buf is not None:
                self.unbind()
        except CoherenceError:
            if kind is None:  # otherwise it is likely what that exception left behind
                raise
        finally:
            if self._buf is None:
                self.free()

    def __repr__(self) -> str:
        if self._buf is None:
            return "<freed DmaHandle>" if self._closed else "<unbound DmaHandle>"
        return f"<DmaHandle of {self.length} bytes from {self.offset} on of {self._buf!r}, {self.flags!r}>"


# So that there is something to sync: for a device that reads, the CPU writes.
_WHAT_THE_CPU_DOES = {DmaFlags.WRITE: Access.WRITE, DmaFlags.READ: Access.READ, DmaFlags.RDWR: Access.RW}


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
