"""udmabuf: buffers of a memfd's pages, the seals that they need, and the kernel's own answers."""

import ctypes
import errno
import fcntl
import mmap
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from buffer_words import (
    CREATE,
    CREATE_LIST,
    PAGE,
    Create,
    CreateList,
    bufinfo,
    raw_sync,
    sysfs_buffers,
)
from children import forked
from feature_words import offers
from ioctl_opt import IO
from kernel_words import NOWHERE, answer, free_descriptors, libc, refused

from linuxsync import Access, DmaBuf, OwnedFd, udmabuf

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW
EBADFD = 77
SHRINK, GROW, SEAL, WRITE_SEAL = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL, fcntl.F_SEAL_WRITE
FUTURE_WRITE = 0x10


@pytest.fixture
def sealed(keep):
    """A function that makes a memfd of some pages, with seals."""

    def make(pages=4, seals=SHRINK, flags=os.MFD_ALLOW_SEALING):
        memfd = keep(OwnedFd(os.memfd_create("test", os.MFD_CLOEXEC | flags)))
        os.ftruncate(memfd.fileno(), pages * PAGE)
        if seals:
            fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, seals)
        return memfd

    return make


@pytest.fixture
def device(keep):
    return keep(OwnedFd(os.open("/dev/udmabuf", os.O_RDWR | os.O_CLOEXEC)))


def test_request_numbers():
    """The numbers that the structs add up to are the kernel's."""
    assert (CREATE, CREATE_LIST) == (0x40187542, 0x40087543)
    assert (ctypes.sizeof(Create), ctypes.sizeof(CreateList)) == (24, 8)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 1 << 20])
