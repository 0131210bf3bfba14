"""Faults in what is done with buffers of heaps, udmabuf and vgem."""

import mmap
import os
from contextlib import ExitStack, contextmanager

import pytest

from linuxsync import Access, DmaBuf, DmaHeap, Timeline, VgemDevice, ddi, merge, udmabuf
from linuxsync.ddi import BindResult, DmaFlags, DmaHandle, SyncType
from tests.torture.faults import covers, equals
from tests.torture.faults_known import FILES, POLLED_AGAIN

pytest_plugins = ["tests.torture.faults_plugin"]
PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE


@pytest.fixture
def heap():
    with DmaHeap() as made:
        yield made


@pytest.fixture(params=["system", "udmabuf", "vgem"])
def buf(request, heap):
    """A buffer of each exporter."""
    if request.param == "vgem":
        with VgemDevice.open() as device, device.create_dumb(64, 64, 32) as gem, gem.export() as made:
            yield made
    else:
        with heap.alloc(SIZE) if request.param == "system" else udmabuf.create(SIZE) as made:
            yield made


def is_buffer(made, *_):
    with made, made.cpu_access() as view:
        assert (len(view), view[0]) == (SIZE, 0)


@covers("DmaHeap")
def test_heap(sweep):
    def right(made):
        with made:
            assert made.name == "system"

    sweep(DmaHeap, right)


@covers("DmaHeap.alloc")
@pytest.mark.parametrize("size", [SIZE, 1 << 20])
def test_alloc(sweep, heap, size):
    def right(made):
        with made:
            assert made.size == size

    sweep(lambda: heap.alloc(size), right, swallowed=FILES)


@covers("DmaHeap.name", "DmaHeap.names")
def test_heap_names(sweep, heap):
    sweep(lambda: (heap.name, heap.names()), equals(("system", heap.names())), swallowed=FILES)


@covers("udmabuf.create", "udmabuf.from_memfd")
def test_udmabuf(sweep):
    sweep(lambda: udmabuf.create(SIZE), is_buffer)


@covers("DmaBuf", "DmaBuf.from_fd")
def test_from_fd(sweep, heap):
    with heap.alloc(SIZE) as buf:
        sweep(lambda: DmaBuf.from_fd(buf), is_buffer)


@covers("DmaBuf.begin_cpu_access", "DmaBuf.end_cpu_access")
def test_brackets(sweep, buf):
    def both():
        buf.begin_cpu_access(Access.RW)
        buf.end_cpu_access(Access.RW)

    sweep(both)


@covers("DmaBuf.begin_cpu_access")
def test_first_begin_of_udmabuf(sweep):
    """The first START maps the pages."""

    @contextmanager
    def new():
        with udmabuf.create(SIZE) as made:
            yield made

    sweep(lambda made: made.begin_cpu_access(Access.RW), prepare=new)


@covers("DmaBuf.cpu_access", "DmaBuf.size")
def test_cpu_access(sweep, buf):
    """Each of a new object, which has no mapping yet."""

    @contextmanager
    def another():
        with buf.dup() as made:
            yield made

    def access(made):
        with made.cpu_access() as view:
            view[0] = 7
            return view[0]

    sweep(access, equals(7), prepare=another)


@covers("DmaBuf.mmap")
def test_mmap(sweep, buf):
    def right(mapped):
        with mapped:
            assert len(mapped) == buf.size

    sweep(buf.mmap, right, swallowed=FILES)


@covers("DmaBuf.export_sync_file")
@pytest.mark.parametrize("fences", [0, 1, 2])
def test_export(sweep, buf, fences):
    """Of no fence, one and two, for which the kernel needs memory of different sizes."""

    def right(made):
        with made:
            assert (made.status, len(made.fences)) == (fences == 0, max(fences, 1))

    timelines = [Timeline() for _ in range(fences)]
    for timeline in timelines:
        with timeline.create_fence(1) as one:
            buf.import_sync_file(one, Access.READ)
    sweep(lambda: buf.export_sync_file(Access.WRITE), right)
    for timeline in timelines:
        timeline.inc()
        timeline.close()


@covers("DmaBuf.import_sync_file")
def test_import(sweep, heap):
    """Into a buffer that has none yet, and of two fences at once."""

    @contextmanager
    def new():
        with ExitStack() as stack:
            fences = [stack.enter_context(stack.enter_context(Timeline()).create_fence(1)) for _ in range(2)]
            yield stack.enter_context(heap.alloc(SIZE)), stack.enter_context(merge(fences))

    def right(_, state):
        made, _ = state
        with made.export_sync_file(Access.READ) as fence:
            assert (fence.status, len(fence.fences)) == (0, 2)

    sweep(lambda state: state[0].import_sync_file(state[1], Access.WRITE), right, prepare=new)


