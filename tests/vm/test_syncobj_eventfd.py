"""Syncobjs that tell an eventfd, and coroutines that wait for them."""

import asyncio
import errno
import math
import os
import resource
import select
import time

import pytest
from kernel_words import free_descriptors, refused

from linuxsync import OwnedFd, Syncobj


@pytest.fixture
def event(keep):
    """A function that makes an eventfd, and closes it when the test is over."""
    return lambda: keep(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))


def count(event):
    """How often the eventfd has been told since the last time."""
    poller = select.poll()
    poller.register(event, select.POLLIN)
    if not poller.poll(0):
        with pytest.raises(BlockingIOError):
            os.eventfd_read(event.fileno())
        return 0
    return os.eventfd_read(event.fileno())


@pytest.mark.parametrize("point", [0, 1])
def test_signaled_and_available(point, new, event, put, timeline):
    """One that is told of availability is told at once, one that is told of the signal when that comes."""
    syncobj, signaled, available = new(), event(), event()
    put(syncobj, point)
    syncobj.eventfd(point, signaled)
    syncobj.eventfd(point, available, wait_available=True)
    assert [count(signaled), count(available)] == [0, 1]
    timeline.inc()
    assert [count(signaled), count(available)] == [1, 0]


@pytest.mark.parametrize("point", [0, 1])
def test_before_it_is_submitted(point, new, event, put, timeline):
    """Neither is told of anything before there is a fence."""
    syncobj, signaled, available = new(), event(), event()
    syncobj.eventfd(point, signaled)
    syncobj.eventfd(point, available, wait_available=True)
    assert [count(signaled), count(available)] == [0, 0]
    put(syncobj, point)
    assert [count(signaled), count(available)] == [0, 1]
    timeline.inc()
    assert [count(signaled), count(available)] == [1, 0]


@pytest.mark.parametrize("point", [0, 1])
def test_after_it_has_signaled(point, new, event, put, timeline):
    """Both are told at once."""
    syncobj, signaled, available = new(), event(), event()
    put(syncobj, point)
    timeline.inc()
    syncobj.eventfd(point, signaled)
    syncobj.eventfd(point, available, wait_available=True)
    assert [count(signaled), count(available)] == [1, 1]


def test_none_is_point_zero(new, event):
    """None, as elsewhere, is the fence of a binary syncobj."""
    syncobj, told = new(signaled=True), event()
    syncobj.eventfd(None, told)
    assert count(told) == 1


def test_a_lower_point_counts_as_submitted(new, event, put, timeline):
    """Point 4 is there as soon as 7 is, and signals with it."""
    syncobj, told = new(), event()
    syncobj.eventfd(4, told)
    put(syncobj, 7)
    assert count(told) == 0
    timeline.inc()
    assert count(told) == 1


def test_each_registration_counts(new, event, timeline, put):
    """Two registrations add two; several syncobjs may tell one eventfd."""
    one, two, told = new(), new(), event()
    for syncobj in (one, one, two):
        syncobj.eventfd(3, told)
    put(one, 3)
    timeline.inc()
    assert count(told) == 2
    two.signal(3)
    assert count(told) == 1


def test_a_failed_fence_is_told(new, event, put, timeline):
    """A fence that fails has signaled."""
    syncobj, told = new(), event()
    put(syncobj, 2)
    syncobj.eventfd(2, told)
    timeline.close()
    assert count(told) == 1


def test_closing_forgets_what_was_not_submitted(new, event, put, timeline):
    """With the last handle goes what waits for a fence; what has one is told all the same."""
    empty, busy, never, told = new(), new(), event(), event()
    empty.eventfd(1, never)
    put(busy, 1)
    busy.eventfd(1, told)
    empty.close()
    busy.close()
    timeline.inc()
    assert [count(never), count(told)] == [0, 1]


def test_the_eventfd_may_be_closed(new, put, timeline):
    """The kernel holds on to it; nothing happens to the number's next owner."""
    syncobj = new()
    told = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC))
    syncobj.eventfd(1, told)
    number = told.fileno()
    told.close()
    with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)) as other:
        assert other.fileno() == number
        put(syncobj, 1)
        timeline.inc()
        assert count(other) == 0


def test_files_that_are_no_eventfd(new, event, keep):
    """EBADF for what is not open, EINVAL for another file, and for objects that are none a ValueError or TypeError."""
    syncobj = new(signaled=True)
    null = keep(OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)))
    with refused(errno.EINVAL) as caught:
        syncobj.eventfd(0, null)
    assert f"fd {null.fileno()} is no eventfd" in str(caught.value)
    closed = os.dup(0)
    os.close(closed)
    with refused(errno.EBADF) as caught:
        syncobj.eventfd(0, closed)
    assert f"DRM_IOCTL_SYNCOBJ_EVENTFD on {syncobj!r}" in str(caught.value)
    for wrong in (-1, 2**31):
        with pytest.raises(ValueError, match="file descriptor"):
            syncobj.eventfd(0, wrong)
    for wrong in (None, "1", 1.0):
        with pytest.raises(TypeError):
            syncobj.eventfd(0, wrong)
    told = event()
    told.close()
    with pytest.raises(ValueError, match="closed"):
        syncobj.eventfd(0, told)


