"""ddi where the views differ: which of the CPU's writes are there after which sync, of a buffer that vgem maps."""

import pytest
from buffer_words import PAGE, peek

from linuxsync import Access, DmaBuf
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType

FORDEV, FORCPU, FORKERNEL = SyncType
SIZE = 4 * PAGE


@pytest.fixture
def buf(heap, vgem, keep) -> DmaBuf:
    """16 KiB, all A, which vgem has mapped: it has a copy of its own."""
    made = keep(heap.alloc(SIZE))
    keep(vgem.import_dma_buf(made))
    with made.cpu_access(Access.RW) as view:
        view[:] = b"A" * SIZE
    return made


def fetched(buf, count=1):
    """What the device has."""
    buf.begin_cpu_access(Access.READ)
    return peek(buf, count)


@pytest.mark.parametrize("direction", [DmaFlags.WRITE, DmaFlags.READ, DmaFlags.RDWR])
def test_bind_publishes(direction, buf):
    """What the CPU wrote before reaches the device, if the direction is towards it."""
    with buf.mmap() as mapped:
        mapped[0] = ord("B")
    with DmaHandle() as handle:
        handle.bind(buf, direction)
        assert fetched(buf) == (b"B" if direction & DmaFlags.WRITE else b"A")


@pytest.mark.parametrize("direction", [DmaFlags.WRITE, DmaFlags.READ, DmaFlags.RDWR])
@pytest.mark.parametrize("attribute", [DmaFlags.CONSISTENT, DmaFlags.STREAMING])
def test_fordev(direction, attribute, buf):
    """In between, what is written reaches the device with FORDEV and not before, consistent memory or not."""
    with DmaHandle() as handle:
        handle.bind(buf, direction | attribute)
        handle.memory[0] = ord("B")
        assert fetched(buf) == b"A"
        handle.memory[0] = ord("C")
        handle.sync(FORDEV)
        assert fetched(buf) == (b"C" if direction & DmaFlags.WRITE else b"A")


@pytest.mark.parametrize("kind", [FORCPU, FORKERNEL])
@pytest.mark.parametrize("direction", [DmaFlags.WRITE, DmaFlags.READ, DmaFlags.RDWR])
def test_forcpu(direction, kind, buf):
    """What the device has comes to the CPU, over what was there, if the direction is from the device."""
    with DmaHandle() as handle:
        handle.bind(buf, direction)
        handle.memory[0] = ord("B")
        handle.sync(kind)
        assert handle.memory[0] == ord("A" if direction & DmaFlags.READ else "B")


@pytest.mark.parametrize("direction", [DmaFlags.WRITE, DmaFlags.READ, DmaFlags.RDWR])
def test_unbind_fetches(direction, buf):
    """As FORCPU."""
    with DmaHandle() as handle:
        handle.bind(buf, direction)
        handle.memory[0] = ord("B")
        handle.unbind()
    assert peek(buf) == (b"A" if direction & DmaFlags.READ else b"B")


def test_a_range_is_synced_as_a_whole(buf):
    """The kernel has no word for a part: granularity says what really happens."""
    with DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR)
        assert handle.granularity == SIZE
        handle.memory[0], handle.memory[SIZE - 1] = ord("B"), ord("B")
        handle.sync(FORDEV, PAGE, 1)
        assert fetched(buf, SIZE)[:: SIZE - 1] == b"BB"


def test_a_failure_syncs_nothing(buf):
    """A range outside of what is bound leaves both views as they were."""
    with DmaHandle() as handle:
        handle.bind(buf, DmaFlags.RDWR, PAGE, PAGE)
        handle.memory[0] = ord("B")
        with pytest.raises(ValueError, match="not within"):
            handle.sync(FORDEV, 0, PAGE + 1)
        assert fetched(buf, PAGE + 1)[PAGE:] == b"A"
