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
forgotten here shows on the first that is not, or in a guest of ``linuxsync vm --incoherent``, or under
``strict()``. Who is synced is the exporter's business: with the system heap every importer, with udmabuf and GEM none
of them (``vm/run demo coherence`` shows that).

These are the requests in whichever state; only where a udmabuf has never been accessed, bind is START, END, for it
refuses an END before. From bind to unbind the two views are alike, or one of them is behind::

    (nothing bound)  --bind-->           alike            --unbind-->  (nothing bound)  --free-->  (freed)
    alike            --CPU writes-->     device is behind --FORDEV-->          alike
    alike            --device writes-->  CPU is behind    --FORCPU, unbind-->  alike

With DDI_DMA_READ alone the device's view is not brought up to date: what the CPU has written is given up by FORDEV.
Where a view that is behind is used, or a sync the wrong way round overwrites what is new, ``strict()`` raises.

What Linux has no word for:

- a part of a buffer. ``struct dma_buf_sync`` has flags and no range, so a range is checked to the byte and the whole
  buffer is synced: ``DmaHandle.granularity`` says so. Kernels of vendors (Android's common kernel, Rockchip's) have
  ``dma_buf_begin_cpu_access_partial`` for drivers, and some DMA_BUF_IOCTL_SYNC_PARTIAL for programs, number 2 with
  flags, offset and length. It was proposed to upstream and not taken; there 2 is DMA_BUF_IOCTL_EXPORT_SYNC_FILE.
- the kernel's view apart from a process's: FORKERNEL is the hint that 9F allows it to be, and does as FORCPU does.
- consistent and streaming memory: which it is, the exporter has decided. The flags are taken, and as on Solaris neither
  makes a sync unnecessary.
