"""PRIME both ways: exporting, importing, and who still has which handle when somebody closes one."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from buffer_words import bufinfo
from children import forked
from drm_words import ask, handles, node_of, refusal
from kernel_words import free_descriptors, refused

from linuxsync import Access, DmaBuf, DrmDevice


def test_export(dumb_device, keep):
    """Readable, writable, close-on-exec; twice it is one buffer behind two descriptors; it outlives the handle."""
    gem = dumb_device.create_dumb(64, 64, 32)
    with gem.export() as one, gem.export() as two:
        assert isinstance(one, DmaBuf)
        assert one.fileno() != two.fileno()
        assert one.ino == two.ino
        assert one.exporter in ("drm", dumb_device.driver)
        assert not os.get_inheritable(one.fileno())
        with gem.map() as mapped:
            mapped[:4] = b"kept"
        gem.close()
        with one.mmap() as shared:
            assert shared[:4] == b"kept"
            shared[:4] = b"mine"
        assert list(bufinfo()) == [one.ino]


def test_export_without_descriptors(vgem, keep):
    """EMFILE, and the handle is as it was."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    with free_descriptors(0), refused(errno.EMFILE):
        gem.export()
    gem.export().close()


def test_prime_words_that_are_wrong(vgem, keep, timeline):
    """Flags, handles and descriptors that the kernel refuses, and those that it does not look at."""
    fd = vgem.fileno()
    gem = keep(vgem.create_dumb(64, 64, 32))
    for flags in (1, 4, 0xDEADBEEF):
        assert refusal(fd, "PRIME_HANDLE_TO_FD", gem.handle, flags, -1) == errno.EINVAL
    for handle in (0, 0xDEAD):
        assert refusal(fd, "PRIME_HANDLE_TO_FD", handle, os.O_CLOEXEC, -1) == errno.ENOENT
    assert refusal(fd, "PRIME_FD_TO_HANDLE", 0, 0, -1) == errno.EBADF
    fence = keep(timeline.create_fence(1))
    for other in (fd, fence.fileno(), timeline.fileno()):
        assert refusal(fd, "PRIME_FD_TO_HANDLE", 0, 0, other) == errno.EINVAL
    with gem.export() as dmabuf:
        assert ask(fd, "PRIME_FD_TO_HANDLE", 0, 0xDEADBEEF, dmabuf.fileno())[1][0] == gem.handle


def test_the_kernel_counts_no_users_of_a_handle(vgem, vkms, keep):
    """What linuxsync does instead: the second import is the same handle, and one GEM_CLOSE ends it."""
    gem = vgem.create_dumb(64, 64, 32)
    with gem.export() as dmabuf:
        for device, known in ((vgem, gem.handle), (vkms, None)):
            found = [ask(device.fileno(), "PRIME_FD_TO_HANDLE", 0, 0, dmabuf.fileno()) for _ in range(2)]
            assert [result for result, _ in found] == [0, 0]
            handle = found[0][1][0]
            assert handle == found[1][1][0]
            assert known in (handle, None)
            assert ask(device.fileno(), "GEM_CLOSE", handle)[0] == 0
            assert refusal(device.fileno(), "GEM_CLOSE", handle) == errno.EINVAL
    with refused(errno.EINVAL):
        gem.close()


