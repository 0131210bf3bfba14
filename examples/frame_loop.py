"""A frame loop on asyncio: fences are awaited like everything else, and a frame that is late is known to be.

    vm/run -- python examples/frame_loop.py
    vm/run -- python examples/frame_loop.py --slow-every 5 --slow 40    # every fifth picture takes 40 ms
    vm/run -- python examples/frame_loop.py --fail 7                    # the GPU is lost while it draws picture 7

Each turn of the loop is for the screen's next vblank:

    fence = gpu.draw(...)              the picture is under way
    fence.set_deadline(...)            the GPU's driver learns by when it is wanted, and may run faster
    await fence.wait_async(timeout)    input, clients, timers: all of them run meanwhile
    kms.commit(...)                    the picture is there, so KMS has nothing to wait for
    await flipped                      its timestamp is the vblank's; the buffer before is free again

Why not give the fence to KMS and be done with it? Because a commit can't be taken back: with a picture that is late KMS
waits, and so does everything that comes after. A loop that holds the fence itself can show something else meanwhile.
Here it counts, and lets the picture before stay on the screen.

Late is what the kernel's timestamps say: the fence signaled after its deadline. When this program woke up is another
matter, and on a loaded machine no good measure of a GPU.

The GPU is a sw_sync timeline that a timer of the loop advances, the screen is vkms; both take root. Exit status: 0 if
all went well, 1 if a picture was late or lost, 130 after Ctrl-C, which ends it with the frames that there were.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import mmap
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from linuxsync import DrmDevice, SyncFile, Timeline, kms

MARGIN_NS = 2_000_000  # so long before the vblank a picture has to be there for this loop to bring it to the screen
PATIENCE = 20.0  # seconds that any one wait may take; it ends the program instead of hanging it


@dataclass(frozen=True)
class Frame:
    """What became of one turn of the loop; times are CLOCK_MONOTONIC nanoseconds."""

    number: int
    deadline_ns: int
    ready_ns: int  # when the picture's fence signaled, by its timestamp
    late: bool
    error: int | None  # errno, of a picture that was lost
    shown_ns: int | None  # at which vblank; None for one that was lost
    vblanks: int  # how many passed since the picture before came


class Gpu:
    """Draws one picture after the other; each is done some time after it was asked for, or never if the GPU is lost."""

    def __init__(self) -> None:
        self.timeline = Timeline("gpu")
        self.asked = 0
        self.done_at = 0.0
        self.timers: set[asyncio.TimerHandle] = set()

    def draw(self, memory: mmap.mmap, colour: int, seconds: float) -> SyncFile:
        """Ask for a picture."""
        loop = asyncio.get_running_loop()
        self.done_at = max(self.done_at, loop.time()) + seconds

        def done() -> None:
            self.timers.discard(timer)
            memory[:] = bytes([colour]) * len(memory)
            self.timeline.inc()

        self.asked += 1
        fence = self.timeline.create_fence(self.asked)
        timer = loop.call_at(self.done_at, done)
        self.timers.add(timer)
        return fence

    def close(self) -> None:
        """It is gone; the fences of what it has not done signal with ENOENT, which is how sw_sync ends."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        self.timeline.close()


class Screen:
    """A lit screen with two buffers."""

    def __init__(self, stack: ExitStack) -> None:
        self.device = stack.enter_context(DrmDevice.open("vkms"))
        self.pipeline = kms.find_pipeline(self.device)
        mode = min(self.pipeline.modes, key=lambda mode: mode.width * mode.height)
        self.period_ns = 1_000_000_000 // mode.refresh
        gems = [stack.enter_context(self.device.create_dumb(mode.width, mode.height, 32)) for _ in range(2)]
        self.memory = [stack.enter_context(gem.map()) for gem in gems]
        self.buffers = [stack.enter_context(kms.add_framebuffer(gem, mode.width, mode.height)) for gem in gems]
        kms.modeset(self.device, self.pipeline, self.buffers[0], mode)
        stack.callback(kms.disable, self.device, self.pipeline)

    async def flip(self, buffer: int) -> int:
        """Show a buffer whose picture is there, and return the time of the vblank from which on it is shown."""
        show = self.buffers[buffer]
        with kms.commit(self.device, crtc=self.pipeline.crtc, plane=self.pipeline.plane, fb=show) as flipped:
            await flipped.wait_async(PATIENCE)
            assert flipped.timestamp_ns is not None
            return flipped.timestamp_ns


