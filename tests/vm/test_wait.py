"""Waiting with poll(2): time limits, signals, threads, and many fences at once. Coroutines are in test_asyncio.py."""

import errno
import fcntl
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from clock_words import after, alarms, handled, lasts
from kernel_words import raw_info, refused

from linuxsync import SyncFile, wait_all, wait_any

WAYS = {
    "wait": lambda fence, timeout: fence.wait(timeout),
    "wait_all": lambda fence, timeout: wait_all([fence], timeout),
    "wait_any": lambda fence, timeout: wait_any([fence], timeout),
}


@pytest.fixture(params=WAYS)
def wait(request):
    """Each of the three functions, for one fence."""
    return WAYS[request.param]


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, 1e-9, 0.001, 0.05, 0.2])
def test_a_wait_is_never_too_short(timeout, wait, fence):
    """An active fence: ETIME, after the time given and not before."""
    with lasts(timeout), refused(errno.ETIME, TimeoutError) as caught:
        wait(fence, timeout)
    assert "had" in str(caught.value) and "signaled" in str(caught.value)


def test_poll_tells_instead_of_raising(timeline, fence):
    """poll() says False after the time given, True when it has signaled."""
    with lasts(0):
        assert fence.poll() is False
    with lasts(0.1):
        assert fence.poll(0.1) is False
    timeline.inc()
    with lasts(0):
        assert [fence.poll(), fence.poll(60), fence.poll(None), fence.poll(timeout=math.inf)] == [True] * 4


@pytest.mark.parametrize("timeout", [0, 60, None, math.inf, 1e300, 4e9, 2**63])
def test_a_signaled_fence_is_not_waited_for(timeout, wait, timeline, fence):
    """Whatever the limit, a wait for what has signaled is over at once."""
    timeline.inc()
    with lasts(0):
        wait(fence, timeout)


@pytest.mark.parametrize("timeout", [None, math.inf, 60, 1e300])
def test_a_signal_from_another_thread_ends_the_wait(timeout, wait, timeline, fence):
    """The GIL is free while somebody waits, so another thread can signal."""
    with lasts(0.1), after(0.1, timeline.inc):
        wait(fence, timeout)
    assert raw_info(fence.fileno())[0].status == 1


def test_closing_the_timeline_ends_the_wait(wait, timeline, fence):
    """A fence that fails has signaled: the wait is over, without an exception."""
    with after(0.05, timeline.close):
        wait(fence, 60)
    assert fence.error == errno.ENOENT


@pytest.mark.parametrize("timeout", [-1, -1e-9, -math.inf, math.nan, -(2**70)])
def test_times_that_are_none(timeout, wait, timeline, fence):
    """Negative or not a number: ValueError, for active and signaled fences alike."""
    for _ in range(2):
        with pytest.raises(ValueError, match="timeout"):
            wait(fence, timeout)
        with pytest.raises(ValueError, match="timeout"):
            fence.poll(timeout)
        timeline.inc()


@pytest.mark.parametrize("timeout", ["1", b"1", [], 1j, object()])
def test_times_of_another_type(timeout, wait, fence):
    """What is no number is a TypeError."""
    with pytest.raises(TypeError):
        wait(fence, timeout)
    with pytest.raises(TypeError):
        fence.poll(timeout)


def test_an_interrupted_wait_keeps_its_deadline(wait, fence):
    """A storm of signals neither ends a wait early nor makes it longer."""
    seen = []

    def handler(*_):
        seen.append(None)
        assert len(seen) < 2000, "every signal makes the wait longer"

    with alarms(0.005, handler), lasts(1), refused(errno.ETIME, TimeoutError):
        wait(fence, 1)
    assert len(seen) >= 3


def test_a_poll_that_is_always_interrupted_keeps_its_deadline():
    """Signals may come faster than poll(2) ends: once time is over nothing is asked again. strace has it say EINTR."""
    code = "from linuxsync import *\nwith Timeline() as t, t.create_fence(1) as f: print(f.poll(), f.poll(0.2))"
    command = ["strace", "-qqq", "-e", "trace=none", "-e", "inject=?poll,ppoll:error=EINTR", sys.executable, "-c", code]
    # Not here, where Python would find the checkout's linuxsync before one of another build.
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("False False\n", 0), done.stderr


