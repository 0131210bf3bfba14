"""ddi: what each call of 9F asks the kernel, for each direction, and what it says to calls that are wrong."""

import copy
import errno
import pickle
import threading
from functools import partial

import numpy
import pytest
from buffer_words import PAGE, syncs
from clock_words import after, alarm, lasts
from kernel_words import refused

from linuxsync import Access, DmaBuf, DmaHeap, ddi, udmabuf
from linuxsync.ddi import BindError, BindResult, DmaFlags, DmaHandle, RangeError, SyncType

FORDEV, FORCPU, FORKERNEL = SyncType
DIRECTIONS = {DmaFlags.WRITE: "WRITE", DmaFlags.READ: "READ", DmaFlags.RDWR: "RW"}


@pytest.fixture
def handle(buf):
    """A handle to which a whole buffer is bound, for both directions."""
    with DmaHandle() as made:
        yield made.bind(buf, DmaFlags.RDWR)


def test_the_numbers():
    """Those of the illumos headers, sys/sunddi.h and sys/ddidmareq.h."""
    assert (ddi.DDI_SUCCESS, ddi.DDI_FAILURE) == (0, -1)
    assert [int(kind) for kind in SyncType] == [0, 1, 2]
    assert (ddi.DDI_DMA_SYNC_FORDEV, ddi.DDI_DMA_SYNC_FORCPU, ddi.DDI_DMA_SYNC_FORKERNEL) == (0, 1, 2)
    assert {flag.name: int(flag) for flag in DmaFlags} == {
        "WRITE": 1,
        "READ": 2,
        "REDZONE": 4,
        "PARTIAL": 8,
        "CONSISTENT": 0x10,
        "EXCLUSIVE": 0x20,
        "STREAMING": 0x40,
    }
    names = "USE_PHYSICAL INUSE BADATTR STALE BADLIMITS LOCKED TOOSMALL TOOBIG NOMAPPING NORESOURCES"
    assert [BindResult(number).name for number in range(-10, 3)] == [*names.split(), "MAPPED", "PARTIAL_MAP", "DONE"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("attribute", [DmaFlags(0), DmaFlags.CONSISTENT, DmaFlags.STREAMING])
def test_what_the_kernel_is_asked(direction, attribute, buf, exporter):
    """Bind publishes, FORDEV too, FORCPU and FORKERNEL fetch, unbind fetches; whatever the memory's attributes are."""
    start, end = (f"{which} {DIRECTIONS[direction]}" for which in ("START", "END"))
    with syncs() as seen, DmaHandle() as handle:
        handle.bind(buf, direction | attribute)
        for kind in (FORDEV, FORCPU, FORKERNEL):
            handle.sync(kind)
        handle.unbind()
    # A udmabuf refuses END before its first START.
    bound = [end, start, end] if exporter == "udmabuf" else [end]
    assert list(seen) == [*bound, end, start, start, start]


def test_ranges(buf):
    """Counted from where the bound range begins; 0 is to its end; outside is a failure, and nothing is synced."""
    with DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR, 2 * PAGE, 3 * PAGE)
        assert (handle.offset, handle.length, handle.granularity) == (2 * PAGE, 3 * PAGE, buf.size)
        with syncs() as seen:
            for good in ((0, 0), (0, 3 * PAGE), (PAGE, 0), (PAGE + 1, 7), (3 * PAGE - 1, 1)):
                assert ddi.ddi_dma_sync(handle, *good, FORDEV) == 0
        assert list(seen) == ["END RW"] * 5
        with syncs() as seen:
            for bad in (
                (0, 3 * PAGE + 1),
                (3 * PAGE, 0),
                (3 * PAGE, 1),
                (-1, 1),
                (PAGE, -1),
                (1, 3 * PAGE),
                (2**64, 0),
            ):
                for kind in SyncType:
                    assert ddi.ddi_dma_sync(handle, *bad, kind) == -1
                    with pytest.raises(RangeError, match="are not within"):
                        handle.sync(kind, *bad)
        assert list(seen) == []