def ask_for(fence: SyncFile, deadline_ns: int) -> bool:
    """Tell the fence's driver by when it is wanted; whether this kernel has deadlines (6.8)."""
    try:
        fence.set_deadline(deadline_ns)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return False
    return True


class Loop:
    """The frame loop; `frames` grows with each turn, until somebody sets `stop`."""

    def __init__(self, stack: ExitStack, stop: asyncio.Event) -> None:
        self.screen = Screen(stack)
        self.gpu = Gpu()
        stack.callback(lambda: self.gpu.close())
        self.frames: list[Frame] = []
        self.has_deadlines = True
        self.stop = stop

    async def run(self, frames: int, seconds: float, slow_every: int = 0, slow: float = 0.0, fail: int = 0) -> None:
        """Show so many frames, or as many as there is time for."""
        front = 0
        shown = await self.screen.flip(front)
        for number in range(1, frames + 1):
            if self.stop.is_set():
                break
            takes = slow if slow_every and number % slow_every == 0 else seconds
            # The one on the screen is left alone; KMS has said that the other is no longer shown.
            with self.gpu.draw(self.screen.memory[1 - front], number % 256, takes) as fence:
                # By now the vblank after the last flip may be over already: the deadline is for one that is to come.
                period = self.screen.period_ns
                passed = max(0, (time.monotonic_ns() - shown) // period)
                deadline = shown + (passed + 1) * period - MARGIN_NS
                self.has_deadlines = ask_for(fence, deadline)
                if number == fail:
                    self.gpu.close()
                    self.gpu = Gpu()
                try:
                    await fence.wait_async(max(0.0, (deadline - time.monotonic_ns()) / 1e9))
                except TimeoutError:
                    # Here a compositor shows what else is new. This one has nothing, and the screen stays as it is.
                    await fence.wait_async(PATIENCE)
                ready, failed = fence.timestamp_ns, fence.error
            assert ready is not None
            before = shown
            if failed is None:
                front = 1 - front
                shown = await self.screen.flip(front)
            self.frames.append(
                Frame(
                    number=number,
                    deadline_ns=deadline,
                    ready_ns=ready,
                    late=failed is None and ready > deadline,
                    error=failed,
                    shown_ns=shown if failed is None else None,
                    vblanks=round((shown - before) / self.screen.period_ns),
                )
            )


def report(loop: Loop) -> str:
    """What there is to say of all frames."""
    frames, rate = loop.frames, 1_000_000_000 // loop.screen.period_ns
    late = [frame for frame in frames if frame.late]
    lost = [frame for frame in frames if frame.error is not None]
    worst = max(((frame.ready_ns - frame.deadline_ns) / 1e6 for frame in late), default=0.0)
    empty = sum(frame.vblanks - 1 for frame in frames if frame.vblanks)
    told = "were told to the GPU" if loop.has_deadlines else "can't be told to a driver (Linux 6.8)"
    return (
        f"{len(frames)} frames at {rate} Hz: {len(frames) - len(late) - len(lost)} on time, "
        f"{len(late)} late (the worst by {worst:.1f} ms), {len(lost)} lost\n"
        f"{empty} vblanks had no new picture; deadlines {told}"
    )


async def show(options: argparse.Namespace) -> int:
    """Light the screen, run the loop, say what came of it."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    with ExitStack() as stack:
        loop = Loop(stack, stop)
        await loop.run(options.frames, options.render / 1000, options.slow_every, options.slow / 1000, options.fail)
        print(json.dumps([asdict(frame) for frame in loop.frames]) if options.json else report(loop))
        if stop.is_set():
            return 128 + signal.SIGINT
        return int(any(frame.late or frame.error is not None for frame in loop.frames))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="how many turns [default: 60]")
    parser.add_argument("--render", type=float, default=4, metavar="MS", help="a picture takes so long [default: 4]")
    parser.add_argument("--slow-every", type=int, default=0, metavar="N", help="every Nth takes longer [default: none]")
    parser.add_argument("--slow", type=float, default=40, metavar="MS", help="and how long that is [default: 40]")
    parser.add_argument("--fail", type=int, default=0, metavar="N", help="the GPU is lost while it draws picture N")
    parser.add_argument("--json", action="store_true", help="every frame as JSON, in nanoseconds")
    options = parser.parse_args()
    if options.frames < 1 or min(options.render, options.slow, options.slow_every) < 0:
        parser.error("at least one frame, and no negative times")
    return asyncio.run(show(options))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"frame_loop: {error}\nvm/run -- python examples/frame_loop.py runs it in a virtual machine")
