"""GEM buffers: dumb buffers, mappings, and what is left when they, or their device, are closed."""

import errno
import gc
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buffer_words import PAGE, bufinfo, raw_sync
from drm_words import ask, clients, handles, node_of, refusal
from kernel_words import refused

from linuxsync import DrmDevice, GemBuffer


@pytest.mark.parametrize("size", [(0, 1, 8), (1, 0, 8), (1, 1, 0), (-1, 1, 8), (2**32, 1, 8), (1, 2**32, 8)])
def test_sizes_that_are_none(size, vgem):
    """ValueError before the kernel is asked, which says EINVAL."""
    with pytest.raises(ValueError, match="dumb buffer must be"):
        vgem.create_dumb(*size)
    with pytest.raises(TypeError):
        vgem.create_dumb(1.0, 1, 8)
    if 0 in size:
        width, height, bpp = size
        assert refusal(vgem.fileno(), "CREATE_DUMB", height, width, bpp) == errno.EINVAL


@pytest.mark.parametrize("size", [(2**32 - 1, 1, 32), (1, 1, 2**32 - 1), (2**32 - 1, 2**32 - 1, 8)])
def test_sizes_that_overflow(size, dumb_device):
    """EINVAL is the kernel's, and nothing is made."""
    with refused(errno.EINVAL) as caught:
        dumb_device.create_dumb(*size)
    assert "DRM_IOCTL_MODE_CREATE_DUMB" in str(caught.value)
    assert handles(dumb_device.fileno()) == []


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 24), (1024, 1, 32), (1024, 1024, 8), (640, 480, 32)])
def test_dumb_buffers(size, dumb_device, keep):
    """The pitch holds a line, the size holds all lines, in whole pages; the handle is the kernel's."""
    width, height, bpp = size
    if dumb_device.driver == "virtio_gpu" and bpp != 32:
        with refused(errno.EINVAL):
            dumb_device.create_dumb(width, height, bpp)
        return
    gem = keep(dumb_device.create_dumb(width, height, bpp))
    assert handles(dumb_device.fileno()) == [gem.handle]
    assert gem.pitch * 8 >= width * bpp
    assert gem.size == -(-gem.pitch * height // PAGE) * PAGE
    with gem.export() as dmabuf:
        assert os.fstat(dmabuf.fileno()).st_size == gem.size
        assert bufinfo()[os.fstat(dmabuf.fileno()).st_ino].size == gem.size
    assert gem.device is dumb_device


def test_a_huge_buffer_is_taken_when_it_is_touched(vgem, keep):
    """2 GiB in a machine that has half of that."""
    gem = keep(vgem.create_dumb(32768, 32768, 16))
    assert gem.size == 2**31


def test_what_the_kernel_makes_of_a_request(vgem):
    """Flags are ignored, and what is written into the answer's fields is overwritten."""
    result, said = ask(vgem.fileno(), "CREATE_DUMB", 2, 1024, 32, 0xFF, 77, 78, 79)
    assert result == 0
    assert said[4] != 77
    assert said[5:] == (4096, 8192)
    assert ask(vgem.fileno(), "DESTROY_DUMB", said[4])[0] == 0
    for request in ("DESTROY_DUMB", "GEM_CLOSE"):
        for handle in (said[4], 0, 0xDEADBEEF):
            assert refusal(vgem.fileno(), request, handle) == errno.EINVAL


def test_a_render_node_makes_no_dumb_buffers(keep):
    """EACCES for making and mapping; importing is for everybody."""
    render, primary = keep(DrmDevice.open(driver="vgem", render=True)), keep(DrmDevice.open(driver="vgem"))
    with refused(errno.EACCES, PermissionError):
        render.create_dumb(1, 1, 8)
    gem = keep(primary.create_dumb(64, 64, 32))
    with gem.export() as dmabuf, render.import_dma_buf(dmabuf) as imported:
        with refused(errno.EACCES, PermissionError):
            imported.map()
        assert imported.size == gem.size


def test_a_mapping(dumb_device, keep):
    """New memory is zero, two mappings show the same, and it is no copy: the dma-buf shows it too."""
    gem = keep(dumb_device.create_dumb(64, 64, 32))
    with gem.map() as one, gem.map() as two:
        assert len(one) == gem.size
        assert one[:] == bytes(gem.size)
        one[:4] = b"here"
        two[-5:] = b"there"
        with gem.export() as dmabuf, dmabuf.mmap() as three:
            assert (two[:4], one[-5:], three[:4], three[-5:]) == (b"here", b"there", b"here", b"there")
    assert (gem.map()[:4]) == b"here"


def test_start_and_end_are_about_fences_only(dumb_device, keep):
    """The buffers of these drivers take every START and END, in any order, and can be mapped shared only."""
    dmabuf = keep(keep(dumb_device.create_dumb(64, 64, 32)).export())
    for flags in (5, 6, 7, 1, 2, 3):
        assert raw_sync(dmabuf.fileno(), flags) == 0
    for flags in (0, 4, 8):
        assert raw_sync(dmabuf.fileno(), flags) == -errno.EINVAL
    with refused(errno.EINVAL):
        mmap.mmap(dmabuf.fileno(), PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize("end", ["buffer", "device"])
def test_a_mapping_outlives(end, open_files):
    """The buffer's close, and the device's: memory stays as long as somebody has it mapped."""
    before = open_files()
    device = DrmDevice.open(driver="vgem")
    gem = device.create_dumb(1024, 4, 32)
    mapped = gem.map()
    gem.close() if end == "buffer" else device.close()
    for page in range(len(mapped) // PAGE):
        mapped[page * PAGE] = page + 1
    device.close()
    assert mapped[0::PAGE] == bytes([1, 2, 3, 4])
    gem.close()
    assert clients("vgem") == 1  # the mapping has a descriptor of its own
    mapped.close()
    assert open_files() == before
    assert clients("vgem") == 0


def test_what_can_not_be_mapped(vgem, vkms, keep):
    """An imported buffer, privately to write, beyond its end, from its middle, by another open file."""
    gem = keep(vgem.create_dumb(1024, 2, 32))
    with gem.export() as dmabuf, vkms.import_dma_buf(dmabuf) as imported:
        with refused(errno.EINVAL) as caught:
            imported.map()
        assert "DRM_IOCTL_MODE_MAP_DUMB" in str(caught.value)
    assert refusal(vgem.fileno(), "MAP_DUMB", 0xDEAD) == errno.ENOENT
    result, (_, _, offset) = ask(vgem.fileno(), "MAP_DUMB", gem.handle, 0xFFFF)
    assert result == 0
    assert offset >= 2**32
    both = mmap.PROT_READ | mmap.PROT_WRITE
    for length, flags, at in (
        (gem.size, mmap.MAP_PRIVATE, offset),
        (gem.size + PAGE, mmap.MAP_SHARED, offset),
        (PAGE, mmap.MAP_SHARED, offset + PAGE),
        (PAGE, mmap.MAP_SHARED, 0),
    ):
        with refused(errno.EINVAL):
            mmap.mmap(vgem.fileno(), length, flags, both, offset=at)
    mmap.mmap(vgem.fileno(), PAGE, mmap.MAP_SHARED, both, offset=offset).close()
    with DrmDevice.open(driver="vgem") as other, refused(errno.EACCES):
        mmap.mmap(other.fileno(), PAGE, mmap.MAP_SHARED, both, offset=offset)


def test_the_device_goes_first(vgem):
    """Its close ends every handle; closing the buffer does nothing then, also where the number names another file."""
    device = DrmDevice.open(driver="vgem")
    gem = device.create_dumb(64, 64, 32)
    number = device.fileno()
    device.close()
    assert gem.closed
    with DrmDevice.open(driver="vgem") as other:
        assert other.fileno() == number
        mine = other.create_dumb(64, 64, 32)
        assert mine.handle == gem.handle
        gem.close()
        assert handles(number) == [mine.handle]
        for use in (gem.export, gem.map, gem.__enter__):
            with pytest.raises(ValueError, match="closed"):
                use()
        mine.close()


def test_the_last_name_of_the_device_goes_first():
    """A buffer keeps the device's object: it can be used and closed, and then the device closes itself and warns."""
    gem = DrmDevice.open(driver="vgem").create_dumb(64, 64, 32)
    gc.collect()
    gem.export().close()
    gem.close()
    with pytest.warns(ResourceWarning, match="unclosed DrmDevice"):
        del gem


def test_a_forgotten_buffer_gives_its_handle_back(vgem):
    """With a warning, as files do; not once the device is closed."""
    vgem.create_dumb(64, 64, 32).close()
    with pytest.warns(ResourceWarning, match="unclosed <GemBuffer"):
        vgem.create_dumb(64, 64, 32)
    assert handles(vgem.fileno()) == []
    with DrmDevice.open(driver="vgem") as device:
        gem = device.create_dumb(64, 64, 32)
    del gem


def test_use_after_close(vgem):
    """Closing twice is fine; everything else says so."""
    gem = vgem.create_dumb(64, 64, 32)
    assert not gem.closed
    gem.close()
    gem.close()
    assert gem.closed
    assert "closed" in repr(gem)
    for use in (gem.export, gem.map, gem.__enter__):
        with pytest.raises(ValueError, match="closed GemBuffer"):
            use()


def test_closed_behind_our_back(vgem):
    """Somebody else closed the handle: EINVAL from close(), ENOENT from the rest, and it stays closed."""
    gem = vgem.create_dumb(64, 64, 32)
    assert ask(vgem.fileno(), "GEM_CLOSE", gem.handle, 0xFFFF)[0] == 0
    for use in (gem.export, gem.map):
        with refused(errno.ENOENT):
            use()
    with refused(errno.EINVAL) as caught:
        gem.close()
    assert "DRM_IOCTL_GEM_CLOSE" in str(caught.value)
    gem.close()


def test_threads_close_one_object(vgem):
    """Whoever is first closes it, the others do nothing."""
    for _ in range(30):
        gem = vgem.create_dumb(16, 16, 32)
        start = threading.Barrier(4)

        def work(_, gem=gem, start=start):
            start.wait()
            gem.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    assert handles(vgem.fileno()) == []


def test_debug_files_can_be_read(dumb_device, keep):
    """With buffers in them the device's files in debugfs and /sys can be read, and none keeps the reader waiting."""
    keep(dumb_device.create_dumb(64, 64, 32))
    number = Path(node_of(dumb_device.driver)).name
    folder = Path("/sys/class/drm") / number
    paths = [*(Path("/sys/kernel/debug/dri") / number.removeprefix("card")).iterdir(), *folder.iterdir()]
    for path in paths:
        if path.is_file() and os.access(path, os.R_OK) and path.stat().st_mode & 0o444:
            begin = time.monotonic()
            path.read_bytes()
            assert time.monotonic() - begin < 10, path


def test_repr(vgem, keep):
    """Says which it is, and whose."""
    gem = keep(vgem.create_dumb(64, 64, 32))
    assert isinstance(gem, GemBuffer)
    assert repr(gem) == f"<GemBuffer {gem.handle} of DrmDevice({vgem.fileno()}), {gem.size} bytes>"
