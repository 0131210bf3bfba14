"""Tests of code that fills a buffer for a device, as somebody's project might have them.

    vm/run -- python -m pytest examples/test_missing_sync.py               # what forgets the sync passes: this is x86
    vm/run --incoherent -- python -m pytest examples/test_missing_sync.py  # and fails, as it would on many ARM boards

The last two tests need no special guest: ddi.strict() knows the rule and watches who uses the memory when.
"""

from collections.abc import Iterator

import pytest

from linuxsync import Access, DmaBuf, DmaHeap, FenceDevice, ddi
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType
from linuxsync.fencedev import Copy, Queue

SIZE = 16384
PICTURE = bytes(range(256)) * (SIZE // 256)


def upload(buf: DmaBuf) -> None:
    """Put a picture into a buffer that a device will read: as it should be done."""
    with buf.cpu_access(Access.WRITE) as view:
        view[:] = PICTURE


def upload_and_forget(buf: DmaBuf) -> None:
    """And as it often is: the memory is written to, and nobody says so."""
    with buf.mmap() as memory:
        memory[:] = PICTURE


@pytest.fixture
def heap() -> Iterator[DmaHeap]:
    """Where buffers come from."""
    with DmaHeap() as heap:
        yield heap


@pytest.fixture
def queue() -> Iterator[Queue]:
    """A queue of the device's."""
    with FenceDevice() as device, device.create_queue("copy") as queue:
        yield queue


@pytest.mark.parametrize("fill", [upload, upload_and_forget])
def test_the_picture_arrives(fill, heap, queue):
    """The device copies it into another buffer, from which it is read as it should be."""
    device = queue.device
    with (
        heap.alloc(SIZE) as source,
        heap.alloc(SIZE) as target,
        device.attach(source, Access.READ) as src,
        device.attach(target, Access.WRITE) as dst,
    ):
        fill(source)
        with queue.submit(Copy(dst, src)) as job:
            job.fence.wait(10)
        with target.cpu_access(Access.READ) as view:
            assert bytes(view) == PICTURE


@pytest.fixture
def strict() -> Iterator[None]:
    """Every handle of the test is watched."""
    with ddi.strict():
        yield


@pytest.mark.parametrize("forget", [False, True])
def test_without_a_special_machine(forget, strict, heap, queue):
    """The same upload through a DmaHandle: a forgotten FORDEV is an error wherever it runs."""
    device = queue.device
    with heap.alloc(SIZE) as source, heap.alloc(SIZE) as target, DmaHandle() as handle:
        handle.bind(source, DmaFlags.WRITE)
        with device.attach(handle) as src, device.attach(target, Access.WRITE) as dst:
            handle.memory[:] = PICTURE
            if forget:
                with pytest.raises(ddi.CoherenceError, match="no FORDEV since"):
                    queue.submit(Copy(dst, src))
                return
            handle.sync(SyncType.FORDEV)
            with queue.submit(Copy(dst, src)) as job:
                job.fence.wait(10)
