"""DmaHeap: what it allocates, what it refuses, and the kernel's own answers."""

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from buffer_words import ALLOC, EXPORT, PAGE, Alloc, bufinfo, peek, raw_alloc, sysfs_buffers
from ioctl_opt import IO, IOW
from kernel_words import NOWHERE, answer, free_descriptors, refused

from linuxsync import Access, DmaBuf, DmaHeap, OwnedFd

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW


def test_request_number():
    """The number that the struct adds up to is the kernel's."""
    assert (ALLOC, ctypes.sizeof(Alloc)) == (0xC0184800, 24)


def test_names(heap):
    """What /dev/dma_heap lists, sorted; the heap knows its own."""
    assert DmaHeap.names() == sorted(path.name for path in Path("/dev/dma_heap").iterdir())
    assert heap.name == "system"
    assert os.fstat(heap.fileno()).st_rdev == Path("/dev/dma_heap/system").stat().st_rdev


def test_a_heap_that_is_not_there(open_files):
    """FileNotFoundError, with the path, and which heaps there are."""
    before = open_files()
    with refused(errno.ENOENT, FileNotFoundError) as caught:
        DmaHeap("reserved")
    assert "/dev/dma_heap/reserved" in str(caught.value)
    assert "there are: system" in str(caught.value)
    assert open_files() == before


def test_a_kernel_without_heaps(monkeypatch, tmp_path):
    """Then the message has the option, and names() is empty."""
    monkeypatch.setattr("linuxsync.dma_heap._HEAPS", tmp_path / "none")
    assert DmaHeap.names() == []
    with refused(errno.ENOENT, FileNotFoundError) as caught:
        DmaHeap()
    assert "CONFIG_DMABUF_HEAPS_SYSTEM" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "../null", "/dev/null", "a\0b"])
def test_no_name(name):
    """A name is a file name."""
    with pytest.raises(ValueError, match="not a heap's name"):
        DmaHeap(name)


@pytest.mark.parametrize("name", [None, 5, b"system", ["system"]])
def test_a_heap_is_opened_by_name(name):
    """A number is no name: that is from_fd's."""
    with pytest.raises(TypeError):
        DmaHeap(name)


def test_foreign_descriptors(heap, keep, open_files):
    """from_fd takes heaps only; /dev/random says EINVAL to all that it does not know, like a heap, and is none."""
    buf = keep(heap.alloc(1))
    with open("/dev/random", "rb") as random, open(__file__, "rb") as file, open("/dev/null", "rb") as null:
        before = open_files()
        for wrong in (random.fileno(), file.fileno(), null.fileno(), buf):
            with refused(errno.ENOTTY) as caught:
                DmaHeap.from_fd(wrong)
            assert "not a dma-heap" in str(caught.value)
        assert open_files() == before
    again = keep(DmaHeap.from_fd(heap))
    assert again.name == "system"
    keep(again.alloc(1))


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE, (1 << 20) + 1])
def test_sizes_are_rounded_up(size, heap, keep):
    """Whole pages, as lseek, fstat, bufinfo and sysfs say."""
    buf = keep(heap.alloc(size))
    pages = -(-size // PAGE) * PAGE
    assert type(buf) is DmaBuf
    assert buf.size == os.lseek(buf.fileno(), 0, os.SEEK_END) == os.fstat(buf.fileno()).st_size == pages
    assert sysfs_buffers()[buf.ino] == ("system", pages)
    assert bufinfo()[buf.ino].size == pages


@pytest.mark.parametrize("size", [PAGE, 1 << 20])
def test_memory_comes_zeroed(size, heap):
    """32 buffers filled and closed, then 32 new ones: nothing of the old is in them."""
    for fill in (True, False):
        with ExitStack() as stack:
            for _ in range(32):
                buf = stack.enter_context(heap.alloc(size))
                with buf.cpu_access(RW if fill else READ) as view:
                    if fill:
                        view[:] = b"\xff" * size
                    else:
                        assert view == bytes(size)


@pytest.mark.parametrize(("access", "mode"), [(READ, os.O_RDONLY), (WRITE, os.O_WRONLY), (RW, os.O_RDWR)])
def test_access_mode(access, mode, heap, keep):
    """The descriptor is open for what was asked, and close-on-exec."""
    buf = keep(heap.alloc(1, access))
    assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == mode
    assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    if access is READ:
        buf.mmap(READ).close()
    for wanted in () if access is RW else (WRITE, RW) if access is READ else (READ, WRITE, RW):
        with refused(errno.EACCES, PermissionError) as caught:
            buf.mmap(wanted)
        assert repr(buf) in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1 << 64, -(1 << 100)])
