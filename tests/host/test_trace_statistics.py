"""Numbers of recordings whose truth is known, and of any numbers at all beside their definitions."""

import statistics
from itertools import pairwise

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import made
from trace_words import MS, line, recording, wait

from linuxsync.trace import (
    Chosen,
    Latency,
    Thread,
    Timeline,
    Trace,
    latency,
    process_statistics,
    timeline_statistics,
)
from linuxsync.trace.statistics import nearest_rank, union_ns

NUMBERS = st.lists(st.integers(-(10**3), 10**12), min_size=1, max_size=300)


@settings(deadline=None)
@given(NUMBERS, st.integers(1, 100))
def test_percentiles_are_nearest_ranks(numbers, percent):
    """As numpy's inverted_cdf has them, and as their definition says."""
    found = nearest_rank(sorted(numbers), percent)
    below = [one for one in sorted(numbers) if 100 * sum(other <= one for other in numbers) >= percent * len(numbers)]
    assert found == below[0]
    if percent in (25, 50, 75):  # what a float holds exactly; else 0.07 * 100 is more than 7
        assert found == numpy.percentile(numpy.array(numbers), percent, method="inverted_cdf")


@settings(deadline=None)
@given(NUMBERS)
def test_latency_of_any_numbers(numbers):
    """The median of an odd number is everybody's; the histogram has each number once, without a gap."""
    found = Latency.of(numbers)
    assert (found.count, found.min_ns, found.max_ns) == (len(numbers), min(numbers), max(numbers))
    assert found.min_ns <= found.p50_ns <= found.p90_ns <= found.p99_ns <= found.max_ns
    if len(numbers) % 2:
        assert found.p50_ns == statistics.median(numbers)
    for lower, upper, count in found.histogram:
        assert count == sum(lower <= one < upper for one in numbers)
    assert sum(count for _, _, count in found.histogram) == len(numbers)
    positive = [one for one in found.histogram if one[1] > 0]
    assert all(one[1] == other[0] for one, other in pairwise(positive))
    assert all(upper <= 2 * lower for lower, upper, _ in positive if lower > 0)


def test_a_histogram():
    """Its bounds are round."""
    assert Latency.of([4, 1_499_999, 1_500_000, 2_000_000]).histogram[-3:] == (
        (1_000_000, 1_500_000, 1),
        (1_500_000, 2_000_000, 1),
        (2_000_000, 3_000_000, 1),
    )
    assert Latency.of([-5, -1, 3]).histogram == ((-5, 0, 2), (3, 5, 1))
    assert Latency.of([]) == Latency(0)
    assert Latency.of([2**70]).histogram[0][2] == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20))
def test_union(pairs):
    """What spans cover together, counted one by one."""
    spans = [(start, start + length) for start, length in pairs]
    assert union_ns(spans) == len({at for start, end in spans for at in range(start, end)})


def scene():
    """Two timelines, a process with two threads, and another that waits."""
    maker, helper = Thread(11, "maker", 10, "game"), Thread(12, "helper", 10, "game")
    viewer = Thread(20, "viewer", 20, "weston")
    frames = line("sw_sync", "frames", [4 * MS, 2 * MS, 6 * MS, None, None], 7, maker)
    flips = line("vkms", "CRTC:crtc-0", [MS], 9, helper)
    trace = recording(frames, flips, end=100 * MS)
    trace.fences[0].enable_ns = MS
    trace.fences[1].error = 5
    trace.fences[2].error, trace.fences[2].exact, trace.fences[2].ambiguous = 22, True, True
    trace.fences[3].destroy_ns = 50 * MS
    trace.fences[4].init_ns = None
    trace.fences[0].signaler = helper
    trace.fences[1].signaler, trace.fences[1].signaled_in_irq = viewer, True
    # Two of viewer's waits overlap: 10 to 30 and 20 to 40 is 30 ms; the last one is not over.
    wait(trace, viewer, 10 * MS, 30 * MS, trace.fences[0])
    wait(trace, viewer, 20 * MS, 40 * MS, trace.fences[0], trace.fences[1])
    wait(trace, helper, 50 * MS, 55 * MS, trace.fences[5])
    wait(trace, viewer, 90 * MS, None, trace.fences[3])
    wait(trace, viewer, 60 * MS, 61 * MS)
    return trace


def test_timelines():
    """Each number of a recording that was thought out."""
    frames, flips = timeline_statistics(scene())
    assert (frames.driver, frames.timeline, frames.context) == ("sw_sync", "frames", 7)
    assert (frames.count, frames.rate, frames.never, frames.never_destroyed) == (5, 40.0, 2, 1)
    assert (frames.born_before, frames.ambiguous, frames.exact, frames.errors) == (1, 1, 1, {5: 1, 22: 1})
    assert (frames.init.count, frames.init.min_ns, frames.init.p50_ns, frames.init.max_ns) == (
        3,
        2 * MS,
        4 * MS,
        6 * MS,
    )
    assert frames.init.unfinished == 1
    assert (frames.enable.count, frames.enable.p50_ns) == (1, 3 * MS)
    assert (frames.wait.count, frames.wait.max_ns, frames.wait.unfinished) == (3, 20 * MS, 1)
    (waiter,) = frames.waiters
    assert (waiter.thread.comm, waiter.waits, waiter.unfinished) == ("viewer", 3, 1)
    assert (waiter.blocked_ns, waiter.longest_ns) == (40 * MS, 20 * MS)
    assert (flips.count, flips.rate, flips.wait.count, flips.errors) == (1, 10.0, 1, {})


