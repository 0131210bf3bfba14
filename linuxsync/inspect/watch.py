"""watch: what changes from one look at the machine to the next, process by process. No fence is asked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .buffers import held_by
from .fences import HeldSyncFile
from .processes import Kind, Process, Scan

__all__ = ["Activity", "Watch"]


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
        names: drivers and timelines of all its fences.
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
    names: frozenset[str]


class Watch:
    """Compares each look at the machine with the last one. Threads: one at a time."""

    def __init__(self) -> None:
        self._looked_ns: int | None = None
        self._descriptors: Counter[int] = Counter()  # by pid, at the last look
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
            whole: the scan that `look` is a part of: buffers are shared with its other processes.
        Raises:
            OSError: EMFILE, ENOMEM: of our own.
        """
        held = list(fences)
        total = Counter([one.process.pid for one in look.descriptors])
        kinds = Counter([(one.process.pid, one.kind) for one in look.descriptors])
        active, oldest = self._active(held, now_ns)
        bufs, shares = buffers_of(whole or look)
        names: dict[int, set[str]] = {}
        for pid, driver, timeline in {
            (holder.process.pid, fence.driver_name, fence.obj_name)
            for one in held
            for fence in one.info.fences
            for holder in one.holders
        }:
            names.setdefault(pid, set()).update((driver, timeline))
        found = []
        for pid, count in total.items():
            since_ns, sure, longest = oldest.get(pid, (None, True, None))
            growth = None
            if self._looked_ns is not None:
                growth = (count - self._descriptors[pid]) * 1e9 / (now_ns - self._looked_ns)
            found.append(
                Activity(
                    look.processes[pid],
                    count,
                    kinds[pid, Kind.SYNC_FILE],
                    active[pid],
                    kinds[pid, Kind.SYNCOBJ_FILE],
                    bufs[pid],
                    shares[pid],
                    growth,
                    None if since_ns is None else now_ns - since_ns,
                    sure,
                    owed(longest) if longest else None,
                    frozenset(names.get(pid, ())),
                )
            )
        self._looked_ns, self._descriptors = now_ns, total
        return found

    def _active(
        self, held: Iterable[HeldSyncFile], now_ns: int
    ) -> tuple[Counter[int], dict[int, tuple[int, bool, HeldSyncFile]]]:
        """By pid: descriptors of active sync_files; and since when the oldest is, whether that is sure, and which."""
        active: Counter[int] = Counter()
        oldest: dict[int, tuple[int, bool, HeldSyncFile]] = {}
        since: dict[str | tuple[int, int, str], int] = {}
        for one in held:
            if one.info.status != 0:
                continue
            key: str | tuple[int, int, str] = one.info.name
            if key not in self._since and one.seqno is None:
                first = one.holders[0]
                key = first.process.pid, first.fd, one.info.name
            began = since[key] = self._since.get(key, now_ns)
            for holder in one.holders:
                pid = holder.process.pid
                active[pid] += 1
                if pid not in oldest or began < oldest[pid][0]:
                    oldest[pid] = began, key is one.info.name, one
        self._since = since
        return active, oldest


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
