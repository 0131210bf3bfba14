"""Who owns what when something comes in between: threads, duplicates, copies, garbage, wrong arguments."""

import copy
import gc
import pickle
import threading
import time
import warnings
from contextlib import suppress

import pytest
from buffer_words import PAGE, syncs
from drm_words import ask, framebuffers, handles

from linuxsync import (
    Access,
    DmaBuf,
    DrmDevice,
    SyncFile,
    Syncobj,
    Timeline,
    VgemDevice,
    kms,
    wait_all,
)


def test_closing_a_screen_lets_others_go_on(screen, timeline, keep):
    """The last close of a device waits for the flip under way, and the thread that is to signal its fence runs."""
    fence = keep(timeline.create_fence(1))
    out = keep(screen.commit(screen.fbs[1], in_fence=fence))
    later = threading.Timer(0.5, timeline.inc)
    start = time.monotonic()
    later.start()
    screen.device.close()
    assert 0.4 < time.monotonic() - start < 60
    later.join()
    out.wait(60)


def test_duplicates_come_and_go_while_buffers_do(vgem):
    """In two threads, as DrmDevice says."""
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            vgem.dup().close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(1500):
            vgem.create_dumb(16, 16, 32).close()
    finally:
        stop.set()
        thread.join()
    assert handles(vgem.fileno()) == []


@pytest.mark.linuxsync(requires=["syncobj"])
def test_what_a_device_gave_lives_as_long_as_its_duplicates():
    """Framebuffers, buffers and syncobjs can be used and given back while any descriptor of the open file is there."""
    device = DrmDevice.open("virtio_gpu")
    gem, syncobj = device.create_dumb(64, 64, 32), device.create_syncobj()
    fb = kms.add_framebuffer(gem, 64, 64)
    with device.dup() as twin:
        device.close()
        assert (gem.closed, syncobj.closed) == (False, False)
        gem.export().close()
        syncobj.signal()
        syncobj.wait(0)
        handle = syncobj.handle
        with twin.create_syncobj() as other:
            Syncobj.wait_many([syncobj, other], timeout=0, all=False, wait_for_submit=True)
            other.transfer(syncobj, 0, 0)
            other.wait(0)
        with gem.export() as dmabuf, twin.import_dma_buf(dmabuf) as same:
            assert same.handle == gem.handle
        fb.close()
        gem.close()
        syncobj.close()
        assert handles(twin.fileno()) == []
        assert ask(twin.fileno(), "RMFB", 1)[0] < 0
        with pytest.raises(FileNotFoundError):
            Syncobj(twin, handle)


def test_buffers_of_a_duplicate_while_the_first_is_closed(vgem):
    """In two threads: each gives back through its own descriptor."""
    stop = threading.Event()
    first = []

    def close():
        while not stop.is_set():
            if first:
                first.pop().close()

    thread = threading.Thread(target=close)
    thread.start()
    try:
        for _ in range(200):
            one = vgem.dup()
            with one.dup() as two:
                buffers = [two.create_dumb(16, 16, 32) for _ in range(4)]
                first.append(one)
                for gem in buffers:
                    gem.close()
    finally:
        stop.set()
        thread.join()
        for one in first:
            one.close()
    assert handles(vgem.fileno()) == []


@pytest.mark.linuxsync(requires=["syncobj", "timeline_syncobj"])
def test_points_through_a_duplicate():
    """What needs a second handle works too once the device itself is closed."""
    device = DrmDevice.open("virtio_gpu")
    syncobj = device.create_syncobj()
    with device.dup(), Timeline() as timeline, timeline.create_fence(0) as fence:
        device.close()
        syncobj.import_sync_file(fence, 3)
        syncobj.export_sync_file(3).close()
        with pytest.raises(ValueError, match="closed"):
            device.create_syncobj()
        syncobj.close()


def test_vgem_fences_through_a_duplicate():
    """What needs the fence's id works too once the device itself is closed."""
    vgem = VgemDevice.open()
    gem = vgem.create_dumb(16, 16, 32)
    with gem.export() as dmabuf, vgem.dup():
        fence = vgem.attach_fence(gem)
        vgem.close()
        assert not dmabuf.poll(Access.WRITE)
        fence.signal()
        assert dmabuf.poll(Access.WRITE)
        gem.close()


def test_an_access_is_made_by_its_buffer(buf):
    """The class by itself makes nothing that can be entered."""
    made = type(buf.cpu_access())()
    with pytest.raises(TypeError, match="of a DmaBuf"):
        made.__enter__()
    with pytest.raises(ValueError, match="not open"):
        made.__exit__(None, None, None)


