"""watch: what changes from one look at the machine to the next, process by process. No fence is asked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from .buffers import held_by
from .fences import HeldSyncFile
from .processes import Kind, Process, Scan

__all__ = ["Activity", "Watch", "names_by_process"]

FAR = 2**63  # nanoseconds: after any


@dataclass(frozen=True, slots=True)
class Activity:
    """A process that holds fences or buffers, and what it did since the last look.

    Attributes:
        process: which.
        descriptors: how many it has of fences, buffers and their devices (int > 0).
        sync_files: how many of these are sync_files.
        active: how many of those have not signaled.
        syncobjs: how many are of syncobjs.
        dma_bufs: how many buffers it has descriptors of, each once.
        share: bytes of these, each divided by the number of processes that have descriptors of it. Unlike
            ``HeldBuffer.share``, those that have only a mapping don't count: to find them takes longer than all else.
        growth: descriptors per second since the last look, negative if there are fewer; None at the first look.
        waiting_ns: for how long, at least, the sync_file that has been active longest has been so; None if none is. The
            kernel keeps no time of birth: this is 0 when it is first seen.
        sure: whether that was one sync_file all the time. One that was given a name at merge is taken to be the one
            that had this name and descriptor at the last look.
        waits_for: driver and timeline of the first of its fences that has not signaled; None if none is active.
    """

    process: Process
    descriptors: int
    sync_files: int
    active: int
    syncobjs: int
    dma_bufs: int
    share: int
    growth: float | None
    waiting_ns: int | None
    sure: bool
    waits_for: tuple[str, str] | None


class Watch:
    """Compares each look at the machine with the last one.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        self._looked_ns: int | None = None
        self._descriptors: dict[int, int] = {}  # by pid, at the last look
        # When what is active now was first seen so. What the kernel named is known by that name, which has its context
        # and seqno; anything else by its name and where it is.
        self._since: dict[str | tuple[int, int, str], int] = {}

    def update(
        self, look: Scan, fences: Iterable[HeldSyncFile], now_ns: int, whole: Scan | None = None
    ) -> list[Activity]:
        """Return what each process does in which descriptors were found, by pid.

        Args:
            look: what ``scan()`` returned, or a part of it; what can't be looked at is added to its ``unseen``.
            fences: what ``sync_files(look)`` returned.
            now_ns: when that was, CLOCK_MONOTONIC nanoseconds, later than at the last call.
            whole: the scan that ``look`` is a part of: buffers are shared with its other processes.
        Raises:
            OSError: EMFILE, ENOMEM: of our own.
        """
        active, since, oldest = self._active(fences, now_ns)
        bufs, shares = buffers_of(whole or look)
        passed_ns = None if self._looked_ns is None else now_ns - self._looked_ns
        total: dict[int, int] = {}
        found = []
        for process, its in groupby(look.descriptors, attrgetter("process")):
            pid = process.pid
            kinds = [one.kind for one in its]
            count = total[pid] = len(kinds)
            growth = None if passed_ns is None else (count - self._descriptors.get(pid, 0)) * 1e9 / passed_ns
            longest = oldest.get(pid)
            found.append(
                Activity(
                    process,
                    count,
                    kinds.count(Kind.SYNC_FILE),
                    active.get(pid, 0),
                    kinds.count(Kind.SYNCOBJ_FILE),
                    bufs[pid],
                    shares[pid],
                    growth,
                    now_ns - since[pid] if longest else None,
                    longest is None or longest.info.name in self._since,
                    owed(longest) if longest else None,
                )
            )
        self._looked_ns, self._descriptors = now_ns, total
        return found

    def _active(
        self, fences: Iterable[HeldSyncFile], now_ns: int
    ) -> tuple[dict[int, int], dict[int, int], dict[int, HeldSyncFile]]:
        """By pid: how many descriptors are of active sync_files, since when the oldest of these is, and which that is.

        The one loop over all fences: what it does for each is most of what watching adds to looking.
        """
        active: dict[int, int] = {}
        since: dict[int, int] = {}
        oldest: dict[int, HeldSyncFile] = {}
        before = self._since
        now: dict[str | tuple[int, int, str], int] = {}
        for one in fences:
            info = one.info
            if info.status != 0:
                continue
            name = info.name
            began = before.get(name)
            if began is not None or one.seqno is not None:
                now[name] = began = now_ns if began is None else began
            else:
                first = one.holders[0]
                key = first.process.pid, first.fd, name
                now[key] = began = before.get(key, now_ns)
            for holder in one.holders:
                pid = holder.process.pid
                active[pid] = active.get(pid, 0) + 1
                if began < since.get(pid, FAR):
                    since[pid], oldest[pid] = began, one
        self._since = now
        return active, since, oldest


def names_by_process(fences: Iterable[HeldSyncFile]) -> dict[int, set[str]]:
    """Return drivers and timelines of all fences in sync_files, by the pids of those who hold them."""
    found: dict[int, set[str]] = {}
    for held in fences:
        for holder in held.holders:
            its = found.setdefault(holder.process.pid, set())
            for fence in held.info.fences:
                its.update((fence.driver_name, fence.obj_name))
    return found


def owed(held: HeldSyncFile) -> tuple[str, str] | None:
    """Driver and timeline of what a sync_file waits for."""
    return next(((fence.driver_name, fence.obj_name) for fence in held.info.fences if fence.status == 0), None)


def buffers_of(look: Scan) -> tuple[Counter[int], Counter[int]]:
    """By pid: how many dma-bufs it has descriptors of, and its share of their bytes."""
    counts: Counter[int] = Counter()
    shares: Counter[int] = Counter()
    for one in held_by(look, mappings=False).values():
        pids = {descriptor.process.pid for descriptor in one.descriptors}
        for pid in pids:
            counts[pid] += 1
            shares[pid] += (one.size or 0) // len(pids)
    return counts, shares
