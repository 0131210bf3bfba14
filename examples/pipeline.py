"""A frame's way through explicit fencing: drawn, merged, shown, released. `vm/run demo pipeline` runs it anywhere.

Two processes and a unix socket, as a Wayland client and its compositor. The client has three buffers and two engines
that draw into them, each with a timeline of its own; the compositor owns the screen. Nobody waits for a picture before
passing it on. For each frame

    client      asks both engines to draw, and gets a fence of each before anything is drawn
    client      puts the first fence into the dma-buf, takes it out again, merges it with the second: the acquire fence
    compositor  gives that to KMS with the buffer; KMS will flip once it has signaled, and hands out another fence
    client      gets that one back: when it signals, the frame before has left the screen and its buffer is free again

It needs root, sw_sync, a screen that nobody else uses (vkms), and udmabuf or vgem for the buffers.
"""

from __future__ import annotations

import json
import mmap
import queue
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from linuxsync import Access, DmaBuf, DrmDevice, SyncFile, Timeline, VgemDevice, kms, udmabuf

BUFFERS = 3
PATIENCE = 20.0  # seconds that any one wait may take; it ends the program instead of hanging it
STRIP = 16  # lines at the bottom that are the overlay's


def send(peer: socket.socket, what: dict[str, Any], *owners: DmaBuf | SyncFile) -> None:
    """One message with descriptors beside it; they stay ours."""
    socket.send_fds(peer, [json.dumps(what).encode()], [owner.fileno() for owner in owners])


