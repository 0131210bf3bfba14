"""Waiting for syncobjs: every combination of flags and states against one rule, and what may happen meanwhile."""

import errno
import itertools
import math
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from clock_words import after, alarms, becomes, handled, lasts
from kernel_words import refused
from syncobj_words import ALL, AVAILABLE, DEADLINE, FOR_SUBMIT, ask, handles, points, syncobj_device

from linuxsync import Syncobj

EMPTY, SUBMITTED, SIGNALED = "unsubmitted", "submitted", "signaled"
STATES = [EMPTY, SUBMITTED, SIGNALED]
KINDS = ["binary", "point 0", "point 5", "point 5 after 3"]
POINT = {"binary": None, "point 0": 0, "point 5": 5, "point 5 after 3": 5}


def expected(states, flags):
    """The rule: an errno, or the index of the first that is there.

    Who waits for all needs every one, who does not needs one. A syncobj is there once its fence has signaled; with
    WAIT_AVAILABLE, once it has a fence. As long as any has no fence the wait is EINVAL from the start, even if another
    is there, unless WAIT_FOR_SUBMIT or WAIT_AVAILABLE allow that; what is not there by the time limit is ETIME.
    """
    if EMPTY in states and not flags & (FOR_SUBMIT | AVAILABLE):
        return errno.EINVAL
    there = [state == SIGNALED or (state == SUBMITTED and bool(flags & AVAILABLE)) for state in states]
    if all(there) if flags & ALL else any(there):
        return ("first", there.index(True))
    return errno.ETIME


@pytest.fixture
def in_state(new, timeline):
    """A function that makes a syncobj of a kind, in a state."""

    def make(kind, state):
        syncobj = new()
        point = POINT[kind] or 0
        if kind == "point 5 after 3":
            syncobj.signal(3)
        if state != EMPTY:
            with timeline.create_fence(0 if state == SIGNALED else 1) as fence:
                syncobj.import_sync_file(fence, point)
        return syncobj

    return make


def options_of(flags):
    """The arguments for a set of flags, other than ALL."""
    return {
        "wait_for_submit": bool(flags & FOR_SUBMIT),
        "wait_available": bool(flags & AVAILABLE),
        "deadline_ns": 12345 if flags & DEADLINE else None,
    }


def kernel_says(gpu, syncobjs, wanted, flags):
    """The answer of the bare request, with nothing of linuxsync in between."""
    which = handles(*(syncobj.handle for syncobj in syncobjs))
    if wanted is None:
        result, reply = ask(gpu.fileno(), "WAIT", which.at, 0, len(syncobjs), flags)
        return -result if result else ("first", reply[4])
    at = points(*wanted)
    result, reply = ask(gpu.fileno(), "TIMELINE_WAIT", which.at, at.at, 0, len(syncobjs), flags)
    return -result if result else ("first", reply[5])


def comes_to(outcome):
    """The block ends as the rule says: with an errno, or without."""
    return nullcontext() if isinstance(outcome, tuple) else refused(outcome)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_on_one(kind, state, gpu, in_state):
    """One syncobj, every combination of flags: wait and wait_many do what the rule says, as the kernel does."""
    syncobj = in_state(kind, state)
    wanted = None if kind == "binary" else [POINT[kind]]
    for flags in range(16):
        outcome = expected([state], flags)
        if kind == "binary" and flags & AVAILABLE:
            outcome = errno.EINVAL  # that request does not know the flag
        assert kernel_says(gpu, [syncobj], wanted, flags) == outcome
        for timeout in (0, 0.001):
            with comes_to(outcome):
                syncobj.wait(timeout, POINT[kind], **options_of(flags))
            with comes_to(outcome):
                found = Syncobj.wait_many([syncobj], wanted, timeout, bool(flags & ALL), **options_of(flags))
                assert found == (None if flags & ALL else 0)


