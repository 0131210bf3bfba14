"""Waiting in coroutines: await, wait_async, as_completed, and what cancelling or leaving early gives back."""

import asyncio
import errno
import fcntl
import math
import time
from decimal import Decimal

import pytest
from kernel_words import free_descriptors, refused

from linuxsync import SyncFile, Timeline, as_completed


async def settle():
    """Let every callback run that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_await_returns_when_it_signals(timeline, fence):
    """`await fence` is over when another task signals, not before, and others run meanwhile."""
    order = []

    async def producer():
        await asyncio.sleep(0.05)
        order.append("inc")
        timeline.inc()

    async def main():
        task = asyncio.create_task(producer())
        assert await fence is None
        order.append("woken")
        await task
        await fence
        await fence.wait_async(0)

    asyncio.run(main())
    assert order == ["inc", "woken"]
    assert fence.status == 1


def test_a_failed_fence_wakes_the_coroutine(timeline, fence):
    """Closing the timeline ends the wait without an exception; the error is for the caller to ask."""

    async def main():
        asyncio.get_running_loop().call_later(0.05, timeline.close)
        await fence.wait_async(60)

    asyncio.run(main())
    assert fence.error == errno.ENOENT


@pytest.mark.parametrize("timeout", [0, 0.001, 0.1])
def test_time_is_over(timeout, fence, open_files):
    """ETIME, never early, and nothing stays open."""

    async def main():
        before, begin = open_files(), time.monotonic()
        with refused(errno.ETIME, TimeoutError) as caught:
            await fence.wait_async(timeout)
        # The loop rounds to its clock's resolution.
        assert time.monotonic() - begin >= timeout - time.get_clock_info("monotonic").resolution
        assert repr(fence) in str(caught.value)
        assert open_files() == before

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [None, math.inf, 60, 1e300])
def test_long_limits(timeout, timeline, fence):
    """No limit, and limits that are as good as none."""

    async def main():
        asyncio.get_running_loop().call_later(0.05, timeline.inc)
        await fence.wait_async(timeout)

    asyncio.run(main())


@pytest.mark.parametrize(("timeout", "kind"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)])
def test_limits_that_are_none(timeout, kind, fence, open_files):
    """Negative, not a number, or no number at all."""

    async def main():
        before = open_files()
        with pytest.raises(kind):
            await fence.wait_async(timeout)
        assert open_files() == before

    asyncio.run(main())


def test_two_coroutines_on_one_fence(timeline, fence):
    """Every waiter wakes, and one that gives up does not take the others with it."""

    async def main():
        waiters = [asyncio.create_task(fence.wait_async(60)) for _ in range(10)]
        short = asyncio.create_task(fence.wait_async(0.02))
        await settle()
        waiters[3].cancel()
        with refused(errno.ETIME):
            await short
        assert not any(task.done() for task in waiters[:3] + waiters[4:])
        timeline.inc()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results.pop(3), asyncio.CancelledError)
        assert results == [None] * 9

    asyncio.run(main())


def test_cancelling_leaks_nothing(fence, open_files):
    """A cancelled waiter gives its descriptor and its place in the loop back."""

    async def main():
        before = open_files()
        for delay in (0, 0.001, 0.02):
            task = asyncio.create_task(fence.wait_async(60))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_files() == before
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(fence.wait_async(), 0.02)
        assert open_files() == before

    asyncio.run(main())
    assert fence.status == 0


def test_cancelled_in_the_moment_of_the_signal(timeline, fence, open_files):
    """Signal and cancellation at once: whichever wins, nothing leaks and the loop goes on."""

    async def main():
        before = open_files()
        task = asyncio.create_task(fence.wait_async(60))
        await settle()
        timeline.inc()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert open_files() == before
        await fence

    asyncio.run(main())


def test_closing_the_fence_while_a_coroutine_waits(timeline, fence, open_files):
    """The waiter has a descriptor of its own: it wakes by the signal, and gives that descriptor back."""

    async def main():
        task = asyncio.create_task(fence.wait_async(60))
        await settle()
        fence.close()
        without = open_files()
        await asyncio.sleep(0.02)
        assert not task.done()
        timeline.inc()
        await task
        assert len(open_files()) == len(without) - 1
        with pytest.raises(ValueError, match="closed SyncFile"):
            await fence

    asyncio.run(main())


def test_the_loop_ends_while_a_coroutine_waits(fence):
    """asyncio.run cancels what is left; nothing leaks (the fixture looks)."""
    tasks = []

    async def main():
        tasks.extend(asyncio.create_task(fence.wait_async()) for _ in range(3))
        await settle()

    asyncio.run(main())
    assert [task.cancelled() for task in tasks] == [True] * 3


def test_no_descriptor_left_for_the_waiter(fence, timeline):
    """EMFILE when a waiter can't have its own descriptor."""

    async def main():
        with free_descriptors(0):
            with refused(errno.EMFILE):
                await fence
            with refused(errno.EMFILE):
                async for _ in as_completed([fence]):
                    raise AssertionError("nothing has signaled")
        timeline.inc()
        await fence

    asyncio.run(main())