def receive(peer: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message, nothing when the other one has left; the descriptors are the caller's."""
    data, fds, _, _ = socket.recv_fds(peer, 4096, BUFFERS, socket.MSG_CMSG_CLOEXEC)
    return json.loads(data or b"{}"), fds


# --- The compositor ---------------------------------------------------------------------------------------------------


def compositor(peer: socket.socket, device: DrmDevice) -> None:
    """Show what the client sends until it leaves. Nothing here waits for a picture: KMS does."""
    pipeline = kms.find_pipeline(device)
    mode = min(pipeline.modes, key=lambda mode: mode.width * mode.height)
    send(peer, {"width": mode.width, "height": mode.height, "mode": f"{mode.name} at {mode.refresh} Hz"})
    layout, fds = receive(peer)
    with ExitStack() as stack:
        screens = []
        for buffer in [stack.enter_context(DmaBuf(fd)) for fd in fds]:
            gem = stack.enter_context(device.import_dma_buf(buffer))
            screens.append(
                stack.enter_context(kms.add_framebuffer(gem, mode.width, mode.height, pitch=layout["pitch"]))
            )
        kms.modeset(device, pipeline, screens[0], mode)
        stack.callback(kms.disable, device, pipeline)
        shown: SyncFile | None = None
        out = stack.enter_context(ExitStack())  # which closes the last out-fence, `shown`
        with suppress(ConnectionError):  # a client that leaves without a word
            while (message := receive(peer))[0]:
                request, fds = message
                with SyncFile(fds[0]) as acquire:
                    if shown is not None:
                        shown.wait(PATIENCE)  # KMS takes one flip at a time: EBUSY
                        out.close()
                    fb = screens[request["buffer"]]
                    shown = kms.commit(device, crtc=pipeline.crtc, plane=pipeline.plane, fb=fb, in_fence=acquire)
                    out.enter_context(shown)
                send(peer, {"frame": request["frame"]}, shown)
        if shown is not None:
            shown.wait(PATIENCE)


# --- The client -------------------------------------------------------------------------------------------------------


class Engine:
    """A pretended piece of hardware: it works off one job after the other, and each job has a fence.

    A thread stands in for it. If a job fails, the timeline ends with it, and every fence that is still owed signals
    with an error: nobody hangs.
    """

    def __init__(self, name: str) -> None:
        self.failure: BaseException | None = None
        self.timeline = Timeline(name)
        self.jobs: queue.SimpleQueue[tuple[SyncFile | None, Callable[[], None]] | None] = queue.SimpleQueue()
        self.count = 0
        self.thread = threading.Thread(target=self.work, name=name)
        self.thread.start()

    def submit(self, job: Callable[[], None], after: SyncFile | None) -> SyncFile:
        """Have ``job`` done once ``after`` has signaled, and return the fence that signals when it is."""
        if self.failure is not None:
            raise RuntimeError(f"engine {self.thread.name} has failed") from self.failure
        fence = self.timeline.create_fence(self.count + 1)
        self.count += 1
        self.jobs.put((None if after is None else after.dup(), job))
        return fence

    def work(self) -> None:
        """What hardware does by itself."""
        try:
            while (submitted := self.jobs.get()) is not None:
                after, job = submitted
                if after is not None:
                    with after:
                        after.wait(PATIENCE)
                job()
                self.timeline.inc()
        except Exception as error:
            self.failure = error
        finally:
            self.timeline.close()

    def close(self) -> None:
        """Let it finish what it has, and end it."""
        self.jobs.put(None)
        self.thread.join()
        while not self.jobs.empty():  # it failed, and did not come to these
            after, _ = self.jobs.get() or (None, None)
            if after is not None:
                after.close()


@dataclass
class Buffer:
    """One of the client's buffers."""

    dmabuf: DmaBuf
    memory: mmap.mmap
    pitch: int

    def filling(self, first: int, last: int, color: bytes, seconds: float) -> Callable[[], None]:
        """Return the job that fills the lines from ``first`` to before ``last``.

        Here a CPU that plays a GPU must take care. The fence that the job is going to signal is put into the buffer
        before the job is done, and ``cpu_access()`` would wait for the buffer's fences, for ever. So START comes now,
        while nobody owes anything, and END when the job is done.
        """
        self.dmabuf.begin_cpu_access(Access.WRITE)

        def job() -> None:
            time.sleep(seconds)
            self.memory[first * self.pitch : last * self.pitch] = color * ((last - first) * self.pitch // 4)
            self.dmabuf.end_cpu_access(Access.WRITE)

        return job


@dataclass
class Times:
    """What became of one frame, in CLOCK_MONOTONIC nanoseconds, all but the first the timestamps of its fences."""

    frame: int
    buffer: int
    submitted_ns: int
    drawn_ns: int
    overlaid_ns: int
    shown_ns: int
    released_ns: int | None  # None for the last: it stayed until the screen went off


@dataclass
class Frame:
    """A frame under way, and its fences."""

    number: int
    submitted_ns: int
    drawn: SyncFile
    overlaid: SyncFile
    acquire: SyncFile
    fences: ExitStack  # which closes them
    shown: SyncFile | None = None


class Client:
    """Draws frames and sends them before they are drawn, two of them ahead of the screen."""

    def __init__(self, peer: socket.socket, kind: str, seconds: float) -> None:
        self.peer = peer
        self.seconds = seconds
        self.frames: list[Frame] = []  # those of which not all is known yet
        self.times: list[Times] = []
        self.screen, _ = receive(peer)
        if not self.screen:
            raise click.ClickException("the compositor did not come up")
        with ExitStack() as stack:
            self.buffers = [allocate(stack, kind, self.screen["width"], self.screen["height"]) for _ in range(BUFFERS)]
            self.gpu = Engine("gpu")
            stack.callback(self.gpu.close)
            self.overlay = Engine("overlay")
            stack.callback(self.overlay.close)
            stack.callback(self.close_frames)
            send(peer, {"pitch": self.buffers[0].pitch}, *(buffer.dmabuf for buffer in self.buffers))
            self.stack = stack.pop_all()

    def close_frames(self) -> None:
        """Let go of what is under way."""
        for frame in self.frames:
            frame.fences.close()

    def submit(self, number: int) -> None:
        """Draw frame ``number`` (1, 2, ...) and send it to the compositor, in whatever order these two come about."""
        # Frame number - 3, which had this buffer, has left the screen once number - 2 is there.
        released = self.collect() if number > 2 else None
        buffer = self.buffers[number % BUFFERS]
        lines = self.screen["height"]
        submitted = time.monotonic_ns()
        picture = buffer.filling(0, lines - STRIP, bytes([number * 2 % 256, 64, 192, 0]), self.seconds)
        strip = buffer.filling(lines - STRIP, lines, bytes([0, number % 256, 0, 0]), self.seconds / 2)
        with ExitStack() as fences:
            drawn = fences.enter_context(self.gpu.submit(picture, released))
            overlaid = fences.enter_context(self.overlay.submit(strip, released))
            # The implicit way and the explicit one: one fence travels in the buffer, the other by hand.
            buffer.dmabuf.import_sync_file(drawn, Access.WRITE)
            with buffer.dmabuf.export_sync_file(Access.READ) as writers:
                acquire = fences.enter_context(writers.merge(overlaid, name=f"frame {number}"))
            send(self.peer, {"frame": number, "buffer": number % BUFFERS}, acquire)
            self.frames.append(Frame(number, submitted, drawn, overlaid, acquire, fences.pop_all()))

    def collect(self) -> SyncFile:
        """Wait for the compositor's next answer, and return the out-fence that is in it."""
        answer, fds = receive(self.peer)
        if not answer:
            raise click.ClickException("the compositor has left")
        frame = next(frame for frame in self.frames if frame.shown is None)
        assert frame.number == answer["frame"]
        frame.shown = frame.fences.enter_context(SyncFile(fds[0]))
        # The compositor has waited for the frame before; so the one before that is over.
        if len(self.frames) > 2 and self.frames[2] is frame:
            self.note()
        return frame.shown

    def note(self) -> None:
        """Note the times of the oldest frame, whose work is done, and let go of its fences."""
        frame = self.frames.pop(0)
        after = self.frames[0].shown if self.frames else None
        with frame.fences:
            assert frame.shown is not None
            frame.acquire.raise_for_status()
            stamps = [fence.timestamp_ns or 0 for fence in (frame.drawn, frame.overlaid, frame.shown)]
            released = None if after is None else after.timestamp_ns
            self.times.append(Times(frame.number, frame.number % BUFFERS, frame.submitted_ns, *stamps, released))

    def run(self, frames: int, stop: threading.Event | None = None) -> list[Times]:
        """Show so many frames, three at least, or as many as there is time for until ``stop``; return their times."""
        console = Console(stderr=True)
        try:
            with self.stack:
                # It draws from a thread of its own, so that nothing here waits for the terminal.
                for number in track(
                    range(1, frames + 1), "frames", console=console, transient=True, disable=not console.is_terminal
                ):
                    self.submit(number)
                    if number >= 3 and stop is not None and stop.is_set():
                        break
                while self.frames[-1].shown is None:
                    self.collect().wait(PATIENCE)
                while self.frames:
                    self.note()
                self.peer.shutdown(socket.SHUT_WR)
        except ConnectionError as error:
            raise click.ClickException("the compositor has left") from error
        return self.times


def allocate(stack: ExitStack, kind: str, width: int, height: int) -> Buffer:
    """Return a buffer for one picture; ``stack`` will close it."""
    if kind == "udmabuf":
        pitch = width * 4
        dmabuf = stack.enter_context(udmabuf.create(pitch * height))
    else:
        with VgemDevice.open() as vgem, vgem.create_dumb(width, height, 32) as gem:
            assert gem.pitch is not None
            pitch = gem.pitch
            dmabuf = stack.enter_context(gem.export())
    return Buffer(dmabuf, stack.enter_context(dmabuf.mmap()), pitch)


# --- Both -------------------------------------------------------------------------------------------------------------


def table(times: list[Times]) -> Table:
    """One line a frame."""
    start = times[0].submitted_ns
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("frame", "buffer", "submitted", "drawn", "overlaid", "shown", "released", "on screen"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in times:
        stamps = (row.submitted_ns, row.drawn_ns, row.overlaid_ns, row.shown_ns, row.released_ns)
        at = ["-" if stamp is None else f"{(stamp - start) / 1e6:.1f}" for stamp in stamps]
        stay = "-" if row.released_ns is None else f"{(row.released_ns - row.shown_ns) / 1e6:.1f}"
        shown.add_row(str(row.frame), str(row.buffer), *at, stay)
    return shown


def descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def none_left(before: int) -> None:
    """Complain about descriptors that were not open before."""
    if descriptors() != before:
        raise click.ClickException(f"{descriptors() - before} descriptors left open")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--frames", default=120, show_default=True, type=click.IntRange(3), help="How many frames to show.")
@click.option(
    "--buffers",
    default="udmabuf",
    show_default=True,
    type=click.Choice(["udmabuf", "vgem"]),
    help="Where the client's buffers come from.",
)
@click.option(
    "--render", default=5.0, show_default=True, type=click.FloatRange(0, 1000), help="Milliseconds a picture takes."
)
@click.option("--json", "as_json", is_flag=True, help="Print every frame's times as JSON, in nanoseconds.")
@click.option("--compositor", "compositor_fd", type=int, hidden=True)
def main(frames: int, buffers: str, render: float, as_json: bool, compositor_fd: int | None) -> None:
    """Show frames through explicit fences, from one process's buffers on another's screen.

    Prints a line for each frame: when it was submitted, when the fences of its two engines signaled, when it was on the
    screen and when the next one took its place, in milliseconds since the first was submitted. Ctrl-C ends it early,
    with the frames that there were; through vm/run it ends the virtual machine.
    """
    before = descriptors()
    # Ctrl-C is for the client: it finishes the frame that it is at, and the compositor leaves after it.
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if compositor_fd is not None:
        with socket.socket(fileno=compositor_fd) as peer, DrmDevice.open("vkms") as device:
            compositor(peer, device)
        none_left(before - 1)  # the socket was there before
    else:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, "--compositor", str(theirs.fileno())]
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        with child, ours:  # the socket goes first, on which the compositor leaves
            client = Client(ours, buffers, render / 1000)
            times = client.run(frames, stop)
        if child.returncode:
            raise click.ClickException(f"the compositor ended with status {child.returncode}")
        none_left(before)
        if as_json:
            print(json.dumps([asdict(row) for row in times], indent=1))
        else:
            console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
            console.print(table(times))
            stays = [row.released_ns - row.shown_ns for row in times if row.released_ns is not None]
            console.print(
                f"{len(times)} frames, {BUFFERS} buffers of {buffers}, {client.screen['mode']}; all in milliseconds.\n"
                f"Median time on the screen: {statistics.median(stays) / 1e6:.1f}. Descriptors left open: none."
            )
        if stop.is_set():
            sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    try:
        main(prog_name="python examples/pipeline.py")
    except OSError as error:
        sys.exit(f"pipeline: {error}\nvm/run demo pipeline runs it in a virtual machine that has everything")