def test_binding(buf):
    """What 9F's results are for; a failed bind leaves the handle as it was."""
    status, handle = ddi.ddi_dma_alloc_handle()
    assert status == ddi.DDI_SUCCESS
    size = buf.size
    for offset, length in ((size, 0), (-1, 1), (0, size + 1), (PAGE, size), (0, -1)):
        assert ddi.ddi_dma_addr_bind_handle(handle, buf, offset, length, DmaFlags.WRITE) is BindResult.NOMAPPING
    assert ddi.ddi_dma_buf_bind_handle(handle, buf, DmaFlags.CONSISTENT) is BindResult.BADATTR
    assert not handle.bound
    assert ddi.ddi_dma_buf_bind_handle(handle, buf, DmaFlags.WRITE | DmaFlags.PARTIAL) is BindResult.MAPPED
    assert ddi.ddi_dma_buf_bind_handle(handle, buf, DmaFlags.WRITE) is BindResult.INUSE
    with pytest.raises(BindError, match="DDI_DMA_INUSE") as caught:
        handle.bind(buf, DmaFlags.READ)
    assert caught.value.result is BindResult.INUSE
    with pytest.raises(ValueError, match="still bound"):
        ddi.ddi_dma_free_handle(handle)
    assert ddi.ddi_dma_unbind_handle(handle) == ddi.DDI_SUCCESS
    ddi.ddi_dma_free_handle(handle)
    ddi.ddi_dma_free_handle(handle)
    with pytest.raises(ValueError, match="freed"):
        handle.bind(buf, DmaFlags.READ)


def test_nothing_bound():
    """Everything that needs memory says that there is none."""
    with DmaHandle() as handle:
        for use in (
            lambda: handle.sync(FORDEV),
            lambda: ddi.ddi_dma_sync(handle, 0, 0, FORCPU),
            handle.unbind,
            handle.device_reads,
            lambda: handle.memory,
            lambda: handle.granularity,
        ):
            with pytest.raises(ValueError, match="nothing is bound"):
                use()
        assert repr(handle) == "<unbound DmaHandle>"
    assert repr(handle) == "<freed DmaHandle>"


def test_it_holds_the_buffer(heap):
    """The buffer can be closed while it is bound, and is there until unbind."""
    buf = heap.alloc(PAGE)
    with DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR)
        buf.close()
        handle.memory[:3] = b"abc"
        assert handle.memory[:4] == b"abc\0"
        assert (handle.memory[1], len(handle.memory)) == (ord("b"), PAGE)
        memory = handle.memory
        handle.unbind()
        with pytest.raises(ValueError, match="released"):
            memory[0]


def test_memory_of_a_part(buf):
    """Begins where the bound range does; what is read-only stays so."""
    with DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR, PAGE, 8)
        handle.memory[:] = b"12345678"
        handle.unbind()
        with buf.cpu_access(Access.READ) as view:
            assert bytes(view[PAGE - 1 : PAGE + 9]) == b"\x0012345678\0"
    with DmaHeap() as heap, heap.alloc(PAGE, Access.READ) as sealed, DmaHandle() as handle:
        handle.bind(sealed, DmaFlags.WRITE)
        assert handle.memory[0] == 0
        with pytest.raises(TypeError):
            handle.memory[0] = 1


def signal_after(rang, timeline):
    """Signal the next fence, but not before the alarm, which may be late."""
    rang.wait(60)
    timeline.inc()


def test_fetching_waits_for_fences(buf, handle, timeline):
    """FORCPU and unbind do, whatever signals come; FORDEV does not. A handler that raises ends it: bound as before."""
    for value, fetch in enumerate((lambda: handle.sync(FORCPU), lambda: handle.sync(FORKERNEL), handle.unbind), 1):
        with timeline.create_fence(value) as fence:
            buf.import_sync_file(fence, Access.WRITE)
        handle.sync(FORDEV)
        with pytest.raises(KeyError), alarm(0.1, lambda: {}["struck"]):
            fetch()
        assert handle.bound
        rang = threading.Event()
        with alarm(0.1, rang.set), lasts(0.3), after(0.3, partial(signal_after, rang, timeline)):
            fetch()
        assert rang.is_set()
    assert not handle.bound


