"""Waiting: poll(2) for threads, the event loop for coroutines, one absolute deadline for both. Nothing else waits."""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, TypeVar

from ._fd import OwnedFd
from ._native.wait import seconds_of, wait_all, wait_any

if TYPE_CHECKING:
    import asyncio

__all__ = ["as_readable", "readable", "seconds_of", "wait_all", "wait_any"]

Owner = TypeVar("Owner", bound=OwnedFd)


def _set_done(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _time_out(done: asyncio.Future[None], missed: str) -> None:
    if not done.done():
        done.set_exception(TimeoutError(errno.ETIME, missed))


async def readable(owner: OwnedFd, timeout: float | None, what: str = "signaled") -> None:
    """Return once ``owner`` is readable; TimeoutError(ETIME) after ``timeout`` seconds, None for never.

    Args:
        what: that this means, for the message.
    """
    import asyncio  # takes as long as all of linuxsync: who awaits something has it already

    seconds = seconds_of(timeout)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    # A loop knows one reader for each descriptor number: a second waiter would replace the first, and a close by
    # somebody else would leave it waiting for whatever the number names next. So each waiter watches its own duplicate.
    with owner.dup() as own:
        timer = None
        try:
            # First, because a reader that is left behind spoils the loop for whatever gets the number next.
            if seconds != math.inf:
                timer = loop.call_later(seconds, _time_out, done, f"{owner!r} had not {what} after {seconds} s")
            loop.add_reader(own.fileno(), _set_done, done)
            await done
        finally:
            loop.remove_reader(own.fileno())
            if timer is not None:
                timer.cancel()


async def as_readable(owners: Iterable[Owner], kind: type[OwnedFd]) -> AsyncIterator[Owner]:
    """Yield each of ``owners``, which must be of one ``kind``, as it becomes readable."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[int] = asyncio.Queue()
    waiting: dict[int, tuple[Owner, Owner]] = {}

    def arrived(number: int) -> None:
        loop.remove_reader(number)
        ready.put_nowait(number)

    try:
        for owner in owners:
            if not isinstance(owner, kind):
                raise TypeError(f"can't wait for a {type(owner).__name__}")
            own = owner.dup()
            waiting[own.fileno()] = own, owner
            loop.add_reader(own.fileno(), arrived, own.fileno())
        while waiting:
            own, owner = waiting.pop(await ready.get())
            own.close()
            yield owner
    finally:
        for own, _ in waiting.values():
            loop.remove_reader(own.fileno())
            own.close()