def test_threads_ask_for_properties_at_once(screen):
    """The first commit of each of several threads on a new device object finds the properties."""
    failures = []
    for _ in range(15):
        with screen.device.dup() as device:
            start = threading.Barrier(4)

            def work(device=device, start=start):
                start.wait()
                try:
                    kms.commit(device, crtc=screen.crtc, plane=screen.plane, fb=screen.fbs[0], test_only=True)
                except FileNotFoundError as error:
                    failures.append(error)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert failures == []


def test_a_device_made_of_another(keep):
    """from_fd of a DrmDevice is a duplicate: it shares the handles, and a fence goes to the other's buffer."""
    device = keep(DrmDevice.open("vgem"))
    gem = keep(device.create_dumb(64, 64, 32))
    with VgemDevice.from_fd(device) as vgem, gem.export() as dmabuf:
        vgem.import_dma_buf(dmabuf).close()
        gem.export().close()
        vgem.attach_fence(gem).signal()
    other = keep(VgemDevice.open())
    with pytest.raises(ValueError, match="another device"):
        other.attach_fence(gem)
    with pytest.raises(TypeError, match="GemBuffer"):
        other.attach_fence(other)


def test_a_forgotten_framebuffer(vkms):
    """Is removed, with a warning."""
    with vkms.create_dumb(64, 64, 32) as gem:
        fb = kms.add_framebuffer(gem, 64, 64)
        assert framebuffers("vkms") == [fb.id]
        with pytest.warns(ResourceWarning, match="unclosed <Framebuffer"):
            del fb
        assert framebuffers("vkms") == []


def test_no_copies(vkms, buf):
    """A copy would give back what the original still uses."""
    with vkms.create_dumb(64, 64, 32) as gem, kms.add_framebuffer(gem, 64, 64) as fb:
        access = buf.cpu_access()
        with access:
            for owner in (gem, fb, access, vkms, buf):
                for take in (copy.copy, copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError, match="pickle or copy"):
                        take(owner)


def test_an_access_in_a_cycle_has_its_end(buf):
    """Whoever of the two the garbage collector comes to first: END needs the descriptor."""

    class Holder:
        pass

    with syncs() as seen:
        holder = Holder()
        holder.me, holder.buf = holder, buf.dup()
        holder.access = holder.buf.cpu_access(Access.RW)
        holder.access.__enter__()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del holder
            gc.collect()
    assert list(seen) == ["START RW", "END RW"]
    assert sorted(str(warning.message)[:10] for warning in caught) == ["CPU access", "unclosed D"]


def test_no_second_life(heap, timeline, vgem):
    """A closed object stays closed, so what is still remembered of it is not applied to another file."""
    buf, device, other = heap.alloc(2 * PAGE), DrmDevice.open("vgem"), Timeline()
    fence = timeline.create_fence(1)
    for owner in (buf, device, other, fence):
        owner.close()
        with pytest.raises(ValueError, match="opened again"):
            owner.__init__() if owner is other else owner.__init__(vgem.fileno())
        assert owner.closed


def test_a_list_that_shrinks_while_it_is_read(timeline):
    """What is no fence does not get to run code of its own in the middle."""
    waited = []

    class Liar:
        @property
        def __class__(self):
            waited.clear()
            return SyncFile

    with timeline.create_fence(0) as fence:
        waited[:] = [fence, Liar(), *[fence] * 500]
        with pytest.raises(TypeError, match="Liar"):
            wait_all(waited)


@pytest.mark.parametrize("wrong", ["fb", "in_fence", "mode", "size", "gem"])
def test_kms_arguments(wrong, screen, vgem, fence, keep):
    """Refused before the kernel is asked, which would answer something else, or warn."""
    with pytest.raises((TypeError, ValueError)) as caught:
        if wrong == "fb":
            screen.commit("fb")
        elif wrong == "in_fence":
            screen.commit(None, in_fence=fence)
        elif wrong == "mode":
            kms.modeset(screen.device, screen.pipeline, None)
        elif wrong == "size":
            for size in ((0, 64), (64, 0)):
                with suppress(ValueError):
                    kms.add_framebuffer(screen.fbs[0].gem, *size)
                    pytest.fail(f"a framebuffer of {size}")
            kms.add_framebuffer(screen.fbs[0].gem, 64, 64, pitch=0)
        else:
            kms.add_framebuffer(vgem, 64, 64)
    assert not isinstance(caught.value, OSError)
    screen.flip(screen.fbs[1]).wait(60)


def test_access_is_an_access(heap):
    """A float that equals one is none."""
    with heap.alloc(PAGE) as buf:
        assert type(buf) is DmaBuf
        with pytest.raises(ValueError, match="access"):
            heap.alloc(PAGE, 1.0)
