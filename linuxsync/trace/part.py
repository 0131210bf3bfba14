"""A part of a recording, as a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .model import Fence, Thread, Trace, Wait
from .tracks import fence_span, wait_span

__all__ = ["part"]


def part(
    trace: Trace,
    fences: Callable[[Fence], bool] | None = None,
    threads: Callable[[Thread], bool] | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> Trace:
    """Return copies of the fences and waits that are meant, with those links that lead to one of them.

    A fence is meant with all waits for it, and a thread with all its waits and with the fences that it made, signaled
    or waited for. What began earlier than the part or ends later is in it whole. The trace stays unchanged.

    Args:
        fences: which are meant; None: all.
        threads: whose are meant; None: everybody's.
        start_ns, end_ns: from when to when, in ns of CLOCK_MONOTONIC, within the recording; None: as the recording.
    """
    start = trace.start_ns if start_ns is None else max(start_ns, trace.start_ns)
    end = trace.end_ns if end_ns is None else min(end_ns, trace.end_ns)
    end = max(start, end)

    def takes_part(fence: Fence) -> bool:
        """Whether somebody who is meant has to do with it; an interrupt is nobody's."""
        if threads is None:
            return True
        signaler = None if fence.signaled_in_irq else fence.signaler
        people = (fence.creator, signaler, *(wait.thread for wait in fence.waits))
        return any(threads(one) for one in people if one is not None)

    def inside(span: tuple[int, int]) -> bool:
        return span[0] <= end and span[1] >= start

    kept = {
        id(fence): replace(fence, inputs=[], outputs=[], waits=[])
        for fence in trace.fences
        if (fences is None or fences(fence)) and inside(fence_span(trace, fence)) and takes_part(fence)
    }
    found = replace(trace, start_ns=start, end_ns=end, fences=list(kept.values()), timelines=[], waits=[])
    for timeline in trace.timelines:
        values = [one for one in timeline.values if start <= one[0] <= end]
        mine = [kept[id(fence)] for fence in timeline.fences if id(fence) in kept]
        if mine:
            found.timelines.append(replace(timeline, fences=mine, values=values))
            for fence in mine:
                fence.timeline = found.timelines[-1]
    waits: dict[int, Wait] = {}
    for wait in trace.waits:
        of_fences = [kept[id(fence)] for fence in wait.fences if id(fence) in kept]
        by_thread = fences is None and (threads is None or threads(wait.thread))
        if inside(wait_span(trace, wait)) and (of_fences or by_thread):
            woken_by = None if wait.woken_by is None else kept.get(id(wait.woken_by))
            waits[id(wait)] = replace(wait, fences=of_fences, woken_by=woken_by)
    found.waits = list(waits.values())
    for fence in trace.fences:
        if id(fence) in kept:
            copy = kept[id(fence)]
            copy.inputs = [kept[id(one)] for one in fence.inputs if id(one) in kept]
            copy.outputs = [kept[id(one)] for one in fence.outputs if id(one) in kept]
            copy.waits = [waits[id(one)] for one in fence.waits if id(one) in waits]
            copy.input_count = len(fence.inputs) or None if fence.input_count is None else fence.input_count
    found.vblanks = [one for one in trace.vblanks if start <= one.ns <= end]
    found.others = [one for one in trace.others if start <= one.ns <= end and (threads is None or threads(one.thread))]
    return found
