"""Where things are in a picture: a track for each timeline and each waiting thread, in lanes where they overlap.

And what of a fence is pale, as nobody wanted to know of its signal yet, and what part of a recording has anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .model import Fence, Thread, Timeline, Trace, Wait

__all__ = [
    "Track",
    "fence_span",
    "fence_tracks",
    "pale_until",
    "span_of_interest",
    "telling",
    "wait_span",
    "wait_tracks",
]

Owner = TypeVar("Owner")
Part = TypeVar("Part")
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Track(Generic[Owner, Part]):
    """A timeline or a thread.

    Attributes:
        owner: whose track it is.
        lanes: what is on it: no two things of a lane overlap, and they are in order. The first lane is the fullest.
    """

    owner: Owner
    lanes: list[list[Part]]


def fence_span(trace: Trace, fence: Fence) -> Span:
    """From init to signal, in ns of CLOCK_MONOTONIC.

    One from before the recording begins with it. One that never signaled ends with itself, else with the recording.
    """
    end = fence.signal_ns if fence.signal_ns is not None else fence.destroy_ns
    end = trace.end_ns if end is None else end
    start = min(trace.start_ns, end) if fence.init_ns is None else fence.init_ns
    return start, max(start, end)


def wait_span(trace: Trace, wait: Wait) -> Span:
    """From its start to its end, or that of the recording."""
    return wait.start_ns, max(wait.start_ns, trace.end_ns if wait.end_ns is None else wait.end_ns)


def span_of_interest(trace: Trace) -> Span:
    """The span that is shown first, in ns of CLOCK_MONOTONIC: all, unless more than half of it has nothing.

    What never ended counts with its start: one fence that leaked is no reason to show an hour. So do vblanks only where
    there is nothing else: a screen has them whoever waits.
    """
    moments = [at for fence in trace.fences for at in (fence.init_ns, fence.signal_ns) if at is not None]
    moments += [at for wait in trace.waits for at in (wait.start_ns, wait.end_ns) if at is not None]
    moments += [at for timeline in trace.timelines for at, _ in timeline.values]
    moments += [event.ns for event in trace.others]
    moments = moments or [vblank.ns for vblank in trace.vblanks]
    moments = [at for at in moments if trace.start_ns <= at <= trace.end_ns]
    whole = trace.end_ns - trace.start_ns
    if not moments:
        return trace.start_ns, trace.end_ns
    first, last = min(moments), max(moments)
    edge = max((last - first) // 32, whole // 1000)  # seen where it begins and ends, and a moment is some span, too
    if (last - first + 2 * edge) * 2 > whole:
        return trace.start_ns, trace.end_ns
    return max(trace.start_ns, first - edge), min(trace.end_ns, last + edge)


def telling(trace: Trace) -> set[int]:
    """The id() of each timeline of which the kernel says when somebody first wants to know of a fence's signal.

    It says nothing of drivers without enable_signaling (``__dma_fence_enable_signaling``, drivers/dma-buf/dma-fence.c),
    as vkms: that no fence of a timeline has the time means nothing. That one of several lacks it means something.
    """
    return {id(fence.timeline) for fence in trace.fences if fence.enable_ns is not None}


def pale_until(trace: Trace) -> dict[int, int]:
    """Until when nobody wanted to know of each fence, by its id(), in ns of CLOCK_MONOTONIC; its start: pale nowhere.

    Who waits for a fence wants to know, too, even where somebody enabled it later or never.
    """
    tell = telling(trace)
    found = {}
    for fence in trace.fences:
        start, end = fence_span(trace, fence)
        wanted = [wait.start_ns for wait in fence.waits]
        if fence.enable_ns is not None:
            wanted.append(fence.enable_ns)
        until = min(wanted, default=end) if id(fence.timeline) in tell else start
        found[id(fence)] = max(start, min(until, end))
    return found


def fence_tracks(trace: Trace) -> list[Track[Timeline, Fence]]:
    """The timelines that have fences, in the order in which they were first seen."""
    each: dict[int, list[Fence]] = {id(timeline): [] for timeline in trace.timelines}
    owners = {id(timeline): timeline for timeline in trace.timelines}
    for fence in trace.fences:
        each.setdefault(id(fence.timeline), []).append(fence)
        owners.setdefault(id(fence.timeline), fence.timeline)
    return [
        Track(owners[key], in_lanes(fences, lambda fence: fence_span(trace, fence)))
        for key, fences in each.items()
        if fences or owners[key].values
    ]


def wait_tracks(trace: Trace) -> list[Track[Thread, Wait]]:
    """The threads that waited, those of one process together."""
    each: dict[int, list[Wait]] = {}
    for wait in trace.waits:
        each.setdefault(id(wait.thread), []).append(wait)
    tracks = [Track(waits[0].thread, in_lanes(waits, lambda wait: wait_span(trace, wait))) for waits in each.values()]
    return sorted(tracks, key=lambda track: (track.owner.pid or track.owner.tid, track.owner.tid))


def in_lanes(parts: Iterable[Part], span: Callable[[Part], Span]) -> list[list[Part]]:
    """Give each thing, in the order of their starts, the first lane that is free by then; O(n log n)."""
    lanes: list[list[Part]] = []
    busy: list[Span] = []  # until when, and which lane
    free: list[int] = []
    spans = sorted(((*span(part), number, part) for number, part in enumerate(parts)), key=lambda one: one[:3])
    for start, end, _, part in spans:
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(lanes)
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append(part)
        heapq.heappush(busy, (end, lane))
    return lanes
