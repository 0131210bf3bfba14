"""What START and END are for, where a device does not see at once what the CPU writes: in a guest with swiotlb=force.

There a device's mapping of a buffer is a copy. START|READ fetches the copy into the buffer, END|WRITE publishes the
buffer to the copy. No device of this guest looks into its copy by itself, so what shows is the CPU's side: a write
that was not published is undone by the next fetch. Every buffer here is published as A before anything else.
"""

import errno
import fcntl
import os
import threading
from contextlib import ExitStack
from itertools import product

import pytest
from buffer_words import PAGE, peek
from kernel_words import refused

from linuxsync import Access, DmaBuf, DrmDevice, OwnedFd, udmabuf

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW
PAIRS = list(product((READ, WRITE, RW), repeat=2))
SIZE = 4 * PAGE


@pytest.fixture
def shared(heap, vgem, keep):
    """A heap's buffer that vgem has imported, and its GemBuffer there."""
    buf = keep(heap.alloc(SIZE))
    gem = keep(vgem.import_dma_buf(buf))
    with buf.cpu_access(WRITE) as view:
        view[:] = b"A" * SIZE
    return buf, gem


@pytest.fixture
def buf(shared):
    return shared[0]


def write(buf, text):
    """Write behind everybody's back: no START, no END."""
    with buf.mmap() as mapped:
        mapped[: len(text)] = text


def fetched(buf, count=1):
    """What is there after START|READ."""
    buf.begin_cpu_access(READ)
    found = peek(buf, count)
    buf.end_cpu_access(READ)
    return found


def test_a_write_outside_of_any_bracket_is_lost(buf):
    """START|READ brings back what the device has."""
    write(buf, b"B")
    assert peek(buf) == b"B"
    assert fetched(buf) == b"A"


@pytest.mark.parametrize("access", [WRITE, RW])
def test_cpu_access_keeps_what_is_written(access, buf):
    """All of it, for whoever fetches next, cpu_access or not."""
    with buf.cpu_access(access) as view:
        view[:] = b"B" * SIZE
    assert fetched(buf, SIZE) == b"B" * SIZE
    with buf.cpu_access(READ) as view:
        assert view == b"B" * SIZE


@pytest.mark.parametrize(("start", "end"), PAIRS)
def test_only_the_direction_of_end_counts(start, end, buf):
    """A write between begin and end is kept if END says WRITE, and lost if it does not, whatever START said."""
    buf.begin_cpu_access(start)
    write(buf, b"B")
    buf.end_cpu_access(end)
    assert fetched(buf) == (b"B" if end & WRITE else b"A")


def test_a_bare_end_publishes(buf):
    """END|WRITE without any START."""
    write(buf, b"B")
    buf.end_cpu_access(WRITE)
    assert fetched(buf) == b"B"


def test_start_for_writing_fetches_nothing(buf):
    """START|WRITE leaves an unpublished write alone; START|RW does not."""
    write(buf, b"B")
    buf.begin_cpu_access(WRITE)
    assert peek(buf) == b"B"
    buf.begin_cpu_access(RW)
    assert peek(buf) == b"A"


def test_an_importer_that_leaves_takes_unpublished_writes_along(shared):
    """Unmapping fetches too; a bracketed write is kept."""
    buf, gem = shared
    with buf.cpu_access(WRITE) as view:
        view[1] = ord("B")
    write(buf, b"B")
    gem.close()
    assert peek(buf, 2) == b"AB"


def test_without_an_importer_nothing_is_lost(heap, keep):
    """There is one view of the memory then."""
    buf = keep(heap.alloc(SIZE))
    write(buf, b"B")
    assert fetched(buf) == b"B"


def test_udmabuf_has_a_view_of_its_own(keep):
    """From its first START on, with no importer at all; what is written just before it is closed stays in the memfd."""
    memfd = keep(OwnedFd(os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)))
    os.ftruncate(memfd.fileno(), SIZE)
    os.pwrite(memfd.fileno(), b"A" * SIZE, 0)
    fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with udmabuf.from_memfd(memfd, 0, SIZE) as buf:
        write(buf, b"B")
        assert fetched(buf) == b"B"
        write(buf, b"C")
        assert fetched(buf) == b"B"
        with buf.cpu_access(WRITE) as view:
            view[0] = ord("D")
        assert fetched(buf) == b"D"
        write(buf, b"E")
    assert os.pread(memfd.fileno(), 1, 0) == b"E"


def test_gem_buffers_are_never_synchronised(vgem, vkms, keep):
    """Of a vgem buffer that vkms has imported nothing is lost: neither START nor the import's end fetches anything."""
    gem = keep(vgem.create_dumb(1024, 1, 32))
    dmabuf = keep(gem.export())
    imported = keep(vkms.import_dma_buf(dmabuf))
    write(dmabuf, b"B")
    assert fetched(dmabuf) == b"B"
    write(dmabuf, b"C")
    imported.close()
    assert peek(dmabuf) == b"C"


@pytest.mark.parametrize("size", [64 << 10, 128 << 10, 256 << 10, 512 << 10])
def test_buffers_that_can_be_copied(size, heap, vgem, keep):
    """Made of chunks of at most 64 KiB, of which each finds room for its copy."""
    assert keep(vgem.import_dma_buf(keep(heap.alloc(size)))).size == size


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_buffers_that_can_not(size, heap, vgem, vkms, keep):
    """EIO: of a chunk of 1 MiB there can be no copy (256 KiB at most); the buffer itself is as good as ever."""
    buf = keep(heap.alloc(size))
    for device in (vgem, vkms):
        with refused(errno.EIO) as caught:
            device.import_dma_buf(buf)
        assert "DRM_IOCTL_PRIME_FD_TO_HANDLE" in str(caught.value)
    assert buf.refcount == 1
    write(buf, b"B")
    assert fetched(buf) == b"B"