@covers("DmaBuf.poll")
def test_poll(sweep, buf):
    with Timeline() as timeline:
        with timeline.create_fence(1) as one:
            buf.import_sync_file(one, Access.WRITE)
        sweep(lambda: (buf.poll(Access.READ), buf.poll(Access.WRITE)), equals((False, False)))
        timeline.inc()
    sweep(lambda: (buf.poll(Access.READ), buf.poll(Access.WRITE)), equals((True, True)))


@covers("DmaBuf.set_name")
def test_set_name(sweep, buf):
    numbers = iter(range(100000))

    @contextmanager
    def next_name():
        yield f"name {next(numbers)}"

    def right(_, name):
        assert buf.name == name

    sweep(buf.set_name, right, prepare=next_name, kept=lambda _: buf.name)


@covers("DmaBuf.exporter", "DmaBuf.name", "DmaBuf.refcount", "DmaBuf.ino")
@pytest.mark.parametrize("name", ["exporter", "name", "refcount", "ino"])
def test_fdinfo(sweep, buf, name):
    sweep(lambda: getattr(buf, name), equals(getattr(buf, name)), swallowed=FILES)


@covers("DmaBuf.close")
def test_close(sweep, heap):
    @contextmanager
    def new():
        with heap.alloc(SIZE) as made:
            with made.cpu_access() as view:
                view[0] = 1
            yield made

    sweep(lambda made: made.close(), prepare=new)


class NoResourcesError(OSError):
    """DDI_DMA_NORESOURCES, for a fault's outcome."""


@covers("ddi.DmaHandle.bind", "ddi.ddi_dma_addr_bind_handle", "ddi.ddi_dma_buf_bind_handle")
@pytest.mark.parametrize("fresh", [False, True], ids=["", "udmabuf never accessed"])
def test_bind(sweep, buf, fresh):
    @contextmanager
    def handle():
        with DmaHandle() as made, udmabuf.create(SIZE) if fresh else buf.dup() as what:
            try:
                yield made, what
            finally:
                if made.bound:
                    made.unbind()

    def bind(state):
        if (said := ddi.ddi_dma_buf_bind_handle(*state, DmaFlags.RDWR)) is BindResult.NORESOURCES:
            raise OSError(12, "NORESOURCES")
        return said

    def right(said, state):
        assert (said, state[0].bound) == (BindResult.MAPPED, True)
        state[0].unbind()

    sweep(bind, right, prepare=handle, kept=lambda state: state[0].bound, swallowed=POLLED_AGAIN)
    sweep(
        lambda state: state[0].bind(state[1], DmaFlags.RDWR),
        lambda _, state: state[0].unbind(),
        prepare=handle,
        swallowed=POLLED_AGAIN,
    )


@covers("ddi.DmaHandle.sync", "ddi.ddi_dma_sync", "ddi.DmaHandle.memory")
def test_sync(sweep, buf):
    def both(handle):
        handle.memory[0] = 9
        handle.sync(SyncType.FORDEV)
        ddi.ddi_dma_sync(handle, 0, 0, SyncType.FORCPU)
        return handle.memory[0]

    @contextmanager
    def bound():
        with DmaHandle() as made:
            yield made.bind(buf, DmaFlags.RDWR)

    sweep(both, equals(9), prepare=bound, swallowed=POLLED_AGAIN)


@covers("ddi.DmaHandle.unbind", "ddi.ddi_dma_unbind_handle")
@pytest.mark.parametrize(
    "unbind", [DmaHandle.unbind, ddi.ddi_dma_unbind_handle], ids=["unbind", "ddi_dma_unbind_handle"]
)
def test_unbind(sweep, buf, unbind):
    @contextmanager
    def bound():
        with DmaHandle() as made:
            yield made.bind(buf, DmaFlags.RDWR)

    def right(_, handle):
        assert not handle.bound

    sweep(unbind, right, prepare=bound, kept=lambda handle: handle.bound, swallowed=POLLED_AGAIN)


@covers("ddi.DmaHandle.device_reads", "ddi.DmaHandle.device_writes")
def test_strict(sweep, buf, timeline, fence):
    """What it remembers of the device's work is a duplicate of the fence, until unbind."""

    @contextmanager
    def bound():
        with ddi.strict(), DmaHandle() as made:
            made.bind(buf, DmaFlags.RDWR)
            yield made

    @contextmanager
    def used():
        with timeline.create_fence(timeline.value + 1) as work, bound() as made:
            made.device_reads(work)
            yield made
            timeline.inc()

    sweep(lambda handle: handle.device_reads(fence), lambda _, handle: timeline.inc(), prepare=bound)
    sweep(lambda handle: handle.device_writes(fence), lambda _, handle: timeline.inc(), prepare=bound)
    sweep(lambda handle: handle.sync(SyncType.FORCPU), prepare=used, swallowed=POLLED_AGAIN)


def test_memfd_is_not_kept():
    """A look at what the sweeps rely on: a udmabuf leaves no memfd open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with udmabuf.create(SIZE):
        assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