def test_no_size(size, heap):
    """A size that is none is refused before the kernel is asked, force or not."""
    for force in (False, True):
        with pytest.raises(ValueError, match="size must be"):
            heap.alloc(size, force=force)


@pytest.mark.parametrize("size", [None, 1.5, "1", b"1", [1]])
def test_a_size_is_an_int(size, heap):
    """TypeError for everything else."""
    with pytest.raises(TypeError):
        heap.alloc(size)


@pytest.mark.parametrize("access", [0, 4, 7, -1, None, "rw"])
def test_no_access(access, heap):
    """Whatever is not READ, WRITE or RW is a ValueError."""
    with pytest.raises(ValueError, match="access must be"):
        heap.alloc(1, access)


def available():
    """MemAvailable in bytes."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def test_more_than_there_is(heap, monkeypatch):
    """MemoryError, without a word to the kernel, which would panic; it says how much there is."""
    asked = []
    monkeypatch.setattr("linuxsync._uapi.ioctl", lambda *arguments: asked.append(arguments))
    for size in (available() * 2, 1 << 40, (1 << 64) - 1):
        with pytest.raises(MemoryError, match="are available"):
            heap.alloc(size)
    assert asked == []


def test_force(heap, keep, monkeypatch):
    """force asks the kernel all the same. Tried with what there is room for, by a meminfo that says there is none."""
    monkeypatch.setattr("linuxsync.dma_heap._available", lambda: 0)
    with pytest.raises(MemoryError):
        heap.alloc(PAGE)
    assert keep(heap.alloc(PAGE, force=True)).size == PAGE
    # Rounded up this is 0 again, which the kernel refuses.
    with refused(errno.EINVAL) as caught:
        heap.alloc((1 << 64) - 1, force=True)
    assert "DMA_HEAP_IOCTL_ALLOC" in str(caught.value)


def test_no_descriptor_left(heap):
    """EMFILE, and the memory that was allocated already is given back."""
    with free_descriptors(0), refused(errno.EMFILE):
        raw = heap.fileno()
        assert raw_alloc(raw, 1) == -errno.EMFILE
        DmaHeap()
    with free_descriptors(1), refused(errno.EMFILE), heap.alloc(1):
        heap.alloc(1)


def test_closed(heap):
    """Everything but close is a ValueError; buffers outlive their heap."""
    buf = heap.alloc(1)
    heap.close()
    heap.close()
    for attempt in (lambda: heap.alloc(1), lambda: heap.name, heap.dup, heap.fileno):
        with pytest.raises(ValueError, match="closed DmaHeap"):
            attempt()
    with buf, buf.cpu_access() as view:
        view[0] = 1


def test_two_hundred_at_once(heap, keep):
    """Each is a buffer of its own, with an inode of its own."""
    bufs = [keep(heap.alloc(PAGE)) for _ in range(200)]
    for number, buf in enumerate(bufs):
        with buf.cpu_access(WRITE) as view:
            view[:] = bytes([number]) * PAGE
    for number, buf in enumerate(bufs):
        with buf.cpu_access(READ) as view:
            assert view == bytes([number]) * PAGE
    assert len({buf.ino for buf in bufs} & bufinfo().keys() & sysfs_buffers().keys()) == 200


def test_many_threads(heap):
    """One heap, eight threads: each gets buffers of its own."""
    made = []

    def work():
        made.extend(heap.alloc(PAGE) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({buf.ino for buf in made}) == 80
    for buf in made:
        buf.close()


def test_errnos(heap, keep):
    """The kernel's refusals, none of which lets a descriptor out."""
    fd = heap.fileno()
    wrong = [{"fd": 1}, {"fd": 2**32 - 1}, {"fd_flags": os.O_NONBLOCK}, {"fd_flags": os.O_RDWR | os.O_APPEND}]
    wrong += [{"fd_flags": 2**32 - 1 & ~(os.O_RDWR | os.O_CLOEXEC)}]
    wrong += [{"heap_flags": flags} for flags in (1, 0x111111, 1 << 63)]
    for fields in wrong:
        assert (fields, raw_alloc(fd, PAGE, **fields)) == (fields, -errno.EINVAL)
    for length in (0, (1 << 64) - 1, (1 << 64) - PAGE + 1):
        assert raw_alloc(fd, length) == -errno.EINVAL
    for address in (None, NOWHERE):
        assert answer(fd, ALLOC, address) == -errno.EFAULT
    assert raw_alloc(-1, PAGE) == -errno.EBADF
    assert raw_alloc(keep(heap.alloc(1)).fileno(), PAGE) == -errno.ENOTTY


