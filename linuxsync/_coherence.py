"""What ddi.strict() remembers of a buffer: who has used which bytes since the last sync, and where in the source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .sync_file import SyncFile

__all__ = ["CoherenceError", "Watch", "strict"]

_PACKAGE = str(Path(__file__).parent) + "/"

on = 0  # how many strict() blocks are open
watches: dict[int, Watch] = {}  # by the buffer's inode number: what one handle syncs, the others' views have too


class CoherenceError(RuntimeError):
    """Under ``strict()``: somebody used bytes that the other side has changed since the last sync, or still changes."""


@contextmanager
def strict() -> Iterator[None]:
    """While the block runs, have every handle check who uses its memory when; CoherenceError says who did it wrong.

    What is wrong:

    - the CPU reads or writes what the device has written, before FORCPU;
    - the device is given work on what the CPU has written, before FORDEV;
    - the CPU writes what the device still reads, or touches what it still writes, or FORCPU comes before it has ended;
    - a sync throws away what one side has written: FORCPU and unbind what the CPU has, FORDEV and bind what the device
      has, anywhere in the buffer, for the kernel syncs all of it. Closing an attachment is a FORCPU in this respect.

    The message has both places in the source. It sees the CPU through ``DmaHandle.memory``, and the device through jobs
    on attachments of a handle (``FenceDevice.attach``), or where a program says ``device_reads`` and ``device_writes``;
    a ``DmaBuf.cpu_access`` it does not see. All handles of one buffer are seen together.

    Threads: for all of them.
    """
    global on
    on += 1
    try:
        yield
    finally:
        on -= 1


@dataclass(slots=True)
class Span:
    """Bytes of a buffer, from ``start`` to before ``end``, that were used at ``place``."""

    start: int
    end: int
    place: str

    def meets(self, start: int, end: int) -> bool:
        """Whether the two have a byte in common."""
        return self.start < end and start < self.end


@dataclass(slots=True, eq=False)
class Use(Span):
    """Work of the device. With ``fence``, which is ours, it is known when it ends; without one it has ended."""

    writes: bool
    fence: SyncFile | None

    def under_way(self) -> bool:
        """Whether it has not ended."""
        if self.fence is None:
            return False
        if not self.fence.poll(0):
            return True
        self.writes = self.writes and self.fence.error is None  # what failed has left the memory as it was
        self.close()
        return False

    def close(self) -> None:
        """Let go of the fence."""
        fence, self.fence = self.fence, None  # first, for a signal's handler may raise in between
        if fence is not None:
            fence.close()


class Watch:
    """What is known of one buffer's memory, in bytes of the buffer. It raises only while ``strict()`` is on."""

    __slots__ = ("dirty", "ended", "uses")

    def __init__(self) -> None:
        self.dirty: list[Span] = []  # what the CPU has written since FORDEV
        self.uses: list[Use] = []  # work of the device: what is under way, and what has written since FORCPU
        self.ended: list[Use] = []  # of those, what FORCPU is about to fetch

    def cpu(self, start: int, end: int, writes: bool) -> None:
        """Check an access of the CPU."""
        did = "wrote" if writes else "read"
        for use in self._current():
            if not use.meets(start, end):
                continue
            if use.fence is not None and (writes or use.writes):
                does = "writes" if use.writes else "reads"
                raise CoherenceError(
                    f"the CPU {did} at {place()} while the device {does}: work given to it at {use.place}"
                )
            if use.fence is None:
                over = "over " if writes else ""
                raise CoherenceError(
                    f"the CPU {did} at {place()} {over}what the device wrote at {use.place}: no FORCPU since"
                )

    def cpu_wrote(self, start: int, end: int) -> None:
        """Remember it; what touches the last one becomes one with it, so that a loop over bytes is one span."""
        last = self.dirty[-1] if self.dirty else None
        if last is not None and last.start <= end and start <= last.end:
            last.start, last.end, last.place = min(last.start, start), max(last.end, end), place()
        else:
            self.dirty.append(Span(start, end, place()))

    def device(self, start: int, end: int, writes: bool) -> None:
        """Check work that the device is to be given."""
        for span in self.dirty:
            if span.meets(start, end):
                does = "writes over" if writes else "reads"
                raise CoherenceError(
                    f"the device {does} what the CPU wrote at {span.place}: work given to it at {place()}, "
                    "no FORDEV since"
                )

    def device_uses(self, start: int, end: int, writes: bool, fence: SyncFile | None) -> None:
        """Remember it, until its fence signals if it only reads."""
        try:
            ours = fence.dup() if fence is not None else None
        except OSError:  # without a descriptor to spare it counts as ended
            ours = None
        # What has written where this one will is not told apart from it, so that the list stays short.
        self.uses = [u for u in self._current() if u.fence or not writes or not start <= u.start <= u.end <= end]
        if writes or ours is not None:
            self.uses.append(Use(start, end, place(), writes, ours))

    def publishing(self, name: str) -> None:
        """FORDEV is to be done, which overwrites the device's view."""
        for use in self._current():
            if use.writes and on:
                writes = "writes" if use.fence is not None else "wrote"
                raise CoherenceError(f"{name} at {place()} throws away what the device {writes} by {use.place}")

    def published(self) -> None:
        """FORDEV was done."""
        self.dirty.clear()

    def fetching(self, name: str, start: int, end: int, brings: bool = True, unbinds: bool = False) -> None:
        """FORCPU is to be done for the sake of some bytes; if it brings any, it overwrites the CPU's view of all."""
        current = self._current()
        self.ended = [use for use in current if use.fence is None]
        if not on:
            return
        for span in self.dirty if brings else ():
            raise CoherenceError(f"{name} at {place()} throws away what the CPU wrote at {span.place}")
        for use in current:
            if use.fence is not None and ((use.writes and brings) or unbinds) and use.meets(start, end):
                raise CoherenceError(
                    f"{name} at {place()}, but the device has not ended the work given to it at {use.place}"
                )

    def fetched(self) -> None:
        """FORCPU was done."""
        self.uses = [use for use in self.uses if use not in self.ended]
        self.ended = []
        self.dirty.clear()

    def forget(self, start: int, end: int) -> None:
        """Some bytes are unbound: let go of the fences of what uses them."""
        for use in [use for use in self.uses if use.meets(start, end)]:
            use.close()
            self.uses.remove(use)
        self.dirty = [span for span in self.dirty if not span.meets(start, end)]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        return not self.dirty and not self.uses

    def _current(self) -> list[Use]:
        """The work of the device that still matters: a reader does not, once it has ended."""
        self.uses = [use for use in self.uses if use.under_way() or use.writes]
        return self.uses


def place() -> str:
    """Where in the source this package was called from."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
