"""What ddi.strict() remembers of a handle: who has used its memory since the last sync, and where in the source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .sync_file import SyncFile

__all__ = ["CoherenceError", "Watch", "strict"]

_PACKAGE = str(Path(__file__).parent) + "/"

on = 0  # how many strict() blocks are open


class CoherenceError(RuntimeError):
    """Under ``strict()``: somebody used bytes that the other side has changed since the last sync, or still changes."""


@contextmanager
def strict() -> Iterator[None]:
    """While the block runs, have every handle check who uses its memory when; CoherenceError says who did it wrong.

    What is wrong: the CPU reads or writes after the device has written and before FORCPU, or while the device is at it;
    the device is given work after the CPU has written and before FORDEV; FORCPU comes before the device has ended, or
    on top of what the CPU has written, which it would throw away; unbind, which is a FORCPU, likewise. The message has
    both places in the source.

    It sees the CPU through ``DmaHandle.memory``, and the device through jobs on attachments of a handle
    (``FenceDevice.attach``), or where a program says ``device_reads`` and ``device_writes``. All of a handle is one to
    it, as it is to the kernel: a sync of any range syncs the whole buffer.

    Threads: for all of them.
    """
    global on
    on += 1
    try:
        yield
    finally:
        on -= 1


class Use(NamedTuple):
    """Work of the device on the memory."""

    place: str
    writes: bool
    fence: SyncFile  # ours


class Watch:
    """What is known of one handle's memory. It forgets at each sync, and raises only while ``strict()`` is on."""

    __slots__ = ("dirty", "fetches", "stale", "uses")

    def __init__(self, fetches: bool) -> None:
        self.fetches = fetches  # whether FORCPU brings anything, by the direction
        self.dirty: str | None = None  # where the CPU has written since FORDEV
        self.stale: str | None = None  # where the device was given work that writes, since FORCPU
        self.uses: list[Use] = []

    def cpu(self, writes: bool) -> None:
        """Check an access of the CPU, and remember one that writes."""
        did = "wrote" if writes else "read"
        if (use := self._under_way(any_use=writes)) is not None:
            does = "writes" if use.writes else "reads"
            raise CoherenceError(f"the CPU {did} at {place()} while the device {does}: work given to it at {use.place}")
        if self.stale is not None:
            over = "over " if writes else ""
            raise CoherenceError(
                f"the CPU {did} at {place()} {over}what the device wrote at {self.stale}: no FORCPU since"
            )
        if writes:
            self.dirty = place()

    def device(self, writes: bool, fence: SyncFile | None) -> None:
        """Check that the device may be given work, and remember that until its fence, if there is one, signals."""
        if self.dirty is not None:
            over = "writes over" if writes else "reads"
            raise CoherenceError(
                f"the device {over} what the CPU wrote at {self.dirty}: work given to it at {place()}, no FORDEV since"
            )
        if writes:
            self.stale = place()
        if fence is not None:
            self.uses.append(Use(place(), writes, fence.dup()))

    def published(self) -> None:
        """FORDEV was done."""
        self.dirty = None

    def fetching(self) -> None:
        """FORCPU is to be done: it may lose nothing that the CPU has written, and the device must have ended."""
        if not on:
            return
        if self.dirty is not None and self.fetches:
            raise CoherenceError(f"FORCPU at {place()} throws away what the CPU wrote at {self.dirty}")
        if (use := self._under_way()) is not None:
            raise CoherenceError(
                f"FORCPU at {place()}, but the device has not ended the work given to it at {use.place}"
            )

    def fetched(self) -> None:
        """FORCPU was done. Where it brings nothing, what the CPU has written is still there and unpublished."""
        self.stale = None
        if self.fetches:
            self.dirty = None

    def close(self) -> None:
        """Let go of the fences."""
        while self.uses:
            self.uses.pop().fence.close()

    def _under_way(self, any_use: bool = False) -> Use | None:
        """The first work of the device that has not ended, of that which writes or of any; forgets what has ended."""
        left = []
        for use in self.uses:
            if use.fence.poll(0):
                use.fence.close()
            else:
                left.append(use)
        self.uses = left
        return next((use for use in left if any_use or use.writes), None)


def place() -> str:
    """Where in the source this package was called from."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