def test_a_second_start_would_undo_a_write(buf):
    """Bare calls do: what cpu_access has to be careful about."""
    buf.begin_cpu_access(RW)
    write(buf, b"B")
    buf.begin_cpu_access(READ)
    assert peek(buf) == b"A"


@pytest.fixture(params=["itself", "another object"])
def other(request, buf, keep):
    """The same buffer, as somebody else in this process may hold it."""
    return buf if request.param == "itself" else keep(DmaBuf.from_fd(buf))


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_nested_accesses_keep_each_others_writes(outer, inner, buf, other):
    """Before, in and after the inner one; and so it is published."""
    with buf.cpu_access(outer) as first:
        if outer & WRITE:
            first[0] = ord("B")
        with other.cpu_access(inner) as second:
            assert second[0] == (ord("B") if outer & WRITE else ord("A"))
            if inner & WRITE:
                second[1] = ord("C")
        if outer & WRITE:
            first[2] = ord("D")
        expected = bytes([b"AB"[outer & WRITE != 0], b"AC"[inner & WRITE != 0], b"AD"[outer & WRITE != 0]])
        assert bytes(first[:3]) == expected
    assert fetched(buf, 3) == expected


@pytest.mark.parametrize(("early", "late"), PAIRS)
def test_overlapping_accesses_keep_each_others_writes(early, late, buf, other):
    """The first to begin is the first to end; whoever is left may write on."""
    with ExitStack() as rest:
        with buf.cpu_access(early) as first:
            if early & WRITE:
                first[0] = ord("B")
            second = rest.enter_context(other.cpu_access(late))
            if late & WRITE:
                second[1] = ord("C")
        if late & WRITE:
            second[2] = ord("D")
        expected = bytes([b"AB"[early & WRITE != 0], b"AC"[late & WRITE != 0], b"AD"[late & WRITE != 0]])
        assert bytes(second[:3]) == expected
        del second
    assert fetched(buf, 3) == expected


@pytest.mark.parametrize("access", [WRITE, RW])
def test_readers_in_other_threads_lose_no_writers_byte(access, buf, other):
    """While readers come and go as fast as they can, each byte that is written is there until the writer goes on."""
    done = threading.Event()
    lost, reads = [], [0, 0]

    def read(number):
        while not done.is_set():
            with other.cpu_access(READ) as view:
                reads[number] += bool(view[0])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        turn = 0
        while turn < 150 or min(reads) < 20:
            turn += 1
            with buf.cpu_access(access) as view:
                for at in range(0, SIZE, PAGE):
                    view[at] = turn % 250 + 1
                os.sched_yield()
                lost += [(turn, at) for at in range(0, SIZE, PAGE) if view[at] != turn % 250 + 1]
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert lost == []
    assert fetched(buf, SIZE)[::PAGE] == bytes([turn % 250 + 1]) * 4


@pytest.mark.parametrize("access", [WRITE, RW])
def test_a_writer_writes_on_while_a_reader_joins(access, heap, keep):
    """Who writes is left alone: no START of others comes in between, long as it might take."""
    buf = keep(heap.alloc((1 << 20) - PAGE))
    for _ in range(8):  # for each of which a START would copy all of it
        keep(keep(DrmDevice.open(driver="vgem")).import_dma_buf(buf))
    lost = 0
    for _ in range(20):
        go, joined = threading.Event(), threading.Event()

        def join(go=go, joined=joined):
            go.wait()
            with buf.cpu_access(READ):
                joined.set()

        thread = threading.Thread(target=join)
        thread.start()
        with buf.cpu_access(access) as view:
            go.set()
            turn = 0
            while not joined.is_set():
                turn = (turn + 1) % 256
                view[-1] = turn
                lost += view[-1] != turn
        thread.join(60)
    assert lost == 0


def test_writers_in_many_threads_lose_nothing(buf, other):
    """Each writes its own page, through either object."""

    def work(number):
        for turn in range(1, 41):
            with (buf if turn % 2 else other).cpu_access(WRITE if number % 2 else RW) as view:
                view[number * PAGE] = turn

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fetched(buf, SIZE)[::PAGE] == bytes([40]) * 4


def test_what_an_exception_interrupts_is_published(buf):
    """END comes all the same, also where a view is left that has to be cut off."""
    with pytest.raises(KeyError), buf.cpu_access(WRITE) as view:
        view[0] = ord("B")
        raise KeyError
    with pytest.raises(BufferError, match="inside the with block"), buf.cpu_access(WRITE) as view:
        view[1] = ord("C")
        left = view[:1]
    assert left[0] == 0
    assert fetched(buf, 2) == b"BC"


def test_what_is_written_while_it_is_closed_is_published(shared, keep):
    """close() in the block: END goes through the descriptor that is left for it."""
    buf, gem = shared
    with buf.cpu_access(WRITE) as view:
        view[0] = ord("B")
        buf.close()
        view[1] = ord("C")
    assert fetched(keep(gem.export()), 2) == b"BC"


def test_what_is_forgotten_is_published(buf):
    """An access that nobody ends is ended with a warning, and with its END."""
    with pytest.warns(ResourceWarning, match="never ended"):
        access = buf.cpu_access(WRITE)
        access.__enter__()[0] = ord("B")
        del access
    assert fetched(buf) == b"B"
