"""The benchmarks of fences: each as linuxsync and as plain Python; fences.c has the third under the same name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns

from linuxsync import SyncFile, Timeline, merge, wait_all

from . import plain

Work = Callable[[int], int]


@dataclass(frozen=True)
class Case:
    """One benchmark, how often a round repeats it, what it must reach, and where C has it."""

    name: str
    what: str
    count: int
    linuxsync: Work
    plain: Work
    max_vs_c: float | None = None
    min_vs_plain: float | None = None
    program: str = "fences"  # the C file that has it


def make_fences(stack: ExitStack, count: int, signal: bool = False) -> list[SyncFile]:
    """`count` fences, each on a timeline of its own."""
    timelines = [stack.enter_context(Timeline()) for _ in range(count)]
    fences = [stack.enter_context(timeline.create_fence(1)) for timeline in timelines]
    if signal:
        for timeline in timelines:
            timeline.inc()
    return fences


def with_fence(work: Callable[[SyncFile, int], None], fences: int = 1, signal: bool = False) -> Work:
    """Time `work` on one fence, merged from `fences`."""

    def run(count: int) -> int:
        with ExitStack() as stack:
            made = make_fences(stack, fences, signal)
            fence = made[0] if fences == 1 else stack.enter_context(merge(made))
            start = perf_counter_ns()
            work(fence, count)
            return perf_counter_ns() - start

    return run


def with_fences(work: Callable[[list[SyncFile], int], None], fences: int, signal: bool = False) -> Work:
    """Time `work` on a list of fences."""

    def run(count: int) -> int:
        with ExitStack() as stack:
            made = make_fences(stack, fences, signal)
            start = perf_counter_ns()
            work(made, count)
            return perf_counter_ns() - start

    return run


def with_timeline(work: Callable[[Timeline, int], None]) -> Work:
    """Time `work` on a new timeline."""

    def run(count: int) -> int:
        with Timeline() as timeline:
            start = perf_counter_ns()
            work(timeline, count)
            return perf_counter_ns() - start

    return run


def status(fence: SyncFile, count: int) -> None:
    for _ in range(count):
        fence.status  # noqa: B018


def plain_status(fence: SyncFile, count: int) -> None:
    fd = fence.fileno()
    for _ in range(count):
        plain.status(fd)


def info(fence: SyncFile, count: int) -> None:
    for _ in range(count):
        fence.info()


def plain_info(fence: SyncFile, count: int) -> None:
    fd = fence.fileno()
    for _ in range(count):
        plain.info(fd)


def merge_close(fences: list[SyncFile], count: int) -> None:
    a, b = fences
    for _ in range(count):
        a.merge(b).close()


def plain_merge_close(fences: list[SyncFile], count: int) -> None:
    a, b = (fence.fileno() for fence in fences)
    for _ in range(count):
        os.close(plain.merge(a, b))


def poll(fence: SyncFile, count: int) -> None:
    for _ in range(count):
        fence.poll()


def plain_poll(fence: SyncFile, count: int) -> None:
    fd = fence.fileno()
    for _ in range(count):
        plain.poll(fd)


def wait(fence: SyncFile, count: int) -> None:
    for _ in range(count):
        fence.wait()


def plain_wait(fence: SyncFile, count: int) -> None:
    fd = fence.fileno()
    for _ in range(count):
        plain.poll(fd, None)


def create_inc_wait(timeline: Timeline, count: int) -> None:
    for value in range(1, count + 1):
        with timeline.create_fence(value) as fence:
            timeline.inc()
            fence.wait()


def plain_create_inc_wait(timeline: Timeline, count: int) -> None:
    fd = timeline.fileno()
    for value in range(1, count + 1):
        fence = plain.create_fence(fd, value)
        plain.inc(fd, 1)
        plain.poll(fence, None)
        os.close(fence)


def wait_for_all(fences: list[SyncFile], count: int) -> None:
    for _ in range(count):
        wait_all(fences)


def plain_wait_for_all(fences: list[SyncFile], count: int) -> None:
    fds = [fence.fileno() for fence in fences]
    for _ in range(count):
        plain.wait_all(fds)


def merge_many(fences: list[SyncFile], count: int) -> None:
    for _ in range(count):
        merge(fences).close()


def plain_merge_many(fences: list[SyncFile], count: int) -> None:
    fds = [fence.fileno() for fence in fences]
    for _ in range(count):
        os.close(plain.merge_chain(fds))


def wake(timeline: Timeline, count: int) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        for value in range(1, count + 1):
            with timeline.create_fence(value) as fence:
                loop.call_soon(timeline.inc)
                await fence

    asyncio.run(run())


def plain_wake(timeline: Timeline, count: int) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        fd = timeline.fileno()
        for value in range(1, count + 1):
            fence = plain.create_fence(fd, value)
            own = os.dup(fence)
            loop.call_soon(plain.inc, fd, 1)
            await plain.readable(own)
            os.close(own)
            os.close(fence)

    asyncio.run(run())


CASES = [
    Case("status", "status", 2000, with_fence(status), with_fence(plain_status), max_vs_c=1.5),
    *(
        Case(
            f"info-{n}" if n > 1 else "info",
            f"info of {n} fence{'s' * (n > 1)}",
            count,
            with_fence(info, n),
            with_fence(plain_info, n),
            # C hands the kernel's array on as it is; an object for each fence is what the other two are asked for.
            max_vs_c=1.15 if n == 1 else None,
            min_vs_plain=4,
        )
        for n, count in ((1, 2000), (16, 400), (256, 40))
    ),
    Case("merge", "merge + close", 1000, with_fences(merge_close, 2), with_fences(plain_merge_close, 2), max_vs_c=1.5),
    Case("poll", "poll(0)", 4000, with_fence(poll), with_fence(plain_poll), max_vs_c=2.5),
    Case("wait", "wait, signaled", 4000, with_fence(wait, signal=True), with_fence(plain_wait, signal=True)),
    Case(
        "create_inc_wait",
        "create + inc + wait",
        500,
        with_timeline(create_inc_wait),
        with_timeline(plain_create_inc_wait),
    ),
    Case(
        "wait_all-1000",
        "wait_all of 1,000",
        20,
        with_fences(wait_for_all, 1000, signal=True),
        with_fences(plain_wait_for_all, 1000, signal=True),
        max_vs_c=1.2,
    ),
    Case(
        "merge_many-1000",
        "merge of 1,000",
        1,
        with_fences(merge_many, 1000),
        with_fences(plain_merge_many, 1000),
        max_vs_c=1,
    ),
    Case("wake", "fence to asyncio", 300, with_timeline(wake), with_timeline(plain_wake)),
]