def test_processes():
    """An interrupt in the place of a thread is nothing that the thread did."""
    viewer, game = process_statistics(scene())
    assert (viewer.pid, viewer.name, viewer.tids, viewer.created, viewer.signaled) == (20, "weston", (20,), 0, 0)
    assert (viewer.waits, viewer.unfinished, viewer.blocked_ns, viewer.longest_ns) == (4, 1, 41 * MS, 20 * MS)
    assert viewer.longest.start_ns == 10 * MS
    assert (game.pid, game.name, game.tids, game.created, game.signaled) == (10, "game", (11, 12), 6, 1)
    assert (game.waits, game.blocked_ns) == (1, 5 * MS)


def test_threads_of_a_process_that_is_not_known():
    """Each stands for itself, and is found by its own number."""
    trace = scene()
    for thread in trace.threads.values():
        thread.pid = thread.process = None
    assert [(one.pid, one.name, one.tids) for one in process_statistics(trace)] == [
        (None, "viewer", (20,)),
        (None, "helper", (12,)),
        (None, "maker", (11,)),
    ]
    assert latency(trace, pid=11).count == 3


def test_latency():
    """By timeline, by process, and for what there is nothing of."""
    trace = scene()
    assert latency(trace).count == 4
    assert latency(trace, timeline="frames").max_ns == 6 * MS
    assert latency(trace, driver="vk*").max_ns == MS
    assert latency(trace, "enable", timeline="CRTC*") == Latency(0)
    assert latency(trace, "enable").p50_ns == 3 * MS
    assert latency(trace, "wait", timeline="frames").max_ns == 20 * MS
    assert latency(trace, "wait").count == 5
    assert latency(trace, "wait", comm="viewer").unfinished == 1
    assert latency(trace, pid=10).count == 4
    assert latency(trace, comm="helper").count == latency(trace, comm="game", driver="vkms").count == 1
    assert latency(trace, pid=20) == Latency(0)


def test_latency_of_what_is_not_there():
    """A test with a name that is written wrongly must not pass."""
    trace = scene()
    with pytest.raises(ValueError, match=r"no timeline is 'frmaes'; there are 'sw_sync frames', 'vkms CRTC:crtc-0'"):
        latency(trace, timeline="frmaes")
    with pytest.raises(ValueError, match=r"no timeline is driver 'vkms', 'frames'"):
        latency(trace, driver="vkms", timeline="frames")
    with pytest.raises(ValueError, match=r"no thread is of pid 99; there are 'game 10', 'weston 20'"):
        latency(trace, pid=99)
    with pytest.raises(ValueError, match="no thread is of 'viewr'"):
        latency(trace, comm="viewr")
    with pytest.raises(ValueError, match="there is none"):
        latency(Trace(0, 0), timeline="frames")
    with pytest.raises(ValueError, match="'signal'"):
        latency(trace, "signal")
    assert latency(Trace(0, 0)) == Latency(0)


def test_chosen():
    """Statistics of a part: fences that a process made, and waits of it."""
    trace = scene()
    (frames,) = timeline_statistics(trace, Chosen(trace, pids=[20]))
    assert (frames.timeline, frames.count, frames.wait.count) == ("frames", 0, 3)
    (flips,) = timeline_statistics(trace, Chosen(trace, timelines=["CRTC*"]))
    assert (flips.count, flips.wait.count) == (1, 1)
    assert [one.pid for one in process_statistics(trace, Chosen(trace, drivers=["vkms"]))] == [10]


def test_nothing():
    """No fences; a timeline without one; a recording without a length; one fence."""
    assert timeline_statistics(Trace(5, 5)) == process_statistics(Trace(5, 5)) == []
    assert timeline_statistics(recording(Timeline("a", "b", 1))) == []
    (one,) = timeline_statistics(recording(line("a", "b", [7]), end=0))
    assert (one.rate, one.count, one.init) == (None, 1, Latency(1, 7, 7, 7, 7, 7, ((7, 10, 1),)))


def test_made():
    """What is known of the recording that all of these tests share."""
    frames, flips, merged = timeline_statistics(made(100))
    assert [one.count for one in (frames, flips, merged)] == [100, 100, 100]
    assert [one.never for one in (frames, flips, merged)] == [1, 1, 1]
    assert frames.errors == {5: 1}
    assert flips.init.min_ns == flips.init.max_ns == 2 * MS - 50_000
    assert (merged.wait.count, merged.wait.unfinished, merged.context) == (100, 1, None)
    assert process_statistics(made(100))[0].name == "weston <b>&\"'"
