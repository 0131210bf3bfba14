"""The benchmarks of buffers and devices: each as linuxsync and as plain Python; buffers.c has the third."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter_ns

from linuxsync import Access, DmaBuf, DmaHeap, DrmDevice, GemBuffer, Syncobj, Timeline, VgemDevice
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType

from . import plain_buffers as plain
from .cases import Case, Work

SIZE = 16 * mmap.PAGESIZE
READ, WRITE, RW = (
    Access.READ,
    Access.WRITE,
    Access.RW,
)  # looked up once: a name in an enum costs Python more than the request it is for

FORDEV, FORCPU = SyncType.FORDEV, SyncType.FORCPU


def timed(work: Callable[[int], None], count: int) -> int:
    """Nanoseconds of `count` repetitions; one before them touches memory that the others find mapped."""
    work(1)
    start = perf_counter_ns()
    work(count)
    return perf_counter_ns() - start


def with_buffer(work: Callable[[DmaBuf, int], None]) -> Work:
    """Time `work` on a heap's buffer."""

    def run(count: int) -> int:
        with DmaHeap() as heap, heap.alloc(SIZE) as buffer:
            return timed(lambda count: work(buffer, count), count)

    return run


def with_written(work: Callable[[DmaBuf, bytes, int], None], pages: int) -> Work:
    """Time `work` on a heap's buffer and what is to be written to it."""
    written = b"\1" * pages * mmap.PAGESIZE
    return with_buffer(lambda buffer, count: work(buffer, written, count))


def with_mapping(work: Callable[[DmaBuf, mmap.mmap, bytes, int], None], pages: int) -> Work:
    """Time `work` on a heap's buffer, a mapping of it and what is to be written there."""
    written = b"\1" * pages * mmap.PAGESIZE

    def run(count: int) -> int:
        with DmaHeap() as heap, heap.alloc(SIZE) as buffer, mmap.mmap(buffer.fileno(), SIZE) as mapped:
            return timed(lambda count: work(buffer, mapped, written, count), count)

    return run


def with_pending(work: Callable[[DmaBuf, DmaBuf, int], None]) -> Work:
    """Time `work` on a buffer with a fence that has not signaled and on one without."""

    def run(count: int) -> int:
        with DmaHeap() as heap, heap.alloc(SIZE) as a, heap.alloc(SIZE) as b, Timeline() as timeline:
            with timeline.create_fence(1) as fence:
                a.import_sync_file(fence, WRITE)
            return timed(lambda count: work(a, b, count), count)

    return run


def with_syncobjs(work: Callable[[list[Syncobj], list[int], int], None], syncobjs: int) -> Work:
    """Time `work` on timelines and the points at which they stand."""

    def run(count: int) -> int:
        with ExitStack() as stack:
            device = stack.enter_context(DrmDevice.open("virtio_gpu", render=True))
            made = [stack.enter_context(device.create_syncobj()) for _ in range(syncobjs)]
            points = [(1 << 20) + 1 + i for i in range(syncobjs)]
            for syncobj, point in zip(made, points, strict=True):
                syncobj.signal(point)
            return timed(lambda count: work(made, points, count), count)

    return run


def with_gem(work: Callable[[GemBuffer, VgemDevice, int], None]) -> Work:
    """Time `work` on a dumb buffer and a second open file of its device."""

    def run(count: int) -> int:
        with VgemDevice.open() as device, VgemDevice.open() as other, device.create_dumb(1024, 1, 32) as gem:
            return timed(lambda count: work(gem, other, count), count)

    return run


def bracket(buffer: DmaBuf, count: int) -> None:
    for _ in range(count):
        buffer.begin_cpu_access(RW)
        buffer.end_cpu_access(RW)


def waiting_bracket(buffer: DmaBuf, count: int) -> None:
    for _ in range(count):
        buffer.poll(RW)
        buffer.begin_cpu_access(RW)
        buffer.end_cpu_access(RW)


def plain_bracket(buffer: DmaBuf, count: int) -> None:
    fd = buffer.fileno()
    for _ in range(count):
        plain.sync(fd, plain.START | plain.RW)
        plain.sync(fd, plain.END | plain.RW)


def ddi_syncs(buffer: DmaBuf, count: int) -> None:
    with DmaHandle() as handle:
        handle.bind(buffer, DmaFlags.RDWR)
        for _ in range(count):
            handle.sync(FORCPU)
            handle.sync(FORDEV)


def cpu_access(buffer: DmaBuf, written: bytes, count: int) -> None:
    size = len(written)
    for _ in range(count):
        with buffer.cpu_access(RW) as view:
            view[:size] = written


def plain_cpu_access(buffer: DmaBuf, mapped: mmap.mmap, written: bytes, count: int) -> None:
    fd = buffer.fileno()
    size = len(written)
    for _ in range(count):
        plain.sync(fd, plain.START | plain.RW)
        mapped[:size] = written
        plain.sync(fd, plain.END | plain.RW)