PAIRS = [("binary", "binary"), ("point 0", "point 5"), ("point 5", "point 5 after 3")]


@pytest.mark.parametrize("states", list(itertools.product(STATES, STATES)), ids="-".join)
@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_every_flag_on_two(kinds, states, gpu, in_state):
    """Two syncobjs in every pair of states, every combination of flags."""
    syncobjs = [in_state(kind, state) for kind, state in zip(kinds, states, strict=True)]
    wanted = None if kinds[0] == "binary" else [POINT[kind] for kind in kinds]
    for flags in range(16):
        outcome = expected(states, flags)
        if wanted is None and flags & AVAILABLE:
            outcome = errno.EINVAL
        answer = kernel_says(gpu, syncobjs, wanted, flags)
        # Which was the first means nothing for those who wait for all.
        assert answer[0] == outcome[0] if isinstance(outcome, tuple) and flags & ALL else answer == outcome
        with comes_to(outcome):
            found = Syncobj.wait_many(syncobjs, wanted, 0, bool(flags & ALL), **options_of(flags))
            assert found == (None if flags & ALL else outcome[1])


WAYS = {
    "wait": lambda syncobj, timeout, **options: syncobj.wait(timeout, **options),
    "wait for the point": lambda syncobj, timeout, **options: syncobj.wait(timeout, 0, **options),
    "wait for all": lambda syncobj, timeout, **options: Syncobj.wait_many([syncobj] * 3, None, timeout, **options),
    "wait for any": lambda syncobj, timeout, **options: Syncobj.wait_many([syncobj], [0], timeout, False, **options),
}


@pytest.fixture(params=WAYS)
def wait(request):
    """Each of the ways to wait for one syncobj."""
    return WAYS[request.param]


@pytest.fixture
def busy(in_state):
    """A binary syncobj whose fence signals when `timeline` is advanced."""
    return in_state("binary", SUBMITTED)


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, 1e-9, 0.001, 0.05, 0.2])
def test_never_too_short(timeout, wait, busy):
    """An active fence: ETIME, after the time given and not before; the message names what and how long."""
    with lasts(timeout), refused(errno.ETIME, TimeoutError) as caught:
        wait(busy, timeout)
    assert repr(busy) in str(caught.value)
    assert f"had not signaled after {timeout} s" in str(caught.value)


@pytest.mark.parametrize("timeout", [None, math.inf, 60, 1e300, 2**63])
def test_a_signal_ends_it(timeout, wait, busy, timeline):
    """Another thread signals: the GIL is free meanwhile. What has signaled is not waited for."""
    with lasts(0.05), after(0.05, timeline.inc):
        wait(busy, timeout)
    with lasts(0):
        wait(busy, timeout)
        wait(busy, 0)


@pytest.mark.parametrize("timeout", [-1, -1e-9, -math.inf, math.nan])
def test_times_that_are_none(timeout, wait, busy, timeline):
    """Negative or not a number: ValueError, whether it has signaled or not."""
    for _ in range(2):
        with pytest.raises(ValueError, match="timeout"):
            wait(busy, timeout)
        timeline.inc()
    for other in ("1", [], 1j):
        with pytest.raises(TypeError):
            wait(busy, other)


def test_a_failed_fence_ends_it(wait, busy, timeline):
    """A fence that fails has signaled: no exception, here."""
    with after(0.05, timeline.close):
        wait(busy, 60)


def test_a_storm_of_signals(wait, busy, new, timeline):
    """It makes no wait longer, ends none early and hides no fence; not while there is no fence yet, either."""
    seen = []

    def handler(*_):
        seen.append(None)
        assert len(seen) < 2000, "every signal makes the wait longer"

    empty = new()
    with alarms(0.005, handler):
        with lasts(0.3), refused(errno.ETIME, TimeoutError):
            wait(busy, 0.3)
        with lasts(0.3), refused(errno.ETIME, TimeoutError):
            wait(empty, 0.3, wait_for_submit=True)
        assert len(seen) >= 6
        with after(0.1, timeline.inc):
            wait(busy, None)


