"""Faults in what is done with the fence device, whose module is this project's: here nothing is the kernel's fault."""

from contextlib import ExitStack, contextmanager

import pytest
from fencedev_words import alive

from linuxsync import Access, DmaHeap, FenceDevice, Timeline
from linuxsync.fencedev import Checksum, Copy, Fill, JobState, ScaleAdd
from tests.torture.faults import covers, equals

pytest_plugins = ["tests.torture.faults_plugin"]
SIZE = 4 * 4096


@pytest.fixture
def device():
    with FenceDevice() as made:
        yield made


@pytest.fixture
def queue(device):
    with device.create_queue("queue") as made:
        yield made


@pytest.fixture
def heap():
    with DmaHeap() as made:
        yield made


@pytest.fixture
def bufs(heap):
    with heap.alloc(SIZE) as one, heap.alloc(SIZE) as other:
        yield one, other


def counters(*_):
    """What the module counts, but for fences, which others hold too."""
    return {name: count for name, count in alive().items() if name != "fences"}


@covers("FenceDevice.version", "FenceDevice.has_deadlines")
@pytest.mark.parametrize("name", ["version", "has_deadlines"])
def test_version(sweep, device, name):
    sweep(lambda: getattr(device, name), equals(getattr(device, name)))


@covers("FenceDevice")
def test_open(sweep):
    def right(made):
        with made:
            assert made.version >= 1

    sweep(FenceDevice, right)


@covers("FenceDevice.create_queue", "fencedev.Queue")
def test_create_queue(sweep, device):
    def right(made):
        with made:
            assert made.name == "a"

    sweep(lambda: device.create_queue("a"), right, kept=counters)


@covers("fencedev.Queue.close")
def test_close_queue(sweep, device):
    @contextmanager
    def new():
        with device.create_queue() as made:
            yield made

    def right(_, made):
        assert (made.closed, counters()["queues"]) == (True, 0)

    sweep(lambda made: made.close(), right, prepare=new, kept=lambda made: (made.closed, counters()))


@covers("FenceDevice.attach", "fencedev.Attachment", "fencedev.Attachment.map")
def test_attach(sweep, device, bufs):
    def right(made):
        with made:
            assert made.peek(0, 4) == bytes(4)

    sweep(lambda: device.attach(bufs[0]), right, kept=counters)


@contextmanager
def attached(device, buf, mapped=True):
    with device.attach(buf, mapped=mapped) as made:
        yield made


@covers("fencedev.Attachment.map", "fencedev.Attachment.unmap")
def test_map(sweep, device, bufs):
    def both(made):
        made.map()
        made.unmap()

    def right(*_):
        assert counters()["mappings"] == 0

    sweep(both, right, prepare=lambda: attached(device, bufs[0], mapped=False), again=False)


@covers("fencedev.Attachment.close")
def test_detach(sweep, device, bufs):
    def right(_, made):
        assert (made.closed, counters()["attachments"]) == (True, 0)

    sweep(
        lambda made: made.close(),
        right,
        prepare=lambda: attached(device, bufs[0]),
        kept=lambda made: (made.closed, counters()),
    )


@covers("fencedev.Attachment.peek", "fencedev.Attachment.poke")
def test_poke(sweep, device, bufs):
    with device.attach(bufs[0]) as made:

        def both():
            made.poke(b"12345678", 4092)  # over the edge of a page
            return made.peek(4092, 8)

        sweep(both, equals(b"12345678"))


@covers("fencedev.Job.close")
def test_close_job(sweep, device, queue, bufs):
    @contextmanager
    def done():
        with device.attach(bufs[0]) as src, queue.submit(Checksum(src)) as job:
            job.fence.wait(10)
            yield job

    sweep(lambda job: job.close(), prepare=done)


@covers("fencedev.Queue.submit")
@pytest.mark.parametrize("implicit", [False, True], ids=["", "implicit"])
def test_submit(sweep, device, queue, bufs, implicit):
    """Two buffers, two in-fences: all that a job can take."""

    @contextmanager
    def all_of_it():
        with ExitStack() as stack:
            dst, src = (stack.enter_context(device.attach(buf)) for buf in bufs)
            timelines = [stack.enter_context(Timeline()) for _ in range(2)]
            yield dst, src, timelines, [stack.enter_context(timeline.create_fence(1)) for timeline in timelines]

    def submit(state):
        dst, src, _, fences = state
        return queue.submit(Copy(dst, src), in_fences=fences, implicit=implicit)

    def right(job, state):
        assert job.info().state is JobState.WAITING
        for timeline in state[2]:
            timeline.inc()
        with job:
            job.fence.wait(10)
            assert job.fence.signaled

    def kept(state):
        """Nobody but a job that goes on has the attachments; and the buffer has no fence."""
        with bufs[0].export_sync_file(Access.WRITE) as fence:
            return counters(), fence.status

    sweep(submit, right, prepare=all_of_it, kept=kept)


@covers("fencedev.Job.info", "FenceDevice.query")
def test_query(sweep, device, queue, bufs):
    with device.attach(bufs[0]) as src, queue.submit(Checksum(src)) as job:
        job.fence.wait(10)
        sweep(job.info, equals(job.info()))


@covers("fencedev.Queue.reset")
def test_reset(sweep, queue):
    """A job that was reset without our being told is at its end all the same."""

    @contextmanager
    def hung():
        with queue.submit(hang=True) as job:
            while job.info().state is not JobState.HUNG:
                pass
            yield job
            queue.reset()
            job.fence.wait(10)

    sweep(lambda job: queue.reset(), lambda seqno, job: job.fence.wait(10), prepare=hung, again=False)


@covers("fencedev.Queue.submit")
def test_fill(sweep, device, queue, bufs):
    """The queue's worker does the work: what it allocates does not fail."""
    with device.attach(bufs[0]) as dst:

        def right(job):
            with job:
                job.fence.wait(10)
            assert dst.peek(0, 4) == b"\7\0\0\0"

        sweep(lambda: queue.submit(Fill(dst, 7)), right)


@covers("fencedev.Queue.submit")
def test_scale_add(sweep, device, queue, bufs):
    with device.attach(bufs[0]) as dst, device.attach(bufs[1]) as src:

        @contextmanager
        def filled():
            for one, word in ((bufs[0], 3), (bufs[1], 5)):
                with one.cpu_access() as view:
                    view[:4] = word.to_bytes(4, "little")
            yield

        def right(job, _):
            with job:
                job.fence.wait(10)
            assert dst.peek(0, 4) == b"\x1a\0\0\0"

        sweep(lambda _: queue.submit(ScaleAdd(dst, src, 7)), right, prepare=filled)


@covers("FenceDevice.close")
def test_close_device(sweep, bufs):
    """With a job under way and a buffer that it uses."""

    @contextmanager
    def full():
        with FenceDevice() as made:
            queue = made.create_queue()
            dst = made.attach(bufs[0])
            with queue.submit(Fill(dst, 1), hang=True) as job:
                yield made, job, queue, dst

    def right(_, state):
        assert state[1].fence.error == 125

    sweep(lambda state: state[0].close(), right, prepare=full)
