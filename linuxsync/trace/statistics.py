"""How long fences took, and who waited for them: numbers for each timeline and each process of a recording."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from .choice import Chosen
from .model import Fence, Thread, Timeline, Trace, Wait

__all__ = [
    "Latency",
    "ProcessStatistics",
    "Since",
    "TimelineStatistics",
    "Waiter",
    "latency",
    "nearest_rank",
    "process_statistics",
    "timeline_statistics",
]

Since = Literal["init", "enable", "wait"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, many times. Times in ns; None where it never happened.

    A driver may say that a fence signaled before it did (``dma_fence_signal_timestamp``): a time can be negative.

    Attributes:
        count: how often.
        min_ns, max_ns: the shortest and the longest time.
        p50_ns, p90_ns, p99_ns: percentiles by nearest rank: the smallest time such that at least so many percent of all
            are not above it. Each is a time that was really taken, and nothing is interpolated.
        histogram: (lower_ns, upper_ns, count), lower_ns <= time < upper_ns, with bounds 10, 15, 20, 30, 50, 70, 100 and
            so on, from the first to the last that has something; what is negative is in one, from the least to 0.
        unfinished: how often it had begun, and its end is not in the recording. Such waits are in the numbers above
            with the time until the recording ended, which is the least that they took; such fences are not.
    """

    count: int
    min_ns: int | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None
    histogram: tuple[tuple[int, int, int], ...] = ()
    unfinished: int = 0

    @classmethod
    def of(cls, times_ns: Iterable[int], unfinished: int = 0) -> Latency:
        """Return what these times (ns) come to."""
        times = sorted(times_ns)
        if not times:
            return cls(0, unfinished=unfinished)
        p50, p90, p99 = (nearest_rank(times, percent) for percent in (50, 90, 99))
        return cls(len(times), times[0], p50, p90, p99, times[-1], buckets(times), unfinished)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A thread that waited.

    Attributes:
        thread: who.
        waits: how often.
        blocked_ns: for how long altogether; a wait inside another, as in a system call, counts once.
        longest_ns: the longest wait.
        unfinished: how many were not over when the recording ended; they count until then.
    """

    thread: Thread
    waits: int
    blocked_ns: int
    longest_ns: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class TimelineStatistics:
    """What happened on a timeline.

    Attributes:
        driver, timeline, context: as ``Timeline`` has them.
        count: its fences.
        rate: how many of them were made in a second of the recording; None if that has no length.
        init, enable: how long until they signaled, since they were made and since somebody first wanted to know.
        wait: how long was waited for them: for itself, not for what is made of them.
        never: how many have not signaled.
        never_destroyed: how many of those are gone, so that they never will.
        errors: how many signaled with an error, by positive errno, as far as that is known.
        born_before: how many were made before the recording, so that they are not in ``init``.
        ambiguous: how many may have something of another fence.
        exact: how many signaled at a time that is their own timestamp, and not that of the tracepoint.
        waiters: who waited for them, the longest first.
    """

    driver: str
    timeline: str
    context: int | None
    count: int
    rate: float | None
    init: Latency
    enable: Latency
    wait: Latency
    never: int
    never_destroyed: int
    errors: dict[int, int]
    born_before: int
    ambiguous: int
    exact: int
    waiters: tuple[Waiter, ...]


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """What a process had to do with fences.

    Attributes:
        pid: its number; None where it had ended before that could be asked: then it is one thread.
        name: its name, or that of the thread.
        tids: the threads of it that did something, sorted.
        created: the fences that it made.
        signaled: those that it signaled, itself and not an interrupt in its place.
        waits: how often it waited for fences.
        unfinished: how many of those were not over when the recording ended; they count until then.
        blocked_ns: for how long its threads waited: of each what its waits cover, all added up.
        longest_ns: the longest wait; None if there was none.
        longest: which one that is.
    """

    pid: int | None
    name: str
    tids: tuple[int, ...]
    created: int
    signaled: int
    waits: int
    unfinished: int
    blocked_ns: int
    longest_ns: int | None
    longest: Wait | None


def latency(
    trace: Trace,
    since: Since = "init",
    *,
    driver: str | None = None,
    timeline: str | None = None,
    pid: int | None = None,
    comm: str | None = None,
) -> Latency:
    """Return how long fences took to signal, or were waited for.

    Args:
        since: "init", when they were made; "enable", when somebody first wanted to know of their signal; "wait": how
            long each wait for them was, those that are not over included.
        driver, timeline: patterns of fnmatch for what these are called: ``"sw_sync"``, ``"CRTC:*"``; None: any.
        pid, comm: the process, and a pattern for the name of the thread or its process, that made the fences, or with
            "wait" that waited.
    Raises:
        ValueError: ``since`` is something else; or the recording has no such timeline or thread at all, so that a test
            with a name that is written wrongly fails. One that has, and no such fence or wait, gives count 0.
    """
    chosen = Chosen(
        trace,
        drivers=() if driver is None else (driver,),
        timelines=() if timeline is None else (timeline,),
        pids=() if pid is None else (pid,),
        comms=() if comm is None else (comm,),
    ).insist()
    if since == "wait":
        waits = [wait for wait, _ in chosen.waits]
        return Latency.of((lasted(wait, trace) for wait in waits), sum(wait.end_ns is None for wait in waits))
    if since not in ("init", "enable"):
        raise ValueError(f"since is 'init', 'enable' or 'wait', not {since!r}")
    return until_signal([fence for one in chosen.timelines for fence in chosen.fences_of(one)], since)


def timeline_statistics(trace: Trace, chosen: Chosen | None = None) -> list[TimelineStatistics]:
    """Return what happened on each timeline, in their order; with ``chosen`` where that means some fence or wait."""
    chosen = chosen or Chosen(trace)
    waits: dict[Timeline, list[Wait]] = {timeline: [] for timeline in chosen.timelines}
    for wait, timelines in chosen.waits:
        for timeline in timelines:
            waits[timeline].append(wait)
    found = []
    for timeline in chosen.timelines:
        fences = chosen.fences_of(timeline)
        if fences or waits[timeline]:
            found.append(statistics_of(trace, timeline, fences, waits[timeline]))
    return found


def statistics_of(trace: Trace, timeline: Timeline, fences: list[Fence], waits: list[Wait]) -> TimelineStatistics:
    """Those of one timeline."""
    never = [fence for fence in fences if fence.signal_ns is None]
    born_before = sum(fence.init_ns is None for fence in fences)
    seconds = (trace.end_ns - trace.start_ns) / 1e9
    errors = Counter(fence.error for fence in fences if fence.error is not None)
    by_thread: dict[Thread, Blocked] = {}
    for wait in waits:
        by_thread.setdefault(wait.thread, Blocked()).add(wait, trace)
    return TimelineStatistics(
        timeline.driver,
        timeline.name,
        timeline.context,
        len(fences),
        (len(fences) - born_before) / seconds if seconds > 0 else None,
        until_signal(fences, "init"),
        until_signal(fences, "enable"),
        Latency.of((lasted(wait, trace) for wait in waits), sum(wait.end_ns is None for wait in waits)),
        len(never),
        sum(fence.destroy_ns is not None for fence in never),
        dict(sorted(errors.items())),
        born_before,
        sum(fence.ambiguous for fence in fences),
        sum(fence.exact and fence.signal_ns is not None for fence in fences),
        tuple(sorted((one.waiter(thread) for thread, one in by_thread.items()), key=lambda one: -one.blocked_ns)),
    )


def process_statistics(trace: Trace, chosen: Chosen | None = None) -> list[ProcessStatistics]:
    """Return what each process had to do with fences, the one that was blocked longest first."""
    chosen = chosen or Chosen(trace)
    created: Counter[Thread] = Counter()
    signaled: Counter[Thread] = Counter()
    blocked: dict[Thread, Blocked] = {}
    for timeline in chosen.timelines:
        for fence in timeline.fences:
            if fence.creator is not None and chosen.means(fence.creator):
                created[fence.creator] += 1
            if fence.signaler is not None and not fence.signaled_in_irq and chosen.means(fence.signaler):
                signaled[fence.signaler] += 1
    for wait, _ in chosen.waits:
        blocked.setdefault(wait.thread, Blocked()).add(wait, trace)
    processes: dict[tuple[str, int], list[Thread]] = {}
    for thread in dict.fromkeys([*created, *signaled, *blocked]):
        key = ("tid", thread.tid) if thread.pid is None else ("pid", thread.pid)
        processes.setdefault(key, []).append(thread)
    found = []
    for threads in processes.values():
        each = [blocked[thread] for thread in threads if thread in blocked]
        longest = max(each, key=lambda one: one.longest_ns, default=None)
        found.append(
            ProcessStatistics(
                threads[0].pid,
                next((thread.process for thread in threads if thread.process is not None), threads[0].comm),
                tuple(sorted({thread.tid for thread in threads})),
                sum(created[thread] for thread in threads),
                sum(signaled[thread] for thread in threads),
                sum(len(one.spans) for one in each),
                sum(one.unfinished for one in each),
                sum(union_ns(one.spans) for one in each),
                None if longest is None else longest.longest_ns,
                None if longest is None else longest.longest,
            )
        )
    return sorted(found, key=lambda one: -one.blocked_ns)


@dataclass(slots=True)
class Blocked:
    """The waits of a thread."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    unfinished: int = 0
    longest_ns: int = -1
    longest: Wait | None = None

    def add(self, wait: Wait, trace: Trace) -> None:
        """Add one."""
        time = lasted(wait, trace)
        self.spans.append((wait.start_ns, wait.start_ns + time))
        self.unfinished += wait.end_ns is None
        if time > self.longest_ns:
            self.longest_ns, self.longest = time, wait

    def waiter(self, thread: Thread) -> Waiter:
        """What they come to."""
        return Waiter(thread, len(self.spans), union_ns(self.spans), self.longest_ns, self.unfinished)


