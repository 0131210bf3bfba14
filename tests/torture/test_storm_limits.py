"""No descriptor to be had, very many fences, very many waiters, very many threads."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from children import forked

from linuxsync import (
    Access,
    DmaHeap,
    DrmDevice,
    FenceDevice,
    SyncFile,
    Syncobj,
    Timeline,
    VgemDevice,
    merge,
    udmabuf,
)

FILE_MAX = Path("/proc/sys/fs/file-max")
NOBODY = 65534


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Every number below the limit is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        highest = os.dup(2)
        stack.callback(os.close, highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while True:
            try:
                stack.callback(os.close, os.dup(2))
            except OSError:
                break
        yield


@pytest.fixture
def makers() -> Iterator[dict[str, Callable[[], object]]]:
    """Whatever gives a descriptor."""
    with ExitStack() as stack:
        keep = stack.enter_context
        line, heap, device = keep(Timeline()), keep(DmaHeap()), keep(DrmDevice.open(driver="virtio_gpu"))
        fence, second = keep(line.create_fence(1)), keep(line.create_fence(2))
        buf = keep(heap.alloc(4096))
        buf.import_sync_file(fence, Access.WRITE)
        syncobj = keep(Syncobj.create(device))
        syncobj.import_sync_file(fence)
        dumb = keep(keep(VgemDevice.open()).create_dumb(8, 8, 32))
        fences = keep(FenceDevice())
        queue = keep(fences.create_queue())
        memfd = os.memfd_create("limits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, memfd)
        os.ftruncate(memfd, 4096)
        yield {
            "Timeline": Timeline,
            "Timeline.create_fence": lambda: line.create_fence(7),
            "SyncFile.merge": lambda: fence.merge(second),
            "SyncFile.dup": fence.dup,
            "merge": lambda: merge([fence, second]),
            "DmaHeap": DmaHeap,
            "DmaHeap.alloc": lambda: heap.alloc(4096),
            "DmaBuf.dup": buf.dup,
            "DmaBuf.export_sync_file": lambda: buf.export_sync_file(Access.READ),
            "udmabuf.create": lambda: udmabuf.create(4096),
            "DrmDevice.open": lambda: DrmDevice.open(driver="vgem"),
            "GemBuffer.export": dumb.export,
            "Syncobj.to_fd": syncobj.to_fd,
            "Syncobj.export_sync_file": syncobj.export_sync_file,
            "FenceDevice": FenceDevice,
            "Queue.submit": lambda: queue.submit().fence,
        }


MAKERS = [
    "Timeline",
    "Timeline.create_fence",
    "SyncFile.merge",
    "SyncFile.dup",
    "merge",
    "DmaHeap",
    "DmaHeap.alloc",
    "DmaBuf.dup",
    "DmaBuf.export_sync_file",
    "udmabuf.create",
    "DrmDevice.open",
    "GemBuffer.export",
    "Syncobj.to_fd",
    "Syncobj.export_sync_file",
    "FenceDevice",
    "Queue.submit",
]


@pytest.mark.parametrize("name", MAKERS)
def test_emfile(name, makers, tally):
    """EMFILE comes as that, again and again, and with descriptors at hand the same objects go on."""
    make = makers[name]
    close(make())
    with no_descriptor():
        for _ in range(20):
            with pytest.raises(OSError, match="Too many open files") as error:
                make()
            assert error.value.errno == errno.EMFILE
            tally.bad_inputs += 1
    close(make())
    tally.operations += 2


def close(made: object) -> None:
    """A descriptor by itself, or an object that has one."""
    os.close(made) if isinstance(made, int) else made.close()


# What needs a file of the system's, and is not root's alone, who is never refused for want of one. Where
# sync_file_create() gets none, the kernel says ENOMEM, and drm_syncobj_export_sync_file() EINVAL.
OF_THE_SYSTEM = {
    "Timeline.create_fence": errno.ENOMEM,
    "SyncFile.merge": errno.ENOMEM,
    "merge": errno.ENOMEM,
    "DmaHeap.alloc": errno.ENFILE,
    "DmaBuf.export_sync_file": errno.ENOMEM,
    "GemBuffer.export": errno.ENFILE,
    "Syncobj.to_fd": errno.ENFILE,
    "Syncobj.export_sync_file": errno.EINVAL,
    "Queue.submit": errno.ENOMEM,
}


@pytest.mark.parametrize("name", OF_THE_SYSTEM)
def test_enfile(name, makers, tally):
    """Where the whole system has no file left, that comes as what the kernel calls it."""
    make = makers[name]

    def work() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        for _ in range(5):
            with pytest.raises(OSError) as error:
                make()
            assert error.value.errno == OF_THE_SYSTEM[name]

    before = FILE_MAX.read_text()
    try:
        FILE_MAX.write_text("0")  # the kernel's first look at how many there are is an estimate, which may be low
        with forked(work):
            pass
    finally:
        FILE_MAX.write_text(before)
    close(make())
    tally.bad_inputs += 5


@pytest.fixture
def very_many() -> Iterator[None]:
    """As many descriptors as one process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_in_one(very_many, tally):
    """A merged fence of 10,000 timelines: each is in it, it waits for the last, and tells that this failed."""
    count = 10_000
    with ExitStack() as stack:
        lines = [stack.enter_context(Timeline()) for _ in range(count)]
        fences = [stack.enter_context(line.create_fence(1)) for line in lines]
        with merge(fences, "all") as both:
            assert len(both.fences) == count
            for line in lines[:-1]:
                line.inc()
            assert not both.poll()
            assert sum(one.status == 0 for one in both.fences) == 1
            lines[-1].close()  # which fails its fence
            assert both.poll(10)
            assert both.error == errno.ENOENT
    tally.operations += 4 * count


