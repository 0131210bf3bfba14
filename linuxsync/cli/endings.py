"""endings: signals that would end us, kept waiting until what was begun is finished."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["die_of", "signals_held_back", "wait"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def wait(seconds: float, endings: set[signal.Signals]) -> signal.Signals | None:
    """Sleep, unless one of these signals comes, or has come, which is returned."""
    came = signal.sigtimedwait(endings, max(0.0, seconds))
    return None if came is None else signal.Signals(came.si_signo)


@contextmanager
def signals_held_back() -> Iterator[set[signal.Signals]]:
    """Keep what would end us waiting until somebody asks for it, so that what is begun is finished, and probes removed.

    What is ignored, as nohup(1) does with SIGHUP, stays so.
    """
    held = {one for one in ENDING if signal.getsignal(one) != signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_of(number: signal.Signals) -> None:
    """End as the signal would have ended us, so that who has sent it can tell."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
