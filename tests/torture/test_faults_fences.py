"""Faults in what is done with fences and sw_sync timelines."""

import asyncio
from contextlib import contextmanager
from pathlib import Path

import pytest

from linuxsync import Access, DmaHeap, SyncFile, Timeline, as_completed, merge, sw_sync, wait_all, wait_any
from tests.torture.faults import covers, equals, holds
from tests.torture.faults_known import ASKED_AGAIN, CLOCK, FILES, NAME

pytest_plugins = ["tests.torture.faults_plugin"]
READ = ["status", "fences", "name", "timestamp_ns", "signaled", "error"]
MANY = 20  # more than FILE_INFO has room for on the stack


@pytest.fixture
def loop():
    """An event loop."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def slow_clock():
    """A clock that the vDSO can't read: to look at it is a system call, which copies its answer."""
    current = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    before = current.read_text()
    current.write_text("hpet")
    yield
    current.write_text(before)


@pytest.fixture
def two():
    """Active fences of two timelines, which merge into a dma_fence_array."""
    with Timeline() as one, Timeline() as other, one.create_fence(1) as a, other.create_fence(1) as b:
        yield a, b


@pytest.fixture
def many():
    """A sync_file of many fences."""
    timelines = [Timeline() for _ in range(MANY)]
    fences = [timeline.create_fence(1) for timeline in timelines]
    with merge(fences) as merged:
        yield merged
    for one in fences + timelines:
        one.close()


@covers("SyncFile.merge")
@pytest.mark.parametrize("name", ["", "named"])
def test_merge(sweep, two, name):
    sweep(lambda: two[0].merge(two[1], name=name), holds(2))


@covers("SyncFile.__or__")
def test_or(sweep, two):
    sweep(lambda: two[0] | two[1], holds(2))


@covers("merge")
def test_merge_of_many(sweep):
    with Timeline() as a, Timeline() as b, Timeline() as c, Timeline() as d:
        fences = [timeline.create_fence(1) for timeline in (a, b, c, d)]
        sweep(lambda: merge(fences, "all", strict=True), holds(4), swallowed=ASKED_AGAIN)
        for fence in fences:
            fence.close()


@covers("SyncFile.info")
def test_info(sweep, fence):
    sweep(fence.info, equals(fence.info()), swallowed=ASKED_AGAIN)


@covers("SyncFile.info")
def test_info_of_many(sweep, many):
    sweep(many.info, equals(many.info()), swallowed=ASKED_AGAIN)


@covers(*(f"SyncFile.{name}" for name in READ))
@pytest.mark.parametrize("name", READ)
def test_status(sweep, many, name):
    sweep(lambda: getattr(many, name), equals(getattr(many, name)), swallowed=ASKED_AGAIN)


@covers("SyncFile.raise_for_status")
def test_raise_for_status(sweep, many):
    sweep(many.raise_for_status, equals(None), swallowed=ASKED_AGAIN)


@covers("SyncFile.poll")
def test_poll(sweep, fence):
    sweep(fence.poll, equals(False))


@covers("SyncFile.wait")
def test_wait(sweep, fence):
    def wait():
        with pytest.raises(TimeoutError):
            fence.wait(0.001)

    sweep(wait)


@covers("SyncFile.wait", "DmaBuf.poll")
def test_deadlines(sweep, fence, slow_clock):
    """Nobody waits until a moment that could not be read."""

    def wait():
        with pytest.raises(TimeoutError):
            fence.wait(0.001)

    sweep(wait, swallowed=CLOCK)
    with DmaHeap() as heap, heap.alloc(4096) as buf:
        buf.import_sync_file(fence, Access.WRITE)
        sweep(lambda: buf.poll(Access.READ), equals(False), swallowed=CLOCK)


@covers("SyncFile.wait_async")
def test_wait_async(sweep, loop, timeline, fence):
    timeline.inc()
    sweep(lambda: loop.run_until_complete(wait_for(fence)), equals("signaled"))


async def wait_for(fence):
    await fence.wait_async(10)
    return "signaled"


@covers("as_completed")
def test_as_completed(sweep, loop, timeline, fence):
    timeline.inc()

    async def all_of():
        return [one async for one in as_completed([fence, fence])]

    sweep(lambda: loop.run_until_complete(all_of()), equals([fence, fence]))


@covers("wait_all", "wait_any")
def test_wait_for_many(sweep, timeline, fence, two):
    timeline.inc()

    def both():
        wait_all([fence, fence], 0)
        return wait_any([two[0], fence], 0)

    sweep(both, equals(fence))


@covers("SyncFile.set_deadline", "Timeline.deadline_ns")
def test_deadline(sweep, timeline, fence):
    def set_and_get():
        fence.set_deadline(12345)
        return timeline.deadline_ns(fence)

    sweep(set_and_get, equals(12345))


@covers("SyncFile", "SyncFile.from_fd", "OwnedFd.from_fd", "OwnedFd")
def test_from_fd(sweep, fence):
    sweep(lambda: SyncFile.from_fd(fence), holds(1))


@covers("Timeline.from_fd")
def test_another_timeline(sweep, timeline):
    def right(made):
        with made, made.create_fence(1) as fence:
            assert fence.status == 0

    sweep(lambda: Timeline.from_fd(timeline), right)


@covers("Timeline")
def test_timeline(sweep):
    """Whatever happens, the thread bears its own name."""
    path, comm = sw_sync.find(), Path("/proc/thread-self/comm").read_text

    def right(made):
        with made, made.create_fence(1) as fence:
            assert (made.value, fence.fences[0].obj_name) == (0, "faulty")

    sweep(lambda: Timeline("faulty", path), right, swallowed=NAME, kept=comm)


@covers("Timeline.create_fence")
def test_create_fence(sweep, timeline):
    sweep(lambda: timeline.create_fence(1), holds(1))


@covers("Timeline.name")
def test_timeline_name(sweep, timeline):
    sweep(lambda: timeline.name, equals(timeline.name), swallowed=ASKED_AGAIN)


@covers("Timeline.inc")
def test_inc(sweep, timeline):
    """A copy that fails leaves the timeline where it was, and its value tells the truth."""

    @contextmanager
    def ahead():
        with timeline.create_fence(timeline.value + 1) as next_one:
            yield next_one, timeline.value

    def right(_, state):
        assert (state[0].status, timeline.value) == (1, state[1] + 1)

    def kept(state):
        return state[0].status, timeline.value

    sweep(lambda _: timeline.inc(), right, prepare=ahead, kept=kept)


@covers("OwnedFd.close", "Timeline.close", "SyncFile.close")
def test_close(sweep):
    """There is nothing in it that could fail."""

    def close(pair):
        pair[1].close()
        pair[0].close()

    @contextmanager
    def opened():
        with Timeline() as timeline, timeline.create_fence(1) as fence:
            yield timeline, fence

    sweep(close, prepare=opened)


@covers("sw_sync.find")
def test_find(sweep):
    sweep(sw_sync.find, equals(sw_sync.find()), swallowed=FILES)
