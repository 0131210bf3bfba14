"""The inner loop of a compositor that knows nothing but fences."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from linuxsync import Access, DmaBuf, SyncFile, Timeline


@dataclass
class Frame:
    """What a client commits: a buffer, and the fence after which it may be shown."""

    buffer: DmaBuf
    drawn: SyncFile


class Output:
    """A screen: shows the newest frame that is drawn, and releases those before it.

    Args:
        vblank: the timeline whose next point is the next vblank.
    """

    def __init__(self, vblank: Timeline) -> None:
        self.vblank = vblank
        self.count = 0
        self.waiting: deque[Frame] = deque()
        self.shown: Frame | None = None

    def commit(self, frame: Frame) -> SyncFile:
        """Take a frame, and return the fence after which the client may have its buffer back."""
        self.waiting.append(frame)
        return self.vblank.create_fence(self.count + 2)

    def repaint(self) -> bool:
        """One vblank: whether there is something new to see."""
        self.count += 1
        new = False
        while self.waiting and self.waiting[0].drawn.poll():
            if self.shown is not None:
                self.shown.drawn.close()
            self.shown = self.waiting.popleft()
            new = True
        self.vblank.inc()
        return new

    def close(self) -> None:
        """Give back the fences of frames that nobody will see."""
        for frame in [*self.waiting, *([self.shown] if self.shown else [])]:
            frame.drawn.close()
        self.waiting.clear()
        self.shown = None


def average(buffer: DmaBuf) -> int:
    """The colour that a buffer has at the middle of all its bytes."""
    with buffer.cpu_access(Access.READ) as pixels:
        return sum(pixels) // len(pixels)