- windows onto memory that is too large to map: an importer maps all or fails, so PARTIAL allows what never comes.
"""

from __future__ import annotations

import errno
from contextlib import suppress
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
"""What a call returns that did what was asked."""
DDI_FAILURE = -1
"""What ``ddi_dma_sync`` returns for a range outside of what is bound."""

_native.share(_coherence.watches)


class SyncType(IntEnum):
    """Whose view is to catch up (``DDI_DMA_SYNC_*`` of illumos, sys/sunddi.h)."""

    FORDEV = 0
    FORCPU = 1
    FORKERNEL = 2


DDI_DMA_SYNC_FORDEV = SyncType.FORDEV
"""SyncType.FORDEV, by its name in C."""
DDI_DMA_SYNC_FORCPU = SyncType.FORCPU
"""SyncType.FORCPU, by its name in C."""
DDI_DMA_SYNC_FORKERNEL = SyncType.FORKERNEL
"""SyncType.FORKERNEL, by its name in C."""


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

    Threads: one at a time, as for its handle.
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
            self._handle._watched().cpu(*self._span(key), writes=False)
        return bytes(self.raw[key]) if isinstance(key, slice) else self.raw[key]

    @overload
    def __setitem__(self, key: int, value: int) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: bytes | bytearray | memoryview) -> None: ...
    def __setitem__(self, key: int | slice, value: int | bytes | bytearray | memoryview) -> None:
        if not _coherence.on:
            self.raw[key] = value  # type: ignore[index, assignment]
            return
        span, watch = self._span(key), self._handle._watched()
        watch.cpu(*span, writes=True)
        self.raw[key] = value  # type: ignore[index, assignment]
        watch.cpu_wrote(*span)

    def _span(self, key: int | slice) -> tuple[int, int]:
        """The bytes of the buffer from the first to behind the last that a key means; what is no key raises later."""
        if isinstance(key, slice):
            chosen = range(*key.indices(len(self.raw)))
            first, last = (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else (0, 0)
        else:
            first = index(key) % (len(self.raw) or 1)
            last = first + 1
        return self._handle.offset + first, self._handle.offset + last


class DmaHandle(_native.DmaHandle):
    """A DMA handle (``ddi_dma_handle_t``): memory that is bound to it is shared with a device, one view at a time.

    Use it with ``with``, and ``bind`` too. It holds a duplicate of the buffer's descriptor while something is bound.
    Where an exception ends the block, and fences of the buffer have not signaled, it lets go without waiting for them.

    Attributes:
        flags: what was bound for (DmaFlags).
        offset: of the bound range in its buffer, in bytes (int >= 0).
        length: of the bound range, in bytes (int > 0); 0 while nothing is bound.

    Threads: one at a time, as a driver locks its handles.
    """

    __slots__ = ("_closed", "_ino", "_memory", "flags", "offset")

    def __init__(self) -> None:
        self._closed = False
        self._ino = 0
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
                view = self._map(Access.RW, buf.size)
            except PermissionError:  # a descriptor that is open for reading
                view = self._map(Access.READ, buf.size)
            self._memory = DmaMemory(self, view[self.offset : self.offset + self.length])
        return self._memory

    def bind(self, buf: DmaBuf, flags: DmaFlags, offset: int = 0, length: int = 0) -> DmaHandle:
        """Bind a range of a buffer, and have the device see what the CPU has written there; returns the handle.

        With READ alone the device will write and not read, so that nothing is brought to it.

        Args:
            flags: the direction, and what else DmaFlags has; see the module for what that means here.
            offset: bytes into the buffer (int >= 0).
            length: bytes; 0 for all from ``offset`` on.
        Raises:
            BindError: something is bound already (INUSE); the range is not within the buffer (NOMAPPING); no direction,
                or flags that there are not (BADATTR). It is a ValueError.
            TypeError: ``buf`` is no DmaBuf.
            ValueError: the handle, or the buffer, is closed.
            OSError: EMFILE; what the exporter answers to END.
            CoherenceError: under ``strict()``, through another handle of the buffer the device has written something
                that END would overwrite.

        Mirrors ddi_dma_addr_bind_handle(9F) and DMA_BUF_IOCTL_SYNC with END. A udmabuf that was never accessed takes a
        START before, which waits for its implicit fences.
        """
        if not isinstance(buf, DmaBuf):
            raise TypeError(f"bind takes a DmaBuf, not a {type(buf).__name__}")
        if self._closed:
            raise ValueError("operation on freed DmaHandle")
        if self._buf is not None:
            raise BindError(BindResult.INUSE, f"{self!r} is bound already")
        direction = flags & DmaFlags.RDWR
        if not direction or not 0 < flags <= _ALL_FLAGS:
            raise BindError(BindResult.BADATTR, "flags must have a direction: DmaFlags.WRITE, READ or RDWR")
        size, start, count = buf.size, index(offset), index(length)
        count = count or size - start
        if not (0 <= start < size and 0 < count <= size - start):
            raise BindError(BindResult.NOMAPPING, f"{length} bytes from {offset} on are not within {size} bytes")
        self.flags, self.offset, self._ino, self._memory = DmaFlags(flags), start, buf.ino, None
        if _coherence.watches:
            self._before(SyncType.FORDEV, name="bind")
        own = buf.dup()
        try:
            self._publish_and_hold(own, _WHAT_THE_CPU_DOES[direction], count)
        except BaseException:
            self._drop()
            own.close()
            raise
        if _coherence.watches:
            self._after(SyncType.FORDEV)
        return self

    def unbind(self) -> None:
        """Have the CPU see what the device has written, and let go of the memory.

        Raises:
            ValueError: nothing is bound.
            OSError: what the exporter answers; then it is still bound.
            CoherenceError: under ``strict()``, as of FORCPU; unbound it is all the same.
            BufferError: a slice of ``memory.raw``, an array or such is left; unbound it is all the same, and what is
                left reads zeros from now on.

        Mirrors ddi_dma_unbind_handle(9F) and DMA_BUF_IOCTL_SYNC with START, which waits for the implicit fences.
        """
        self._bound()
        wrong = None
        if _coherence.watches:
            try:
                self._before(SyncType.FORCPU, name="unbind", unbinds=True)
            except CoherenceError as error:
                wrong = error
        self._fetch()
        if _coherence.watches:
            self._after(SyncType.FORCPU)
        left = self._let_go()
        if wrong is not None:
            raise wrong
        if left:
            state = "zeros from now on" if left == 1 else "which could not be taken away from it"
            raise BufferError(f"the memory is unbound, but a slice, an array or such still uses it ({state})")

    def _let_go(self) -> int:
        """Nothing is bound from here on; see ``_drop`` of native/ddi.pyx for what is returned."""
        buf, memory, end = self._bound(), self._memory, self.offset + self.length
        self._memory = None
        if (watch := _coherence.watches.get(self._ino)) is not None:
            watch.forget(self.offset, end)
            if watch.idle:
                _coherence.watches.pop(self._ino, None)
        if memory is not None:
            with suppress(BufferError):  # numpy and the like have an export of it
                memory.raw.release()
        left = self._drop()
        buf.close()
        return left

    def free(self) -> None:
        """End the handle; a second call does nothing.

        Raises:
            ValueError: something is bound, which 9F forbids.

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

        Mirrors nothing: who drives a device of their own says with it what only they know.
        """
        self._bound()
        span = self.offset, self.offset + self.length
        self._check_device(*span, writes=False)
        self._device_uses(*span, writes=False, fence=fence)

    def device_writes(self, fence: SyncFile | None = None) -> None:
        """Say that the device is given work that writes to the memory; nothing happens but under ``strict()``.

        Args:
            fence: as for ``device_reads``.
        Raises:
            CoherenceError: under ``strict()``, it writes over what the CPU has written since the last FORDEV.
            ValueError: nothing is bound; ``fence`` is closed.
        """
        self._bound()
        span = self.offset, self.offset + self.length
        self._check_device(*span, writes=True)
        self._device_uses(*span, writes=True, fence=fence)

    def _watched(self) -> Watch:
        return _coherence.watches.get(self._ino) or _coherence.watches.setdefault(self._ino, Watch())

    def _check_device(self, start: int, end: int, writes: bool) -> None:
        """Whether the device may be given work on these bytes of the buffer, which may fail yet."""
        if _coherence.on:
            self._watched().device(start, end, writes)

    def _device_uses(self, start: int, end: int, writes: bool, fence: SyncFile | None) -> None:
        """It was given that."""
        if _coherence.on:
            self._watched().device_uses(start, end, writes, fence)

    def _before(self, kind: int, start: int = 0, count: int = 0, name: str = "", unbinds: bool = False) -> None:
        """A sync of what is bound is to be done."""
        watch = _coherence.watches.get(self._ino)
        if watch is None:
            return
        name = name or SyncType(kind).name
        if kind == SyncType.FORDEV:
            if self.flags & DmaFlags.WRITE:
                watch.publishing(name)
            return
        self._bound().poll(_WHAT_THE_CPU_DOES[self.flags & DmaFlags.RDWR], None)
        first = self.offset + start
        end = first + (count or self.length - start)
        watch.fetching(name, first, end, brings=bool(self.flags & DmaFlags.READ), unbinds=unbinds)

    def _after(self, kind: int) -> None:
        """It was done."""
        watch = _coherence.watches.get(self._ino)
        if watch is None:
            return
        if kind == SyncType.FORDEV:
            watch.published()
        elif self.flags & DmaFlags.READ:
            watch.fetched()

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
            if self._buf is None:
                return
            if kind is None:
                self.unbind()
            elif self._buf.poll(_WHAT_THE_CPU_DOES[self.flags & DmaFlags.RDWR]):
                with suppress(CoherenceError, BufferError):  # likely what that exception has left behind
                    self.unbind()
            else:
                self._let_go()
        finally:
            if self._buf is None:
                self.free()

    def __repr__(self) -> str:
        if self._buf is None:
            return "<freed DmaHandle>" if self._closed else "<unbound DmaHandle>"
        return f"<DmaHandle of {self.length} bytes from {self.offset} on of {self._buf!r}, {self.flags!r}>"


# So that there is something to sync: for a device that reads, the CPU writes.
_ALL_FLAGS = DmaFlags(0x7F)
_WHAT_THE_CPU_DOES = {DmaFlags.WRITE: Access.WRITE, DmaFlags.READ: Access.READ, DmaFlags.RDWR: Access.RW}


def ddi_dma_alloc_handle() -> tuple[int, DmaHandle]:
    """Return DDI_SUCCESS and a new handle.

    Mirrors ddi_dma_alloc_handle(9F), which can fail where there is no memory.
    """
    return DDI_SUCCESS, DmaHandle()


def ddi_dma_addr_bind_handle(handle: DmaHandle, buf: DmaBuf, offset: int, length: int, flags: DmaFlags) -> BindResult:
    """Bind a range: MAPPED, or which failure it was, NORESOURCES for EMFILE, ENFILE and ENOMEM; see DmaHandle.bind.

    Raises:
        OSError: what else the exporter answers.

    Mirrors ddi_dma_addr_bind_handle(9F).
    """
    try:
        handle.bind(buf, flags, offset, length)
    except BindError as error:
        return error.result
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return BindResult.NORESOURCES
    return BindResult.MAPPED


def ddi_dma_buf_bind_handle(handle: DmaHandle, buf: DmaBuf, flags: DmaFlags) -> BindResult:
    """Bind a whole buffer: MAPPED, or which failure it was; see ddi_dma_addr_bind_handle.

    Raises:
        OSError: as there.

    Mirrors ddi_dma_buf_bind_handle(9F).
    """
    return ddi_dma_addr_bind_handle(handle, buf, 0, 0, flags)


def ddi_dma_sync(handle: DmaHandle, offset: int, length: int, type: SyncType) -> int:
    """Return DDI_SUCCESS, or DDI_FAILURE for a range outside of what is bound; see DmaHandle.sync.

    Raises:
        ValueError, OSError: as DmaHandle.sync; nothing is bound, say, which 9F has no answer for either.

    Mirrors ddi_dma_sync(9F).
    """
    try:
        handle.sync(type, offset, length)
    except RangeError:
        return DDI_FAILURE
    return DDI_SUCCESS


def ddi_dma_unbind_handle(handle: DmaHandle) -> int:
    """Return DDI_SUCCESS once nothing is bound any more; see DmaHandle.unbind.

    Raises:
        ValueError, OSError, CoherenceError, BufferError: as DmaHandle.unbind, for 9F knows no failure.

    Mirrors ddi_dma_unbind_handle(9F).
    """
    handle.unbind()
    return DDI_SUCCESS


def ddi_dma_free_handle(handle: DmaHandle) -> None:
    """End a handle; see DmaHandle.free.

    Raises:
        ValueError: something is bound to it.

    Mirrors ddi_dma_free_handle(9F).
    """
    handle.free()
