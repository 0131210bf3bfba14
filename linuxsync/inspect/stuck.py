"""stuck: fences that do not signal, who waits for them, and who is to signal them.

Unlike the rest of linuxsync.inspect this asks in ways that the kernel notices: it polls fences, which enables their
signaling, holds duplicates of them while it waits, and has sw_sync timelines make a fence that tells their names.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from .._fd import OwnedFd
from ..dma_buf import Access, DmaBuf
from ..drm import DrmDevice
from ..sync_file import FenceInfo, SyncFile, SyncFileInfo, wait_all
from ..syncobj import Syncobj, container_of
from .buffers import Found, held_by
from .fences import REFUSED, HeldSyncFile, ask, files_among, open_files, sync_files
from .owed import Owed, owners
from .pidfd import PidFd
from .processes import GONE, Descriptor, Kind, Scan, scan
from .syncobjs import device_with_syncobjs, fence_in, imported
from .waiters import Waiter, waiters

__all__ = ["StuckFence", "polled", "stuck_fences"]

Owned = TypeVar("Owned", bound=OwnedFd)


@dataclass(frozen=True, slots=True)
class StuckFence:
    """A sync_file, a dma-buf or a syncobj whose fences have not signaled.

    Attributes:
        kind: which of them; Kind.DRM for a syncobj that is but a handle of a device's open file, and is waited for; of
            whatever kind for a wait inside the kernel.
        name: a sync_file's, or a buffer's; ``syncobj 3`` or ``syncobj 3 point 7`` for a handle; the kernel's function
            that waits; None without.
        ino: a buffer's inode number; None for the others.
        owed: what is missing, each timeline once; empty for a point that nobody has submitted; None where a thread
            waits for a fence inside the kernel, which does not tell for which.
        holders: its descriptors, by pid and number; empty if it has been closed meanwhile.
        waiters: threads that wait for it right now.
        active_ns: for how long it is known not to have signaled, in nanoseconds (int > 0).
    """

    kind: Kind
    name: str | None
    ino: int | None
    owed: tuple[Owed, ...] | None
    holders: tuple[Descriptor, ...]
    waiters: tuple[Waiter, ...]
    active_ns: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What is polled: a duplicate of ours.

    Attributes:
        fence: ours; None for a point that nobody has submitted.
        numbers: (pid, descriptor) of its holders when it was found.
        seen_ns: when it was first known to be active.
        waited: handle and point, for a syncobj that is but a handle.
        exclusive: of a buffer, whether only those wait for it who write.
        extra: whether it is of interest only if somebody waits for it: the same buffer has another one.
    """

    kind: Kind
    name: str | None
    ino: int | None
    fence: SyncFile | None
    numbers: frozenset[tuple[int, int]]
    seen_ns: int
    waited: tuple[int, int] | None = None
    exclusive: bool = False
    extra: bool = False


def found_now(
    kind: Kind,
    name: str | None,
    ino: int | None,
    fence: SyncFile | None,
    holders: Iterable[Descriptor],
    waited: tuple[int, int] | None = None,
    exclusive: bool = False,
    extra: bool = False,
) -> Watched:
    """One that is active at this moment."""
    numbers = frozenset((holder.process.pid, holder.fd) for holder in holders)
    return Watched(kind, name, ino, fence, numbers, time.monotonic_ns(), waited, exclusive, extra)