@pytest.mark.parametrize(
    "mine",
    [
        TimeoutError(errno.ETIME, "mine"),
        InterruptedError(errno.EINTR, "mine"),
        OSError(errno.EINVAL, "mine"),
    ],
    ids=repr,
)
def test_what_a_handler_raises_is_let_through(mine, wait, busy, timeline):
    """An exception of the handler's own ends the wait as it is, whatever it looks like."""

    def handler(*_):
        raise mine

    with pytest.raises(type(mine)) as caught, handled(signal.SIGALRM, handler):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        wait(busy, 60)
    assert caught.value is mine
    timeline.inc()
    wait(busy, 0)


def test_keyboard_interrupt(wait, busy):
    """Ctrl-C ends a wait."""
    with handled(signal.SIGINT, signal.default_int_handler):
        main = threading.main_thread().ident
        with pytest.raises(KeyboardInterrupt), after(0.05, lambda: signal.pthread_kill(main, signal.SIGINT)):
            wait(busy, 60)


@contextmanager
def waiting(*arguments, **options):
    """A thread that waits as told; gives a function that says whether it is through, and joins at the end."""
    through, failures = threading.Event(), []

    def run():
        try:
            Syncobj.wait_many(*arguments, timeout=60, **options)
        except BaseException as error:
            failures.append(error)
        through.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        # Asleep in ioctl(2); before, it may wait for a lock of Python's.
        place = Path(f"/proc/self/task/{thread.native_id}/syscall")
        becomes("16", lambda: place.read_text().split()[0])
        yield lambda within: through.wait(within)
        assert through.wait(60)
    finally:
        thread.join(60)
    assert failures == []


@pytest.mark.parametrize("wanted", [None, [0], [4]], ids=str)
def test_wait_before_submit(wanted, new, timeline, keep):
    """Who waits for submission wakes when the fence signals; with wait_available already when it arrives."""
    syncobj = new()
    fence = keep(timeline.create_fence(1))
    with waiting([syncobj], wanted, wait_for_submit=True) as is_through:
        if wanted is None:
            syncobj.import_sync_file(fence)
            assert not is_through(0.1)
        else:
            with waiting([syncobj], wanted, wait_available=True) as is_available:
                assert not is_available(0.05)
                syncobj.import_sync_file(fence, wanted[0])
                assert is_available(60)
            assert not is_through(0.1)
        timeline.inc()


def test_the_first_fence_counts(new, timeline, keep):
    """A wait that has seen a fence goes on waiting for that one, whatever is put in its place or taken away."""
    syncobj = new()
    first, second = keep(timeline.create_fence(1)), keep(timeline.create_fence(2))
    with waiting([syncobj], wait_for_submit=True) as is_through:
        syncobj.import_sync_file(first)
        syncobj.reset()
        syncobj.import_sync_file(second)
        timeline.inc()
        assert is_through(60)
    assert second.status == 0
    with waiting([syncobj]) as is_through:
        syncobj.signal()
        assert not is_through(0.1)
        timeline.inc()


def test_any_and_all_while_they_trickle_in(new, timeline):
    """Any: the index of the first that signals. All: not before the last."""
    syncobjs = [new() for _ in range(4)]
    for syncobj, value in zip(syncobjs, (4, 2, 3, 1), strict=True):
        with timeline.create_fence(value) as fence:
            syncobj.import_sync_file(fence)
    with after(0.05, timeline.inc):
        assert Syncobj.wait_many(syncobjs, timeout=60, all=False) == 3
    with waiting(syncobjs) as is_through:
        timeline.inc(2)
        assert not is_through(0.1)
        assert Syncobj.wait_many(syncobjs, timeout=60, all=False) == 1
        timeline.inc()
    assert Syncobj.wait_many(syncobjs, timeout=60, all=False) == 0


