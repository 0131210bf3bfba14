"""Explicit sync between two processes: a producer of pictures, a consumer, and fences for both directions.

    vm/run -- python examples/explicit_sync.py                          # both, with a table of what happened
    vm/run -- python examples/explicit_sync.py --careless               # the consumer ignores its acquire fences
    vm/run -- python examples/explicit_sync.py --kill producer          # one of them is killed in the middle
    python examples/explicit_sync.py --listen /run/sync &               # or each for itself, on one machine
    python examples/explicit_sync.py --connect /run/sync

The buffers are dma-bufs and cross the socket once. Then, for each frame,

    producer  has its device draw into a buffer, and sends the frame with the fence of that job: the ACQUIRE fence
    consumer  has its device read the buffer once that has signaled, and answers with its own fence: the RELEASE fence
    producer  has its device draw the next picture into that buffer once the release fence has signaled

No process waits for a picture: both send fences of work that is not done. This is what Wayland's explicit sync does.
zwp_linux_explicit_synchronization_v1 sends sync_files, as here; linux-drm-syncobj-v1 names points of two timelines
instead, which one fills with Syncobj.import_sync_file(fence, point) and the other asks with export_sync_file(point).

What to take home for when things go wrong:

- A process that dies takes its device's jobs with it. The kernel ends them, and their fences signal with an error: who
  waits for one of them wakes. What never comes is the answer to a message; the socket's end says so.
- An acquire fence with an error: the picture is not there. Don't show it, but do release the buffer.
- A release fence with an error: the buffer is free all the same. A job that took that error for its own would hand it
  on to the next, round and round (ignore_errors in the producer; --fail shows that one frame is lost and not all).

It needs root, the system heap and the fence device. Exit status: 0 if every frame arrived, 1 if one did not, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linuxsync import Access, DmaBuf, DmaHeap, FenceDevice, OwnedFd, SyncFile
from linuxsync.fencedev import Checksum, Fill, Job

BUFFERS = 3
SIZE = 16384
PATIENCE = 20.0  # seconds that any one wait may take; it ends the program instead of hanging it


@dataclass(frozen=True)
class Frame:
    """What became of a frame on one side; times are CLOCK_MONOTONIC nanoseconds, the fences' own timestamps."""

    number: int
    buffer: int
    outcome: str  # "shown", "wrong picture", "released", "no answer", or how its fence failed
    signaled_ns: int | None


def send(peer: socket.socket, what: dict[str, int], owners: Sequence[OwnedFd]) -> None:
    """One message with descriptors beside it; they stay ours."""
    socket.send_fds(peer, [json.dumps(what).encode()], [owner.fileno() for owner in owners])