def test_create(size, open_files):
    """Whole pages of zeros; the memfd and the device are closed again, and the buffer is close-on-exec."""
    before = len(open_files())
    with udmabuf.create(size) as buf:
        assert len(open_files()) == before + 1
        pages = -(-size // PAGE) * PAGE
        assert (buf.size, buf.exporter, buf.refcount) == (pages, "udmabuf", 1)
        assert sysfs_buffers()[buf.ino] == ("udmabuf", pages)
        assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        with buf.cpu_access() as view:
            assert view == bytes(pages)
            view[:] = b"u" * pages


@pytest.mark.parametrize("size", [0, -1, 1 << 63, 1 << 64])
def test_create_no_size(size, open_files):
    """A size that no memfd can have is a ValueError, and nothing is left open."""
    before = open_files()
    with pytest.raises(ValueError, match="size must be"):
        udmabuf.create(size)
    assert open_files() == before


@pytest.mark.parametrize("size", [None, 1.5, "1"])
def test_a_size_is_an_int(size, sealed):
    """TypeError for everything else."""
    for attempt in (lambda: udmabuf.create(size), lambda: udmabuf.from_memfd(sealed(), 0, size)):
        with pytest.raises(TypeError):
            attempt()


def test_from_memfd_is_the_same_memory(sealed):
    """What is written through either is seen through the other, from the offset on; the memfd stays the caller's."""
    memfd = sealed(4)
    with udmabuf.from_memfd(memfd, PAGE, 2 * PAGE) as buf, mmap.mmap(memfd.fileno(), 4 * PAGE) as mapped:
        mapped[PAGE : PAGE + 2] = b"ab"
        with buf.cpu_access() as view:
            assert bytes(view[:2]) == b"ab"
            view[PAGE] = 9
        assert mapped[2 * PAGE] == 9
        assert (buf.size, mapped[0], mapped[3 * PAGE]) == (2 * PAGE, 0, 0)
    assert os.fstat(memfd.fileno()).st_size == 4 * PAGE


# Before 7d79cd784470 (Linux 6.11) udmabuf_vm_fault mapped a memfd's pages as if they were of the buffer's own file. Who
# takes them from the memfd does not find that mapping, and the kernel complains: "BUG: Bad page cache ... still mapped
# when deleted". So there these two would break the guest for all that follow.
PINNED = pytest.mark.linuxsync(requires=["udmabuf_pinned"])


def test_the_memfd_is_closed_first(sealed):
    """A buffer keeps its pages, and is mapped when the memfd has gone."""
    memfd = sealed(1)
    os.pwrite(memfd.fileno(), b"\3", 0)
    with udmabuf.from_memfd(memfd.fileno(), 0, PAGE) as buf:
        memfd.close()
        with buf.cpu_access(READ) as view:
            assert view[0] == 3


@PINNED
def test_from_memfd_by_number(sealed):
    """A number or anything with fileno(); closing the memfd does not matter."""
    memfd = sealed(1)
    with udmabuf.from_memfd(memfd.fileno(), 0, PAGE) as buf, mmap.mmap(memfd.fileno(), PAGE) as mapped:
        mapped[0] = 3
        memfd.close()
        with buf.cpu_access(READ) as view:
            assert view[0] == 3


@pytest.mark.parametrize("seals", [SHRINK, SHRINK | GROW, SHRINK | SEAL, SHRINK | GROW | SEAL])
def test_seals_that_are_fine(seals, sealed):
    """F_SEAL_SHRINK, alone and with those that are in nobody's way."""
    udmabuf.from_memfd(sealed(1, seals), 0, PAGE).close()


WRONG_SEALS = [
    (0, "lacks F_SEAL_SHRINK: fcntl"),
    (GROW, "lacks F_SEAL_SHRINK: fcntl"),
    (SEAL, "can't get it"),
    (SHRINK | WRITE_SEAL, "has F_SEAL_WRITE"),
    (SHRINK | FUTURE_WRITE, "has F_SEAL_FUTURE_WRITE"),
]


@pytest.mark.parametrize(("seals", "message"), WRONG_SEALS)
def test_seals_that_are_not(seals, message, sealed, device, open_files):
    """EINVAL, as the kernel says it, but with the seal."""
    memfd = sealed(1, seals)
    before = open_files()
    assert answer(device.fileno(), CREATE, Create(memfd=memfd.fileno(), size=PAGE)) == -errno.EINVAL
    with refused(errno.EINVAL) as caught:
        udmabuf.from_memfd(memfd, 0, PAGE)
    assert message in str(caught.value)
    assert open_files() == before


def test_a_memfd_that_can_not_be_sealed(sealed, device):
    """Without MFD_ALLOW_SEALING it has F_SEAL_SEAL, and the message says what to make it with."""
    memfd = sealed(1, 0, 0)
    assert answer(device.fileno(), CREATE, Create(memfd=memfd.fileno(), size=PAGE)) == -errno.EINVAL
    with refused(errno.EINVAL) as caught:
        udmabuf.from_memfd(memfd, 0, PAGE)
    assert "MFD_ALLOW_SEALING" in str(caught.value)


RANGES = [(PAGE // 2, PAGE), (0, PAGE // 2), (0, 0), (0, -PAGE), (-PAGE, PAGE), (0, 5 * PAGE), (4 * PAGE, PAGE)]
RANGES += [(1 << 64, PAGE), (0, 1 << 64), ((1 << 64) - PAGE, PAGE), (0, (1 << 64) - PAGE)]


@pytest.mark.parametrize(("offset", "size"), RANGES)
def test_ranges_that_are_none(offset, size, sealed, device, open_files):
    """Not of whole pages, empty, negative, or beyond the end: ValueError; the kernel says EINVAL."""
    memfd = sealed(4)
    before = open_files()
    if 0 <= offset < 1 << 64 and 0 <= size < 1 << 64:
        data = Create(memfd=memfd.fileno(), offset=offset, size=size)
        # A range that ends at 2**64 gets past the comparison: then memfd_pin_folios refuses it, or the page cache does.
        said = errno.EFBIG if offset + size == 1 << 64 and not offers("udmabuf_pinned") else errno.EINVAL
        assert answer(device.fileno(), CREATE, data) == -said
    with pytest.raises(ValueError, match=r"pages|are not within"):
        udmabuf.from_memfd(memfd, offset, size)
    assert open_files() == before


def test_too_large(sealed, device, open_files):
    """More than the module's size_limit_mb is EINVAL that says so, in one piece or in two."""
    limit = int(Path("/sys/module/udmabuf/parameters/size_limit_mb").read_text())
    before = len(open_files())
    for attempt in (
        lambda: udmabuf.create((limit << 20) + 1),
        lambda: udmabuf.from_memfd(sealed((limit << 20) // PAGE + 1), 0, (limit << 20) + PAGE),
    ):
        with refused(errno.EINVAL) as caught:
            attempt()
        assert f"at most {limit} MiB (size_limit_mb" in str(caught.value)
    fd, most = sealed((limit << 20) // PAGE + 1).fileno(), limit << 20
    assert answer(device.fileno(), CREATE, Create(memfd=fd, size=most + PAGE)) == -errno.EINVAL
    assert raw_list(device, [(fd, 0, 0, most), (fd, 0, most, PAGE)]) == -errno.EINVAL
    assert len(open_files()) == before + 2


def test_no_memfd(device, open_files):
    """What is no memfd, or not open, is EBADFD, as the kernel says it."""
    with open(__file__, "rb") as file, open("/dev/null", "rb") as null:
        before = open_files()
        for wrong in (file.fileno(), null.fileno(), device.fileno(), 1 << 20):
            assert answer(device.fileno(), CREATE, Create(memfd=wrong, size=PAGE)) == -EBADFD
            with refused(EBADFD) as caught:
                udmabuf.from_memfd(wrong, 0, PAGE)
            assert f"UDMABUF_CREATE of memfd {wrong}" in str(caught.value)
        assert open_files() == before


@pytest.mark.parametrize(
    ("memfd", "error"), [(-1, ValueError), (1 << 31, ValueError), (None, TypeError), ("1", TypeError)]
)
def test_no_descriptor(memfd, error):
    """A number that no descriptor has is a ValueError, what is no number a TypeError."""
    with pytest.raises(error):
        udmabuf.from_memfd(memfd, 0, PAGE)


@pytest.mark.parametrize("free", [0, 1])
def test_no_descriptor_left(free, sealed, open_files):
    """EMFILE, for the device or for the buffer, leaves nothing."""
    memfd = sealed(1)
    before = open_files()
    for attempt in (lambda: udmabuf.from_memfd(memfd, 0, PAGE), lambda: udmabuf.create(1)):
        with free_descriptors(free), refused(errno.EMFILE):
            attempt()
    assert open_files() == before


def test_no_udmabuf(monkeypatch, tmp_path, sealed):
    """A kernel without it: FileNotFoundError with the option; a device that is somebody else's: what to do."""
    monkeypatch.setattr("linuxsync.udmabuf._DEVICE", str(tmp_path / "none"))
    memfd = sealed(1)
    for attempt in (lambda: udmabuf.create(1), lambda: udmabuf.from_memfd(memfd, 0, PAGE)):
        with refused(errno.ENOENT, FileNotFoundError) as caught:
            attempt()
        assert "CONFIG_UDMABUF" in str(caught.value)


def test_not_for_everybody(sealed):
    """The device is root's: somebody else gets a PermissionError that says so."""

    def work():
        os.setgid(65534)
        os.setuid(65534)
        with refused(errno.EACCES, PermissionError) as caught:
            udmabuf.create(1)
        assert "udev" in str(caught.value)

    with forked(work):
        pass


def test_a_write_seal_comes_too_late(sealed):
    """While a buffer lives its memfd can't be sealed against writing; other seals can be added."""
    memfd = sealed(1)
    with udmabuf.from_memfd(memfd, 0, PAGE):
        with refused(errno.EBUSY):
            fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, WRITE_SEAL)
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, GROW)


def test_end_before_any_start():
    """udmabuf wants a START first: EINVAL until there was one, then END as often as you like."""
    with udmabuf.create(1) as buf:
        for access in (READ, WRITE, RW):
            with refused(errno.EINVAL) as caught:
                buf.end_cpu_access(access)
            assert f"DMA_BUF_IOCTL_SYNC END|{access.name}" in str(caught.value)
        buf.begin_cpu_access(READ)
        for access in (READ, READ, RW):
            buf.end_cpu_access(access)
        assert raw_sync(buf.fileno(), 6) == 0


@PINNED
def test_a_hole_parts_the_two(sealed):
    """After punching a hole the memfd has new pages and the buffer keeps the old ones, as the docstring says."""
    memfd = sealed(1)
    with udmabuf.from_memfd(memfd, 0, PAGE) as buf:
        with buf.cpu_access() as view:
            view[0] = 5
        result = libc.fallocate(memfd.fileno(), 3, ctypes.c_int64(0), ctypes.c_int64(PAGE))
        assert result == 0, os.strerror(ctypes.get_errno())
        assert os.pread(memfd.fileno(), 1, 0) == b"\0"
        with buf.cpu_access(READ) as view:
            assert view[0] == 5


def raw_list(device, items, count=None, flags=1):
    """UDMABUF_CREATE_LIST of (memfd, pad, offset, size): the new descriptor or -errno."""

    class Data(ctypes.Structure):
        _fields_ = [("head", CreateList), ("items", Create * len(items))]

    data = Data(CreateList(flags, len(items) if count is None else count), (Create * len(items))(*items))
    return answer(device.fileno(), CREATE_LIST, data)


def test_list(sealed, device):
    """Pieces of a memfd one after the other, the same page twice too."""
    memfd = sealed(8)
    fd = memfd.fileno()
    with DmaBuf(raw_list(device, [(fd, 0, 6 * PAGE, PAGE), (fd, 99, 0, PAGE), (fd, 0, 0, PAGE)])) as buf:
        os.pwrite(fd, b"six", 6 * PAGE)
        os.pwrite(fd, b"zero", 0)
        assert buf.size == 3 * PAGE
        with buf.cpu_access() as view:
            assert (bytes(view[:3]), bytes(view[PAGE : PAGE + 4])) == (b"six", b"zero")
            view[PAGE] = 1
            assert view[2 * PAGE] == 1


def test_list_of_a_large_memfd(sealed, device):
    """The kernel's selftest: four pieces of four pages, far apart; what the memfd is written afterwards is in them."""
    fd = sealed(1024).fileno()
    starts = [quarter * 256 * PAGE for quarter in range(4)]
    with DmaBuf(raw_list(device, [(fd, 0, start, 4 * PAGE) for start in starts])) as buf:
        assert buf.size == 16 * PAGE
        for fill in b"ab":
            for number, at in enumerate(start + page * PAGE for start in starts for page in range(4)):
                os.pwrite(fd, bytes([fill, number]) * (PAGE // 2), at)
            with buf.cpu_access(READ) as view:
                assert view == b"".join(bytes([fill, number]) * (PAGE // 2) for number in range(16))


def test_a_list_that_can_not_be_read(sealed, device):
    """EFAULT where the head lies at the end of what is mapped and the items behind it."""
    with mmap.mmap(-1, 2 * PAGE) as room:
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        CreateList.from_buffer(room, PAGE - 8).count = 1
        assert libc.mprotect(ctypes.c_void_p(start + PAGE), ctypes.c_size_t(PAGE), 0) == 0
        assert answer(device.fileno(), CREATE_LIST, start + PAGE - 8) == -errno.EFAULT


def test_list_errnos(sealed, device):
    """The refusals of lists."""
    fd = sealed(4).fileno()
    one = (fd, 0, 0, PAGE)
    assert raw_list(device, [one], count=0) == -errno.EINVAL
    assert raw_list(device, [one] * 1025) == -errno.EINVAL
    assert raw_list(device, [(fd, 0, 0, 0)]) == -errno.EINVAL
    assert raw_list(device, [one, (fd, 0, 1, PAGE)]) == -errno.EINVAL
    assert raw_list(device, [one, (fd, 0, 4 * PAGE, PAGE)]) == -errno.EINVAL
    assert raw_list(device, [one, (1 << 20, 0, 0, PAGE)]) == -EBADFD
    # An item of nothing beside a real one was accepted before memfd_pin_folios (c6a3194c05e7, 6.11).
    some = raw_list(device, [one, (fd, 0, 0, 0)])
    if some != -errno.EINVAL:
        DmaBuf(some).close()


def test_raw(device, sealed):
    """Bad pointers, unknown requests, flags that nobody looks at."""
    fd = device.fileno()
    for request in (CREATE, CREATE_LIST):
        for address in (None, NOWHERE):
            assert answer(fd, request, address) == -errno.EFAULT
    for number in (0, 0x41, 0x44):
        assert answer(fd, IO(ord("u"), number), None) == -errno.ENOTTY
    assert answer(fd, CREATE ^ 1 << 16, Create()) == -errno.ENOTTY
    memfd = sealed(1).fileno()
    with DmaBuf(answer(fd, CREATE, Create(memfd=memfd, flags=2**32 - 1, size=PAGE))) as buf:
        assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    with DmaBuf(answer(fd, CREATE, Create(memfd=memfd, flags=0, size=PAGE))) as buf:
        assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFD) == 0


def test_two_hundred_at_once():
    """200 buffers of two pages, all there, all gone."""
    with ExitStack() as stack:
        bufs = [stack.enter_context(udmabuf.create(2 * PAGE)) for _ in range(200)]
        for number, buf in enumerate(bufs):
            with buf.cpu_access() as view:
                view[PAGE] = number
        for number, buf in enumerate(bufs):
            with buf.cpu_access(READ) as view:
                assert view[PAGE] == number
        assert {buf.ino for buf in bufs} <= bufinfo().keys()
