"""What a device sees of a buffer, and the CPU of a device's work, where the two are not the same: with swiotlb=force.

The fence device looks at its bus: at the bounce copy that the DMA API has made. END|WRITE brings it up to date for the
device, START|READ the buffer for the CPU, and nothing else does.
"""

import errno

import pytest
from buffer_words import PAGE, peek
from kernel_words import refused

from linuxsync import Access, udmabuf
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType
from linuxsync.fencedev import Checksum, Copy, Fill

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW
SIZE = 4 * PAGE
WAIT = 60.0


def cpu_writes(buf, byte):
    """Behind everybody's back: no START, no END."""
    with buf.mmap() as mapped:
        mapped[:SIZE] = bytes([byte]) * SIZE


def cpu_reads(buf):
    """The one byte that is in all of it, likewise."""
    (byte,) = set(peek(buf, SIZE))
    return byte


def device_reads(attachment):
    """The one byte that a device reads."""
    (byte,) = set(attachment.peek(0, SIZE))
    return byte


def done(device, operation):
    """Have it done by the device."""
    with device.create_queue() as queue, queue.submit(operation) as job:
        job.fence.wait(WAIT)
        assert job.fence.status == 1
        return job.info()


@pytest.fixture
def heap_buffer(heap, keep):
    """A heap's buffer with 0x11 in it, as the device will find it."""
    buf = keep(heap.alloc(SIZE))
    cpu_writes(buf, 0x11)
    return buf


def test_the_story(device, heap_buffer, keep):
    """Each side sees what it saw, until somebody synchronises."""
    buf = heap_buffer
    seen = keep(device.attach(buf))
    assert (cpu_reads(buf), device_reads(seen)) == (0x11, 0x11)
    cpu_writes(buf, 0x22)
    assert (cpu_reads(buf), device_reads(seen)) == (0x22, 0x11)
    buf.end_cpu_access(WRITE)
    assert (cpu_reads(buf), device_reads(seen)) == (0x22, 0x22)
    done(device, Fill(seen, 0x33333333))
    assert (cpu_reads(buf), device_reads(seen)) == (0x22, 0x33)
    buf.begin_cpu_access(READ)
    assert (cpu_reads(buf), device_reads(seen)) == (0x33, 0x33)
    buf.end_cpu_access(READ)


def test_brackets_are_enough(device, heap_buffer, keep):
    """cpu_access on one side, jobs on the other, and nobody sees anything old."""
    seen = keep(device.attach(heap_buffer))
    for byte in (0x44, 0x55):
        with heap_buffer.cpu_access(WRITE) as view:
            view[:] = bytes([byte]) * SIZE
        assert device_reads(seen) == byte
        done(device, Fill(seen, (byte + 1) * 0x01010101))
        with heap_buffer.cpu_access(READ) as view:
            assert set(view) == {byte + 1}


def test_operations_see_what_the_device_sees(device, heap_buffer, heap, keep):
    """A checksum of what was not published, and a copy of it."""
    target = keep(heap.alloc(SIZE))
    a, b = keep(device.attach(heap_buffer)), keep(device.attach(target))
    before = done(device, Checksum(a)).checksum
    cpu_writes(heap_buffer, 0x22)
    assert done(device, Checksum(a)).checksum == before
    done(device, Copy(b, a))
    with target.cpu_access(READ) as view:
        assert set(view) == {0x11}


@pytest.mark.parametrize(("access", "kept"), [(READ, False), (WRITE, True), (RW, True)])
def test_unmapping_fetches_what_the_device_may_have_written(device, heap_buffer, access, kept):
    """By the direction of the mapping: from a buffer that is only read nothing comes back."""
    with device.attach(heap_buffer, access) as attachment:
        if kept:
            attachment.poke(b"\x66" * SIZE)
        cpu_writes(heap_buffer, 0x22)
    assert cpu_reads(heap_buffer) == (0x66 if kept else 0x22)


def test_mapping_publishes(device, heap_buffer):
    """What the CPU wrote while it was not mapped."""
    with device.attach(heap_buffer, mapped=False) as attachment:
        for byte in (0x11, 0x22):
            cpu_writes(heap_buffer, byte)
            attachment.map()
            assert device_reads(attachment) == byte
            attachment.unmap()


def test_start_synchronises_before_it_waits(device, heap_buffer, keep):
    """dma_buf_begin_cpu_access has the exporter fetch first and waits for fences then: too late for what was pending.

    So cpu_access and ddi wait for the fence, and say START after that.
    """
    seen = keep(device.attach(heap_buffer))
    with device.create_queue() as queue:
        # Long enough for START to come before its end.
        with queue.submit(Fill(seen, 0x55555555), implicit=True, duration=3) as job:
            heap_buffer.begin_cpu_access(READ)
            assert job.fence.status == 1
            assert cpu_reads(heap_buffer) == 0x11
            heap_buffer.end_cpu_access(READ)
        with (
            queue.submit(Fill(seen, 0x66666666), implicit=True, duration=0.1),
            heap_buffer.cpu_access(READ) as view,
        ):
            assert set(view) == {0x66}
        with DmaHandle() as handle, queue.submit(Fill(seen, 0x77777777), implicit=True, duration=0.1):
            handle.bind(heap_buffer, DmaFlags.READ)
            handle.sync(SyncType.FORCPU)
            assert set(handle.memory[:]) == {0x77}


def test_udmabuf_never_syncs_an_importer(device, keep):
    """Its begin and end are about a mapping of its own (begin_cpu_udmabuf), so a bracket reaches no device."""
    buf = keep(udmabuf.create(SIZE))
    cpu_writes(buf, 0x11)
    attachment = keep(device.attach(buf))
    with buf.cpu_access(WRITE) as view:
        view[:] = b"\x22" * SIZE
    assert (cpu_reads(buf), device_reads(attachment)) == (0x22, 0x11)
    attachment.poke(b"\x33" * SIZE)
    with buf.cpu_access(READ) as view:
        assert set(view) == {0x22}
    attachment.unmap()


def test_pieces_that_do_not_fit(device, heap):
    """A heap's piece of 1 MiB is more than a segment of swiotlb, and nothing is left of the attempt."""
    with heap.alloc(1 << 20) as buf, refused(errno.EIO):
        device.attach(buf)