def test_the_first_export_decides_the_access(vgem, keep):
    """Exported read-only by somebody else first, it stays so: ours is the same file."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    result, (_, _, fd) = ask(vgem.fileno(), "PRIME_HANDLE_TO_FD", gem.handle, 0, -1)
    assert result == 0
    with DmaBuf(fd) as first, gem.export() as second:
        assert (os.get_inheritable(first.fileno()), os.get_inheritable(second.fileno())) == (True, False)
        assert first.ino == second.ino
        with refused(errno.EACCES, PermissionError):
            second.mmap()


def test_import_takes_dma_bufs_only(vgem, keep, timeline):
    """Anything else is a TypeError, a closed one a ValueError."""
    for other in (3, None, timeline, vgem):
        with pytest.raises(TypeError, match="DmaBuf"):
            vgem.import_dma_buf(other)
    gem = keep(vgem.create_dumb(64, 64, 32))
    dmabuf = gem.export()
    dmabuf.close()
    with pytest.raises(ValueError, match="closed"):
        vgem.import_dma_buf(dmabuf)


def test_imported_from_elsewhere(vgem, vkms, keep):
    """The same memory under a handle of the importer's; it knows its size and not its pitch."""
    gem = keep(vgem.create_dumb(1024, 1, 32))
    dmabuf = gem.export()
    imported = keep(vkms.import_dma_buf(dmabuf))
    dmabuf.close()
    assert (imported.size, imported.pitch) == (gem.size, None)
    assert handles(vkms.fileno()) == [imported.handle]
    with imported.export() as again, gem.map() as mapped:
        mapped[:5] = b"hello"
        with again.mmap() as shared:
            assert shared[:5] == b"hello"
    gem.close()
    with imported.export() as again, again.mmap() as shared:
        assert shared[:5] == b"hello"


def test_heap_buffers_can_be_imported(heap, vgem, keep):
    """The kernel's selftest: 1 MiB of a heap, written between START and END before vgem imports it, and after."""
    dmabuf = keep(heap.alloc(1 << 20))
    for fill in (b"\1", b"\0"):
        with dmabuf.cpu_access() as view:
            view[: 1 << 19] = fill * (1 << 19)
    with vgem.import_dma_buf(dmabuf) as gem, dmabuf.cpu_access() as view:
        assert gem.size == 1 << 20
        view[:] = b"\xff" * gem.size
    with dmabuf.cpu_access(Access.READ) as view:
        assert view == b"\xff" * (1 << 20)


def test_a_driver_that_takes_no_strangers(vgem, keep):
    """virtio-gpu: ENODEV, and nothing is left of the attempt."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    with DrmDevice.open(driver="virtio_gpu") as virtio, gem.export() as dmabuf:
        before = dmabuf.refcount
        with refused(errno.ENODEV) as caught:
            virtio.import_dma_buf(dmabuf)
        assert "DRM_IOCTL_PRIME_FD_TO_HANDLE" in str(caught.value)
        assert handles(virtio.fileno()) == []
        assert dmabuf.refcount == before


@pytest.mark.parametrize("first", [0, 1, 2])
def test_imported_twice_is_one_handle(first, vgem, vkms, keep):
    """Three GemBuffers of one handle: it goes with the last of them, in whatever order they are closed."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    with gem.export() as dmabuf:
        imported = [vkms.import_dma_buf(dmabuf) for _ in range(3)]
        assert len({one.handle for one in imported}) == 1
        for one in imported[first:] + imported[:first]:
            assert handles(vkms.fileno()) == [one.handle]
            one.export().close()
            one.close()
            one.close()
        assert handles(vkms.fileno()) == []
        with vkms.import_dma_buf(dmabuf):
            assert len(handles(vkms.fileno())) == 1


@pytest.mark.parametrize("order", ["own first", "import first"])
def test_an_own_buffer_comes_home(order, vgem):
    """Exported and imported by one device it is the same handle: closing either must not pull it from the other."""
    gem = vgem.create_dumb(64, 64, 32)
    with gem.export() as dmabuf:
        home = vgem.import_dma_buf(dmabuf)
    assert home.handle == gem.handle
    assert (home.size, home.pitch) == (gem.size, None)
    first, second = (gem, home) if order == "own first" else (home, gem)
    first.close()
    second.export().close()
    assert handles(vgem.fileno()) == [second.handle]
    second.close()
    assert handles(vgem.fileno()) == []


