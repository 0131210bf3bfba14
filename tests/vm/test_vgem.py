"""vgem: fences on buffers, what waits for which, what is in whose way, and what happens after ten seconds."""

import ctypes
import errno
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from children import forked
from drm_words import ask, clients, node_of, refusal
from kernel_words import GET_DEADLINE, GetDeadline, answer, has_deadlines, libc, raw_info, refused

from linuxsync import Access, DmaHeap, DrmDevice, FenceExpired, VgemDevice, VgemFence

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW


@pytest.fixture
def vgem(keep):
    return keep(VgemDevice.open())


@pytest.fixture
def gem(vgem, keep):
    return keep(vgem.create_dumb(1024, 1, 32))


@pytest.fixture
def dmabuf(gem, keep):
    return keep(gem.export())


def status(dmabuf, access):
    """What somebody who is about to do `access` has to wait for: 0 or 1, by a FILE_INFO of our own."""
    with dmabuf.export_sync_file(access) as fence:
        return raw_info(fence.fileno())[0].status


def idle(dmabuf):
    """(for readers, for writers): whether poll lets them go on."""
    return dmabuf.poll(READ), dmabuf.poll(WRITE)


def test_open():
    """The primary node, or the render node, by path too; of the right class."""
    for arguments, kind in (({}, "card"), ({"render": True}, "renderD"), ({"path": node_of("vgem")}, "card")):
        with VgemDevice.open(**arguments) as device:
            assert type(device) is VgemDevice
            assert device.driver == "vgem"
            assert os.fstat(device.fileno()).st_rdev == Path(node_of("vgem", kind)).stat().st_rdev
    with DrmDevice.open(driver="vgem") as device, VgemDevice.from_fd(device) as same, same.dup() as third:
        assert type(same) is type(third) is VgemDevice


def test_other_drivers_are_refused(keep):
    """ENOTTY, and the message says whose device it is."""
    with refused(errno.ENOTTY) as caught:
        VgemDevice.open(path=node_of("vkms"))
    assert "'vkms'" in str(caught.value)
    other = keep(DrmDevice.open(driver="vkms"))
    with refused(errno.ENOTTY):
        VgemDevice(other.fileno())
    assert other.driver == "vkms"
    # What the kernel says of the requests there: the numbers are the driver's own.
    for request in ("FENCE_ATTACH", "FENCE_SIGNAL"):
        assert refusal(other.fileno(), request, 1) == errno.EINVAL


@pytest.mark.parametrize("kind", ["card", "renderD"])
def test_words_that_are_wrong(kind, keep):
    """Flags, then the pad, then the handle; for signaling flags, then the id. Both nodes say the same."""
    fd = keep(VgemDevice.open(render=kind == "renderD")).fileno()
    for flags in (2, 0xFF, 0xFFFFFFFE):
        assert refusal(fd, "FENCE_ATTACH", 0, flags) == errno.EINVAL
    assert refusal(fd, "FENCE_ATTACH", 0, 0, 0, 1) == errno.EINVAL
    for handle in (0, 0xFF):
        assert refusal(fd, "FENCE_ATTACH", handle) == errno.ENOENT
    assert refusal(fd, "FENCE_SIGNAL", 0, 0xFF) == errno.EINVAL
    for fence in (0, 1, 0xFF):
        assert refusal(fd, "FENCE_SIGNAL", fence) == errno.ENOENT


@pytest.mark.parametrize("write", [False, True])
def test_who_waits_for_a_fence(write, vgem, gem, dmabuf, keep):
    """A read fence holds writers up, a write fence everybody, until it is signaled."""
    assert idle(dmabuf) == (True, True)
    fence = vgem.attach_fence(gem, write=write)
    assert (type(fence), fence.device, fence.write) == (VgemFence, vgem, write)
    assert idle(dmabuf) == (not write, False)
    assert (status(dmabuf, READ), status(dmabuf, WRITE)) == (int(not write), 0)
    out = keep(dmabuf.export_sync_file(RW))
    before = time.monotonic_ns()
    fence.signal()
    assert idle(dmabuf) == (True, True)
    assert out.status == 1
    assert before <= out.timestamp_ns <= time.monotonic_ns()


@pytest.mark.parametrize("write", [False, True])
def test_a_fence_that_was_there_before_the_export(write, vgem, gem):
    """It belongs to the memory, not to the dma-buf."""
    fence = vgem.attach_fence(gem, write)
    with gem.export() as dmabuf:
        assert idle(dmabuf) == (not write, False)
        fence.signal()
        assert idle(dmabuf) == (True, True)


