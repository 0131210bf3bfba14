"""deadlocks: processes that wait for each other in a circle."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .._proc import threads
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


def deadlocks(found: Collection[StuckFence]) -> list[Deadlock]:
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


def doubts_about(path: tuple[Step, ...], found: Collection[StuckFence]) -> Iterator[str]:
    """What may end a circle."""
    circle = {step.waiter.process for step in path}
    asleep = {(waiter.process.pid, waiter.tid) for fence in found for waiter in fence.waiters}
    for step in path:
        process = step.waiter.process
        name = f"{process.comm} {process.pid}"
        if not waits_for_circle(step.waiter, circle, found):
            yield f"{name} waits for something else as well"
        if step.waiter.limited:
            yield f"{name} has set a time limit"
        others = sum((process.pid, tid) not in asleep for tid in threads(process.pid))
        if others:
            yield f"{name} has {others} other thread{'s' if others > 1 else ''}"
        if not step.owed.sure:
            yield f"it is not sure who signals {step.owed.obj_name}"
        elif len({one.process for one in step.owed.owners}) > 1:
            yield f"several processes can signal {step.owed.obj_name}"


def waits_for_circle(waiter: Waiter, circle: Collection[Process], found: Collection[StuckFence]) -> bool:
    """Whether all that would wake a thread is to come from a circle; who polls is woken by whichever comes first."""
    held = [fence for fence in found if waiter in fence.waiters and comes_from(fence, circle)]
    if waiter.syncobjs:
        return len(held) >= len(set(waiter.syncobjs))
    numbers = {holder.fd for fence in held for holder in fence.holders if holder.process == waiter.process}
    return numbers.issuperset(waiter.fds)


def comes_from(fence: StuckFence, circle: Collection[Process]) -> bool:
    """Whether a process of a circle alone can signal something of what is missing."""
    by_processes = [owed.owners for owed in fence.owed or () if owed.by_process and owed.owners]
    return any(all(one.process in circle for one in owners) for owners in by_processes)
