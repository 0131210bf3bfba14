"""cpu_access: what the view is, when START and END come and in which direction, and what is left afterwards."""

import ctypes
import gc
import mmap
import signal
import sys

import numpy
import pytest
from buffer_words import PAGE, bufinfo, peek, syncs
from linuxsync._native import raw

from linuxsync import Access, DmaBuf

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW


def test_the_view_is_the_buffer(buf):
    """All of it, as bytes, writable; what is written is there for other mappings and in the next access."""
    with buf.cpu_access() as view:
        assert (type(view), view.nbytes, view.format, view.ndim) == (memoryview, buf.size, "B", 1)
        assert (view.readonly, view.contiguous, bytes(view[:8])) == (False, True, bytes(8))
        view[:3], view[-1] = b"abc", 7
    assert peek(buf, 3) == b"abc"
    with buf.cpu_access(READ) as view:
        assert (bytes(view[:3]), view[-1]) == (b"abc", 7)


def test_read_access_is_read_only(buf):
    """Neither the view nor what numpy and ctypes make of it can be written to."""
    with buf.cpu_access(READ) as view:
        assert view.readonly
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 1
        with pytest.raises(TypeError):
            (ctypes.c_char * 4).from_buffer(view)
        array = numpy.frombuffer(view, numpy.uint8)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        del array