def test_an_interrupted_wait_still_sees_the_signal(wait, timeline, fence):
    """A storm of signals does not hide the fence's."""
    with alarms(0.005, lambda *_: None), lasts(0.2), after(0.2, timeline.inc):
        wait(fence, None)
    assert fence.status == 1


def test_a_handler_may_signal_the_fence(wait, timeline, fence):
    """A handler runs in the middle of a wait, in Python, and may do what it likes."""
    with alarms(0.05, lambda *_: timeline.inc()):
        wait(fence, 60)
    assert timeline.value >= 1


@pytest.mark.parametrize(
    "mine",
    [
        TimeoutError("mine"),
        TimeoutError(errno.ETIME, "mine"),
        InterruptedError(errno.EINTR, "mine"),
        BlockingIOError(errno.EAGAIN, "mine"),
        OSError(errno.EBADF, "mine"),
        KeyError("mine"),
        SystemExit(3),
    ],
    ids=repr,
)
def test_what_a_handler_raises_is_let_through(mine, wait, timeline, fence):
    """An exception of the handler's own ends the wait as it is, whatever it looks like."""

    def handler(*_):
        raise mine

    with pytest.raises(type(mine)) as caught, handled(signal.SIGALRM, handler):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        wait(fence, 60)
    assert caught.value is mine
    timeline.inc()
    wait(fence, 0)


def test_keyboard_interrupt(wait, timeline, fence):
    """Ctrl-C ends a wait; the fence is as good as before."""
    with handled(signal.SIGINT, signal.default_int_handler):
        main = threading.main_thread().ident
        # In this order: it may come before the wait has begun, and outside of raises() it would end all tests.
        with pytest.raises(KeyboardInterrupt), after(0.05, lambda: signal.pthread_kill(main, signal.SIGINT)):
            wait(fence, 60)
    assert fence.status == 0
    timeline.inc()
    wait(fence, 0)


def test_sixty_four_threads_on_one_fence(timeline, fence):
    """All threads wait for one object; one step wakes every one of them."""
    waiting, woken = threading.Semaphore(0), []

    def waiter():
        waiting.release()
        fence.wait(60)
        woken.append(fence.status)

    threads = [threading.Thread(target=waiter) for _ in range(64)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=60)
    time.sleep(0.1)
    assert woken == []
    timeline.inc()
    for thread in threads:
        thread.join(60)
    assert woken == [1] * 64


def test_threads_that_use_one_fence_in_every_way(timeline, fence):
    """Many threads ask, merge, duplicate and poll one object at once; none is disturbed."""
    failures = []

    def worker(number):
        try:
            for _ in range(50):
                with fence.dup() as twin, twin.merge(fence, name=f"w{number}") as merged:
                    assert merged.name == f"w{number}"
                    assert merged.fences == fence.info().fences
                    assert not fence.poll()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert fence.status == 0


def test_wait_all_needs_every_fence(timeline, keep):
    """wait_all returns when the last one has signaled, and names the first that is missing before that."""
    fences = [keep(timeline.create_fence(value)) for value in (1, 4, 2, 3)]
    for step, missing in enumerate([0, 1, 1, 1]):
        with refused(errno.ETIME, TimeoutError) as caught:
            wait_all(fences, 0.01)
        assert repr(fences[missing]) in str(caught.value)
        assert timeline.value == step
        timeline.inc()
    assert wait_all(fences, 0) is None
    assert wait_all(iter(fences)) is None
    assert wait_all([]) is None
    assert wait_all([], 60) is None


def test_wait_all_has_one_limit_for_all(keep, timeline):
    """Fences that trickle in do not add up their times."""
    fences = [keep(timeline.create_fence(value)) for value in range(1, 50)]
    with alarms(0.02, lambda *_: timeline.inc()), lasts(0.3), refused(errno.ETIME):
        wait_all(fences, 0.3)
    assert timeline.value >= 1


def test_wait_all_while_they_come_out_of_order(keep, timeline):
    """It does not matter in which order they signal."""
    fences = [keep(timeline.create_fence(value)) for value in (5, 1, 4, 2, 3)]
    with alarms(0.02, lambda *_: timeline.inc()):
        wait_all(fences, 60)
    assert [fence.status for fence in fences] == [1] * 5


