"""A signal every 100 us during waits, and processes that are stopped in them: time limits stay what they were."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from children import forked

from linuxsync import Access, DmaHeap, DrmDevice, Syncobj, Timeline, wait_all, wait_any

# Numbers of poll, ppoll and ioctl (asm/unistd.h).
CALLS = {"x86_64": (7, 271, 16), "aarch64": (73, 29)}
EVERY = 100e-6  # seconds
LIMIT = 1.0  # seconds that each wait is given
LATE = 20.0  # seconds that an emulated and busy machine may be late by; early is never right
ENOUGH = 5  # signals during a wait, of 10,000: an emulated CPU is not that quick


@contextmanager
def signals(every: float = EVERY) -> Iterator[list[int]]:
    """SIGALRM as often as that; its handler counts, and returns."""
    count = [0]

    def handle(*_: object) -> None:
        count[0] += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield count
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def true_or_late(ready: bool) -> None:
    """Raise, as a wait does, where poll says False."""
    if not ready:
        raise TimeoutError


@pytest.fixture
def waits() -> Iterator[dict[str, tuple[Callable[[float], object], Callable[[], None]]]]:
    """Ways to wait, each with what ends it."""
    with ExitStack() as stack:
        keep = stack.enter_context
        line, other = keep(Timeline()), keep(Timeline())
        fence, second = keep(line.create_fence(1)), keep(other.create_fence(1))
        buf = keep(keep(DmaHeap()).alloc(4096))
        buf.import_sync_file(fence, Access.WRITE)
        device = keep(DrmDevice.open(driver="virtio_gpu"))
        syncobj = keep(Syncobj.create(device))
        syncobj.import_sync_file(fence)
        late = keep(Syncobj.create(device))
        yield {
            "SyncFile.wait": (fence.wait, line.inc),
            "wait_all": (lambda limit: wait_all([fence, second], limit), lambda: (line.inc(), other.inc())[0]),
            "wait_any": (lambda limit: wait_any([fence, second], limit), other.inc),
            "DmaBuf.poll": (lambda limit: true_or_late(buf.poll(Access.READ, limit)), line.inc),
            "Syncobj.wait": (lambda limit: syncobj.wait(limit), line.inc),
            "WAIT_FOR_SUBMIT": (lambda limit: late.wait(limit, wait_for_submit=True), late.signal),
        }


STOPPED, BEYOND = 3.0, 0.3  # seconds that a wait is given whose process is stopped, and that it is stopped for beyond
WAITING = {str(number) for number in CALLS[platform.machine()]}
WAITS = ("SyncFile.wait", "wait_all", "wait_any", "DmaBuf.poll", "Syncobj.wait", "WAIT_FOR_SUBMIT")


@pytest.mark.parametrize("name", WAITS)
def test_time_limit_under_signals(name, waits, tally):
    """It ends when its time is up, not before and hardly after, however often it is interrupted."""
    wait, _ = waits[name]
    with signals() as count:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            wait(LIMIT)
        took = time.monotonic() - start
    assert LIMIT <= took < LIMIT + LATE
    assert count[0] > ENOUGH
    tally.operations += 1


@pytest.mark.parametrize("name", WAITS)
def test_end_under_signals(name, waits, tally):
    """And when it is over before that, it returns."""
    wait, end = waits[name]
    timer = threading.Timer(LIMIT, end)
    with signals() as count:
        start = time.monotonic()
        timer.start()
        wait(60.0)
        took = time.monotonic() - start
        timer.join()
    assert LIMIT <= took < LIMIT + LATE
    assert count[0] > ENOUGH
    tally.operations += 1


@pytest.mark.parametrize("name", WAITS)
def test_stopped_in_a_wait(name, waits, tally):
    """A process that is stopped until its time is up finds that, and no time is added; one whose fence came, that."""
    wait, end = waits[name]

    def times_out() -> None:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            wait(STOPPED)
        took = time.monotonic() - start
        assert STOPPED + BEYOND <= took < STOPPED + BEYOND + LATE

    def ends() -> None:
        wait(60.0)

    for work, during in ((times_out, lambda: None), (ends, end)):
        with forked(work) as child:
            wait_until_sleeping(child)
            os.kill(child, signal.SIGSTOP)
            os.waitid(os.P_PID, child, os.WSTOPPED)
            time.sleep(STOPPED + BEYOND)  # since it began to wait it was longer
            during()
            os.kill(child, signal.SIGCONT)
        tally.operations += 1


def wait_until_sleeping(pid: int) -> None:
    """Until a process sleeps in poll(2) or ioctl(2)."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/syscall") as file:
            if file.read().split()[0] in WAITING:
                return
        time.sleep(0.005)
    raise AssertionError(f"{pid} does not sleep")


def test_stopped_for_longer_than_merging(duration, tally):
    """Stopped and continued at random moments while it makes, merges and drops fences, a process loses nothing."""

    def work() -> None:
        until = time.monotonic() + duration
        while time.monotonic() < until:
            with (
                Timeline() as one,
                Timeline() as two,
                one.create_fence(1) as a,
                two.create_fence(1) as b,
                a | b as both,
            ):
                assert not both.poll()
                one.inc()
                two.inc()
                both.wait(10)

    with forked(work) as child:
        until = time.monotonic() + duration
        while time.monotonic() < until:
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.001)
            os.kill(child, signal.SIGCONT)
            time.sleep(0.003)
            tally.operations += 1