def test_two_opens_have_handles_of_their_own(keep):
    """The same dma-buf in two open files of one device: closing it in one leaves the other."""
    one, two = keep(DrmDevice.open(driver="vgem")), keep(DrmDevice.open(driver="vgem"))
    gem = keep(one.create_dumb(64, 64, 32))
    with gem.export() as dmabuf:
        other = keep(two.import_dma_buf(dmabuf))
    gem.close()
    other.export().close()
    assert (handles(one.fileno()), handles(two.fileno())) == ([], [other.handle])


def test_a_duplicate_shares_the_handles(keep):
    """dup() is the same open file: what both import is one handle, and it can be closed when either device is gone."""
    one = DrmDevice.open(driver="vgem")
    two = keep(one.dup())
    assert type(two) is DrmDevice
    gem = one.create_dumb(64, 64, 32)
    with gem.export() as dmabuf:
        same = two.import_dma_buf(dmabuf)
    assert same.handle == gem.handle
    one.close()
    assert handles(two.fileno()) == [gem.handle]
    gem.close()
    same.export().close()
    same.close()
    assert handles(two.fileno()) == []


def test_two_hundred_buffers(vgem, vkms, many_descriptors):
    """Made, exported and imported; then closed in another order than made, and the kernel has none left."""
    made = [vgem.create_dumb(64, 16, 32) for _ in range(200)]
    assert len({gem.handle for gem in made}) == 200
    exported = [gem.export() for gem in made]
    imported = [vkms.import_dma_buf(dmabuf) for dmabuf in exported]
    assert len(bufinfo()) == 200
    for number, gem in enumerate(made):
        with gem.map() as mapped:
            mapped[0] = number
    for dmabuf in exported[::-1]:
        dmabuf.close()
    for gem in made[::2] + made[1::2]:
        gem.close()
    assert handles(vgem.fileno()) == []
    for number, gem in enumerate(imported):
        with gem.export() as dmabuf, dmabuf.mmap() as mapped:
            assert mapped[0] == number
        gem.close()
    assert handles(vkms.fileno()) == []


def test_threads_import_and_close_one_buffer(vgem, vkms, keep):
    """Nobody's handle is pulled away while others come and go; at the end none is left."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    start = threading.Barrier(6)
    with gem.export() as dmabuf:

        def work(number):
            start.wait()
            for _ in range(60):
                with vkms.import_dma_buf(dmabuf) as one:
                    one.export().close()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
    assert handles(vkms.fileno()) == []


def test_a_forked_child_leaves_the_handles(vgem, keep):
    """The open file is the parent's too: what the child closes of its buffers stays, and it makes none there."""
    gem = keep(vgem.create_dumb(64, 64, 32))

    def work():
        with gem.export() as dmabuf:
            for device in (vgem, vgem.dup(), DrmDevice.from_fd(vgem)):
                with pytest.raises(ValueError, match="before a fork"):
                    device.import_dma_buf(dmabuf)
                with pytest.raises(ValueError, match="before a fork"):
                    device.create_dumb(64, 64, 32)
                if device is not vgem:
                    device.close()
            with DrmDevice.open("vgem") as own, own.import_dma_buf(dmabuf) as imported:
                assert handles(own.fileno()) == [imported.handle]
        gem.close()
        assert gem.closed
        assert handles(vgem.fileno()) == [gem.handle]
        vgem.close()

    with forked(work):
        pass
    assert handles(vgem.fileno()) == [gem.handle]
    gem.export().close()


def test_fork_while_threads_import(vgem, vkms, keep):
    """A child that is forked in the middle of it can import and close: no lock stays taken."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    stop = threading.Event()
    with gem.export() as dmabuf:

        def churn():
            while not stop.is_set():
                vkms.import_dma_buf(dmabuf).close()

        def work():
            with DrmDevice.open(path=node_of("vkms")) as device, device.import_dma_buf(dmabuf) as one:
                assert one.size == gem.size

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(churn) for _ in range(2)]
            for _ in range(5):
                with forked(work):
                    pass
            stop.set()
            for thread in running:
                thread.result()