def test_two_thousand_await(very_many, tally):
    """2,000 tasks that await a fence each, and each its own, all end, each when its fence signals."""
    count = 2_000

    async def work() -> None:
        with ExitStack() as stack:
            lines = [stack.enter_context(Timeline()) for _ in range(count)]
            fences = [stack.enter_context(line.create_fence(1)) for line in lines]
            ended: list[int] = []

            async def one(number: int) -> None:
                await fences[number]
                ended.append(number)

            tasks = [asyncio.create_task(one(number)) for number in range(count)]
            await asyncio.sleep(0)
            order = random.sample(range(count), count)
            for at in range(0, count, 100):
                for number in order[at : at + 100]:
                    lines[number].inc()
                while len(ended) < at + 100:
                    await asyncio.sleep(0)
                assert sorted(ended[at:]) == sorted(order[at : at + 100])
            await asyncio.gather(*tasks)

    asyncio.run(work())
    tally.operations += count


def test_many_threads(duration, tally):
    """64 threads take duplicates of shared fences, merge, inspect, poll and close them, while others come and go."""
    shared: list[SyncFile] = []
    wrong: list[BaseException] = []
    done = [0] * 64
    until = time.monotonic() + duration
    line, lock = Timeline(), threading.Lock()  # no thread may close what another one uses

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            while (time.monotonic() < until or not done[number]) and not wrong:
                act(chance)
                done[number] += 1
        except BaseException as error:
            wrong.append(error)

    def act(chance: random.Random) -> None:
        with lock:
            while len(shared) < 8 or chance.random() < 0.2:
                shared.append(line.create_fence(chance.randrange(1, 1 << 20)))
            while len(shared) > 16:
                shared.pop(chance.randrange(16)).close()
            one, two = (shared[chance.randrange(8)].dup() for _ in range(2))
        with one, two, one.merge(two) as both:
            assert 1 <= len(both.fences) <= 2
            assert one.info().fences
            line.inc()
            two.poll(0.0005)
            both.dup().close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fence in shared:
        fence.close()
    line.close()
    assert not wrong
    assert all(done)
    tally.operations += 7 * sum(done)
