"""A GPU that does as it is told, for tests of compositors: late, failing or hanging whenever the test says so.

    from fake_gpu import FakeGpu

    with FakeGpu() as gpu, gpu.context("client") as client, gpu.allocate(64, 64) as picture:
        client.next(late=0.5)                             # or error=errno.EIO, or hang=True
        with client.render(picture, 0x00FF00) as fence:   # a real fence of a real device: a sync_file like any other
            compositor.commit(picture.dmabuf, fence)

The pictures are dma-bufs and the fences sync_files, so the compositor under test needs to know nothing of this: it
gets both over its socket as from any client. Behind it is the fence device, a kernel module that works on the buffers
through the DMA API: what it draws is not there before its fence has signaled, and not at all if that has an error.

What a compositor has to get right, and examples/test_fake_gpu.py tests of one that is 40 lines long:

- A picture whose fence has not signaled is not shown; the one before stays, and nobody waits for it.
- A fence with an error has signaled: poll(2) says it is readable. There is no picture behind it all the same.
- One client's hang is not another's: each has a context, and a context's jobs wait only for each other.
- A buffer may be drawn into again when the compositor's own use of it has ended, which takes a fence as well: `after`.

Run as a program it shows what each mischief looks like from the fence's side. It needs the fence device, the system
heap, and root: vm/run -- python examples/fake_gpu.py
"""

from __future__ import annotations

import argparse
import errno
import mmap
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from linuxsync import Access, DmaBuf, DmaHeap, FenceDevice, SyncFile
from linuxsync.fencedev import Attachment, Fill, JobInfo, Queue


@dataclass(frozen=True)
class Mischief:
    """What goes wrong with one job.

    Attributes:
        late: seconds that it takes longer.
        error: errno that its fence ends with; nothing is drawn.
        hang: whether it never ends by itself; Context.reset() ends it, and so does closing the context.
    """

    late: float = 0.0
    error: int = 0
    hang: bool = False


@dataclass(frozen=True)
class Picture:
    """A buffer that contexts of one GPU can draw into, 32 bits a pixel."""

    dmabuf: DmaBuf
    attachment: Attachment
    width: int
    height: int

    def pixel(self, x: int, y: int) -> int:
        """What the CPU sees there; it waits for nothing but implicit fences, of which this GPU leaves none."""
        at = (y * self.width + x) * 4
        with self.dmabuf.cpu_access(Access.READ) as view:
            return int.from_bytes(view[at : at + 4], sys.byteorder)


class Context:
    """What one client has of the GPU: jobs that are done one after the other. FakeGpu.context() makes it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._mischief: deque[Mischief] = deque()

    def next(self, late: float = 0.0, error: int = 0, hang: bool = False) -> None:
        """Have something go wrong with the next job for which nothing is planned; call it twice for the next two."""
        self._mischief.append(Mischief(late, error, hang))

    def render(self, picture: Picture, colour: int, seconds: float = 0.0, after: Sequence[SyncFile] = ()) -> SyncFile:
        """Fill a picture with a colour, and return the out-fence at once; it is the caller's.

        Args:
            colour: of every pixel (0 <= int < 2**32).
            seconds: how long it takes.
            after: in-fences, as the compositor's release fence; one that has an error counts as signaled.
        """
        planned = self._mischief.popleft() if self._mischief else Mischief()
        job = self.queue.submit(
            Fill(picture.attachment, colour, length=picture.width * picture.height * 4),
            in_fences=after,
            duration=seconds + planned.late,
            error=planned.error,
            hang=planned.hang,
            ignore_errors=True,
        )
        return job.fence

    def look(self, fence: SyncFile) -> JobInfo:
        """What the device knows of a job: when it was submitted, began and ended, and which deadline it was given."""
        return self.queue.device.query(fence)

    def reset(self) -> bool:
        """End the job that it is at, as a driver's watchdog does with a hung one; its fence has ECANCELED then."""
        return self.queue.reset() > 0


class FakeGpu:
    """The GPU; close it when its pictures and contexts are closed, or use it and them in one ``with``."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.device = stack.enter_context(FenceDevice())
            self.heap = stack.enter_context(DmaHeap())
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the device."""
        self._stack.close()

    def __enter__(self) -> FakeGpu:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def context(self, name: str) -> Iterator[Context]:
        """A new context, and a timeline of that name; at the end what is left of its jobs ends with ECANCELED."""
        with self.device.create_queue(name) as queue:
            yield Context(queue)

    @contextmanager
    def allocate(self, width: int, height: int) -> Iterator[Picture]:
        """A new picture, black; contexts that draw into it have to be closed first."""
        size = -(-width * height * 4 // mmap.PAGESIZE) * mmap.PAGESIZE
        with self.heap.alloc(size) as dmabuf, self.device.attach(dmabuf, Access.WRITE) as attachment:
            yield Picture(dmabuf, attachment, width, height)


def show(late: float) -> None:
    """Draw five pictures, one of them as it should be, and say what their fences said."""
    with FakeGpu() as gpu, gpu.allocate(64, 64) as picture, gpu.context("client") as client:
        plans: list[tuple[str, dict[str, float]]] = [
            ("as it should be", {}),
            (f"{late * 1000:.0f} ms late", {"late": late}),
            ("failing", {"error": errno.EIO}),
            ("hanging, and reset", {"hang": True}),
            ("and all is well again", {}),
        ]
        for number, (what, plan) in enumerate(plans, 1):
            client.next(**plan)  # type: ignore[arg-type]
            began = time.monotonic()
            with client.render(picture, number, 0.01) as fence:
                early = ""
                try:
                    fence.wait(0.01 + late / 2)
                except TimeoutError:
                    early = f"not yet after {10 + late * 500:.0f} ms, "
                    if "hang" in plan:
                        client.reset()
                    fence.wait(late + 10)
                took = (time.monotonic() - began) * 1000
                said = "signaled" if fence.error is None else f"ended with {errno.errorcode[fence.error]}"
                print(f"{number} {what}: {early}{said} after {took:.0f} ms, picture {picture.pixel(0, 0)} is there")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--late", type=float, default=200, metavar="MS", help="how late is late [default: 200]")
    options = parser.parse_args()
    if options.late < 0:
        parser.error("nothing comes before it is asked for")
    show(options.late / 1000)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"fake_gpu: {error}\nvm/run -- python examples/fake_gpu.py runs it in a virtual machine")