def test_wait_many_arguments(gpu, new, busy):
    """No objects, another number of points, other things and other devices are refused before the kernel is asked."""
    with pytest.raises(ValueError, match="at least one"):
        Syncobj.wait_many([])
    with pytest.raises(ValueError, match="at least one"):
        Syncobj.wait_many(iter(()), all=False, timeout=60)
    for wanted in ([], [1, 2]):
        with pytest.raises(ValueError, match="1 syncobjs need 1 points"):
            Syncobj.wait_many([busy], wanted)
    for bad in (-1, 2**64):
        for attempt in (lambda p: Syncobj.wait_many([busy], [p]), lambda p: busy.wait(point=p)):
            with pytest.raises(ValueError, match="point"):
                attempt(bad)
        with pytest.raises(ValueError, match="deadline_ns"):
            busy.wait(deadline_ns=bad)
    for bad in ("1", 1.5, None):
        with pytest.raises(TypeError):
            Syncobj.wait_many([busy], [bad])
    for bad in (None, 1, object()):
        with pytest.raises(TypeError):
            Syncobj.wait_many([busy, bad])
    with syncobj_device() as other, Syncobj.create(other) as foreign:
        with pytest.raises(ValueError, match="another device"):
            Syncobj.wait_many([busy, foreign])
        with pytest.raises(ValueError, match="another device"):
            busy.transfer(foreign, 0, 0)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 256, 1000])
def test_many(count, new, timeline):
    """Any number of them, as a list or anything else that can be gone through, binary or with points."""
    syncobjs = [new() for _ in range(count)]
    with timeline.create_fence(1) as fence:
        for point, syncobj in enumerate(syncobjs, 1):
            syncobj.signal(point)
        syncobjs[-1].import_sync_file(fence, count + 5)
    wanted = [*range(1, count), count + 5]
    with refused(errno.ETIME) as caught:
        Syncobj.wait_many(syncobjs, wanted, 0.01)
    assert f"all of {count} syncobjs" in str(caught.value)
    if count > 1:
        assert Syncobj.wait_many(iter(syncobjs), iter(wanted), 0, all=False) == 0
        assert Syncobj.wait_many(syncobjs[::-1], wanted[::-1], 0, all=False) == 1
    timeline.inc()
    assert Syncobj.wait_many(tuple(syncobjs), wanted, 0) is None
    assert Syncobj.wait_many(syncobjs, timeout=0) is None
    assert list(Syncobj.query_many(syncobjs)) == wanted


def test_threads_on_one(busy, timeline):
    """Thirty-two threads wait for one syncobj; all of them wake."""
    woken = []
    threads = [threading.Thread(target=lambda: woken.append(busy.wait(60))) for _ in range(32)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert woken == []
    timeline.inc()
    for thread in threads:
        thread.join(60)
    assert woken == [None] * 32


def test_the_deadline_reaches_the_fence(new, timeline, keep):
    """A hint to whoever is to signal; it changes nothing about the wait itself."""
    syncobj, other = new(), new()
    fence, second = keep(timeline.create_fence(1)), keep(timeline.create_fence(2))
    syncobj.import_sync_file(fence)
    other.import_sync_file(second, 3)
    with refused(errno.ETIME):
        syncobj.wait(0, deadline_ns=777)
    assert timeline.deadline_ns(fence) == 777
    with refused(errno.ETIME):
        Syncobj.wait_many([syncobj, other], [0, 3], 0.001, deadline_ns=555)
    assert [timeline.deadline_ns(fence), timeline.deadline_ns(second)] == [555, 555]


def test_available_needs_a_point(busy):
    """The request for binary syncobjs has no such flag: EINVAL, and the message says what to do instead."""
    with refused(errno.EINVAL) as caught:
        busy.wait(0, wait_available=True)
    assert "needs a point" in str(caught.value)
    busy.wait(0, point=0, wait_available=True)