async def settle():
    """Let every callback run that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("point", [None, 0, 5])
def test_a_coroutine_waits(point, new, put, timeline):
    """For a fence that is not there yet, then for its signal; others run meanwhile."""
    syncobj = new()
    order = []

    async def producer():
        await asyncio.sleep(0.03)
        put(syncobj, point or 0)
        order.append("submitted")
        while "available" not in order:
            await asyncio.sleep(0.001)
        order.append("signaled")
        timeline.inc()

    async def main():
        task = asyncio.create_task(producer())
        available = asyncio.create_task(syncobj.wait_async(60, point, wait_available=True))
        available.add_done_callback(lambda _: order.append("available"))
        assert await syncobj.wait_async(60, point) is None
        order.append("woken")
        await task
        await available
        await syncobj.wait_async(0, point)
        await syncobj.wait_async(0, point, wait_for_submit=False)

    asyncio.run(main())
    assert order == ["submitted", "available", "signaled", "woken"]


def test_a_coroutine_that_does_not_wait_for_submission(new, put, timeline):
    """EINVAL while there is no fence; otherwise as usual."""
    syncobj = new()

    async def main():
        for point in (None, 0, 3):
            with refused(errno.EINVAL) as caught:
                await syncobj.wait_async(60, point, wait_for_submit=False)
            assert "no fence yet" in str(caught.value)
        put(syncobj, 3)
        with refused(errno.ETIME):
            await syncobj.wait_async(0.01, 3, wait_for_submit=False)
        asyncio.get_running_loop().call_later(0.02, timeline.inc)
        await syncobj.wait_async(60, 3, wait_for_submit=False)

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [0, 0.001, 0.1])
def test_time_is_over(timeout, new, put, open_files):
    """ETIME, never early, for one without a fence and one whose fence is active; nothing stays open."""
    empty, busy = new(), new()
    put(busy, 0)

    async def main():
        before = open_files()
        for syncobj, point in ((empty, None), (empty, 3), (busy, None)):
            begin = time.monotonic()
            with refused(errno.ETIME, TimeoutError) as caught:
                await syncobj.wait_async(timeout, point)
            assert time.monotonic() - begin >= timeout - time.get_clock_info("monotonic").resolution
            assert repr(syncobj) in str(caught.value)
            assert ("point 3 of" in str(caught.value)) == (point == 3)
        assert open_files() == before

    asyncio.run(main())


def test_limits_that_are_none(new, open_files):
    """Negative, not a number, or no number; a point that is none; a closed syncobj. Nothing stays open."""
    syncobj, closed = new(), new()
    closed.close()

    async def main():
        before = open_files()
        for timeout, kind in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
            with pytest.raises(kind):
                await syncobj.wait_async(timeout)
        for point, kind in ((-1, ValueError), (2**64, ValueError), ("1", TypeError)):
            with pytest.raises(kind):
                await syncobj.wait_async(0, point)
        with pytest.raises(ValueError, match="closed Syncobj"):
            await closed.wait_async()
        assert open_files() == before

    asyncio.run(main())


def test_cancelling_leaks_nothing(new, put, timeline, open_files):
    """A cancelled waiter gives its descriptors back, whatever it waited for; the others go on."""
    empty, busy = new(), new()
    put(busy, 2)

    async def main():
        before = open_files()
        for syncobj, point in ((empty, None), (empty, 7), (busy, 2)):
            for delay in (0, 0.001, 0.02):
                task = asyncio.create_task(syncobj.wait_async(60, point))
                await asyncio.sleep(delay)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert open_files() == before
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(busy.wait_async(None, 2), 0.02)
        waiters = [asyncio.create_task(busy.wait_async(60, 2)) for _ in range(5)]
        await settle()
        waiters[2].cancel()
        timeline.inc()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results.pop(2), asyncio.CancelledError)
        assert results == [None] * 4
        assert open_files() == before

    asyncio.run(main())


def test_two_hundred_coroutines(new, timeline, put, many_descriptors):
    """Each waits for a syncobj of its own, half of them before there is a fence; all wake."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= 4096
    syncobjs = [new() for _ in range(200)]
    for value, syncobj in enumerate(syncobjs[:100], 1):
        put(syncobj, 4, value)

    async def main():
        tasks = [asyncio.create_task(syncobj.wait_async(60, 4)) for syncobj in syncobjs]
        await settle()
        for value, syncobj in enumerate(syncobjs[100:], 101):
            put(syncobj, 4, value)
        await settle()
        assert not any(task.done() for task in tasks)
        timeline.inc(200)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert list(Syncobj.query_many(syncobjs)) == [4] * 200


@pytest.mark.parametrize("free", [0, 1])
def test_no_descriptor_for_the_waiter(free, new, open_files):
    """EMFILE, and what could be opened is closed again."""
    syncobj = new()

    async def main():
        before = open_files()
        with free_descriptors(free), refused(errno.EMFILE):
            await syncobj.wait_async(60)
        assert open_files() == before

    asyncio.run(main())