def test_wait_any_takes_the_first(timeline, keep):
    """wait_any gives back the object itself, the first in order of those that have signaled."""
    fences = [keep(timeline.create_fence(value)) for value in (3, 2, 1)]
    with refused(errno.ETIME, TimeoutError):
        wait_any(fences, 0.01)
    with after(0.05, timeline.inc):
        assert wait_any(fences, 60) is fences[2]
    timeline.inc()
    assert wait_any(fences) is fences[1]
    timeline.inc()
    assert wait_any(iter(fences), 0) is fences[0]


@pytest.mark.parametrize("timeout", [0, 60, None])
def test_wait_any_of_nothing(timeout):
    """Nothing can't signal: ValueError, instead of a wait that never ends."""
    with pytest.raises(ValueError, match="at least one"):
        wait_any([], timeout)


def test_one_fence_many_times(timeline, fence):
    """The same object may stand in the list more than once."""
    with refused(errno.ETIME):
        wait_all([fence] * 3, 0)
    timeline.inc()
    wait_all([fence] * 3, 0)
    assert wait_any([fence] * 3, 0) is fence


@pytest.mark.parametrize("thing", [None, 0, "fence", object()])
def test_other_things_than_fences(thing, fence):
    """Anything else in the list is a TypeError, before the wait."""
    for function in (wait_all, wait_any):
        with lasts(0), pytest.raises(TypeError):
            function([fence, thing], 60)
        with pytest.raises(TypeError):
            function(fence)


def test_a_timeline_is_no_fence(timeline, fence):
    """poll(2) always calls a sw_sync file ready, so a timeline in the list is refused and not taken for a fence."""
    for function in (wait_all, wait_any):
        with pytest.raises(TypeError, match="can't wait for a Timeline"):
            function([fence, timeline], 60)
        with pytest.raises(TypeError, match="can't wait for a Timeline"):
            function([timeline, fence], 60)


def test_closed_fences(timeline, fence):
    """A closed object in the list is a ValueError, before the wait."""
    other = fence.dup()
    other.close()
    for function in (wait_all, wait_any):
        with lasts(0), pytest.raises(ValueError, match="closed SyncFile"):
            function([fence, other], 60)


def test_a_descriptor_closed_behind_our_back(wait, timeline, fence, keep):
    """EBADF, not an endless wait, when somebody has closed the number itself."""
    twin = fence.dup()
    os.close(twin.fileno())
    for attempt in (lambda: wait(twin, None), lambda: twin.poll(), twin.info, twin.dup, lambda: twin | twin):
        with refused(errno.EBADF):
            attempt()
    for function in (wait_all, wait_any):
        with refused(errno.EBADF):
            function([twin, fence], None)
    with refused(errno.ENOENT):
        fence.merge(twin)
    twin.detach()
    assert keep(fence.dup()).status == 0


def test_descriptors_beyond_1024(timeline, fence, keep, wait, many_descriptors):
    """select(2) ends at 1024; nothing here does."""
    high = keep(SyncFile(fcntl.fcntl(fence.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000)))
    assert high.fileno() >= 2000
    with refused(errno.ETIME):
        wait(high, 0.01)
    assert wait_any([high, keep(timeline.create_fence(0))]) is not high
    with after(0.05, timeline.inc):
        wait(high, 60)
    assert high.poll()
    assert high.info() == fence.info()


def test_a_thousand_fences(timeline, keep, many_descriptors):
    """wait_all and wait_any of 1,000, of which the last one alone is late."""
    fences = [keep(timeline.create_fence(value)) for value in range(1, 1001)]
    timeline.inc(999)
    with refused(errno.ETIME) as caught:
        wait_all(fences, 0.01)
    assert repr(fences[-1]) in str(caught.value)
    assert wait_any(fences) is fences[0]
    with after(0.05, timeline.inc):
        wait_all(fences, 60)


def test_more_fences_than_poll_takes(timeline, fence):
    """poll(2) refuses more entries than RLIMIT_NOFILE: EINVAL, as the kernel says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        for function in (wait_all, wait_any):
            with refused(errno.EINVAL):
                function([fence] * 65, 0)
            with refused(errno.ETIME):
                function([fence] * 64, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