def test_what_the_kernel_calls_it(vgem, gem, dmabuf, keep):
    """Driver vgem, timeline unbound; every fence is on a timeline of its own, so a merge keeps them all."""
    fences = [vgem.attach_fence(gem) for _ in range(3)]
    out = keep(dmabuf.export_sync_file(WRITE))
    assert [(one.driver_name, one.obj_name, one.status) for one in out.fences] == [("vgem", "unbound", 0)] * 3
    for number, fence in enumerate(fences):
        fence.signal()
        assert [one.status for one in out.fences].count(1) == number + 1


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False), (True, True)])
def test_which_fences_conflict(first, second, vgem, gem):
    """Only readers stand side by side: everything else is EBUSY, which says what is in the way, until that signals."""
    there = vgem.attach_fence(gem, first)
    if not first and not second:
        vgem.attach_fence(gem, second).signal()
    else:
        with refused(errno.EBUSY) as caught:
            vgem.attach_fence(gem, second)
        assert f"has a {'write' if first else 'read'} fence that has not signaled" in str(caught.value)
        assert f"of a {'write' if second else 'read'} fence to {gem.handle}" in str(caught.value)
    there.signal()
    vgem.attach_fence(gem, second).signal()


def test_a_failed_attach_takes_no_id(vgem, gem):
    """Ids count up from 1 in each open file, and only for fences that there are."""
    one = vgem.attach_fence(gem, True)
    with refused(errno.EBUSY):
        vgem.attach_fence(gem, True)
    one.signal()
    two = vgem.attach_fence(gem, True)
    two.signal()
    three = vgem.attach_fence(gem)
    assert [one.id, two.id, three.id] == [1, 2, 3]
    with VgemDevice.open() as other, other.create_dumb(16, 16, 32) as mine:
        fence = other.attach_fence(mine)
        assert fence.id == 1
        fence.signal()
    three.signal()


def test_signaled_once(vgem, gem):
    """A second time there is no such fence, whoever was first."""
    fence = vgem.attach_fence(gem)
    fence.signal()
    with refused(errno.ENOENT, FileNotFoundError) as caught:
        fence.signal()
    assert "DRM_IOCTL_VGEM_FENCE_SIGNAL of fence 1" in str(caught.value)
    fence = vgem.attach_fence(gem)
    assert ask(vgem.fileno(), "FENCE_SIGNAL", fence.id)[0] == 0
    with refused(errno.ENOENT):
        fence.signal()


def test_ids_of_another_open_file(vgem, gem, dmabuf, keep):
    """They mean nothing there; a duplicate of the descriptor is the same open file."""
    fence = vgem.attach_fence(gem)
    with VgemDevice.open() as other:
        assert refusal(other.fileno(), "FENCE_SIGNAL", fence.id) == errno.ENOENT
    assert idle(dmabuf) == (True, False)
    with vgem.dup() as same:
        VgemFence(same, fence.id, False).signal()
    assert idle(dmabuf) == (True, True)


def test_buffers_of_others(vgem, keep):
    """A handle of another open file is another buffer, or none: ValueError; import it first."""
    with VgemDevice.open() as other, other.create_dumb(64, 64, 32) as theirs:
        with pytest.raises(ValueError, match="of another device"):
            vgem.attach_fence(theirs)
        with theirs.export() as dmabuf, vgem.import_dma_buf(dmabuf) as mine:
            fence = vgem.attach_fence(mine, True)
            assert idle(dmabuf) == (False, False)
            with refused(errno.EBUSY):
                other.attach_fence(theirs)
            fence.signal()


def test_a_fence_on_somebody_elses_memory(vgem):
    """It lands on the exporter's buffer: a heap's, here, by way of the render node."""
    with VgemDevice.open(render=True) as render, DmaHeap() as heap, heap.alloc(4096) as dmabuf:
        with render.import_dma_buf(dmabuf) as imported:
            fence = render.attach_fence(imported, True)
            assert idle(dmabuf) == (False, False)
        fence.signal()
        assert idle(dmabuf) == (True, True)


def test_use_after_close(vgem, gem):
    """The device's close signals its fences, without an error; after that there is nothing to signal."""
    with VgemDevice.open() as device:
        own = device.create_dumb(64, 64, 32)
        dmabuf = own.export()
        fence = device.attach_fence(own, True)
        out = dmabuf.export_sync_file(READ)
        assert out.status == 0
    with dmabuf, out:
        assert (out.status, idle(dmabuf)) == (1, (True, True))
    for use in (fence.signal, lambda: device.attach_fence(own)):
        with pytest.raises(ValueError, match="closed"):
            use()
    gem.close()
    with pytest.raises(ValueError, match="closed GemBuffer"):
        vgem.attach_fence(gem)


def test_closing_the_buffer_signals_nothing(vgem, gem, dmabuf, keep):
    """Neither the handle nor the dma-buf: the fence is the open file's."""
    fence = vgem.attach_fence(gem, True)
    out = keep(dmabuf.export_sync_file(READ))
    gem.close()
    dmabuf.close()
    assert out.status == 0
    fence.signal()
    assert out.status == 1


def test_closed_behind_our_back(vgem, gem):
    """ENOENT where somebody else closed the handle."""
    assert ask(vgem.fileno(), "GEM_CLOSE", gem.handle)[0] == 0
    with refused(errno.ENOENT) as caught:
        vgem.attach_fence(gem)
    assert "DRM_IOCTL_VGEM_FENCE_ATTACH" in str(caught.value)
    with refused(errno.EINVAL):
        gem.close()


