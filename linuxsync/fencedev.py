"""fencedev: a device that takes fences, works on dma-bufs through the DMA API and gives fences (native/fencedev/)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from ctypes import addressof, c_char, c_int32
from dataclasses import dataclass
from enum import IntEnum
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING
from warnings import warn

from . import _coherence, _uapi
from ._coherence import Watch
from ._fd import OwnedFd, may_open
from .ddi import CoherenceError, DmaFlags, DmaHandle
from .dma_buf import Access, DmaBuf
from .sync_file import SyncFile

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = [
    "Attachment",
    "Checksum",
    "Copy",
    "FenceDevice",
    "Fill",
    "Job",
    "JobInfo",
    "JobState",
    "Operation",
    "Queue",
    "ScaleAdd",
    "Use",
    "available",
]

_PATH = "/dev/fencedev"
# What the device does, of DmaFlags, in which WRITE means memory to device.
_OF_THE_DEVICE = {DmaFlags.WRITE: Access.READ, DmaFlags.READ: Access.WRITE, DmaFlags.RDWR: Access.RW}
_WORD = 4


def available() -> bool:
    """Whether ``FenceDevice()`` would find a node that this process may open.

    Raises:
        OSError: ENOMEM, of our own.

    Mirrors faccessat(2) of /dev/fencedev, with AT_EACCESS.
    """
    return may_open(_PATH)


class JobState(IntEnum):
    """Where a job is."""

    WAITING = 0
    """For the jobs before it, or for fences."""
    RUNNING = 1
    HUNG = 2
    DONE = 3
    """Its fence has signaled."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What the device says of a job at one moment (``struct fencedev_query``). Times are CLOCK_MONOTONIC.

    Attributes:
        state: where it is.
        status: its fence's: 0 active, 1 signaled, or the error, negative.
        signaling: whether somebody has asked to be told when it signals; until then a driver may leave interrupts off.
        seqno: its number on the queue's timeline; the first is 1.
        checksum: what a Checksum that is done has found (Adler-32, as zlib.adler32); else 0.
        deadline_ns: the earliest that was set; None without one.
        submitted_ns: when it was put into the queue.
        started_ns: when the device began; None if it has not.
        ended_ns: when its fence signaled; None if it has not.
    """

    state: JobState
    status: int
    signaling: bool
    seqno: int
    checksum: int
    deadline_ns: int | None
    submitted_ns: int
    started_ns: int | None
    ended_ns: int | None


class _Numbered:
    """What a queue and an attachment have in common: a number in an open file of the device, given back once.

    The struct in which the kernel writes the number belongs to the object before the kernel is asked: whatever is
    raised after its answer, the number is known. The kernel gives none twice, so that giving one back a second time,
    in another thread or in a signal's handler, is ENOENT and hits nobody else.
    """

    __slots__ = ("_closed", "_process", "device")
    _closing = (0, "")

    def __init__(self, device: FenceDevice) -> None:
        if not isinstance(device, FenceDevice):
            raise TypeError(f"a {type(self).__name__} is one of a FenceDevice, not of a {type(device).__name__}")
        self.device = device
        self._closed = False
        self._process = os.getpid()

    def _number(self) -> int:
        raise NotImplementedError

    def _ask(self, request: int, name: str) -> None:
        """Issue a request that takes nothing but the number."""
        number = self.id
        _uapi.ioctl(self.device.fileno(), request, _uapi.FencedevId(id=number), f"{name} of {number}")

    @property
    def id(self) -> int:
        """Its number in the open file of the device (int > 0, ``__u32``). ValueError once it is closed."""
        if self.closed:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._number()

    @property
    def closed(self) -> bool:
        """Whether it has been closed, or its device has."""
        return self._closed or self.device.closed

    def close(self) -> None:
        """Give it back; a second call does nothing, nor does one in a forked child, or after the device's.

        Raises:
            OSError: what the kernel answers to its request, but ENOENT: then somebody else gave it back.

        Mirrors FENCEDEV_IOC_QUEUE_DESTROY, or FENCEDEV_IOC_DETACH.
        """
        if self.closed or not self._number() or self._process != os.getpid():
            return
        try:
            self._ask(*self._closing)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        self._closed = True

    def __enter__(self) -> Self:
        self.id  # noqa: B018, it raises for a closed one
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not made, if there is no device or no number.
        if hasattr(self, "_process") and not self.closed and self._number() and self._process == os.getpid():
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            with suppress(OSError, CoherenceError):
                self.close()

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}{type(self).__name__} {self._number()} of {self.device!r}>"


class Attachment(_Numbered):
    """A dma-buf that the device may use; ``FenceDevice.attach`` makes it.

    While it is mapped the device has bus addresses for it, which need not lead to the memory that the CPU sees: there
    may be a copy in between (``swiotlb=force``), which only the exporter's CPU access brings up to date.

    Closing it unmaps and detaches it. Use it with ``with``; one that is forgotten is closed and warns
    (ResourceWarning).

    Attributes:
        device: the FenceDevice.
        access: what the device may do: READ (DMA_TO_DEVICE), WRITE (DMA_FROM_DEVICE) or RW (DMA_BIDIRECTIONAL).
        handle: the DmaHandle of whose bound range this is; None for an attachment of a DmaBuf.
        size: bytes (int, ``__u64``): of the buffer, or of what is bound to the handle. Offsets count from there.

    Raises:
        OSError: on ``close``: EBUSY, a job that has not ended uses it.

    Threads: every method may be called from many threads as long as none closes the object. A forked child may use it,
    and leaves the closing to the process that made it.
    """

    __slots__ = ("_bound", "_data", "_mapped", "_start", "access", "handle", "size")
    _closing = (_uapi.FENCEDEV_IOC_DETACH, "FENCEDEV_IOC_DETACH")

    def __init__(self, device: FenceDevice, what: DmaBuf | DmaHandle, access: Access | None = None) -> None:
        super().__init__(device)
        if not isinstance(what, (DmaBuf, DmaHandle)):
            raise TypeError(f"attach takes a DmaBuf or a DmaHandle, not a {type(what).__name__}")
        allowed = Access.RW
        if isinstance(what, DmaHandle):
            what._bound()
            allowed = _OF_THE_DEVICE[what.flags & DmaFlags.RDWR]
        if access is None:
            access = allowed
        if not isinstance(access, int) or access not in (Access.READ, Access.WRITE, Access.RW):
            raise ValueError(f"access must be Access.READ, WRITE or RW, not {access!r}")
        if access & ~allowed:
            raise ValueError(f"{what!r} is bound for {allowed!r} of the device, not for {access!r}")
        self.access = access
        self._mapped = False
        self.handle = what if isinstance(what, DmaHandle) else None
        dmabuf = what._bound() if isinstance(what, DmaHandle) else what
        self._data = _uapi.FencedevAttach(fd=dmabuf.fileno(), access=access)
        name = f"FENCEDEV_IOC_ATTACH of {dmabuf!r}"
        _uapi.ioctl(device.fileno(), _uapi.FENCEDEV_IOC_ATTACH, self._data, name)
        self._bound = dmabuf if self.handle else None
        self._start = self.handle.offset if self.handle else 0
        self.size = self.handle.length if self.handle else int(self._data.size)

    def _number(self) -> int:
        return int(self._data.attachment) if hasattr(self, "_data") else 0

    def _watcher(self) -> DmaHandle | None:
        """The handle, if there is one, which has to be bound as it was."""
        if self.handle is not None and self.handle._buf is not self._bound:
            raise ValueError(f"what {self!r} is for has been unbound from its DmaHandle")
        return self.handle

    def _watch(self) -> Watch | None:
        """What ddi.strict() remembers of the memory, if unmapping it brings the CPU what the device has written."""
        if self.handle is None or not self._mapped or not self.access & Access.WRITE:
            return None
        return _coherence.watches.get(self.handle._ino) if self.handle._buf is self._bound else None

    def _losing(self) -> CoherenceError | None:
        """Whether that throws away what the CPU has written."""
        watch = self._watch()
        try:
            if watch is not None:
                watch.fetching("unmapping", 0, 0)
        except CoherenceError as error:
            return error
        return None

    def _unmapped(self, wrong: CoherenceError | None) -> None:
        """It is unmapped."""
        watch, self._mapped = self._watch(), False
        if watch is not None:
            watch.fetched()
        if wrong is not None:
            raise wrong

    def close(self) -> None:
        """Unmap and detach it; a second call does nothing, nor does one in a forked child, or after the device's.

        Raises:
            OSError: EBUSY, a job that has not ended uses it.
            CoherenceError: under ``ddi.strict()``, as ``unmap``; closed it is all the same.

        Mirrors FENCEDEV_IOC_DETACH (``dma_buf_detach``).
        """
        if not self._closed:
            wrong = self._losing()
            super().close()
            self._unmapped(wrong)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CoherenceError:
            if kind is None:  # otherwise it is likely what that exception left behind
                raise

    def map(self) -> None:
        """Make the buffer's memory reachable for the device.

        Raises:
            ValueError: closed.
            OSError: EBUSY, it is mapped; EIO, the DMA API can't, as with a piece of more than 256 KiB of a heap under
                ``swiotlb=force``; EOPNOTSUPP, it is no memory of the machine; ENOMEM.

        Mirrors FENCEDEV_IOC_MAP (``dma_buf_map_attachment``).
        """
        self._ask(_uapi.FENCEDEV_IOC_MAP, "FENCEDEV_IOC_MAP")
        self._mapped = True

    def unmap(self) -> None:
        """Take it away again; what the device wrote is the CPU's to see from then on, unless a udmabuf or GEM made it.

        Raises:
            ValueError: closed.
            OSError: ENXIO, it is not mapped; EBUSY, a job that has not ended uses it.
            CoherenceError: under ``ddi.strict()``, of an attachment to which the device may write: it throws away what
                the CPU has written; unmapped it is all the same.

        Mirrors FENCEDEV_IOC_UNMAP (``dma_buf_unmap_attachment``).
        """
        wrong = self._losing()
        self._ask(_uapi.FENCEDEV_IOC_UNMAP, "FENCEDEV_IOC_UNMAP")
        self._unmapped(wrong)

    def peek(self, offset: int = 0, length: int | None = None) -> bytes:
        """Return what the device sees, whatever it may do with it: a look and no work, which no sync has to precede.

        Args:
            offset: first byte (0 <= int < size).
            length: how many (int > 0); None for all that follow.
        Raises:
            ValueError: closed; bytes that are not in the buffer.
            OSError: ENXIO, it is not mapped.

        Mirrors FENCEDEV_IOC_PEEK of native/fencedev.
        """
        offset, length = _range(self, offset, length)
        data = (c_char * length)()
        self._transfer(_uapi.FENCEDEV_IOC_PEEK, "FENCEDEV_IOC_PEEK", offset, data, length)
        return data.raw

    def poke(self, data: Buffer, offset: int = 0) -> None:
        """Write as the device does.

        Args:
            data: at least one byte.
            offset: of the first (0 <= int < size).
        Raises:
            ValueError: closed; no data; bytes that are not in the buffer.
            OSError: ENXIO, it is not mapped; EACCES, the device may only read.
            CoherenceError: under ``ddi.strict()``, as for a job that writes.

        Mirrors FENCEDEV_IOC_POKE of native/fencedev.
        """
        raw = bytes(data)
        offset, length = _range(self, offset, len(raw))
        handle, first = self._watcher(), self._start + offset
        if handle is not None:
            handle._check_device(first, first + length, writes=True)
        copied = (c_char * length).from_buffer_copy(raw)
        self._transfer(_uapi.FENCEDEV_IOC_POKE, "FENCEDEV_IOC_POKE", offset, copied, length)
        if handle is not None:
            handle._device_uses(first, first + length, True, None)

    def _transfer(self, request: int, name: str, offset: int, data: object, length: int) -> None:
        number = self.id
        where = addressof(data)  # type: ignore[arg-type]
        at = self._start + offset
        args = _uapi.FencedevTransfer(attachment=number, offset=at, length=length, data=where)
        _uapi.ioctl(self.device.fileno(), request, args, f"{name} of {number}")


def _range(attachment: Attachment, offset: int, length: int | None, what: str = "the buffer") -> tuple[int, int]:
    """Bytes of an attachment, with the length filled in."""
    start = index(offset)
    count = attachment.size - start if length is None else index(length)
    if not 0 <= start < attachment.size or not 0 < count <= attachment.size - start:
        raise ValueError(f"{count} bytes from {start} on are not in {what}, which has {attachment.size}")
    return start, count


class Operation:
    """What a job does with buffers: Use, Fill, Copy, Checksum or ScaleAdd.

    Offsets and lengths are bytes; a length of None goes to the end of the smaller buffer. Words are of 32 bits in the
    CPU's order, and their offsets and lengths multiples of 4. The fields of all of them:

    Attributes:
        dst: the Attachment that is written, with WRITE among its access.
        src: the Attachment that is read.
        offset, dst_offset, src_offset: bytes from the start of an attachment (int >= 0).
        length: bytes (int > 0, or None).
        value, scale: a word (0 <= int < 2**32).

    Threads: any number, nobody changes it.
    """

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        raise NotImplementedError

    def _touched(self, data: _uapi.FencedevSubmit) -> list[tuple[DmaHandle, int, int, bool]]:
        """What it uses of what is bound to handles: from where to where in the buffer, and whether it writes."""
        found = []
        for side in ("src", "dst"):
            attachment: Attachment | None = getattr(self, side, None)
            if attachment is not None and (handle := attachment._watcher()) is not None and data.length:
                first = getattr(data, f"{side}_offset")
                found.append((handle, first, first + data.length, side == "dst"))
        return found


def _place(
    data: _uapi.FencedevSubmit, device: FenceDevice, length: int | None, **sides: tuple[Attachment, int]
) -> None:
    """Fill in the buffers of an operation, ``dst`` and ``src``, and how much of them it is about."""
    if length is None:
        length = min(buffer.size - index(offset) for buffer, offset in sides.values())
    for side, (buffer, offset) in sides.items():
        start, data.length = _range(buffer, offset, length, side)
        setattr(data, side, _number_on(buffer, device))
        setattr(data, f"{side}_offset", buffer._start + start)


def _number_on(attachment: Attachment, device: FenceDevice) -> int:
    if attachment.device is not device:
        raise ValueError(f"{attachment!r} is not attached to {device!r}")
    return attachment.id


def _words(data: _uapi.FencedevSubmit, value: int, what: str) -> None:
    if (data.dst_offset | data.src_offset | data.length) % _WORD:
        raise ValueError(
            f"offsets in the buffer (of what is bound to a handle, too) and length must be multiples of {_WORD}"
        )
    data.value = _uapi.as_u32(value, what)


@dataclass(frozen=True)
class Use(Operation):
    """Touch nothing, but stand for a write of ``dst`` and a read of ``src``: their fences say so with ``implicit``."""

    dst: Attachment | None = None
    src: Attachment | None = None

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        data.op = _uapi.FENCEDEV_OP_NONE
        data.dst = _number_on(self.dst, device) if self.dst else 0
        data.src = _number_on(self.src, device) if self.src else 0


@dataclass(frozen=True)
class Fill(Operation):
    """Set every word of ``dst`` to ``value`` (0 <= int < 2**32)."""

    dst: Attachment
    value: int
    offset: int = 0
    length: int | None = None

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        data.op = _uapi.FENCEDEV_OP_FILL
        _place(data, device, self.length, dst=(self.dst, self.offset))
        _words(data, self.value, "value")


@dataclass(frozen=True)
class Copy(Operation):
    """Copy bytes from ``src`` to ``dst``; within one buffer the two may not overlap."""

    dst: Attachment
    src: Attachment
    dst_offset: int = 0
    src_offset: int = 0
    length: int | None = None

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        data.op = _uapi.FENCEDEV_OP_COPY
        _place(data, device, self.length, dst=(self.dst, self.dst_offset), src=(self.src, self.src_offset))


@dataclass(frozen=True)
class Checksum(Operation):
    """Compute the Adler-32 of ``src``; ``Job.info()`` has it, and zlib.adler32 the same."""

    src: Attachment
    offset: int = 0
    length: int | None = None

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        data.op = _uapi.FENCEDEV_OP_CHECKSUM
        _place(data, device, self.length, src=(self.src, self.offset))


@dataclass(frozen=True)
class ScaleAdd(Operation):
    """Set every word of ``dst`` to ``dst * scale + src``, modulo 2**32; ``dst`` must be attached with Access.RW."""

    dst: Attachment
    src: Attachment
    scale: int
    dst_offset: int = 0
    src_offset: int = 0
    length: int | None = None

    def _fill_in(self, data: _uapi.FencedevSubmit, device: FenceDevice) -> None:
        data.op = _uapi.FENCEDEV_OP_SCALE_ADD
        _place(data, device, self.length, dst=(self.dst, self.dst_offset), src=(self.src, self.src_offset))
        _words(data, self.scale, "scale")


class Job:
    """A job that was submitted; ``Queue.submit`` makes it. Closing it closes its fence and lets the job go on.

    Attributes:
        queue: where it is.
        fence: the SyncFile that signals when it has ended, with the job's error if it has one.
        seqno: its number on the queue's timeline (int > 0, ``__u64``).

    Threads: as SyncFile.
    """

    __slots__ = ("fence", "queue", "seqno")

    def __init__(self, queue: Queue, fence: SyncFile, seqno: int) -> None:
        self.queue = queue
        self.fence = fence
        self.seqno = seqno

    def info(self) -> JobInfo:
        """Return what the device says of it now; see ``FenceDevice.query``.

        Raises:
            ValueError: its fence, or the device, is closed.

        Mirrors FENCEDEV_IOC_QUERY.
        """
        return self.queue.device.query(self.fence)

    def close(self) -> None:
        """Close the fence; a second call does nothing.

        Raises:
            OSError: as SyncFile.close.

        Mirrors close(2).
        """
        self.fence.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Job {self.seqno} of {self.queue!r}>"


class Queue(_Numbered):
    """A queue of jobs, which the device does one after another: a timeline; ``FenceDevice.create_queue`` makes it.

    Closing it ends what is left in it with ECANCELED. Use it with ``with``; one that is forgotten is closed and warns
    (ResourceWarning).

    Attributes:
        device: the FenceDevice.
        name: of the timeline, ``obj_name`` of its fences, whose ``driver_name`` is "fencedev".

    Threads: every method may be called from many threads as long as none closes the object. A forked child may use it,
    and leaves the closing to the process that made it.
    """

    __slots__ = ("_data", "name")
    _closing = (_uapi.FENCEDEV_IOC_QUEUE_DESTROY, "FENCEDEV_IOC_QUEUE_DESTROY")

    def __init__(self, device: FenceDevice, name: str = "") -> None:
        super().__init__(device)
        encoded = name.encode("utf-8", "surrogateescape")
        if len(encoded) >= _uapi.FENCEDEV_NAME_SIZE or b"\0" in encoded:
            raise ValueError(f"a queue's name has at most 31 bytes of UTF-8 and no NUL, not {name!r}")
        self.name = name
        self._data = _uapi.FencedevQueueCreate(name=encoded)
        _uapi.ioctl(device.fileno(), _uapi.FENCEDEV_IOC_QUEUE_CREATE, self._data, "FENCEDEV_IOC_QUEUE_CREATE")

    def _number(self) -> int:
        return int(self._data.queue) if hasattr(self, "_data") else 0

    def submit(
        self,
        operation: Operation | None = None,
        *,
        in_fences: Iterable[SyncFile] = (),
        duration: float = 0.0,
        error: int = 0,
        hang: bool = False,
        implicit: bool = False,
        ignore_errors: bool = False,
    ) -> Job:
        """Put a job at the end of the queue and return it.

        It begins when the jobs before it have ended and what it waits for has signaled, and does its operation when
        its time is over. A job that fails leaves all memory as it was, unless it was reset in the middle of its work.

        Args:
            operation: what it does with buffers.
            in_fences: at most 16 that have to signal before it begins. They stay the caller's, and may be closed.
            duration: how long it takes, in seconds (0 to 3600).
            error: errno that it fails with (0 to 4095).
            hang: do not end by itself; ``reset`` ends it.
            implicit: wait for the fences of the operation's buffers too, and add the job's own to them, as of a writer
                or a reader. Errors of the buffers' fences do not count.
            ignore_errors: begin even if an in-fence has an error. Otherwise the job ends with the error of the first of
                ``in_fences`` that has one, and does not begin.
        Raises:
            ValueError: closed; an argument out of its range; a buffer that is closed or of another device.
            OSError: EACCES, a buffer that the device may not write or read like that; ENXIO, one that is not mapped;
                EINVAL, ``implicit`` without a buffer, ranges of one buffer that overlap; EMFILE; ENOMEM.
            CoherenceError: under ``ddi.strict()``, the CPU has written to what is bound to a DmaHandle and has not
                synced it for the device; nothing was submitted.

        Mirrors FENCEDEV_IOC_SUBMIT (``fencedev_submit``).
        """
        fences = list(in_fences)
        if len(fences) > _uapi.FENCEDEV_MAX_IN_FENCES:
            raise ValueError(f"a job has at most {_uapi.FENCEDEV_MAX_IN_FENCES} in-fences, not {len(fences)}")
        if not 0 <= index(error) <= 4095:
            raise ValueError(f"error must be an errno, 1 to 4095, or 0, not {error}")
        if not 0 <= duration <= _uapi.FENCEDEV_MAX_DURATION_NS / 1e9:
            raise ValueError(f"duration must be between 0 and 3600 seconds, not {duration}")
        flags = _uapi.FENCEDEV_SUBMIT_IMPLICIT if implicit else 0
        flags |= _uapi.FENCEDEV_SUBMIT_HANG if hang else 0
        flags |= _uapi.FENCEDEV_SUBMIT_IGNORE_ERRORS if ignore_errors else 0
        number = self.id
        data = _uapi.FencedevSubmit(queue=number, flags=flags, error=error, duration_ns=round(duration * 1e9))
        data.in_fence_count = len(fences)
        for at, fence in enumerate(fences):
            data.in_fences[at] = fence.fileno()
        touched: list[tuple[DmaHandle, int, int, bool]] = []
        if operation is not None:
            operation._fill_in(data, self.device)
            touched = operation._touched(data)
            for handle, first, end, writes in touched:
                handle._check_device(first, end, writes)
        made = c_int32.from_buffer(data, _uapi.FencedevSubmit.out_fence.offset)
        name = f"FENCEDEV_IOC_SUBMIT to queue {number}"
        fence = SyncFile._given(_uapi.ask, self.device.fileno(), _uapi.FENCEDEV_IOC_SUBMIT, data, name, made)
        if not error:  # a job that fails touches nothing
            for handle, first, end, writes in touched:
                handle._device_uses(first, end, writes, fence)
        return Job(self, fence, int(data.seqno))

    def reset(self) -> int:
        """Have the job that the device is at end, hung or not, with ECANCELED; those after it go on.

        It may end a moment after this returns: wait for its fence before you look at it again.

        Returns:
            Its seqno (int > 0); 0 if the queue is empty, or its first job still waits for a fence.
        Raises:
            ValueError: closed.

        Mirrors FENCEDEV_IOC_RESET (``fencedev_reset``).
        """
        data = _uapi.FencedevReset(queue=self.id)
        _uapi.ioctl(self.device.fileno(), _uapi.FENCEDEV_IOC_RESET, data, f"FENCEDEV_IOC_RESET of {data.queue}")
        return int(data.seqno)


class FenceDevice(OwnedFd):
    """The fence device, opened; its queues and attachments go with its last descriptor.

    It is a kernel module of this project's, native/fencedev; the guest of ``linuxsync vm`` has it.

    Args:
        path: the node.
    Raises:
        FileNotFoundError: there is none; the message says how to get one.
        PermissionError: EACCES, it is root's.
        OSError: ENOTTY, ``path`` is something else; EMFILE.

    Mirrors open(2) of /dev/fencedev (``fencedev_open``). Threads: every method may be called from many threads at once
    as long as none closes the object.
    """

    __slots__ = ()

    def __init__(self, path: str | os.PathLike[str] = _PATH) -> None:
        try:
            self._take(os.open, path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            text = "no fence device: load the module, native/fencedev/fencedev.ko, or use linuxsync vm"
            raise FileNotFoundError(errno.ENOENT, text, os.fspath(path)) from error

    def _check(self) -> None:
        self._version()

    def _version(self) -> _uapi.FencedevVersion:
        data = _uapi.FencedevVersion()
        _uapi.ioctl(self.fileno(), _uapi.FENCEDEV_IOC_VERSION, data, "FENCEDEV_IOC_VERSION")
        return data

    @property
    def version(self) -> int:
        """Of the requests that the module knows (int > 0)."""
        return int(self._version().version)

    @property
    def has_deadlines(self) -> bool:
        """Whether the kernel tells a fence's driver of its deadline (Linux 6.4); sync_files take them since 6.8."""
        return bool(self._version().features & _uapi.FENCEDEV_FEATURE_DEADLINE)

    def create_queue(self, name: str = "") -> Queue:
        """Return a new queue.

        Args:
            name: of its timeline, at most 31 bytes of UTF-8 without NUL.
        Raises:
            ValueError: closed; a name that is too long or has a NUL.
            OSError: ENOMEM.

        Mirrors FENCEDEV_IOC_QUEUE_CREATE (``fencedev_queue_create``).
        """
        return Queue(self, name)

    def attach(self, what: DmaBuf | DmaHandle, access: Access | None = None, mapped: bool = True) -> Attachment:
        """Let the device use a buffer, which stays the caller's and may be closed, or what is bound to a DmaHandle.

        With a handle the device works on the bound range, in its direction, and under ``ddi.strict()`` each job is
        checked. Close the attachment before ``unbind``.

        Args:
            access: what the device may do with it: anything (RW), or what the handle was bound for, when left out.
            mapped: map it at once; otherwise ``Attachment.map`` does.
        Raises:
            ValueError: closed, or the buffer is; nothing is bound; a bad ``access``, or more than was bound for.
            TypeError: ``what`` is neither.
            OSError: what its exporter says to a new attachment; as ``Attachment.map``; ENOMEM.

        Mirrors FENCEDEV_IOC_ATTACH (``fencedev_attach``; dma_buf_attach).
        """
        attachment = Attachment(self, what, access)
        if mapped:
            try:
                attachment.map()
            except BaseException:
                attachment.close()
                raise
        return attachment

    def query(self, fence: SyncFile) -> JobInfo:
        """Return what the device says of the job whose fence this is, submitted by whichever process.

        Raises:
            ValueError: closed, or the fence is.
            OSError: EINVAL, it is no job's fence, or several fences merged.

        Mirrors FENCEDEV_IOC_QUERY (``fencedev_query``).
        """
        data = _uapi.FencedevQuery(fence=fence.fileno())
        _uapi.ioctl(self.fileno(), _uapi.FENCEDEV_IOC_QUERY, data, f"FENCEDEV_IOC_QUERY of {fence!r}")
        return JobInfo(
            state=JobState(data.state),
            status=data.status,
            signaling=bool(data.signaling),
            seqno=data.seqno,
            checksum=data.checksum,
            deadline_ns=data.deadline_ns or None,
            submitted_ns=data.submitted_ns,
            started_ns=data.started_ns or None,
            ended_ns=data.ended_ns or None,
        )