def stuck_fences(
    after: float = 1.0, *, progress: Callable[[int], object] = lambda count: None
) -> tuple[list[StuckFence], Scan]:
    """Return what has not signaled within a time, although polled, and the look at the machine that it comes from.

    Sync_files, the implicit fences of dma-bufs and the fences of syncobjs are polled from the first look on; then the
    processes are looked at once more, for who holds them and who waits. Returns early when all have signaled.

    Args:
        after: seconds (float >= 0).
        progress: is told how many fences are polled, before it waits for them.
    Raises:
        ValueError: a negative time.
        OSError: EMFILE, more of them than RLIMIT_NOFILE lets us hold; ENOMEM.

    Mirrors poll(2). Threads: lets go of the GIL while it waits.
    """
    with ExitStack() as stack:
        began = time.monotonic()
        first = scan()
        asleep_first = waiters(first)
        watched = [*watch(first, stack), *watch_handles(first, asleep_first, stack)]
        progress(len(watched))
        try:
            wait_all([one.fence for one in watched if one.fence is not None], timeout=after)
        except TimeoutError:
            pass
        left = [one for one in watched if one.fence is None or not one.fence.poll(0)]
        inside = {waiter.wait for waiter in asleep_first if waits_inside(waiter)}
        if inside or any(one.fence is None for one in left):
            # These can't be polled; it is enough that somebody waits for them still.
            time.sleep(max(0, after - (time.monotonic() - began)))
        look = scan()
        if not left and not inside:
            return [], look
        asleep = waiters(look)
        known = {(one.process.pid, one.fd): one for one in look.descriptors}
        held_with = {(one.process.pid, one.fd): held for held in sync_files(look) for one in held.holders}
        buffers = held_by(look)
        owner_of = owners(look)
        found = []
        for one in left:
            info = None
            if one.fence is not None:
                if one.fence.poll(0):  # since the last look
                    continue
                info = one.fence.info()
            still_ns = time.monotonic_ns()
            holders = tuple(holders_of(one, known, held_with, buffers))
            waiting = tuple(waiter for waiter in asleep if waits(waiter, one, holders))
            if not waiting and (one.fence is None or one.extra):
                continue
            active = [] if info is None else [fence for fence in info.fences if fence.status == 0]
            owed = tuple(dict.fromkeys(owner_of(fence, info) for fence in active if info is not None))
            found.append(StuckFence(one.kind, one.name, one.ino, owed, holders, waiting, still_ns - one.seen_ns))
        named = {waiter.wait for one in found for waiter in one.waiters}
        for waiter in asleep:
            holders = tuple(known[number] for fd in waiter.fds if (number := (waiter.process.pid, fd)) in known)
            if waiter.wait in inside - named and holders:
                active_ns = int((time.monotonic() - began) * 1e9)
                found.append(StuckFence(holders[0].kind, waiter.wchan, None, None, holders, (waiter,), active_ns))
        return found, look


def holders_of(
    one: Watched,
    known: Mapping[tuple[int, int], Descriptor],
    held_with: Mapping[tuple[int, int], HeldSyncFile],
    buffers: Mapping[int, Found],
) -> Iterable[Descriptor]:
    """Who holds it now, but for us."""
    if one.ino is not None:
        return buffers[one.ino].descriptors if one.ino in buffers else ()
    if one.kind is Kind.SYNC_FILE and one.fence is not None:
        # Our duplicate is a descriptor as any other, and was seen with the others of its file.
        held = held_with.get((os.getpid(), one.fence.fileno()))
        others = () if held is None else held.holders
        return [each for each in others if each.process.pid != os.getpid() or (os.getpid(), each.fd) in one.numbers]
    return [known[number] for number in sorted(one.numbers) if number in known and known[number].kind is one.kind]


def waits_inside(waiter: Waiter) -> bool:
    """Whether it waits for a fence inside the kernel."""
    return waiter.wchan is not None and "dma_fence" in waiter.wchan


def waits(waiter: Waiter, one: Watched, holders: Iterable[Descriptor]) -> bool:
    """Whether a thread waits for it through one of these descriptors."""
    if one.waited is not None and one.waited not in waiter.syncobjs:
        return False
    fds = waiter.exclusive if one.exclusive else waiter.fds
    return any(holder.process.pid == waiter.process.pid and holder.fd in fds for holder in holders)


def watch(look: Scan, stack: ExitStack) -> Iterator[Watched]:
    """Duplicates of everything that is active, which the stack closes."""
    for held in sync_files(look):
        if held.info.status == 0:
            fence = duplicate(SyncFile, held.holders, partial(says, held.info))
            if fence is not None:
                stack.enter_context(fence)
                yield found_now(Kind.SYNC_FILE, held.info.name, None, fence, held.holders)
    for ino, found in held_by(look).items():
        buffer = duplicate(DmaBuf, found.descriptors, partial(is_buffer, ino))
        if buffer is None:
            continue
        with buffer:
            # Who reads waits for those who write, and who writes for all.
            writers = stack.enter_context(buffer.export_sync_file(Access.READ))
            everybody = stack.enter_context(buffer.export_sync_file(Access.WRITE))
        if writers.status == 0:
            yield found_now(Kind.DMA_BUF, found.name, ino, writers, found.descriptors)
        if everybody.status == 0 and len(pending(everybody)) > len(pending(writers)):
            both = writers.status == 0
            yield found_now(Kind.DMA_BUF, found.name, ino, everybody, found.descriptors, exclusive=True, extra=both)
    if look.of(Kind.SYNCOBJ_FILE):
        with device_with_syncobjs(look) as device:
            if device is not None:
                asked = ask(look, Kind.SYNCOBJ_FILE, lambda process, fd: exported(device, process, fd, stack))
                for group in files_among(list(asked)):
                    fence = group[0][1]
                    if fence is not None and fence.status == 0:
                        yield found_now(Kind.SYNCOBJ_FILE, None, None, fence, [one for one, _ in group])


