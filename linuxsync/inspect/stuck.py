"""stuck: fences that do not signal, who waits for them, who is to signal them, and where that goes in a circle.

Unlike the rest of linuxsync.inspect this asks in ways that the kernel notices: it polls fences, which enables their
signaling, holds duplicates of them while it waits, and has sw_sync timelines make a fence that tells their names.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from .. import sw_sync
from .._fd import OwnedFd
from ..dma_buf import Access, DmaBuf
from ..drm import DrmDevice, devices
from ..sync_file import FenceInfo, SyncFile, SyncFileInfo, wait_all
from .buffers import held_by
from .fences import HeldSyncFile, ask, files_among, sync_files
from .pidfd import PidFd, same_file
from .processes import GONE, Descriptor, Kind, Process, Scan, scan
from .syncobjs import device_with_syncobjs, fence_in, imported
from .waiters import Waiter, waiters

__all__ = ["Deadlock", "Owed", "Step", "StuckFence", "deadlocks", "stuck_fences"]

Owned = TypeVar("Owned", bound=OwnedFd)

SW_SYNC, FENCEDEV = "sw_sync", "fencedev"
# Drivers whose fences a process signals; with others the process only asked for the work.
SIGNALED_BY_PROCESSES = {SW_SYNC, "vgem"}
SCHEDULER = "drm_sched"  # the driver of fences of many GPUs, which says not whose


@dataclass(frozen=True, slots=True)
class Owed:
    """A fence that is missing, and who is to signal it.

    Attributes:
        driver_name: the driver.
        obj_name: the timeline.
        owners: of sw_sync the descriptors through which the timeline is advanced; of another driver those of its
            devices, through one of which the work came. Empty if none was found.
        sure: whether there is no doubt about them: one timeline, or one process that has such a device.
    """

    driver_name: str
    obj_name: str
    owners: tuple[Descriptor, ...]
    sure: bool

    @property
    def by_process(self) -> bool:
        """Whether a process is to signal it, rather than a device for it."""
        return self.driver_name in SIGNALED_BY_PROCESSES


@dataclass(frozen=True, slots=True)
class StuckFence:
    """A sync_file, a dma-buf or a syncobj whose fences have not signaled.

    Attributes:
        kind: which of them.
        name: a sync_file's, or a buffer's; None without.
        ino: a buffer's inode number; None for the others.
        owed: what is missing, each timeline once.
        holders: its descriptors, by pid and number; empty if it has been closed meanwhile.
        waiters: threads that wait for it right now.
        active_ns: for how long it is known not to have signaled, in nanoseconds (int > 0).
    """

    kind: Kind
    name: str | None
    ino: int | None
    owed: tuple[Owed, ...]
    holders: tuple[Descriptor, ...]
    waiters: tuple[Waiter, ...]
    active_ns: int


@dataclass(frozen=True, slots=True)
class Step:
    """A thread that waits for what the process of the next step owes.

    Attributes:
        waiter: the thread.
        fence: what it waits for.
        owed: what of it is missing.
    """

    waiter: Waiter
    fence: StuckFence
    owed: Owed


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Processes that wait for each other in a circle, or one that waits for itself.

    Attributes:
        steps: each waits for the process of the next one, the last for that of the first.
        doubts: why it may end all the same, in words; empty if nothing of that kind was seen.
    """

    steps: tuple[Step, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is polled: a duplicate of ours."""

    kind: Kind
    name: str | None
    ino: int | None
    fence: SyncFile
    holders: tuple[Descriptor, ...]


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
        began_ns = time.monotonic_ns()
        watched = list(watch(scan(), stack))
        progress(len(watched))
        try:
            wait_all([one.fence for one in watched], timeout=after)
        except TimeoutError:
            pass
        left = [one for one in watched if not one.fence.poll(0)]
        look = scan()
        if not left:
            return [], look
        held = sync_files(look)
        asleep = waiters(look)
        owner_of = owners(look, {fence.driver_name for one in left for fence in missing(one)})
        buffers = held_by(look)
        found = []
        for one in left:
            if one.kind is Kind.DMA_BUF and one.ino is not None:
                holders = tuple(buffers[one.ino].descriptors) if one.ino in buffers else ()
            elif one.kind is Kind.SYNC_FILE:
                holders = holders_of(one, held)
            else:
                holders = tuple(holder for holder in one.holders if holder in look.descriptors)
            numbers = {(holder.process.pid, holder.fd) for holder in holders}
            found.append(
                StuckFence(
                    one.kind,
                    one.name,
                    one.ino,
                    tuple(dict.fromkeys(owner_of(fence, one.fence.info()) for fence in missing(one))),
                    holders,
                    tuple(w for w in asleep if any((w.process.pid, fd) in numbers for fd in w.fds)),
                    time.monotonic_ns() - began_ns,
                )
            )
        return found, look


def missing(one: Watched) -> list[FenceInfo]:
    """The fences in it that are active."""
    return [fence for fence in one.fence.info().fences if fence.status == 0]


def watch(look: Scan, stack: ExitStack) -> Iterator[Watched]:
    """Duplicates of everything that is active, which the stack closes."""
    for held in sync_files(look):
        if held.info.status == 0:
            fence = duplicate(SyncFile, held.holders, partial(says, held.info))
            if fence is not None:
                yield Watched(Kind.SYNC_FILE, held.info.name, None, stack.enter_context(fence), held.holders)
    for ino, found in held_by(look).items():
        buffer = duplicate(DmaBuf, found.descriptors, partial(is_buffer, ino))
        if buffer is not None:
            with buffer:
                fence = stack.enter_context(buffer.export_sync_file(Access.WRITE))
            if fence.status == 0:
                yield Watched(Kind.DMA_BUF, found.name, ino, fence, tuple(found.descriptors))
    if look.of(Kind.SYNCOBJ_FILE):
        with device_with_syncobjs(look) as device:
            if device is not None:
                asked = ask(look, Kind.SYNCOBJ_FILE, lambda process, fd: exported(device, process, fd, stack))
                for group in files_among(list(asked)):
                    fence = group[0][1]
                    if fence is not None and fence.status == 0:
                        yield Watched(Kind.SYNCOBJ_FILE, None, None, fence, tuple(one for one, _ in group))


def says(info: SyncFileInfo, fence: SyncFile) -> bool:
    """Whether it is that sync_file still."""
    return fence.info() == info


def is_buffer(ino: int, buffer: DmaBuf) -> bool:
    """Whether it is that buffer."""
    return buffer.ino == ino


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


def holders_of(one: Watched, held: Iterable[HeldSyncFile]) -> tuple[Descriptor, ...]:
    """Who holds a sync_file now, but for us."""
    ours = (os.getpid(), one.fence.fileno())
    for other in held:
        first = other.holders[0]
        if other.info.name == one.name and is_same(ours, (first.process.pid, first.fd)):
            return tuple(each for each in other.holders if each.process.pid != ours[0] or each in one.holders)
    return ()


def is_same(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two descriptors are one open file; not so if one is gone."""
    try:
        return same_file(one, other)
    except OSError as error:
        if error.errno not in GONE | {errno.EPERM}:
            raise
        return False


def owners(look: Scan, drivers: Collection[str]) -> Callable[[FenceInfo, SyncFileInfo], Owed]:
    """What tells of a fence of one of these drivers who is to signal it."""
    timelines = list(ask_timelines(look)) if SW_SYNC in drivers else []
    nodes = driver_of_nodes() if look.of(Kind.DRM) else {}
    complete = not any(what in ("processes", "sw_syncs") for what, _ in look.missed)

    def advances(fence: FenceInfo, info: SyncFileInfo) -> tuple[tuple[Descriptor, ...], bool]:
        context = context_of(info)
        likely = [
            holders
            for known, holders in timelines
            if known.fences[0].obj_name == fence.obj_name
            and (context is None or context_of(known) is None or context_of(known) == context)
        ]
        sure = len(likely) == 1 and (context is not None or complete)
        through = [holder for holders in likely for holder in holders]
        return tuple(sorted(through, key=lambda holder: (holder.process.pid, holder.fd))), sure

    def submits(driver: str) -> tuple[tuple[Descriptor, ...], bool]:
        through = tuple(
            one
            for one in look.descriptors
            if (one.kind is Kind.FENCEDEV and driver == FENCEDEV)
            or (one.kind is Kind.DRM and one.link in nodes and driver in (nodes[one.link], SCHEDULER))
        )
        return through, complete and len({one.process.pid for one in through}) == 1

    def owed(fence: FenceInfo, info: SyncFileInfo) -> Owed:
        found = advances(fence, info) if fence.driver_name == SW_SYNC else submits(fence.driver_name)
        return Owed(fence.driver_name, fence.obj_name, *found)

    return owed


def ask_timelines(look: Scan) -> Iterator[tuple[SyncFileInfo, tuple[Descriptor, ...]]]:
    """What a fence of each open sw_sync timeline says of itself, and who holds the timeline."""
    try:
        place = Path(sw_sync.find()).stat()
    except OSError as error:
        look.missed["sw_syncs", f"their names: {error.strerror}"] += len(look.of(Kind.SW_SYNC))
        return
    for group in files_among(list(ask(look, Kind.SW_SYNC, lambda process, fd: process.timeline(fd, place)))):
        yield group[0][1], tuple(descriptor for descriptor, _ in group)


def context_of(info: SyncFileInfo) -> int | None:
    """The context of a timeline, which no other has: a fence's, where the kernel named the sync_file after it."""
    if len(info.fences) != 1 or len(info.name.encode("utf-8", "surrogateescape")) >= 31:  # it may have been cut
        return None
    beginning = f"{info.fences[0].driver_name}-{info.fences[0].obj_name}"
    found = re.fullmatch(r"(\d+)-\d+", info.name.removeprefix(beginning))
    return int(found[1]) if found else None


def driver_of_nodes() -> dict[str, str]:
    """The driver of each file in /dev/dri."""
    return {path: node.driver for node in devices() if node.driver for path in (node.primary, node.render) if path}


def deadlocks(found: Iterable[StuckFence]) -> list[Deadlock]:
    """Return the circles in which processes wait for what the next one is to signal.

    A process that waits for itself is one only if none of its threads does anything else.

    Args:
        found: what ``stuck_fences`` returned.
    """
    steps: dict[Process, list[tuple[Step, Process]]] = {}
    for fence in found:
        for owed in fence.owed:
            if owed.by_process:
                for owner in dict.fromkeys(one.process for one in owed.owners):
                    for waiter in fence.waiters:
                        steps.setdefault(waiter.process, []).append((Step(waiter, fence, owed), owner))
    circles: dict[frozenset[Process], Deadlock] = {}
    for first in steps:
        path = shortest(steps, first)
        if path is not None:
            doubts = tuple(doubts_about(path, found))
            if len(path) > 1 or not doubts:
                circles.setdefault(frozenset(step.waiter.process for step in path), Deadlock(path, doubts))
    return list(circles.values())


def shortest(steps: dict[Process, list[tuple[Step, Process]]], first: Process) -> tuple[Step, ...] | None:
    """The shortest way from a process back to itself."""
    ways: deque[tuple[Process, tuple[Step, ...]]] = deque([(first, ())])
    seen: set[Process] = set()
    while ways:
        process, way = ways.popleft()
        for step, owner in steps.get(process, ()):
            if owner == first:
                return (*way, step)
            if owner not in seen:
                seen.add(owner)
                ways.append((owner, (*way, step)))
    return None


def doubts_about(path: Iterable[Step], found: Iterable[StuckFence]) -> Iterator[str]:
    """What may end a circle."""
    stuck = {(holder.process.pid, holder.fd) for fence in found for holder in fence.holders}
    asleep = {(waiter.process.pid, waiter.tid) for fence in found for waiter in fence.waiters}
    for step in path:
        process = step.waiter.process
        name = f"{process.comm} {process.pid}"
        if any((process.pid, fd) not in stuck for fd in step.waiter.fds):
            yield f"{name} waits for something else as well"
        others = sum((process.pid, tid) not in asleep for tid in threads(process))
        if others:
            yield f"{name} has {others} other thread{'s' if others > 1 else ''}"
        if not step.owed.sure:
            yield f"it is not sure who signals {step.owed.obj_name}"
        elif len({one.process for one in step.owed.owners}) > 1:
            yield f"several processes can signal {step.owed.obj_name}"


def threads(process: Process) -> list[int]:
    """The numbers of its threads; none if it has ended."""
    try:
        return [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
    except OSError:
        return []
