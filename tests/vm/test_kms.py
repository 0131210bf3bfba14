"""Explicit fences in KMS, on vkms: what a commit waits for, and what it gives."""

import errno
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from children import forked
from drm_words import properties, shown
from kernel_words import has_deadlines, refused

from linuxsync import Access, DrmDevice, SyncFile, Timeline, VgemDevice, _uapi, kms, merge

CRTC, CONNECTOR, PLANE = 0xCCCCCCCC, 0xC0C0C0C0, 0xEEEEEEEE
# A vblank of vkms bears the time at which its timer should have run (vkms_get_vblank_timestamp). On a slow machine it
# runs later, and what was committed in between bears a stamp from before the commit. The waits here are far longer.
LATE = 100_000_000


def test_the_pipeline(screen):
    """Objects that the kernel knows, which fit together; the plane is a primary one."""
    pipeline = screen.pipeline
    assert properties(screen.fd, pipeline.plane, PLANE)["type"][1] == 1
    assert properties(screen.fd, pipeline.connector, CONNECTOR)["CRTC_ID"][1] == pipeline.crtc
    assert properties(screen.fd, pipeline.plane, PLANE)["CRTC_ID"][1] == pipeline.crtc
    assert properties(screen.fd, pipeline.crtc, CRTC)["ACTIVE"][1] == 1
    first = pipeline.modes[0]
    assert (first.name, first.width, first.height, first.refresh) == ("1024x768", 1024, 768, 60)
    assert len(first.modeinfo) == 68
    assert len(pipeline.modes) > 5


def test_the_screen_goes_on_and_off(screen):
    """As debugfs has it."""
    state = shown("vkms")
    assert list(state.values()).count(screen.fbs[0].id) == 1
    assert state["crtc-0"] == 1
    kms.modeset(screen.device, screen.pipeline, screen.fbs[1], screen.pipeline.modes[0])
    assert screen.fbs[1].id in shown("vkms").values()
    kms.disable(screen.device, screen.pipeline)
    assert set(shown("vkms").values()) == {0}


def test_the_out_fence(screen):
    """A fence of vkms on the timeline of the CRTC, later each time; it signals at the vblank that ends the flip."""
    before = time.monotonic_ns()
    stamps = []
    for fb in screen.fbs[1:] + screen.fbs:
        fence = screen.flip(fb)
        assert type(fence) is SyncFile
        (info,) = fence.fences
        assert info.driver_name == "vkms"
        assert info.obj_name.startswith(f"CRTC:{screen.crtc}-crtc-")
        fence.wait(60)
        assert fence.status == 1
        stamps.append(fence.timestamp_ns)
        assert fb.id in shown("vkms").values()
    assert sorted(set(stamps)) == stamps
    assert before - LATE < stamps[0]
    assert stamps[-1] < time.monotonic_ns() + LATE


def test_it_does_not_flip_before_the_in_fence(screen, timeline):
    """A nonblocking commit returns at once, and the flip comes after the in-fence; which stays open, the caller's."""
    fence = screen.keep(timeline.create_fence(1))
    begun = time.monotonic_ns()
    out = screen.flip(screen.fbs[1], in_fence=fence)
    returned = time.monotonic_ns()
    assert returned - begun < 10_000_000_000
    assert not out.poll(0.5)
    assert (out.status, fence.status) == (0, 0)
    timeline.inc()
    out.wait(60)
    assert fence.timestamp_ns - returned >= 500_000_000
    assert fence.timestamp_ns - LATE < out.timestamp_ns < time.monotonic_ns() + LATE
    assert fence.status == 1


def test_a_signaled_in_fence_is_nothing_to_wait_for(screen, timeline):
    """Nor is one that failed: the kernel counts that as signaled."""
    done = screen.keep(timeline.create_fence(0))
    screen.flip(screen.fbs[1], in_fence=done).wait(60)
    with Timeline() as short:
        failed = screen.keep(short.create_fence(1))
    assert failed.error == errno.ENOENT
    out = screen.flip(screen.fbs[2], in_fence=failed)
    out.wait(60)
    assert out.status == 1


