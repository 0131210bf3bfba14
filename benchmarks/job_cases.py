"""The benchmarks of the fence device: each as linuxsync and as plain Python; jobs.c has the third."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter_ns

from linuxsync import FenceDevice
from linuxsync.fencedev import Job, Queue

from . import plain_jobs as plain
from .cases import Case, Work
from .plain import poll

CHAIN = 16


def with_queues(work: Callable[[list[Queue], int], None]) -> Work:
    """Time `work` on two queues."""

    def run(count: int) -> int:
        with FenceDevice() as device, device.create_queue("bench") as a, device.create_queue("bench") as b:
            start = perf_counter_ns()
            work([a, b], count)
            return perf_counter_ns() - start

    return run


def submit(queues: list[Queue], count: int) -> None:
    queue, _ = queues
    for _ in range(count):
        with queue.submit() as job:
            job.fence.wait()


def plain_submit(queues: list[Queue], count: int) -> None:
    device, queue = queues[0].device.fileno(), queues[0].id
    for _ in range(count):
        fence = plain.submit(device, queue)
        poll(fence, None)
        os.close(fence)


def chain(queues: list[Queue], count: int) -> None:
    a, b = queues
    for _ in range(count):
        jobs: list[Job] = []
        for _ in range(CHAIN // 2):
            jobs.append(a.submit(in_fences=[job.fence for job in jobs[-1:]]))
            jobs.append(b.submit(in_fences=[jobs[-1].fence]))
        jobs[-1].fence.wait()
        for job in jobs:
            job.close()


def plain_chain(queues: list[Queue], count: int) -> None:
    device = queues[0].device.fileno()
    a, b = (queue.id for queue in queues)
    for _ in range(count):
        fences: list[int] = []
        for _ in range(CHAIN // 2):
            fences.append(plain.submit(device, a, fences[-1:]))
            fences.append(plain.submit(device, b, fences[-1:]))
        poll(fences[-1], None)
        for fence in fences:
            os.close(fence)


def case(name: str, what: str, count: int, linuxsync: Work, plain: Work, max_vs_c: float | None = None) -> Case:
    """One of jobs.c."""
    return Case(name, what, count, linuxsync, plain, max_vs_c=max_vs_c, program="jobs")


CASES = [
    case("submit", "job: submit, wait, close", 500, with_queues(submit), with_queues(plain_submit), 1.5),
    case(f"chain-{CHAIN}", f"chain of {CHAIN} jobs in 2 queues", 50, with_queues(chain), with_queues(plain_chain)),
]