def test_what_stands_behind_the_view(buf):
    """Who asks it for memory to write to is refused if the access is for reading; each form that may be asked for."""
    for access in (READ, RW):
        with buf.cpu_access(access) as view:
            behind = view.obj
            with pytest.raises(BufferError if access is READ else OSError, match=r"reading only|nothing on fd"):
                raw.ioctl(buf.fileno(), 0, behind, "nothing")
            assert len(b"".join([behind])) == buf.size
            array = numpy.frombuffer(behind, numpy.uint32)
            assert (array.size, array.flags.writeable) == (buf.size // 4, access is RW)
            del array


def test_no_reference_is_lost(buf):
    """Neither for the view, nor for parts of it; None is immortal from Python 3.12 on."""
    before = sys.getrefcount(None)
    for _ in range(1000):
        with buf.cpu_access() as view, view[:4]:
            pass
    assert sys.getrefcount(None) < before + 500


@pytest.mark.parametrize("access", [READ, WRITE, RW])
def test_one_start_and_one_end(access, buf):
    """Each START has an END, also when the block raises; who writes has the rest of the buffer fetched first."""
    with syncs() as seen:
        with buf.cpu_access(access):
            pass
        with pytest.raises(KeyError), buf.cpu_access(access):
            raise KeyError
        with pytest.raises(KeyboardInterrupt), buf.cpu_access(access):
            signal.raise_signal(signal.SIGINT)
    assert seen == [f"START {'READ' if access is READ else 'RW'}", f"END {access.name}"] * 3


def test_nothing_begins_before_with(buf):
    """cpu_access() alone does nothing; one object serves several blocks, one after the other."""
    with syncs() as seen:
        access = buf.cpu_access(READ)
        del access
        again = buf.cpu_access(READ)
        for _ in range(2):
            with again, pytest.raises(ValueError, match="open already"):
                again.__enter__()
        with pytest.raises(ValueError, match="not open"):
            again.__exit__(None, None, None)
    assert seen == ["START READ", "END READ"] * 2


def test_the_view_is_released(buf):
    """After the block the view is dead: every use is a ValueError."""
    with buf.cpu_access() as view:
        view[0] = 1
    for use in (lambda: view[0], lambda: view[:1], lambda: bytes(view), lambda: numpy.frombuffer(view, numpy.uint8)):
        with pytest.raises(ValueError, match="released"):
            use()
    with pytest.raises(ValueError, match="released"):
        view[0] = 2


LEFTOVERS = {
    "slice": lambda view: view[:PAGE],
    "cast": lambda view: view.cast("I"),
    "view of the view": memoryview,
    "view of its object": lambda view: memoryview(view.obj),
    "numpy.frombuffer": lambda view: numpy.frombuffer(view, numpy.uint8),
    "numpy.asarray": numpy.asarray,
    "ctypes": lambda view: (ctypes.c_ubyte * 16).from_buffer(view),
}


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_what_is_left_of_the_view_does_not_reach_the_buffer(kind, buf):
    """END comes, BufferError says what to do; what is left reads zeros, and what it writes stays with it."""
    with syncs() as seen, pytest.raises(BufferError, match="inside the with block"), buf.cpu_access() as view:
        view[0] = 5
        left = LEFTOVERS[kind](view)
        assert left[0] == 5
    assert seen == ["START RW", "END RW"]
    assert left[0] == 0
    left[0] = 9
    assert (left[0], peek(buf)) == (9, b"\x05")
    with buf.cpu_access() as again:
        assert again[0] == 5
        again[0] = 6
        assert left[0] == 9
    assert peek(buf) == b"\x06"
    ino = buf.ino
    buf.close()
    assert ino not in bufinfo()
    assert left[0] == 9


def test_what_is_left_of_a_read_only_view(buf):
    """The same for READ: zeros, and still read-only."""
    with buf.cpu_access() as view:
        view[0] = 5
    with pytest.raises(BufferError), buf.cpu_access(READ) as view:
        left = view[:16]
    assert left[0] == 0
    with pytest.raises(TypeError):
        left[0] = 1


def test_an_exception_of_the_block_is_not_hidden(buf):
    """An exception that keeps an array alive comes out as itself; the array is cut off all the same."""
    with syncs() as seen, pytest.raises(KeyError, match="mine"), buf.cpu_access() as view:
        array = numpy.frombuffer(view, numpy.uint8)
        array[0] = 3
        raise KeyError("mine")
    assert seen == ["START RW", "END RW"]
    assert (array[0], peek(buf)) == (0, b"\x03")


def test_the_object_behind_a_view_gives_no_new_ones(buf):
    """memoryview.obj outlives the access but gives no memory after it, and memory again in the next."""
    with buf.cpu_access() as view:
        behind = view.obj
    with pytest.raises(BufferError, match="over"):
        memoryview(behind)
    with buf.cpu_access():
        memoryview(behind).release()


def test_a_view_released_by_hand(buf):
    """Releasing it early is fine, and so is releasing a slice."""
    with buf.cpu_access() as view:
        with view[:16] as part:
            part[0] = 1
        view.release()
    assert peek(buf) == b"\x01"


def test_numpy_without_a_copy(buf):
    """An array over the view shares its memory: what one writes the other reads, and then the buffer has it."""
    with buf.cpu_access() as view:
        array = numpy.frombuffer(view, numpy.uint32).reshape(16, -1)
        address = ctypes.addressof((ctypes.c_char * 1).from_buffer(view))
        gc.collect()
        assert array.__array_interface__["data"] == (address, False)
        assert (array.nbytes, array.flags.owndata, array.flags.writeable) == (buf.size, False, True)
        array[:] = numpy.arange(array.size, dtype=numpy.uint32).reshape(array.shape)
        assert bytes(view[4:8]) == (1).to_bytes(4, "little")
        del array
    with buf.cpu_access(READ) as view:
        total = int(numpy.frombuffer(view, numpy.uint32).sum(dtype=numpy.uint64))
    count = buf.size // 4
    assert total == count * (count - 1) // 2


NESTED = [
    # outer, inner, what the kernel is asked. A writer keeps START away, which would undo what he wrote.
    (READ, READ, "START READ, START READ, END READ, END READ"),
    (READ, WRITE, "START READ, START RW, END WRITE, END READ"),
    (READ, RW, "START READ, START RW, END RW, END READ"),
    (RW, READ, "START RW, END RW"),
    (RW, WRITE, "START RW, END WRITE, END RW"),
    (RW, RW, "START RW, END RW, END RW"),
    (WRITE, WRITE, "START RW, END WRITE, END WRITE"),
    (WRITE, READ, "START RW, END RW"),
    (WRITE, RW, "START RW, END RW, END WRITE"),
]


@pytest.mark.parametrize(("outer", "inner", "expected"), NESTED)
@pytest.mark.parametrize("through", ["itself", "a duplicate"])
def test_nested(outer, inner, expected, through, buf, keep):
    """Both views are of the same memory and live as long as their own block."""
    other = buf if through == "itself" else keep(buf.dup())
    with syncs() as seen, buf.cpu_access(outer) as first:
        with other.cpu_access(inner) as second:
            if not first.readonly:
                first[0] = 4
                assert second[0] == 4
            if not second.readonly:
                second[1] = 5
        with pytest.raises(ValueError, match="released"):
            second[0]
        assert first[1] == (0 if inner is READ else 5)
    assert ", ".join(seen) == expected


def test_without_brackets_on_a_coherent_machine(buf, vgem):
    """Nothing is lost here, where devices see at once what the CPU writes; test_staleness.py is about the others."""
    with vgem.import_dma_buf(buf):
        buf.begin_cpu_access(READ)
        with buf.mmap() as mapped:
            mapped[0] = 1
        buf.begin_cpu_access(READ)
        assert peek(buf) == b"\x01"
    assert peek(buf) == b"\x01"


def test_mmap_lives_apart(buf):
    """buf.mmap() is an mmap of its own: close() does not end it, closing it gives the buffer free."""
    mapped = buf.mmap()
    ino = buf.ino
    assert len(mapped) == buf.size
    buf.close()
    mapped[0] = 3
    assert (mapped[0], bufinfo()[ino].size) == (3, len(mapped))
    mapped.close()
    assert ino not in bufinfo()


def test_mmap_by_access(buf):
    """READ maps read-only; WRITE and RW both ways."""
    with buf.mmap(READ) as mapped, pytest.raises(TypeError):
        mapped[0] = 1
    for access in (WRITE, RW):
        with buf.mmap(access) as mapped:
            mapped[0] = 1
            assert mapped[0] == 1
            assert isinstance(mapped, mmap.mmap)


@pytest.mark.parametrize("access", [0, 4, 7, -1, 1 << 32, None, "r", 1.5])
def test_no_access(access, buf):
    """Whatever is not READ, WRITE or RW is refused before the kernel is asked."""
    kind = ValueError if isinstance(access, int) else TypeError
    calls = (buf.cpu_access, buf.begin_cpu_access, buf.end_cpu_access, buf.mmap, buf.export_sync_file, buf.poll)
    with syncs() as seen:
        for call in calls:
            with pytest.raises((kind, ValueError)):
                call(access)
    assert seen == []


def test_bare_begin_and_end(buf):
    """begin_cpu_access and end_cpu_access are one ioctl each."""
    with syncs() as seen:
        for access in (READ, WRITE, RW):
            buf.begin_cpu_access(access)
            buf.end_cpu_access(access)
    assert seen == [f"{word} {access.name}" for access in (READ, WRITE, RW) for word in ("START", "END")]


def test_the_same_buffer_under_two_names(buf, keep):
    """A second object made of a descriptor is the same buffer: a START through it does not undo the first's writes."""
    other = keep(DmaBuf.from_fd(buf))
    with syncs() as seen, buf.cpu_access(RW), other.cpu_access(RW):
        pass
    assert seen == ["START RW", "END RW", "END RW"]
