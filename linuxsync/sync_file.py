"""sync_file: one or more fences behind a file descriptor (drivers/dma-buf/sync_file.c)."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Generator, Iterable
from enum import IntEnum
from typing import TypeVar

from . import _wait
from ._native import sync_file as _native
from ._native.sync_file import FenceInfo, SyncFileInfo
from .errors import FenceError

__all__ = ["FenceInfo", "FenceStatus", "SyncFile", "SyncFileInfo", "as_completed", "merge", "wait_all", "wait_any"]


class FenceStatus(IntEnum):
    """What ``status`` can be besides a negative errno, which stays a plain int (``dma_fence_get_status``)."""

    ACTIVE = 0
    SIGNALED = 1


class SyncFile(_native.SyncFile):
    """One or more fences of the kernel, held by a sync_file descriptor.

    Drivers hand them out for work that is under way; waiting for the fence is waiting for the work. A fence goes from
    active to signaled once, or to a negative errno if the work failed, and never back.

    Args:
        fd: an open sync_file descriptor, which the object owns from here on (see OwnedFd). ``from_fd`` keeps yours.
    Raises:
        TypeError, ValueError: ``fd`` is no descriptor number.
        OSError: EBADF, not open; ENOTTY, not a sync_file.

    Threads: every method may be called from many threads at once as long as none closes the object. Any number of
    threads, processes and coroutines may wait for one fence; all of them wake.

    What ``merge``, ``dup`` and ``from_fd`` of a subclass return is of that subclass, made without its ``__init__``.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name given at merge, else ``DRIVER-TIMELINECONTEXT-SEQNO`` made up by the kernel."""
        return self.info().name

    @property
    def fences(self) -> tuple[FenceInfo, ...]:
        """Every fence in it. The set never changes; what each one says of itself does."""
        return self.info().fences

    @property
    def signaled(self) -> bool:
        """Whether all fences have signaled without an error. A failed fence is done too: see ``error``."""
        return self.status == FenceStatus.SIGNALED

    @property
    def error(self) -> int | None:
        """The positive errno of a sync_file whose status is negative, else None."""
        status = self.status
        return -status if status < 0 else None

    @property
    def timestamp_ns(self) -> int | None:
        """When the latest of the fences signaled (CLOCK_MONOTONIC ns), None while one is active."""
        fences = self.fences
        if any(fence.status == FenceStatus.ACTIVE for fence in fences):
            return None
        return max(fence.timestamp_ns for fence in fences)

    def raise_for_status(self) -> None:
        """Raise FenceError (errno = -status) if the status is negative; active and signaled pass.

        Raises:
            FenceError: a fence failed; ``info`` on it is the snapshot.
            ValueError: closed.

        Mirrors SYNC_IOC_FILE_INFO.
        """
        info = self.info()
        if info.status < 0:
            raise FenceError.of(info, repr(self))

    def __or__(self, other: SyncFile) -> SyncFile:
        """``a | b`` is ``a.merge(b)``: it signals once both have."""
        if not isinstance(other, SyncFile):
            return NotImplemented
        return self.merge(other)

    async def wait_async(self, timeout: float | None = None) -> None:
        """Return once all fences have signaled; ``await fence`` is the same without a timeout.

        Args:
            timeout: seconds (float >= 0), None for ever.
        Raises:
            TimeoutError: errno ETIME, not all of them had when the time was over.
            ValueError: closed; a negative timeout.
            OSError: EMFILE: each waiter holds one descriptor of its own while it waits.

        Mirrors poll(2), by the event loop. Cancelling it gives everything back. The fence may be closed meanwhile; the
        waiter still wakes. Threads: belongs to the event loop that it is awaited in.
        """
        await _wait.readable(self, timeout)

    def __await__(self) -> Generator[object, None, None]:
        return self.wait_async().__await__()


Fence = TypeVar("Fence", bound=SyncFile)


def merge(fences: Iterable[Fence], name: str = "", strict: bool = False) -> Fence:
    """Return a new sync_file that signals once every fence of ``fences`` has; see SyncFile.merge.

    Args:
        fences: at least one SyncFile. One alone is merged with itself, which is how a fence is given a name. 1,000 of
            them cost O(n log n) copies, not n squared, and at most 11 descriptors while it works.
        name, strict: as for SyncFile.merge.
    Raises:
        ValueError: no fences; a closed one; a bad name.
        TypeError, FenceError, OSError: as SyncFile.merge.

    Mirrors SYNC_IOC_MERGE.
    """
    return _native.merge(list(fences), name, strict)


def wait_all(fences: Iterable[SyncFile], timeout: float | None = None) -> None:
    """Return once all of ``fences`` have signaled; at once if there are none.

    Args:
        timeout: seconds (float >= 0) for all together, None for ever.
    Raises:
        TimeoutError: errno ETIME; it names the first fence that was missing.
        ValueError: a closed fence; a negative timeout.
        OSError: EBADF, somebody else closed a descriptor; EINVAL, more fences than RLIMIT_NOFILE.

    Mirrors poll(2). Threads: as SyncFile.wait.
    """
    missing = _wait.wait_all(fences if type(fences) is list else list(fences), SyncFile, timeout)
    if missing is not None:
        raise TimeoutError(errno.ETIME, f"SyncFile({missing}) had not signaled after {timeout} s")


def wait_any(fences: Iterable[Fence], timeout: float | None = None) -> Fence:
    """Return one of ``fences`` that has signaled, the first in order if several have.

    Args:
        fences: at least one.
        timeout: seconds (float >= 0), None for ever.
    Raises:
        TimeoutError: errno ETIME, none had when the time was over.
        ValueError: no fences (nothing could ever signal); a closed one; a negative timeout.
        OSError: as wait_all.

    Mirrors poll(2). Threads: as SyncFile.wait.
    """
    candidates = list(fences)
    if not candidates:
        raise ValueError("wait_any needs at least one fence")
    first = _wait.wait_any(candidates, SyncFile, timeout)
    if first is None:
        raise TimeoutError(errno.ETIME, f"none of {len(candidates)} fences had signaled after {timeout} s")
    return first


def as_completed(fences: Iterable[Fence]) -> AsyncIterator[Fence]:
    """Yield each of ``fences`` as it signals: ``async for fence in as_completed(fences)``.

    Raises:
        ValueError, TypeError: a closed fence; something that is none.
        OSError: EMFILE: each fence still waited for holds one descriptor more.

    Mirrors poll(2), by the event loop. Leaving the loop early, or cancelling it, gives those descriptors back; at once
    inside ``contextlib.aclosing``, else when the event loop has collected the iterator. What is wrong with a fence is
    said at the first step.
    """
    return _wait.as_readable(fences, SyncFile)
