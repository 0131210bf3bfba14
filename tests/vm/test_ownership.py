"""Who owns what when something comes in between: signals whose handlers raise, threads, duplicates, copies, garbage."""

import copy
import gc
import pickle
import random
import signal
import threading
import time
import warnings
from contextlib import contextmanager, suppress

import pytest
from buffer_words import PAGE, bufinfo, syncs
from drm_words import ask, framebuffers, handles, node_of

from linuxsync import (
    Access,
    DmaBuf,
    DmaHeap,
    DrmDevice,
    SyncFile,
    Syncobj,
    Timeline,
    VgemDevice,
    kms,
    udmabuf,
    wait_all,
)


class StruckError(Exception):
    """What the handler of a signal raises."""


@contextmanager
def strikes(most):
    """A function that has a signal come within so many seconds, whose handler raises; what that drops does not warn."""

    def strike(*_):
        raise StruckError

    chance = random.Random(5)
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield lambda: signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, most))
            gc.collect()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def struck(work, seconds=4.0):
    """How often `work` ended by a signal, and how often by itself, in so many seconds."""
    ends = [0, 0]
    work()
    start = time.monotonic()
    work()
    until = time.monotonic() + seconds
    with strikes(1.5 * (time.monotonic() - start)) as strike:
        while time.monotonic() < until:
            try:
                strike()
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
                ends[1] += 1
            except StruckError:
                ends[0] += 1
    return ends


def test_a_handler_that_raises_loses_no_handle(vgem, vkms):
    """Dumb buffers, exports and imports: at the end the kernel has as many handles as there are objects."""
    with vgem.create_dumb(64, 64, 32) as gem:

        def work():
            vgem.create_dumb(64, 64, 32).close()
            with gem.export() as dmabuf, vkms.import_dma_buf(dmabuf), vgem.import_dma_buf(dmabuf):
                pass

        interrupted, finished = struck(work, 8)
        assert interrupted > 100
        assert finished > 0
        assert (handles(vgem.fileno()), handles(vkms.fileno())) == ([gem.handle], [])
        gem.export().close()
    assert bufinfo() == {}


@pytest.mark.parametrize("what", ["heap", "udmabuf", "devices", "framebuffer", "syncobj", "sync_files"])
def test_a_handler_that_raises_loses_nothing(what, heap, vkms, gpu, timeline, fence):
    """Whatever is made; the fixtures count descriptors, buffers, framebuffers and open files."""
    gem = vkms.create_dumb(64, 64, 32)
    buf = heap.alloc(PAGE)
    node = node_of("vgem")  # because pyudev, which finds devices by their driver, is not proof against this

    def framebuffer():
        kms.add_framebuffer(gem, 64, 64).close()

    def syncobj():
        with Syncobj.create(gpu) as made:
            made.import_sync_file(fence)
            made.export_sync_file().close()

    def sync_files():
        buf.import_sync_file(fence, Access.READ)
        buf.export_sync_file(Access.RW).close()
        with buf.cpu_access(Access.READ):
            pass

    work = {
        "heap": lambda: DmaHeap().close() or heap.alloc(1 << 20).close(),
        "udmabuf": lambda: udmabuf.create(1 << 18).close(),
        "devices": lambda: VgemDevice.open(path=node).close(),
        "framebuffer": framebuffer,
        "syncobj": syncobj,
        "sync_files": sync_files,
    }[what]
    interrupted, finished = struck(work)
    assert interrupted > 20
    assert finished > 0
    assert framebuffers("vkms") == []
    assert handles(vkms.fileno()) == [gem.handle]
    timeline.inc()
    gem.close()
    buf.close()


def test_closing_a_screen_lets_others_go_on(screen, timeline, keep):
    """The last close of a device waits for the flip under way, and the thread that is to signal its fence runs."""
    fence = keep(timeline.create_fence(1))
    out = keep(screen.commit(screen.fbs[1], in_fence=fence))
    later = threading.Timer(0.5, timeline.inc)
    later.start()
    start = time.monotonic()
    screen.device.close()
    assert 0.4 < time.monotonic() - start < 10
    later.join()
    out.wait(5)


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
    screen.flip(screen.fbs[1]).wait(5)


def test_access_is_an_access(heap):
    """A float that equals one is none."""
    with heap.alloc(PAGE) as buf:
        assert type(buf) is DmaBuf
        with pytest.raises(ValueError, match="access"):
            heap.alloc(PAGE, 1.0)
