"""Who waited for a fence, in which system call, and what ended that."""

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest
from children import forked
from clock_words import becomes

from linuxsync import Timeline, trace, wait_any

WAIT = 120.0
# poll, select, epoll_wait, pselect6, ppoll, epoll_pwait and epoll_pwait2 of x86-64.
CALLS = {"7", "23", "232", "270", "271", "281", "441"}


def until_it_waits(task):
    """Return once a thread, of which this is the folder in /proc, sleeps in one of CALLS."""
    becomes(True, lambda: (task / "syscall").read_text().split()[0] in CALLS)


def parent_waits():
    """The same, of who has forked us."""
    until_it_waits(Path(f"/proc/{os.getppid()}"))


def by_poll(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(WAIT * 1000))


def by_select(fd):
    return bool(select.select([fd], [], [], WAIT)[0])


def by_epoll(fd):
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        return bool(epoll.poll(WAIT))


@pytest.fixture
def recorded_wait(timeline, keep):
    """A function that waits for a fence which somebody else signals: the recording, the fence."""

    def record(way, **options):
        def later():
            parent_waits()
            time.sleep(0.03)
            timeline.inc()

        with trace.recording(**options) as recorded:
            fence = keep(timeline.create_fence(1))
            with forked(later) as child:
                before = time.monotonic_ns()
                assert way(fence.fileno())
                after = time.monotonic_ns()
        (one,) = [one for one in recorded.fences if one.name == fence.name]
        assert one.signaler.tid == child
        assert all(before < wait.start_ns < one.signal_ns < wait.end_ns < after for wait in one.waits)
        return recorded, one

    return record


@pytest.mark.parametrize(
    ("way", "calls"),
    [
        (by_poll, {"poll", "ppoll"}),
        (by_select, {"select", "pselect6"}),
        (by_epoll, {"epoll_wait", "epoll_pwait", "epoll_pwait2"}),
    ],
)
def test_system_calls(recorded_wait, way, calls):
    """Of each it shows which fence ended it."""
    recorded, fence = recorded_wait(way, syscalls=True)
    (wait,) = fence.waits
    assert wait.call in calls
    assert wait.woken_by is fence
    assert wait.fences == [fence]
    assert wait.thread.tid == os.getpid()
    assert wait in recorded.waits
    assert wait.duration_ns > 20_000_000
    assert recorded.latency("wait", pid=os.getpid()).max_ns >= wait.duration_ns


def test_not_without_being_asked_for(recorded_wait):
    """System calls take --syscalls."""
    recorded, fence = recorded_wait(by_poll)
    assert fence.waits == recorded.waits == []
    assert not recorded.trace.syscalls


def test_a_time_limit(timeline):
    """Nobody's signal ended that wait."""
    with trace.recording(syscalls=True) as recorded:
        with timeline.create_fence(1) as fence, pytest.raises(TimeoutError):
            fence.wait(0.02)
        timeline.inc()
    (wait,) = recorded.waits
    assert wait.woken_by is None
    assert [one.seqno for one in wait.fences] == [1]
    assert wait.duration_ns > 15_000_000