def pending(fence: SyncFile) -> list[FenceInfo]:
    """The fences in it that are active."""
    return [one for one in fence.info().fences if one.status == 0]


def watch_handles(look: Scan, asleep: Iterable[Waiter], stack: ExitStack) -> Iterator[Watched]:
    """The syncobjs that threads wait for by a handle of a device's open file, which the stack closes."""
    files = {(one.process.pid, one.fd): holders for holders in open_files(look.of(Kind.DRM)) for one in holders}
    wanted = {
        (holders, *waited)
        for waiter in asleep
        for waited in waiter.syncobjs
        if (holders := files.get((waiter.process.pid, waiter.fds[0])))
    }
    if not wanted:
        return
    with device_with_syncobjs(look) as device:
        for holders, handle, point in sorted(wanted, key=lambda one: (one[0][0].process.pid, *one[1:])):
            name = f"syncobj {handle}" + (f" point {point}" if point else "")
            try:
                fence = None if device is None else fence_at(device, holders[0], handle, point, stack)
            except OSError as error:
                if error.errno not in GONE | {errno.EPERM, errno.EACCES, errno.ENOTTY}:
                    raise
                look.miss("syncobjs by handle", REFUSED)
                continue
            if device is not None and (fence is None or fence.status == 0):
                yield found_now(Kind.DRM, name, None, fence, holders, (handle, point))


def fence_at(device: DrmDevice, holder: Descriptor, handle: int, point: int, stack: ExitStack) -> SyncFile | None:
    """What is at a point of the syncobj behind another's handle, through a handle of our own; None: nothing yet."""
    with (
        PidFd.open(holder.process.pid) as process,
        process.get(DrmDevice, holder.fd) as theirs,
        OwnedFd(container_of(theirs, handle)) as container,
        Syncobj.from_fd(device, container) as syncobj,
    ):
        fence = fence_in(syncobj, point)
        return None if fence is None else stack.enter_context(fence)


def says(info: SyncFileInfo, fence: SyncFile) -> bool:
    """Whether it is that sync_file still."""
    return fence.info() == info


def is_buffer(ino: int, buffer: DmaBuf) -> bool:
    """Whether it is that buffer."""
    return buffer.ino == ino


def polled(held: HeldSyncFile) -> SyncFileInfo | None:
    """Return what a sync_file says after a poll, which enables its signaling; None if it is gone, or not ours to ask.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors poll(2) and SYNC_IOC_FILE_INFO.
    """
    fence = duplicate(SyncFile, held.holders, partial(is_named, held.info.name))
    if fence is None:
        return None
    with fence:
        fence.poll(0)
        return fence.info()


def is_named(name: str, fence: SyncFile) -> bool:
    """Whether it is of that name."""
    return fence.name == name


def duplicate(kind: type[Owned], holders: Iterable[Descriptor], right: Callable[[Owned], bool]) -> Owned | None:
    """A duplicate of the first descriptor that is to be had and is `right`: a number may be another file's by now."""
    for holder in holders:
        try:
            with PidFd.open(holder.process.pid) as process, ExitStack() as stack:
                ours = process.get(kind, holder.fd)
                stack.callback(ours.close)
                if right(ours):
                    stack.pop_all()
                    return ours
        except OSError as error:
            if error.errno not in GONE | {errno.EPERM, errno.ENOTTY}:  # of EPERM the list of what was unseen tells
                raise
    return None


def exported(device: DrmDevice, process: PidFd, fd: int, stack: ExitStack) -> SyncFile | None:
    """The fence that is in a syncobj now."""
    with imported(device, process, fd) as syncobj:
        fence = None if syncobj is None else fence_in(syncobj)
        return None if fence is None else stack.enter_context(fence)