def test_deadlines_are_ignored(vgem, gem, dmabuf, timeline):
    """They can be set, and nobody can ask for them."""
    fence = vgem.attach_fence(gem, True)
    with dmabuf.export_sync_file(READ) as out:
        if has_deadlines(out.fileno()):
            out.set_deadline(1)
            data = GetDeadline(fence_fd=out.fileno())
            assert answer(timeline.fileno(), GET_DEADLINE, data) == -errno.EINVAL
    fence.signal()


def test_a_cpu_access_waits_for_it(vgem, gem, dmabuf):
    """START of a reader lasts until the write fence signals."""
    fence = vgem.attach_fence(gem, True)
    signaled = []

    def signal():
        signaled.append(time.monotonic_ns())
        fence.signal()

    timer = threading.Timer(0.2, signal)
    timer.start()
    with dmabuf.cpu_access(READ):
        entered = time.monotonic_ns()
    timer.join()
    assert entered >= signaled[0]


def test_it_expires(vgem, gem, dmabuf, keep):
    """After 10 s the kernel signals it, without an error; signal() says so once, and not as a timeout."""
    start = time.monotonic()
    read, other = vgem.attach_fence(gem), vgem.attach_fence(gem)
    out = keep(dmabuf.export_sync_file(WRITE))
    assert not dmabuf.poll(WRITE)
    assert dmabuf.poll(WRITE, timeout=120)
    assert 9 < time.monotonic() - start < 60
    assert (out.status, out.error) == (1, None)
    with pytest.raises(FenceExpired) as caught:
        read.signal()
    assert caught.value.errno == errno.ETIMEDOUT
    assert not isinstance(caught.value, TimeoutError)
    assert "10 s" in str(caught.value)
    with refused(errno.ENOENT):
        read.signal()
    assert refusal(vgem.fileno(), "FENCE_SIGNAL", other.id) == errno.ETIMEDOUT
    vgem.attach_fence(gem, True).signal()


def test_a_child_signals(vgem, gem, dmabuf):
    """The open file is both's, and so are its fences."""
    fence = vgem.attach_fence(gem, True)
    with forked(fence.signal):
        assert dmabuf.poll(READ, timeout=60)
    with refused(errno.ENOENT):
        fence.signal()


def test_threads(vgem):
    """Each with a buffer of its own: all ids differ, and every fence is signaled by who attached it."""
    start = threading.Barrier(6)

    def work(_):
        ids = []
        with vgem.create_dumb(16, 16, 32) as own:
            start.wait()
            for _ in range(100):
                fence = vgem.attach_fence(own, True)
                ids.append(fence.id)
                fence.signal()
        return ids

    with ThreadPoolExecutor(6) as pool:
        ids = [number for numbers in pool.map(work, range(6)) for number in numbers]
    assert sorted(ids) == list(range(1, 601))


def test_threads_signal_one_fence(vgem, gem):
    """One of them does, the others are told that it is gone."""
    for _ in range(20):
        fence = vgem.attach_fence(gem, True)
        start = threading.Barrier(4)

        def work(_, fence=fence, start=start):
            start.wait()
            try:
                fence.signal()
            except FileNotFoundError:
                return 0
            return 1

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) == 1


def test_two_hundred_fences(vgem, gem, dmabuf, keep):
    """On one buffer, for readers; a writer waits for the last of them."""
    fences = [vgem.attach_fence(gem) for _ in range(200)]
    out = keep(dmabuf.export_sync_file(WRITE))
    assert len(out.fences) == 200
    for fence in fences[1:]:
        fence.signal()
    assert out.status == 0
    fences[0].signal()
    assert out.status == 1


def unload():
    """What delete_module(2) answers: 0 or -errno."""
    number = {"x86_64": 176}.get(os.uname().machine, 106)
    return -ctypes.get_errno() if libc.syscall(number, b"vgem", os.O_NONBLOCK) else 0


def test_the_module_can_be_unloaded():
    """EAGAIN while a descriptor, a dma-buf or a mapping is left; where it is gone, open() says how to get it."""
    assert clients("vgem") == 0
    path = node_of("vgem")
    with VgemDevice.open() as device:
        assert unload() == -errno.EAGAIN
        gem = device.create_dumb(1024, 1, 32)
        dmabuf = gem.export()
    gem.close()
    with dmabuf:
        assert unload() == -errno.EAGAIN
        with dmabuf.mmap() as mapped:
            mapped[0] = 1
    with VgemDevice.open() as device, device.create_dumb(1024, 1, 32) as gem:
        mapped = gem.map()
    assert unload() == -errno.EAGAIN
    mapped[0] = 7
    assert mapped[0] == 7
    mapped.close()
    try:
        assert unload() == 0
        with refused(errno.ENOENT, FileNotFoundError) as caught:
            VgemDevice.open()
        assert "modprobe vgem" in str(caught.value)
    finally:
        subprocess.run(["modprobe", "vgem"], check=True)
        subprocess.run(["udevadm", "settle"], check=True)
    with VgemDevice.open() as device:
        assert Path(path).stat().st_rdev == os.fstat(device.fileno()).st_rdev