def test_what_the_exporter_refuses(buf, handle):
    """Its errno; bind says NORESOURCES where there are no descriptors."""
    with pytest.raises(ValueError, match="type must be SyncType"):
        handle.sync(3)
    closed = DmaBuf.from_fd(buf)
    closed.close()
    with DmaHandle() as other, pytest.raises(ValueError, match="closed"):
        other.bind(closed, DmaFlags.READ)
    with refused(errno.ENOTTY):
        DmaBuf.from_fd(0)


def test_views_do_not_outlive_the_binding(buf):
    """What is made of the memory reads zeros after unbind, which says so, and reaches the buffer no more."""
    handle = DmaHandle().bind(buf, DmaFlags.RDWR)
    handle.memory[:4] = b"kept"
    part = handle.memory.raw[:4]
    with pytest.raises(BufferError, match="zeros from now on"):
        handle.unbind()
    assert not handle.bound
    assert bytes(part) == bytes(4)
    part[:] = b"lost"
    part.release()
    with pytest.raises(BufferError, match="zeros"), DmaHandle() as again:
        array = numpy.frombuffer(again.bind(buf, DmaFlags.RDWR).memory.raw, numpy.uint8)
        assert bytes(array[:4]) == b"kept"
        array[4] = 7
    array[:] = 9
    with buf.cpu_access(Access.READ) as view:
        assert bytes(view[:5]) == b"kept\7"
    del array


def test_an_exception_does_not_wait(buf, timeline):
    """On its way out of a block nobody waits for fences that may never signal."""
    with pytest.raises(KeyError), DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR)
        with timeline.create_fence(1) as fence:
            buf.import_sync_file(fence, Access.WRITE)
        handle.memory[0] = 1
        raise KeyError
    assert repr(handle) == "<freed DmaHandle>"


def test_what_is_no_handle_of_its_own(buf, handle):
    """Handles are not copied, pickled, or bound to what is no buffer or with flags that there are not."""
    for copy_it in (copy.copy, copy.deepcopy, pickle.dumps):
        for one in (handle, DmaHandle()):
            with pytest.raises(TypeError, match="cannot pickle or copy a DmaHandle"):
                copy_it(one)
    with DmaHandle() as other:
        with pytest.raises(TypeError, match="bind takes a DmaBuf, not a int"):
            other.bind(buf.fileno(), DmaFlags.RDWR)
        for flags in (-1, 0x83, 0, DmaFlags.STREAMING):
            assert ddi.ddi_dma_buf_bind_handle(other, buf, flags) == BindResult.BADATTR


def test_what_a_handler_raises_is_no_answer(buf, timeline):
    """An OSError too, by the calls that return what 9F says."""
    handle = DmaHandle().bind(buf, DmaFlags.RDWR)
    with timeline.create_fence(1) as fence:
        buf.import_sync_file(fence, Access.WRITE)

    def too_late():
        raise TimeoutError(errno.ETIMEDOUT, "too late")

    calls = (lambda: ddi.ddi_dma_unbind_handle(handle), lambda: ddi.ddi_dma_sync(handle, 0, 0, FORCPU))
    for call in calls:
        with pytest.raises(TimeoutError, match="too late"), alarm(0.1, too_late):
            call()
    assert handle.bound
    timeline.inc()
    assert ddi.ddi_dma_unbind_handle(handle) == ddi.DDI_SUCCESS


def test_bind_of_a_pending_udmabuf_waits(timeline, keep):
    """Its first END takes a START, until a handler that raises ends that: then nothing is bound."""
    buf = keep(udmabuf.create(PAGE))
    with timeline.create_fence(1) as fence:
        buf.import_sync_file(fence, Access.WRITE)
    handle = DmaHandle()
    with pytest.raises(KeyError), alarm(0.1, lambda: {}["struck"]):
        handle.bind(buf, DmaFlags.RDWR)
    assert not handle.bound
    with lasts(0.2), after(0.2, timeline.inc):
        handle.bind(buf, DmaFlags.RDWR)
    handle.unbind()
