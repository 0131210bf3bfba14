"""What the kernel's own sync selftests and IGT's sw_sync test assert, in our words and scaled down.

Sources: tools/testing/selftests/sync, and tests/sw_sync.c of IGT GPU tools.
"""

import errno
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from children import forked, taken
from kernel_words import raw_fence, raw_info, raw_merge, refused

from linuxsync import SyncFile, Timeline, merge


def count(fence, status):
    """How many of the fences in it have this status."""
    return sum(member.status == status for member in raw_info(fence.fileno())[1])


def times_out(fence, timeout=0.0):
    """Whether waiting for it ends with ETIME."""
    try:
        fence.wait(timeout)
    except TimeoutError as error:
        assert error.errno == errno.ETIME
        return True
    return False


def test_alloc_timeline(open_files):
    """A timeline can be opened and closed."""
    before = open_files()
    with Timeline() as timeline:
        assert len(open_files()) == len(before) + 1
    assert timeline.closed
    assert open_files() == before


def test_alloc_fence(timeline, keep):
    """Fences at 0 and 1 are made; the one at 0 has signaled."""
    assert [keep(timeline.create_fence(value)).status for value in (0, 1)] == [1, 0]


def test_alloc_fence_negative(timeline):
    """Without a timeline no fence: EBADF from the kernel, ValueError from a closed object."""
    assert raw_fence(-1, 1) == -errno.EBADF
    timeline.close()
    with pytest.raises(ValueError, match="closed Timeline"):
        timeline.create_fence(1)


def test_alloc_merge_fence(keep):
    """Fences of two timelines can be merged."""
    one, two = (keep(keep(Timeline()).create_fence(1)) for _ in range(2))
    assert count(keep(two | one), 0) == 2


def test_timeline_closed(timeline, keep):
    """Closing the timeline ends the wait, with the error ENOENT."""
    fence = keep(timeline.create_fence(1))
    timeline.close()
    fence.wait(0)
    assert raw_info(fence.fileno())[0].status == -errno.ENOENT


def test_timeline_closed_signaled(timeline, keep):
    """A fence that had signaled does not notice."""
    fence = keep(timeline.create_fence(1))
    timeline.inc()
    timeline.close()
    fence.wait(0)
    assert fence.signaled


def test_one_timeline_wait(timeline, keep):
    """A fence at 5 is busy at 0 and 1, ready at 5, and still at 10."""
    fence = keep(timeline.create_fence(5))
    assert times_out(fence)
    timeline.inc(1)
    assert times_out(fence)
    timeline.inc(4)
    assert not times_out(fence)
    timeline.inc(5)
    assert not times_out(fence)


def test_busy_at_every_prime(timeline, keep):
    """Steps of every prime below 100 reach exactly the fence that is so far ahead."""
    primes = [n for n in range(2, 100) if all(n % d for d in range(2, n))]
    reached = 0
    for prime in primes:
        reached += prime
        fence = keep(timeline.create_fence(reached))
        assert times_out(fence)
        timeline.inc(prime)
        assert not times_out(fence)


def test_busy_in_a_child(timeline, keep):
    """A forked child signals what its parent waits for (upstream's sleeps for 1 s first)."""
    fence = keep(timeline.create_fence(1))
    assert times_out(fence)

    def work():
        time.sleep(0.1)
        timeline.inc()

    with forked(work):
        fence.wait(60)
    assert fence.status == 1


def test_busy_in_a_child_by_unix_socket(timeline, keep):
    """The same when the timeline comes over a datagram socket."""
    fence = keep(timeline.create_fence(1))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:

        def work():
            timeline.close()
            _, (fd,), _, _ = socket.recv_fds(theirs, 3, 1)
            taken(fd).inc()

        with forked(work):
            assert times_out(fence)
            socket.send_fds(ours, [b"abc"], [timeline.fileno()])
            fence.wait(60)
    assert fence.status == 1


@pytest.mark.parametrize("kind", ["nothing", "device", "pipe"])
def test_merge_invalid(kind, timeline, keep):
    """Only a sync_file can be merged: ENOENT from the kernel."""
    fence = keep(timeline.create_fence(1))
    reading, writing = os.pipe()
    with open("/dev/null", "rb") as null:
        fd2 = {"nothing": -1, "device": null.fileno(), "pipe": reading}[kind]
        assert raw_merge(fence.fileno(), fd2) == -errno.ENOENT
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("swapped", [False, True])
def test_merge_on_one_timeline(swapped, timeline, keep):
    """Three points merged in two steps are as busy as the last one."""
    a, b, c = (keep(timeline.create_fence(value)) for value in (1, 2, 3))
    d = keep(b | a) if swapped else keep(a | b)
    d = keep(c | d)
    assert [count(fence, 0) for fence in (a, b, c, d)] == [1, 1, 1, 1]
    for fence, left in ((a, 1), (b, 1), (c, 0)):
        timeline.inc()
        assert count(fence, 1) == 1
        assert count(d, 0) == left
    assert count(d, 1) == 1


def test_merge_same_fence(timeline, keep):
    """A fence merged with itself signals with itself."""
    fence = keep(timeline.create_fence(5))
    merged = keep(fence | fence)
    assert (count(merged, 1), count(fence, 1)) == (0, 0)
    timeline.inc(5)
    assert (count(merged, 1), count(fence, 1)) == (1, 1)