def test_descriptors_beyond_1024(timeline, fence, keep, many_descriptors):
    """The loop's selector is epoll: numbers of any size, of the fence and of the waiter's own."""
    high = keep(SyncFile(fcntl.fcntl(fence.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)))
    crowd = [keep(fence.dup()) for _ in range(1100)]
    assert crowd[-1].fileno() > 1024

    async def main():
        asyncio.get_running_loop().call_later(0.05, timeline.inc)
        await asyncio.wait_for(asyncio.gather(high.wait_async(), crowd[-1].wait_async()), 60)

    asyncio.run(main())


def test_as_completed_yields_in_order_of_signals(timeline, keep, open_files):
    """Each object comes as it signals, failed ones too, and nothing stays open."""
    short = keep(Timeline())
    fences = [keep(timeline.create_fence(value)) for value in (3, 1, 2)] + [keep(short.create_fence(1))]

    async def main():
        before, seen = open_files(), []
        loop = asyncio.get_running_loop()
        loop.call_soon(timeline.inc)
        async for fence in as_completed(iter(fences)):
            seen.append(fences.index(fence))
            assert fence.poll()
            loop.call_later(0.01, timeline.inc if len(seen) < 3 else short.close)
        assert len(open_files()) == len(before) - 1  # the timeline
        return seen

    assert asyncio.run(main()) == [1, 2, 0, 3]
    assert fences[3].error == errno.ENOENT


def test_as_completed_of_what_is_done_and_of_nothing(timeline, keep):
    """What has signaled before comes too; the same object twice comes twice; nothing gives nothing."""
    fence = keep(timeline.create_fence(0))

    async def main():
        assert [one async for one in as_completed([fence, fence])] == [fence, fence]
        assert [one async for one in as_completed([])] == []

    asyncio.run(main())


def test_as_completed_left_early(timeline, keep, open_files):
    """Leaving the loop in the middle gives the other descriptors back, at once if it is closed and else soon."""
    fences = [keep(timeline.create_fence(value)) for value in (0, 1, 2, 0)]

    async def main():
        before = open_files()
        async for fence in as_completed(fences):
            assert fence.signaled
            assert len(open_files()) > len(before)
            break
        await settle()
        assert open_files() == before
        iterator = as_completed(fences)
        assert await iterator.__anext__() in fences
        assert len(open_files()) > len(before)
        await iterator.aclose()
        assert open_files() == before

    asyncio.run(main())


def test_as_completed_cancelled(timeline, keep, open_files):
    """Cancelling the task that waits for the next one gives all descriptors back."""
    fences = [keep(timeline.create_fence(value)) for value in (0, 1, 2)]
    seen = []

    async def consumer():
        async for fence in as_completed(fences):
            seen.append(fence)

    async def main():
        before = open_files()
        task = asyncio.create_task(consumer())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert open_files() == before
        timeline.inc(2)
        await settle()

    asyncio.run(main())
    assert seen == fences[:1]


def test_a_refused_limit_leaves_the_loop_as_it_was(timeline, keep, open_files):
    """What the loop would choke on is refused before, and the next waiter, who gets the same number, wakes."""

    async def main():
        before = open_files()
        for timeout, kind in ((Decimal("0.01"), TimeoutError), (10**400, OverflowError), ("soon", TypeError)):
            with keep(timeline.create_fence(1000)) as fence, pytest.raises(kind):
                await fence.wait_async(timeout)
        assert open_files() == before
        with timeline.create_fence(timeline.value + 1) as fence:
            asyncio.get_running_loop().call_later(0.05, timeline.inc)
            await fence.wait_async(30)

    asyncio.run(main())


def test_as_completed_refuses_a_timeline(timeline):
    """A timeline is no fence here either."""
    with pytest.raises(TypeError, match="can't wait for a Timeline"):
        asyncio.run(anext(as_completed([timeline])))


def test_as_completed_refuses_in_the_middle(timeline, keep, open_files):
    """A closed fence or a thing that is none gives back what the others had taken."""
    fence, closed = keep(timeline.create_fence(1)), keep(timeline.create_fence(1))
    closed.close()

    async def main():
        before = open_files()
        with pytest.raises(ValueError, match="closed SyncFile"):
            await as_completed([fence, closed]).__anext__()
        with pytest.raises(TypeError):
            await as_completed([fence, None]).__anext__()
        assert open_files() == before

    asyncio.run(main())


def test_closed_while_as_completed_waits(timeline, keep):
    """A fence that is closed in the middle still comes when it signals."""
    fence = keep(timeline.create_fence(1))

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, fence.close)
        loop.call_later(0.05, timeline.inc)
        return [one.closed async for one in as_completed([fence])]

    assert asyncio.run(main()) == [True]


def test_many_coroutines(timeline, keep):
    """A hundred fences with a waiter each wake as their points are passed."""
    fences = [keep(timeline.create_fence(value)) for value in range(1, 101)]
    order = []

    async def waiter(number):
        await fences[number]
        assert timeline.value > number
        order.append(number)

    async def main():
        waiters = [asyncio.create_task(waiter(number)) for number in range(100)]
        await settle()
        assert order == []
        for _ in range(10):
            timeline.inc(10)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.gather(*waiters), 60)

    asyncio.run(main())
    assert sorted(order) == list(range(100))