def test_the_number_alone_counts(heap):
    """A heap looks at the request's number only: letter, direction and size may be anything."""
    fd = heap.fileno()
    for number in (1, 2, 63):
        assert answer(fd, IO(ord("H"), number), None) == -errno.EINVAL
    # No direction: nothing is copied in, so the length is 0.
    assert answer(fd, IO(ord("H"), 0), None) == -errno.EINVAL
    # DMA_BUF_IOCTL_SYNC and EXPORT are answered too: why a DmaBuf is not told by them.
    assert answer(fd, IOW(ord("b"), 0, ctypes.c_uint64), ctypes.c_uint32(0)) == -errno.EINVAL
    assert answer(fd, EXPORT, None) == -errno.EINVAL
    with refused(errno.ENOTTY):
        DmaBuf.from_fd(fd)


def test_whatever_the_heap_is_open_for(keep):
    """A heap that is open read-only allocates as well; all four access modes are those of the buffer."""
    readable = keep(OwnedFd(os.open("/dev/dma_heap/system", os.O_RDONLY | os.O_CLOEXEC)))
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_ACCMODE):
        with DmaBuf(raw_alloc(readable.fileno(), 1, fd_flags=mode)) as buf:
            assert fcntl.fcntl(buf.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == mode
            assert os.get_inheritable(buf.fileno())


@pytest.mark.parametrize(("size", "works"), [(PAGE, True), (17 * PAGE, False)])
def test_a_private_mapping(size, works, heap, keep):
    """EINVAL, except where one chunk of the heap's is the whole of it (remap_pfn_range): then it is a copy on write."""
    buf = keep(heap.alloc(size))
    wanted = (buf.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    if not works:
        with refused(errno.EINVAL):
            mmap.mmap(*wanted)
        return
    with mmap.mmap(*wanted) as private:
        private[0] = 1
        assert peek(buf) == b"\0"


class Short(ctypes.Structure):
    _fields_ = Alloc._fields_[:3]


class Long(ctypes.Structure):
    _fields_ = [*Alloc._fields_, ("more", ctypes.c_uint64 * 3)]


@pytest.mark.parametrize("kind", [Short, Alloc, Long])
def test_structs_of_any_size(kind, heap):
    """Older and newer callers are understood: what is missing is 0, what is too much is ignored."""
    data = kind(len=1, fd_flags=os.O_RDWR | os.O_CLOEXEC)
    if kind is Long:
        data.more[:] = (1, 2, 3)
    request = ALLOC & ~(0x3FFF << 16) | ctypes.sizeof(kind) << 16
    assert answer(heap.fileno(), request, data) == 0
    with DmaBuf(data.fd) as buf:
        assert buf.size == PAGE


def test_file_operations(heap):
    """A heap can neither be read nor sought nor mapped."""
    with refused(errno.EINVAL):
        os.read(heap.fileno(), 1)
    with refused(errno.ESPIPE):
        os.lseek(heap.fileno(), 0, os.SEEK_END)