def export_import(a: DmaBuf, b: DmaBuf, count: int) -> None:
    for _ in range(count):
        with a.export_sync_file(WRITE) as fence:
            b.import_sync_file(fence, READ)


def plain_export_import(a: DmaBuf, b: DmaBuf, count: int) -> None:
    source, target = a.fileno(), b.fileno()
    for _ in range(count):
        fence = plain.export_sync_file(source, plain.WRITE)
        plain.import_sync_file(target, fence, plain.READ)
        os.close(fence)


def syncobj_wait(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    (syncobj,), (point,) = syncobjs, points
    for _ in range(count):
        syncobj.wait(timeout=0, point=point)


def syncobj_wait_many(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    for _ in range(count):
        Syncobj.wait_many(syncobjs, points=points, timeout=0)


def plain_syncobj_wait(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    fd = syncobjs[0].device.fileno()
    handles = [syncobj.handle for syncobj in syncobjs]
    flags = plain.WAIT_ALL if len(handles) > 1 else 0
    for _ in range(count):
        plain.wait(fd, handles, points, flags)


def syncobj_query(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    (syncobj,) = syncobjs
    for _ in range(count):
        syncobj.query()


def syncobj_query_many(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    for _ in range(count):
        Syncobj.query_many(syncobjs)


def plain_syncobj_query(syncobjs: list[Syncobj], points: list[int], count: int) -> None:
    fd = syncobjs[0].device.fileno()
    handles = [syncobj.handle for syncobj in syncobjs]
    for _ in range(count):
        plain.query(fd, handles)


def prime(gem: GemBuffer, other: VgemDevice, count: int) -> None:
    for _ in range(count):
        with gem.export() as dmabuf, other.import_dma_buf(dmabuf):
            pass


def plain_prime(gem: GemBuffer, other: VgemDevice, count: int) -> None:
    source, target, handle = gem.device.fileno(), other.fileno(), gem.handle
    for _ in range(count):
        dmabuf = plain.export(source, handle)
        plain.gem_close(target, plain.import_dma_buf(target, dmabuf))
        os.close(dmabuf)


def case(name: str, what: str, count: int, linuxsync: Work, plain: Work, max_vs_c: float) -> Case:
    """One of buffers.c."""
    return Case(name, what, count, linuxsync, plain, max_vs_c=max_vs_c, program="buffers")


CASES = [
    case("bracket", "begin + end_cpu_access", 2000, with_buffer(bracket), with_buffer(plain_bracket), 1.5),
    # Here "plain Python" is linuxsync's own bare bracket, over which ddi may cost 1.3 times as much.
    Case(
        "ddi",
        "ddi: FORCPU + FORDEV (plain: bare)",
        2000,
        with_buffer(ddi_syncs),
        with_buffer(bracket),
        min_vs_plain=0.77,
        program="buffers",
    ),
    # And here that bracket after the poll without which a fence that is pending would mean old bytes.
    Case(
        "ddi-poll",
        "the same (plain: poll, then bare)",
        2000,
        with_buffer(ddi_syncs),
        with_buffer(waiting_bracket),
        min_vs_plain=0.77,
        program="buffers",
    ),
    case(
        "cpu_access",
        "cpu_access, 4 KiB written",
        1000,
        with_written(cpu_access, 1),
        with_mapping(plain_cpu_access, 1),
        1.5,
    ),
    case(
        "cpu_access-16",
        "cpu_access, 64 KiB written",
        500,
        with_written(cpu_access, 16),
        with_mapping(plain_cpu_access, 16),
        1.5,
    ),
    case(
        "export_import",
        "export + import_sync_file",
        1000,
        with_pending(export_import),
        with_pending(plain_export_import),
        1.5,
    ),
    case(
        "syncobj_wait",
        "wait for a syncobj, signaled",
        2000,
        with_syncobjs(syncobj_wait, 1),
        with_syncobjs(plain_syncobj_wait, 1),
        1.5,
    ),
    case(
        "syncobj_wait-256",
        "wait_many of 256, signaled",
        50,
        with_syncobjs(syncobj_wait_many, 256),
        with_syncobjs(plain_syncobj_wait, 256),
        1.2,
    ),
    case(
        "syncobj_query",
        "query of a syncobj",
        2000,
        with_syncobjs(syncobj_query, 1),
        with_syncobjs(plain_syncobj_query, 1),
        1.5,
    ),
    case(
        "syncobj_query-256",
        "query_many of 256",
        100,
        with_syncobjs(syncobj_query_many, 256),
        with_syncobjs(plain_syncobj_query, 256),
        1.2,
    ),
    case("prime", "PRIME export + import", 500, with_gem(prime), with_gem(plain_prime), 1.5),
]
