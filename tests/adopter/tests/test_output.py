"""The output, with fences that the tests signal themselves."""

import errno
from contextlib import ExitStack

import pytest
from tinycomp import Frame, Output, average

from linuxsync import Access, Timeline, kms


@pytest.fixture
def client(sw_sync_timeline):
    """The timeline of a client that draws."""
    return sw_sync_timeline


@pytest.fixture
def output():
    """An output with a vblank of its own."""
    with Timeline("vblank") as vblank:
        made = Output(vblank)
        yield made
        made.close()


@pytest.mark.linuxsync(requires=["sw_sync"])
@pytest.mark.usefixtures("fence_leak_check")
class TestFrames:
    def test_waits_until_it_is_drawn(self, output, client, dma_buf, fence_trace):
        with output.commit(Frame(dma_buf, client.create_fence(1))) as release:
            assert not output.repaint()
            client.inc()
            assert output.repaint()
            assert release.signaled

    def test_shows_the_newest(self, output, client, dma_buf):
        for value in (1, 2, 3):
            output.commit(Frame(dma_buf, client.create_fence(value))).close()
        client.inc(2)
        assert output.repaint()
        assert len(output.waiting) == 1

    def test_survives_a_client_that_dies(self, output, dma_buf):
        with Timeline("crashing") as client:
            output.commit(Frame(dma_buf, client.create_fence(1))).close()
        assert output.repaint()
        assert output.shown.drawn.error == errno.ENOENT

    @pytest.mark.linuxsync(requires=["set_deadline"])
    def test_tells_a_client_when_it_is_due(self, output, client, dma_buf):
        fence = client.create_fence(1)
        output.commit(Frame(dma_buf, fence)).close()
        fence.set_deadline(1_000_000)
        assert client.deadline_ns(fence) == 1_000_000


@pytest.mark.linuxsync(requires=["import_sync_file", "export_sync_file"])
def test_implicit_fences(client, dma_buf, fence_leak_check):
    """A client that knows no explicit sync: its fence is in the buffer."""
    with client.create_fence(1) as fence:
        dma_buf.import_sync_file(fence, Access.WRITE)
    with dma_buf.export_sync_file(Access.READ) as drawn:
        assert not drawn.poll()
        client.inc()
        drawn.wait(1)


def test_colour(dma_buf):
    with dma_buf.cpu_access(Access.RW) as pixels:
        pixels[:] = bytes([7]) * len(pixels)
    assert average(dma_buf) == 7


@pytest.mark.linuxsync(requires=["sw_sync", "drm:vgem"])
def test_a_gpu_that_draws_late(vgem, output, fence_leak_check):
    """The fence hangs on the buffer, and the client signals it."""
    with vgem.create_dumb(64, 64, 32) as gem, gem.export() as buffer:
        drawing = vgem.attach_fence(gem, write=True)
        output.commit(Frame(buffer, buffer.export_sync_file(Access.READ))).close()
        assert not output.repaint()
        drawing.signal()
        assert output.repaint()


def test_two_timelines_in_one(syncobj_device, client, fence_leak_check):
    """What wp_linux_drm_syncobj clients send: points of a timeline."""
    with syncobj_device.create_syncobj() as timeline, client.create_fence(1) as fence:
        timeline.import_sync_file(fence, point=5)
        client.inc()
        timeline.wait(1, point=5)


def test_screen(vkms, client, fence_leak_check):
    """A real atomic commit with the client's fence as IN_FENCE_FD; the out-fence says when it was shown."""
    pipeline = kms.find_pipeline(vkms)
    width, height = pipeline.modes[0].width, pipeline.modes[0].height
    with ExitStack() as stack:
        buffers = [stack.enter_context(vkms.create_dumb(width, height, 32)) for _ in range(2)]
        front, back = [stack.enter_context(kms.add_framebuffer(buffer, width, height)) for buffer in buffers]
        kms.modeset(vkms, pipeline, front)
        drawn = stack.enter_context(client.create_fence(1))
        shown = stack.enter_context(kms.commit(vkms, crtc=pipeline.crtc, plane=pipeline.plane, fb=back, in_fence=drawn))
        assert not shown.poll(0.05)
        client.inc()
        shown.wait(60)
        kms.disable(vkms, pipeline)


def test_device_that_draws(fence_device, output, client, dma_buf, fence_leak_check):
    """A real device behind a real driver waits for our fence and gives its own."""
    with (
        fence_device.create_queue("gpu") as queue,
        client.create_fence(1) as before,
        queue.submit(in_fences=[before]) as job,
    ):
        output.commit(Frame(dma_buf, job.fence.dup())).close()
        assert not output.repaint()
        client.inc()
        job.fence.wait(60)
        assert output.repaint()