def test_multi_timeline_wait(keep):
    """A merge of three timelines counts down as they advance, and is ready after the last."""
    timelines = [keep(Timeline()) for _ in range(3)]
    a, b, c = (keep(t.create_fence(5)) for t in timelines)
    whole = keep(keep(a | b) | c)
    assert (count(whole, 0), count(whole, 1)) == (3, 0)
    for done, timeline in enumerate(timelines):
        assert times_out(whole)
        assert (count(whole, 0), count(whole, 1)) == (3 - done, done)
        timeline.inc(5)
    assert (count(whole, 0), count(whole, 1)) == (0, 3)
    assert not times_out(whole, 60)


def test_stress_two_threads_shared_timeline(timeline):
    """Two threads take turns on one timeline and never overtake each other (upstream: 65,536 turns each)."""
    turns, counter = 400, [0]

    def player(number):
        for turn in range(turns):
            mine = turn * 2 + number
            with timeline.create_fence(mine) as fence:
                fence.wait(60)
            assert counter[0] == mine
            counter[0] += 1
            timeline.inc()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(player, range(2)))
    assert counter[0] == timeline.value == turns * 2


def test_multi_consumer(timeline):
    """Each thread wakes at its point and sees the counter there; one producer advances (upstream: 4,096 each)."""
    threads, turns, counter = 4, 100, [0]
    seen = threading.Semaphore(0)

    def consumer(number):
        for turn in range(turns):
            point = turn * threads + number
            with timeline.create_fence(point) as fence:
                fence.wait(60)
            assert counter[0] == point
            seen.release()

    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(consumer, range(threads))
        for _ in range(threads * turns):
            assert seen.acquire(timeout=60)
            counter[0] += 1
            timeline.inc()
        list(done)
    assert counter[0] == timeline.value == threads * turns


def test_multi_consumer_producer(timeline):
    """Threads that wait for their point and advance by one keep a strict order (upstream: 4,096 each)."""
    threads, turns, order = 4, 100, []

    def worker(number):
        for turn in range(turns):
            point = turn * threads + number
            with timeline.create_fence(point) as fence:
                fence.wait(60)
            order.append(point)
            timeline.inc()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(worker, range(threads)))
    assert order == list(range(threads * turns))


def test_multi_producer_single_consumer(keep):
    """The consumer waits for a merge of all producers, they for the consumer, in rounds (upstream: 4,096, or 1 s)."""
    producers, rounds = 5, 100
    consumed = keep(Timeline())
    produced = [keep(Timeline()) for _ in range(producers)]
    lock, counter = threading.Lock(), [0]

    def producer(number):
        for turn in range(rounds):
            with consumed.create_fence(turn) as fence:
                if number == 0:  # upstream's first producer asks instead of waiting
                    deadline = time.monotonic() + 60
                    while not fence.signaled:
                        assert fence.error is None
                        assert time.monotonic() < deadline
                        time.sleep(0)
                else:
                    fence.wait(60)
            with lock:
                counter[0] += 1
            produced[number].inc()

    with ThreadPoolExecutor(producers) as pool:
        done = pool.map(producer, range(producers))
        for turn in range(1, rounds + 1):
            with ExitStack() as stack:
                fences = [stack.enter_context(t.create_fence(turn)) for t in produced]
                stack.enter_context(merge(fences)).wait(60)
            assert counter[0] == producers * turn
            consumed.inc()
        list(done)
    assert [t.value for t in produced] == [rounds] * producers


def test_expired_merge(timeline, keep):
    """Merging a fence that has long signaled gives a signaled one, any number of times (upstream: for 1 s)."""
    timeline.inc(100)
    fence = keep(timeline.create_fence(1))
    assert fence.status == 1
    for _ in range(500):
        with fence | fence as again:
            again.wait()


@pytest.mark.parametrize("start", ["signaled", "ahead"])
def test_random_merge(start, keep):
    """A merge that grew at random waits for the largest point of every timeline used (upstream: 1,024 and 32,768)."""
    dice = random.Random(f"merge {start}")
    timelines = [keep(Timeline(name=str(index))) for index in range(32)]
    latest = {}
    if start == "ahead":
        latest[0] = dice.randrange(1, 2**31)
    whole = timelines[0].create_fence(latest.get(0, 0))
    for _ in range(1024):
        index, point = dice.randrange(32), dice.randrange(1, 2**31)
        latest[index] = max(latest.get(index, 0), point)
        with timelines[index].create_fence(point) as fence, whole:
            whole = whole | fence
    whole = keep(whole)
    assert [member.obj_name for member in whole.fences] == [str(index) for index in sorted(latest)]
    for index in dice.sample(sorted(latest), len(latest)):
        assert times_out(whole)
        timelines[index].inc(latest[index] - 1)
        assert times_out(whole)
        timelines[index].inc(1)
    assert not times_out(whole, 60)
    assert count(whole, 1) == len(latest)


def test_a_fence_by_number_is_the_callers(timeline):
    """What SW_SYNC_IOC_CREATE_FENCE hands out can be held by hand, and a second close is EBADF."""
    fd = raw_fence(timeline.fileno(), 1)
    with SyncFile.from_fd(fd) as fence:
        os.close(fd)
        with refused(errno.EBADF):
            SyncFile(fd)
        timeline.inc()
        assert fence.status == 1