def test_a_signal(timeline, keep):
    """A signal(7) interrupts it; what goes on after the handler is a wait of its own."""
    fence = keep(timeline.create_fence(1))
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        with trace.recording(syscalls=True) as recorded:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(TimeoutError):
                fence.wait(1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen
    assert all(wait.woken_by is None for wait in recorded.waits)


def test_of_several_the_one_that_signaled(keep):
    """wait_any() polls them all."""
    lines = [keep(Timeline(f"line{number}")) for number in range(5)]
    with trace.recording(syscalls=True) as recorded:
        fences = [keep(line.create_fence(1)) for line in lines]

        def later():
            parent_waits()
            lines[3].inc()

        with forked(later):
            assert wait_any(fences, WAIT) is fences[3]
    (wait,) = [wait for wait in recorded.waits if wait.woken_by is not None]
    assert wait.woken_by.timeline.name == "line3"
    assert [one.timeline.name for one in wait.fences] == [f"line{number}" for number in range(5)]


def test_several_who_wait_for_one(timeline, keep):
    """All are woken by the one signal."""
    with trace.recording(syscalls=True) as recorded:
        fence = keep(timeline.create_fence(1))
        threads = [threading.Thread(target=fence.wait, args=(WAIT,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            until_it_waits(Path(f"/proc/self/task/{thread.native_id}"))
        timeline.inc()
        for thread in threads:
            thread.join()
    (one,) = recorded.fences
    waits = [wait for wait in one.waits if wait.woken_by is one]
    assert {wait.thread.tid for wait in waits} == {thread.native_id for thread in threads}
    assert {wait.thread.pid for wait in waits} == {os.getpid()}


def test_what_else_is_waited_for_is_no_wait(timeline, keep):
    """Pipes, say; also right after a fence has signaled."""
    ours, theirs = os.pipe()
    with trace.recording(syscalls=True) as recorded:
        fence = keep(timeline.create_fence(1))

        def later():
            parent_waits()
            timeline.inc()
            os.write(theirs, b"x")

        with forked(later):
            by_poll(ours)
        assert fence.status == 1
    os.close(ours)
    os.close(theirs)
    assert recorded.waits == []


def test_who_sleeps_beside_interrupts(screen):
    """A process that polls nothing but a pipe, with a time limit, while interrupts signal one flip after the other."""
    ours, theirs = os.pipe()

    def sleep():
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            poll.poll(2)

    with forked(sleep) as sleeper, trace.recording(syscalls=True) as recorded:
        flips = waited = 0
        # On a slow machine some flips are over before anybody can wait for them.
        while flips < 30 or (waited < 25 and flips < 600):
            with screen.commit(screen.fbs[flips % 3]) as out:
                waited += out.status == 0
                out.wait(WAIT)
            flips += 1
    os.close(ours)
    os.close(theirs)
    assert len([fence for fence in recorded.fences if fence.timeline.driver == "vkms"]) == flips
    assert len([wait for wait in recorded.waits if wait.woken_by is not None]) > 20
    assert [wait for wait in recorded.waits if wait.thread.tid == sleeper] == []


def test_a_merged_fence(keep):
    """The wait is for it, and not for what it is made of; an interrupt of a timer's kind ends it."""
    with Timeline("a") as a, Timeline("b") as b, trace.recording(syscalls=True) as recorded:
        both = keep(keep(a.create_fence(1)) | keep(b.create_fence(1)))

        def later():
            parent_waits()
            a.inc()
            time.sleep(0.02)
            b.inc()

        with forked(later):
            both.wait(WAIT)
    (merged,) = [one for one in recorded.fences if one.inputs]
    waits = [wait for wait in recorded.waits if wait.woken_by is not None]
    assert [wait.fences for wait in waits] == [[merged]]
    assert waits[0].woken_by is merged
    assert all(not one.waits for one in merged.inputs)


def test_only_of_some_processes(timeline, keep):
    """What others do is left out; but not that they signal a fence of ours."""
    hear, tell = os.pipe()
    with Timeline("theirs") as theirs:

        def work():
            os.read(hear, 1)
            parent_waits()
            with theirs.create_fence(1):
                theirs.inc()
            timeline.inc()

        with forked(work) as child, trace.recording(pids=[os.getpid()], syscalls=True) as recorded:
            fence = keep(timeline.create_fence(1))
            os.write(tell, b"x")
            fence.wait(WAIT)
    os.close(hear)
    os.close(tell)
    assert [one.timeline.driver for one in recorded.fences] == ["sw_sync"]
    (one,) = recorded.fences
    assert one.name == fence.name
    assert one.signal_ns == fence.timestamp_ns
    assert one.signaler.tid == child
    assert {wait.thread.pid for wait in recorded.waits} == {os.getpid()}


def test_children_of_those_processes(timeline, keep):
    """What they start is recorded as well."""

    def work():
        with timeline.create_fence(7):
            timeline.inc(7)

    with trace.recording(pids=[os.getpid()]) as recorded, forked(work) as child:
        pass
    fences = [one for one in recorded.fences if one.seqno == 7]
    assert [one.creator.tid for one in fences] == [child]
    assert fences[0].signal_ns is not None