def receive(peer: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message, nothing when the other one has left; the descriptors are the caller's."""
    # One who leaves with messages unread is told of first (ECONNRESET, once); what it had sent comes after that.
    for _ in range(2):
        with suppress(ConnectionResetError):
            data, fds, _, _ = socket.recv_fds(peer, 4096, BUFFERS, socket.MSG_CMSG_CLOEXEC)
            break
    else:
        return {}, []
    return json.loads(data or b"{}"), fds


def why(fence: SyncFile, fine: str) -> str:
    """How a fence that has signaled did so."""
    return fine if fence.error is None else f"failed: {errno.errorcode[fence.error]}"


def picture(number: int) -> bytes:
    """What frame ``number`` looks like."""
    return number.to_bytes(4, sys.byteorder) * (SIZE // 4)


# --- The producer -----------------------------------------------------------------------------------------------------


class Producer:
    """Draws, and gives each buffer away with the fence of the job that draws into it."""

    def __init__(self, peer: socket.socket, stack: ExitStack) -> None:
        self.peer = peer
        self.frames: list[Frame] = []
        self.gone = False
        # Frames that were sent: number and release fence, which is None until the answer is here.
        self.sent: deque[tuple[int, SyncFile | None]] = deque()
        device = stack.enter_context(FenceDevice())
        heap = stack.enter_context(DmaHeap())
        buffers = [stack.enter_context(heap.alloc(SIZE)) for _ in range(BUFFERS)]
        self.targets = [stack.enter_context(device.attach(buffer, Access.WRITE)) for buffer in buffers]
        self.queue = stack.enter_context(device.create_queue("producer"))  # the first to go, with the jobs in it
        stack.callback(self.forget)
        send(peer, {"buffers": BUFFERS}, buffers)

    def forget(self) -> None:
        """Close what is left."""
        for _, release in self.sent:
            if release is not None:
                release.close()

    def draw(self, number: int, seconds: float, error: int = 0) -> None:
        """Have frame ``number`` drawn, and send it before it is."""
        release = self.release_of(number - BUFFERS)
        slot = number % BUFFERS
        with self.queue.submit(
            Fill(self.targets[slot], number),
            in_fences=[release] if release else [],
            duration=seconds,
            error=error,
            ignore_errors=True,  # of the release fence: whatever happened over there, the buffer is free
        ) as job:
            send(self.peer, {"frame": number, "buffer": slot}, [job.fence])
        self.sent.append((number, None))

    def release_of(self, number: int) -> SyncFile | None:
        """The release fence of an earlier frame, for whose answer this waits; the frame before it must be over."""
        if number < 1:
            return None
        while (found := dict(self.sent)[number]) is None:
            self.answer()
        while self.sent[0][0] < number:
            self.note()
        return found

    def answer(self) -> None:
        """Take the next answer, which is for the oldest frame that has none."""
        message, fds = receive(self.peer)
        if not message:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the consumer has left")
        at = next(at for at, (_, release) in enumerate(self.sent) if release is None)
        assert self.sent[at][0] == message["frame"]
        self.sent[at] = (message["frame"], SyncFile(*fds))

    def note(self) -> None:
        """Wait until the oldest frame has come back, and note how."""
        number, release = self.sent[0]
        if release is None:
            self.frames.append(Frame(number, number % BUFFERS, "no answer", None))
        else:
            release.wait(PATIENCE)
            self.frames.append(Frame(number, number % BUFFERS, why(release, "released"), release.timestamp_ns))
            release.close()
        self.sent.popleft()

    def run(
        self,
        frames: int,
        seconds: float,
        *,
        fail: int | None = None,
        die_at: int | None = None,
        stop: threading.Event | None = None,
    ) -> list[Frame]:
        """Draw so many frames, or until the consumer leaves or somebody says stop; then see all of them come back."""
        try:
            for number in range(1, frames + 1):
                if stop is not None and stop.is_set():
                    break
                if number == die_at:
                    self.draw(number, 3600)  # so that it is surely under way
                    os.kill(os.getpid(), signal.SIGKILL)
                self.draw(number, seconds, errno.EIO if number == fail else 0)
            send(self.peer, {"frame": 0}, [])  # that was all: one who is killed can't say so
        except ConnectionError:
            self.gone = True  # what it had answered is there to be read all the same
        try:
            while any(release is None for _, release in self.sent):
                self.answer()
        except ConnectionError:
            self.gone = True
        while self.sent:
            self.note()
        return self.frames


# --- The consumer -----------------------------------------------------------------------------------------------------


def consume(
    peer: socket.socket, seconds: float, careless: bool = False, die_at: int | None = None
) -> tuple[list[Frame], bool]:
    """Read what the producer sends until it leaves, one frame after the other; what was there, and whether it said bye.

    The device computes a checksum of what it reads, so that nothing here has to wait before it answers.
    """
    frames: list[Frame] = []
    gone = False
    shown: deque[tuple[dict[str, Any], Job]] = deque()

    def note() -> None:
        request, job = shown[0]
        job.fence.wait(PATIENCE)
        outcome = why(job.fence, "shown")
        if job.fence.error is None and job.info().checksum != zlib.adler32(picture(request["frame"])):
            outcome = "wrong picture"
        frames.append(Frame(request["frame"], request["buffer"], outcome, job.fence.timestamp_ns))
        shown.popleft()
        job.close()

    with ExitStack() as stack:
        device = stack.enter_context(FenceDevice())
        hello, fds = receive(peer)
        if not hello:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the producer has left before it began")
        buffers = [stack.enter_context(DmaBuf(fd)) for fd in fds]
        sources = [stack.enter_context(device.attach(buffer, Access.READ)) for buffer in buffers]
        queue = stack.enter_context(device.create_queue("consumer"))  # the first to go, with the jobs in it
        stack.callback(lambda: [job.close() for _, job in shown])
        while True:
            request, fds = receive(peer)
            if not request or not request["frame"]:
                gone = not request
                break
            with SyncFile(*fds) as acquire:
                # If the acquire fence has an error, the job ends with it and reads nothing.
                wait_for = [] if careless else [acquire]
                job = queue.submit(Checksum(sources[request["buffer"]]), in_fences=wait_for, duration=seconds)
            shown.append((request, job))
            if request["frame"] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            with suppress(BrokenPipeError, ConnectionResetError):  # it has left; what it sent is read
                send(peer, {"frame": request["frame"]}, [job.fence])
            if len(shown) > BUFFERS:
                note()
        while shown:
            note()
    return frames, gone


# --- Both -------------------------------------------------------------------------------------------------------------


def tell(role: str, frames: list[Frame], gone: bool, as_json: bool) -> int:
    """Print what one side saw; the exit status that says the same."""
    fine = sum(frame.outcome in ("shown", "released") for frame in frames)
    if as_json:
        text = json.dumps({"role": role, "left_alone": gone, "frames": [asdict(frame) for frame in frames]})
    else:
        lines = [f"  frame {frame.number} in buffer {frame.buffer}: {frame.outcome}" for frame in frames]
        end = ", and then the other one was gone" if gone else ""
        text = "\n".join([f"{role}: {fine} of {len(frames)} frames as they should be{end}", *lines])
    sys.stdout.write(f"{text}\n")  # in one piece: two processes may print at once
    sys.stdout.flush()
    return 0 if fine == len(frames) and not gone else 1


def producer(path: str, options: argparse.Namespace) -> int:
    """Be the producer, as soon as somebody listens at ``path``."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())  # it finishes the frames that it has sent
    until = time.monotonic() + PATIENCE
    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        while True:
            try:
                peer.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > until or stop.is_set():
                    raise
                time.sleep(0.01)
        mine = Producer(peer, stack)
        die_at = options.frames // 2 + 1 if options.kill == "producer" else None
        frames = mine.run(options.frames, options.render / 1000, fail=options.fail, die_at=die_at, stop=stop)
    status = tell("producer", frames, mine.gone, options.json)
    return 128 + signal.SIGINT if stop.is_set() else status


def consumer(path: str, options: argparse.Namespace) -> int:
    """Be the consumer of the one who comes to ``path``."""
    die_at = options.frames // 2 + 1 if options.kill == "consumer" else None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(path)
        try:
            door.listen(1)
            peer, _ = door.accept()
            with peer:
                # Ctrl-C in a terminal reaches both; this one leaves when the producer does.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                frames, gone = consume(peer, options.show / 1000, options.careless, die_at)
        finally:
            Path(path).unlink()
    return tell("consumer", frames, gone, options.json)


def both(options: argparse.Namespace) -> int:
    """Be neither, and see both end."""
    with tempfile.TemporaryDirectory(prefix="explicit-sync-") as folder:
        path = f"{folder}/socket"
        children = {}
        for role in (consumer, producer):
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = role(path, options)
                except OSError as error:
                    print(f"explicit_sync: {role.__name__}: {error}", file=sys.stderr, flush=True)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                finally:
                    os._exit(status)
            children[child] = role.__name__
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        statuses = []
        while children:
            child, ended = os.wait()
            statuses.append(os.waitstatus_to_exitcode(ended))
            if statuses[-1] < 0:
                print(f"the {children[child]} was killed by {signal.Signals(-statuses[-1]).name}", file=sys.stderr)
            del children[child]
    return 130 if 130 in statuses else int(any(statuses))


def main() -> int:
    """Read the command line and be one of them, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", metavar="PATH", help="be the consumer, at this Unix socket")
    parser.add_argument("--connect", metavar="PATH", help="be the producer, for who listens there")
    parser.add_argument("--frames", type=int, default=12, metavar="N", help="how many to draw [default: 12]")
    parser.add_argument("--render", type=float, default=8, metavar="MS", help="a picture takes so long [default: 8]")
    parser.add_argument("--show", type=float, default=4, metavar="MS", help="reading one takes so long [default: 4]")
    parser.add_argument("--careless", action="store_true", help="the consumer reads without waiting for the picture")
    parser.add_argument("--fail", type=int, metavar="N", help="drawing frame N fails with EIO")
    parser.add_argument("--kill", choices=["producer", "consumer"], help="have it killed halfway, by SIGKILL")
    parser.add_argument("--json", action="store_true", help="a line of JSON of each side")
    options = parser.parse_args()
    if options.frames < 1 or min(options.render, options.show) < 0:
        parser.error("at least one frame, and no negative times")
    if options.listen:
        return consumer(options.listen, options)
    return producer(options.connect, options) if options.connect else both(options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"explicit_sync: {error}\nvm/run -- python examples/explicit_sync.py runs it in a virtual machine")
