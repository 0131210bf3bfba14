"""Time and signals: how long a block takes, and what happens in the middle of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# How late a wait may end on a machine that does other things too. It may never end early.
SLACK = 15.0


@contextmanager
def lasts(least: float, most: float | None = None) -> Iterator[None]:
    """The block takes at least that many seconds."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert least <= took < (least if most is None else most) + SLACK


def becomes(wanted: object, look: Callable[[], object], within: float = 120.0) -> None:
    """Wait until `look` sees what is wanted."""
    deadline = time.monotonic() + within
    while (seen := look()) != wanted:
        assert time.monotonic() < deadline, f"still {seen!r}"
        time.sleep(0.001)


@contextmanager
def handled(number: int, handler: Callable[..., Any]) -> Iterator[None]:
    """Have Python's handler for a signal."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def alarms(every: float, handler: Callable[..., Any]) -> Iterator[None]:
    """SIGALRM again and again."""
    with handled(signal.SIGALRM, handler):
        signal.setitimer(signal.ITIMER_REAL, every, every)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def after(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Have `action` done by another thread."""
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def alarm(seconds: float, handler: Callable[[], object], restart: bool = False) -> Iterator[None]:
    """SIGALRM once, for which a system call is interrupted with EINTR, or begun anew by the kernel (SA_RESTART)."""
    with handled(signal.SIGALRM, lambda *_: handler()):
        signal.siginterrupt(signal.SIGALRM, not restart)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