def test_a_merged_in_fence(screen, timeline, keep):
    """Waits for all of it."""
    other = keep(Timeline())
    both = keep(merge([keep(timeline.create_fence(1)), keep(other.create_fence(1))]))
    out = screen.flip(screen.fbs[1], in_fence=both)
    timeline.inc()
    assert not out.poll(0.2)
    other.inc()
    out.wait(60)
    assert out.timestamp_ns > both.timestamp_ns - LATE


def test_an_out_fence_as_an_in_fence(screen, timeline, keep):
    """What one commit gives the next can take."""
    first = screen.flip(screen.fbs[1])
    second = screen.flip(screen.fbs[2], in_fence=first, nonblock=False)
    assert (first.status, second.status) == (1, 1)
    assert first.timestamp_ns < second.timestamp_ns


def test_one_flip_at_a_time(screen, timeline, open_files):
    """EBUSY while a nonblocking commit is still waiting; nothing is left open, and later it goes on."""
    fence = screen.keep(timeline.create_fence(1))
    out = screen.flip(screen.fbs[1], in_fence=fence)
    before = open_files()
    for _ in range(3):
        with refused(errno.EBUSY) as caught:
            screen.commit(screen.fbs[2])
        assert f"DRM_IOCTL_MODE_ATOMIC of fb {screen.fbs[2].id} to plane {screen.plane}, CRTC {screen.crtc}" in str(
            caught.value
        )
    assert open_files() == before
    timeline.inc()
    out.wait(60)
    screen.flip(screen.fbs[2]).wait(60)


def test_a_commit_that_blocks(screen, timeline):
    """Returns when the flip is done, while other threads run."""
    fence = screen.keep(timeline.create_fence(1))
    timer = threading.Timer(0.3, timeline.inc)
    start = time.monotonic()
    timer.start()
    out = screen.flip(screen.fbs[1], in_fence=fence, nonblock=False)
    assert 0.25 < time.monotonic() - start < 60
    assert out.status == 1
    timer.join()


