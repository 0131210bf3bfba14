"""deadlocks: processes that wait for each other in a circle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .owed import Owed
from .processes import Process
from .stuck import StuckFence
from .waiters import Waiter

__all__ = ["Deadlock", "Step", "deadlocks"]


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


def deadlocks(found: Iterable[StuckFence]) -> list[Deadlock]:
    """Return the circles in which processes wait for what the next one is to signal.

    A process that waits for itself is one only if none of its threads does anything else.

    Args:
        found: what ``stuck_fences`` returned.
    """
    steps: dict[Process, list[tuple[Step, Process]]] = {}
    for fence in found:
        for owed in fence.owed or ():
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