def until_signal(fences: list[Fence], since: Since) -> Latency:
    """How long fences took."""
    times = (fence.latency_ns if since == "init" else fence.enabled_latency_ns for fence in fences)
    begun = (fence.init_ns if since == "init" else fence.enable_ns for fence in fences if fence.signal_ns is None)
    return Latency.of((time for time in times if time is not None), sum(at is not None for at in begun))


def lasted(wait: Wait, trace: Trace) -> int:
    """How long a wait was (ns); one that is not over: until the recording ended."""
    return max(0, (trace.end_ns if wait.end_ns is None else wait.end_ns) - wait.start_ns)


def union_ns(spans: Iterable[tuple[int, int]]) -> int:
    """How much time spans (from, to) cover together."""
    total, reached = 0, None
    for start, end in sorted(spans):
        if reached is None or start > reached:
            total, reached = total + end - start, end
        elif end > reached:
            total, reached = total + end - reached, end
    return total


def nearest_rank(times: Sequence[int], percent: int) -> int:
    """Of sorted values the smallest such that at least ``percent`` (1 to 100) of all are not above it."""
    return times[(percent * len(times) + 99) // 100 - 1]


def buckets(times: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """The histogram of sorted times that ``Latency`` has."""
    at = bisect_left(times, 0)
    found = [(times[0], 0, at)] if at else []
    lower, begun = 0, False
    for upper in bounds():
        if at == len(times):
            break
        end = bisect_left(times, upper, at)
        begun = begun or end > at
        if begun:
            found.append((lower, upper, end - at))
        at, lower = end, upper
    return tuple(found)


def bounds() -> Iterator[int]:
    """1, 2, 3, 5, 7, and from 10 on 1, 1.5, 2, 3, 5 and 7 times each power of ten: each about 1.4 times the last."""
    yield from (1, 2, 3, 5, 7)
    for power in count():
        yield from (tenths * 10**power for tenths in (10, 15, 20, 30, 50, 70))