def test_signals_while_it_blocks(screen, timeline):
    """A handler runs and the commit goes on; a handler that raises ends it, and nothing is left."""
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(timeline.inc()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        fence = screen.keep(timeline.create_fence(1))
        assert screen.flip(screen.fbs[1], in_fence=fence, nonblock=False).status == 1
        assert seen == [None]

        def interrupt(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        fence = screen.keep(timeline.create_fence(2))
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            screen.commit(screen.fbs[2], in_fence=fence, nonblock=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert screen.fbs[1].id in shown("vkms").values()
    screen.flip(screen.fbs[2]).wait(60)


def test_only_asking(screen, timeline):
    """test_only gives no fence and changes nothing, also where a fence has not signaled; what would fail does."""
    fence = screen.keep(timeline.create_fence(1))
    for nonblock in (True, False):
        assert screen.commit(screen.fbs[1], in_fence=fence, test_only=True, nonblock=nonblock) is None
    assert screen.fbs[0].id in shown("vkms").values()
    with refused(errno.EINVAL):
        screen.commit(0xDEAD, test_only=True)


def test_nothing_on_the_plane(screen):
    """No framebuffer: the plane goes off, the CRTC stays on, and there is an out-fence."""
    for nothing in (None, 0):
        screen.flip(nothing, nonblock=False)
        state = shown("vkms")
        assert not set(state.values()) & {fb.id for fb in screen.fbs}
        assert state["crtc-0"] == 1


def test_implicit_fences(screen, timeline, keep):
    """A write fence on the buffer holds the flip up, a read fence does not, and an in-fence overrides both."""
    vgem = keep(VgemDevice.open())
    gem = keep(vgem.create_dumb(screen.mode.width, screen.mode.height, 32))
    with gem.export() as dmabuf:
        imported = keep(screen.device.import_dma_buf(dmabuf))
    with pytest.raises(ValueError, match="pitch"):
        kms.add_framebuffer(imported, screen.mode.width, screen.mode.height)
    fb = keep(kms.add_framebuffer(imported, screen.mode.width, screen.mode.height, pitch=gem.pitch))
    read = vgem.attach_fence(gem)
    screen.flip(fb).wait(60)
    read.signal()
    screen.flip(screen.fbs[0]).wait(60)
    write = vgem.attach_fence(gem, write=True)
    out = screen.flip(fb)
    assert not out.poll(0.2)
    write.signal()
    out.wait(60)
    screen.flip(screen.fbs[0]).wait(60)
    write = vgem.attach_fence(gem, write=True)
    done = keep(timeline.create_fence(0))
    screen.flip(fb, in_fence=done).wait(60)
    with gem.export() as dmabuf, dmabuf.export_sync_file(Access.RW) as pending:
        assert [fence.driver_name for fence in pending.fences] == ["vgem"]  # scanout adds none
    write.signal()


def test_the_in_fence_hears_when_it_is_needed(screen, timeline):
    """The kernel sets its deadline, to the next vblank (6.4, visible from 6.8 on)."""
    fence = screen.keep(timeline.create_fence(1))
    if has_deadlines(fence.fileno()):
        before = time.monotonic_ns()
        out = screen.flip(screen.fbs[1], in_fence=fence)
        for _ in range(3000):  # a worker sets it
            try:
                deadline = timeline.deadline_ns(fence)
                break
            except FileNotFoundError:
                time.sleep(0.02)
        assert before - 100_000_000 < deadline < time.monotonic_ns() + 1_000_000_000
        timeline.inc()
        out.wait(60)


def test_properties_are_looked_up_once(screen, monkeypatch):
    """A commit is one request; the names are remembered for each device."""
    asked = []
    real = _uapi.ask

    def watched(fd, request, data, name, answer):
        asked.append(name)
        return real(fd, request, data, name, answer)

    screen.flip(screen.fbs[1]).wait(60)
    monkeypatch.setattr(DrmDevice, "_ioctl", None)  # what asks for names
    monkeypatch.setattr(_uapi, "ask", watched)
    screen.flip(screen.fbs[2]).wait(60)
    assert [name.split()[0] for name in asked] == ["DRM_IOCTL_MODE_ATOMIC"]


def test_a_child_commits(screen, timeline):
    """The open file is both's; what the child closes of the parent's framebuffers stays."""
    fence = screen.keep(timeline.create_fence(1))

    def work():
        with screen.commit(screen.fbs[1], in_fence=fence) as out:
            timeline.inc()
            out.wait(60)
        for fb in screen.fbs:
            fb.close()

    with forked(work):
        pass
    assert screen.fbs[1].id in shown("vkms").values()
    screen.flip(screen.fbs[2]).wait(60)


def test_threads_commit(screen):
    """Each gets a fence or EBUSY, and in the end all get through."""

    def work(fb):
        flips = 0
        while flips < 5 and time.monotonic() < end:
            try:
                with screen.commit(fb) as out:
                    out.wait(60)
                    flips += 1
            except OSError as error:
                assert error.errno == errno.EBUSY
                time.sleep(0.005)
        return flips

    end = time.monotonic() + 60
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, screen.fbs)) == [5, 5, 5]


def test_sixty_frames(screen, timeline, open_files):
    """Three buffers in turn, each frame with an in-fence; every flip comes after the one before, and nothing leaks."""
    before = open_files()
    last = 0
    for frame in range(60):
        fence = timeline.create_fence(frame + 1)
        with fence, screen.commit(screen.fbs[frame % 3], in_fence=fence) as out:
            timeline.inc()
            out.wait(60)
            assert last < out.timestamp_ns
            assert fence.timestamp_ns - LATE < out.timestamp_ns
            last = out.timestamp_ns
    assert open_files() == before
