"""Words for tests of commands that read recordings: a command in this process, on recordings that no file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from linuxsync import trace
from linuxsync.trace import Fence, Thread, Timeline, Trace, Wait

MS = 1_000_000


def holding(monkeypatch: pytest.MonkeyPatch, **recordings: Trace) -> None:
    """Have ``load()`` return these for their names."""

    def load(path: Path) -> Trace:
        return recordings[path.name]

    monkeypatch.setattr(trace, "load", load)


def line(
    driver: str, name: str, times: list[int | None], context: int | None = 1, thread: Thread | None = None
) -> Timeline:
    """A timeline with fences that took so long (ns); None: for ever. One is made each millisecond, from 0 on."""
    timeline = Timeline(driver, name, context)
    for at, time in enumerate(times):
        init = at * MS
        signal = None if time is None else init + time
        timeline.fences.append(
            Fence(timeline, context or 100 + at, at + 1, init_ns=init, signal_ns=signal, creator=thread)
        )
    return timeline


def recording(*timelines: Timeline, end: int = 1000 * MS) -> Trace:
    """A recording of these, from 0 to ``end``."""
    trace = Trace(0, end, timelines=[*timelines], fences=[one for each in timelines for one in each.fences])
    for thread in [one.creator for one in trace.fences if one.creator is not None]:
        trace.threads[thread.tid] = thread
    return trace


def wait(trace: Trace, thread: Thread, start: int, end: int | None, *fences: Fence) -> Wait:
    """Add a wait."""
    one = Wait(thread, "poll", start, end, [*fences])
    trace.waits.append(one)
    trace.threads[thread.tid] = thread
    for fence in fences:
        fence.waits.append(one)
    return one
