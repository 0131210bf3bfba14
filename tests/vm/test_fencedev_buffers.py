"""What the fence device does with dma-bufs: through bus addresses, byte for byte, and with their implicit fences."""

import array
import errno
import gc
import random
import threading
import time
import zlib
from contextlib import ExitStack

import pytest
from buffer_words import PAGE, bufinfo, peek
from clock_words import lasts
from fencedev_words import alive
from kernel_words import refused

from linuxsync import Access, DmaBuf, DrmDevice, FenceDevice, SyncFile, udmabuf, wait_all
from linuxsync.fencedev import Checksum, Copy, Fill, ScaleAdd, Use

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW
WAIT = 120.0
pytestmark = pytest.mark.usefixtures("fence_device_module")
PAGES = 12 * PAGE


@pytest.fixture
def other(heap, keep):
    """A second buffer, of another exporter than half of the first ones."""
    return keep(heap.alloc(PAGES))


@pytest.fixture
def a(device, buf, keep):
    return keep(device.attach(buf))


@pytest.fixture
def b(device, other, keep):
    return keep(device.attach(other))


@pytest.fixture
def run(device):
    """A function that has an operation done, and returns what the device says of the job."""

    def submit_and_wait(operation, **options):
        with device.create_queue() as queue, queue.submit(operation, **options) as job:
            job.fence.wait(WAIT)
            job.fence.raise_for_status()
            return job.info()

    return submit_and_wait


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def fill(buf, data, offset=0):
    """Write as a CPU should."""
    with buf.cpu_access(WRITE) as view:
        view[offset : offset + len(data)] = data


def words(data):
    return array.array("I", data)


def test_attachment(device, buf):
    """It knows its size, has a number of its own, and is what debugfs calls attached while it lives."""
    with device.attach(buf, mapped=False) as one, device.attach(buf, READ) as two:
        assert one.size == two.size == buf.size and one.id != two.id
        assert (one.access, two.access) == (RW, READ)
        assert (alive()["attachments"], alive()["mappings"]) == (2, 1)
    assert (alive()["attachments"], alive()["mappings"]) == (0, 0)
    one.close()
    for call in (one.map, one.unmap, one.peek, one.__enter__, lambda: one.poke(b"x"), lambda: one.id):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_attach_takes_a_buffer_and_an_access(device, queue, buf):
    for wrong in (buf.fileno(), None, queue):
        with pytest.raises(TypeError, match="DmaBuf"):
            device.attach(wrong)
    for wrong in (0, 4, "RW"):
        with pytest.raises(ValueError, match="access"):
            device.attach(buf, wrong)
    with pytest.raises(ValueError, match="not attached to"), FenceDevice() as second, second.attach(buf) as foreign:
        queue.submit(Checksum(foreign))


def test_buffer_outlives_its_descriptor(device, keep):
    """The device holds it."""
    with udmabuf.create(PAGE) as buf:
        fill(buf, b"A" * PAGE)
        attachment = keep(device.attach(buf))
    assert attachment.peek() == b"A" * PAGE


def test_map_and_unmap(device, buf, queue):
    """Once each, and not under a job; what is not mapped cannot be used."""
    attachment = device.attach(buf, mapped=False)
    for call in (attachment.unmap, attachment.peek, lambda: queue.submit(Checksum(attachment))):
        with refused(errno.ENXIO):
            call()
    attachment.map()
    with refused(errno.EBUSY):
        attachment.map()
    with queue.submit(Use(src=attachment), hang=True) as job:
        for call in (attachment.unmap, attachment.close):
            with refused(errno.EBUSY):
                call()
        assert not attachment.closed
        queue.reset()
        job.fence.wait(WAIT)
        attachment.unmap()
    attachment.map()
    attachment.close()


def test_forgotten_attachment_warns(device, buf):
    attachment = device.attach(buf)
    with pytest.warns(ResourceWarning, match="unclosed <Attachment 1 of"):
        del attachment
        gc.collect()
    assert alive()["attachments"] == 0


def test_peek_and_poke(a, buf):
    """Any bytes of it, across pages; here the device and the CPU see the same at once."""
    data = noise(PAGES)
    fill(buf, data)
    assert a.peek() == data
    for offset, length in ((0, 1), (1, PAGE), (PAGE - 1, 2), (3 * PAGE + 5, 4 * PAGE), (PAGES - 1, 1)):
        assert a.peek(offset, length) == data[offset : offset + length]
        a.poke(bytes(length), offset)
        assert peek(buf, PAGES) == data[:offset] + bytes(length) + data[offset + length :]
        a.poke(memoryview(data)[offset : offset + length], offset)
    assert peek(buf, PAGES) == data
    for offset, length in ((-1, 1), (PAGES, 1), (0, PAGES + 1), (0, 0), (5, -1)):
        with pytest.raises(ValueError, match="not in"):
            a.peek(offset, length)
    for data, offset in ((b"", 0), (b"x", PAGES), (b"xy", PAGES - 1)):
        with pytest.raises(ValueError, match="not in"):
            a.poke(data, offset)


def test_fill(a, buf, run):
    """A part, and all of it; what is beside it stays."""
    data = noise(PAGES)
    fill(buf, data)
    run(Fill(a, 0x12345678, offset=PAGE - 8, length=PAGE + 16))
    middle = words([0x12345678] * ((PAGE + 16) // 4)).tobytes()
    assert peek(buf, PAGES) == data[: PAGE - 8] + middle + data[2 * PAGE + 8 :]
    run(Fill(a, 0xFFFFFFFF))
    assert peek(buf, PAGES) == b"\xff" * PAGES


@pytest.mark.parametrize(
    ("to", "origin", "length"), [(0, 0, PAGES), (1, 2, 3), (PAGE + 7, 3 * PAGE - 1, 5 * PAGE + 3), (PAGES - 1, 0, 1)]
)
def test_copy(a, b, buf, other, run, to, origin, length):
    """Any bytes to any place, from one exporter's buffer to another's."""
    old, new = noise(PAGES), noise(PAGES, 2)
    fill(buf, old)
    fill(other, new)
    run(Copy(a, b, to, origin, length))
    assert peek(buf, PAGES) == old[:to] + new[origin : origin + length] + old[to + length :]
    assert peek(other, PAGES) == new


def test_copy_within_a_buffer(device, a, buf, run):
    """Where the two do not overlap; where they do it is refused, through two attachments as well."""
    data = noise(PAGES)
    fill(buf, data)
    run(Copy(a, a, 0, 6 * PAGE, 6 * PAGE))
    assert peek(buf, PAGES) == data[6 * PAGE :] * 2
    with device.attach(buf) as again, device.create_queue() as queue:
        for src in (a, again):
            for to, origin in ((0, 0), (0, PAGE - 1), (PAGE - 1, 0)):
                with refused(errno.EINVAL):
                    queue.submit(Copy(a, src, to, origin, PAGE))


def test_checksum(b, other, run):
    """As zlib has it, of a part and of all."""
    data = b"\xff" * (4 * PAGE) + noise(8 * PAGE)
    fill(other, data)
    assert run(Checksum(b)).checksum == zlib.adler32(data)
    assert run(Checksum(b, 5, 3 * PAGE + 1)).checksum == zlib.adler32(data[5 : 3 * PAGE + 6])
    assert run(Checksum(b, PAGES - 1)).checksum == zlib.adler32(data[-1:])


def test_scale_add(a, b, buf, other, run):
    """Every word of 32 bits, modulo 2**32."""
    old, add = noise(PAGES), noise(PAGES, 2)
    fill(buf, old)
    fill(other, add)
    run(ScaleAdd(a, b, 0x9E3779B1, 8, PAGE + 4, 3 * PAGE))
    part = words(old[8 : 8 + 3 * PAGE])
    added = words((x * 0x9E3779B1 + y) % 2**32 for x, y in zip(part, words(add[PAGE + 4 : 4 * PAGE + 4]), strict=True))
    assert peek(buf, PAGES) == old[:8] + added.tobytes() + old[8 + 3 * PAGE :]


def test_random_operations(device, a, b, buf, other):
    """A hundred jobs in one queue against the same done here."""
    chance = random.Random(7)
    model = {a: bytearray(noise(PAGES)), b: bytearray(noise(PAGES, 2))}
    fill(buf, model[a])
    fill(other, model[b])
    with device.create_queue() as queue:
        jobs = []
        for _ in range(100):
            dst, src = chance.choice([(a, b), (b, a)])
            length = chance.randrange(1, 2 * PAGE) * 4
            to, origin = (chance.randrange((PAGES - length) // 4) * 4 for _ in range(2))
            value = chance.randrange(1 << 32)
            kind = chance.choice([Fill, Copy, ScaleAdd])
            new = model[src][origin : origin + length]
            if kind is Fill:
                operation = Fill(dst, value, to, length)
                new = words([value] * (length // 4)).tobytes()
            elif kind is Copy:
                operation = Copy(dst, src, to, origin, length)
            else:
                operation = ScaleAdd(dst, src, value, to, origin, length)
                pairs = zip(words(model[dst][to : to + length]), words(new), strict=True)
                new = words((x * value + y) % 2**32 for x, y in pairs).tobytes()
            model[dst][to : to + length] = new
            jobs.append(queue.submit(operation))
        wait_all([job.fence for job in jobs], timeout=WAIT)
        assert {job.fence.status for job in jobs} == {1}
        for job in jobs:
            job.close()
    assert peek(buf, PAGES) == model[a]
    assert peek(other, PAGES) == model[b]


def test_result_comes_with_the_fence(a, buf, queue):
    """Before it the memory is as it was; with an error, a reset or a failed in-fence it stays so."""
    with queue.submit(Fill(a, 0x11111111), duration=3) as job:
        assert peek(buf, PAGES) == bytes(PAGES)
        job.fence.wait(WAIT)
        assert peek(buf, PAGES) == b"\x11" * PAGES
    with (
        queue.submit(Fill(a, 2), error=errno.EIO) as failed,
        queue.submit(Fill(a, 3), in_fences=[failed.fence]) as heir,
        queue.submit(Fill(a, 4), hang=True) as hung,
    ):
        heir.fence.wait(WAIT)
        queue.reset()
        hung.fence.wait(WAIT)
        assert [job.fence.error for job in (failed, heir, hung)] == [errno.EIO, errno.EIO, errno.ECANCELED]
    assert peek(buf, PAGES) == b"\x11" * PAGES


def test_lengths_and_alignment(a, b, queue):
    """What Python can know is wrong does not reach the kernel."""
    wrong = [
        Fill(a, 1, offset=2),
        Fill(a, 1, length=6),
        Fill(a, 1 << 32),
        Fill(a, -1),
        Fill(a, 1, offset=PAGES),
        Fill(a, 1, length=PAGES + 4),
        Fill(a, 1, length=0),
        Copy(a, b, length=PAGES + 1),
        Copy(a, b, 1, 0, PAGES),
        Copy(a, b, 0, -1, 1),
        Checksum(b, length=0),
        ScaleAdd(a, b, 1, src_offset=2),
    ]
    for operation in wrong:
        with pytest.raises(ValueError, match=r"must be|not in"):
            queue.submit(operation)
    assert alive()["fences"] == 0


@pytest.mark.parametrize("access", [READ, WRITE])
def test_what_the_device_may_do(device, buf, b, queue, access):
    """EACCES for the other direction; looking is no transfer."""
    with device.attach(buf, access) as attachment:
        reads, writes = (Checksum(attachment), Copy(b, attachment)), (Fill(attachment, 1), Copy(attachment, b))
        allowed, forbidden = (reads, writes) if access == READ else (writes, reads)
        for operation in (*forbidden, ScaleAdd(attachment, b, 1)):
            with refused(errno.EACCES):
                queue.submit(operation)
        for operation in allowed:
            with queue.submit(operation) as job:
                job.fence.wait(WAIT)
                assert job.fence.status == 1
        attachment.peek()
        if access == READ:
            with refused(errno.EACCES, PermissionError):
                attachment.poke(b"x")


def fences_of(buf):
    """Usage, timeline and whether it has signaled, of every fence that debugfs shows on a buffer."""
    return sorted((usage, timeline, signaled) for usage, timeline, _, signaled in bufinfo()[buf.ino].fences)


def test_explicit_jobs_leave_buffers_alone(a, buf, queue):
    """Without `implicit` nobody who looks at the buffer knows of the job."""
    with queue.submit(Fill(a, 1), hang=True):
        assert fences_of(buf) == []
        assert buf.poll(RW)
        queue.reset()


def test_implicit_fences_are_added(a, b, buf, other, queue):
    """A writer's to what is written, a reader's to what is read, as poll and debugfs say."""
    with queue.submit(Copy(a, b), hang=True, implicit=True) as job:
        assert fences_of(buf) == [("write", "queue", False)]
        assert fences_of(other) == [("read", "queue", False)]
        assert [buf.poll(READ), buf.poll(WRITE), other.poll(READ), other.poll(WRITE)] == [False, False, True, False]
        queue.reset()
        job.fence.wait(WAIT)
    assert buf.poll(WRITE) and other.poll(WRITE)


@pytest.mark.parametrize(("theirs", "ours", "waits"), [(READ, "src", False), (READ, "dst", True), (WRITE, "src", True)])
def test_implicit_fences_are_waited_for(a, buf, queue, fence, timeline, theirs, ours, waits):
    """Readers wait for writers, writers for all."""
    buf.import_sync_file(fence, theirs)
    with queue.submit(Use(**{ours: a}), implicit=True) as job, queue.submit(Use(**{ours: a})) as behind:
        assert job.fence.poll(0.05 if waits else WAIT) is not waits
        timeline.inc()
        behind.fence.wait(WAIT)
        assert job.fence.status == 1


def test_one_device_waits_for_another(a, b, buf, other, device, keep):
    """A chain of copies in two queues that nothing but the buffers holds together."""
    with FenceDevice() as second, ExitStack() as stack:
        a2, b2 = [stack.enter_context(second.attach(each)) for each in (buf, other)]
        one, two = [stack.enter_context(each.create_queue()) for each in (device, second)]
        jobs = [keep(one.submit(Fill(a, 0x01010101), implicit=True, duration=0.02))]
        for _ in range(5):
            jobs.append(keep(two.submit(Copy(b2, a2), implicit=True, duration=0.002)))
            jobs.append(keep(one.submit(ScaleAdd(a, b, 1), implicit=True, duration=0.002)))
        wait_all([job.fence for job in jobs], timeout=WAIT)
    assert peek(buf, PAGES) == b"\x20" * PAGES


def test_errors_of_implicit_fences_do_not_count(a, buf, queue, device, keep):
    """The kernel forgets those that have signaled, so they would come by chance."""
    bad = keep(queue.submit(Use(dst=a), implicit=True, error=errno.EIO, duration=0.02))
    with device.create_queue() as other, other.submit(Fill(a, 7), implicit=True) as job:
        job.fence.wait(WAIT)
        assert (bad.fence.error, job.fence.error) == (errno.EIO, None)
    assert peek(buf, 4) == words([7]).tobytes()


def test_implicit_needs_a_buffer(queue):
    for operation in (None, Use()):
        with refused(errno.EINVAL):
            queue.submit(operation, implicit=True)
    assert alive()["fences"] == 0


def test_buffers_are_locked_in_any_order(a, b, buf, other):
    """Two threads that take the same two buffers the other way round both get on."""

    def work(operation, device):
        with device.create_queue() as queue:
            for _ in range(200):
                queue.submit(operation, implicit=True).close()
            with queue.submit() as last:
                last.fence.wait(WAIT)

    with FenceDevice() as second, second.attach(buf) as a2, second.attach(other) as b2:
        threads = [
            threading.Thread(target=work, args=(Copy(a, b, length=1), a.device)),
            threading.Thread(target=work, args=(Copy(b2, a2, length=1), second)),
        ]
        with lasts(0, WAIT):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
        assert not any(thread.is_alive() for thread in threads)


def test_cpu_access_waits_for_the_device(a, buf, queue):
    """START waits for the implicit fence, and reads what the job wrote."""
    with lasts(0.1):
        queue.submit(Fill(a, 0x55555555), implicit=True, duration=0.1).close()
        with buf.cpu_access(READ) as view:
            assert view[:4] == b"\x55" * 4


def test_device_closed_with_all_in_use(buf, other):
    """Jobs, mappings and attachments go, in an order that the kernel can bear."""
    with FenceDevice() as device:
        a, b, queue = device.attach(buf), device.attach(other), device.create_queue()
        jobs = [queue.submit(Copy(a, b), implicit=True, duration=60), queue.submit(Copy(b, a), hang=True)]
        fences = [SyncFile.from_fd(job.fence) for job in jobs]
    assert [fence.error for fence in fences] == [errno.ECANCELED] * 2
    for closed in (*fences, *jobs):
        closed.close()
    assert set(alive().values()) <= {0, 1}  # the buffer keeps its last fence
    assert alive()["attachments"] == alive()["mappings"] == 0


@pytest.mark.parametrize("driver", ["vgem", "vkms", "virtio_gpu"])
def test_gem_buffers(device, run, keep, driver):
    """Of whichever device, if it lets others have them."""
    drm = keep(DrmDevice.open(driver=driver))
    with drm.create_dumb(64, 64, 32) as gem, gem.export() as buf, device.attach(buf) as attachment:
        run(Fill(attachment, 0xCAFE0123))
        with buf.mmap(READ) as mapped:
            assert mapped[: buf.size] == words([0xCAFE0123] * (buf.size // 4)).tobytes()


def test_large_buffer(device, heap, run):
    """Pieces of 1 MiB and 64 KiB and single pages: what a heap makes of 3 MiB and some."""
    size = (3 << 20) + (1 << 16) + PAGE
    with heap.alloc(size) as big, udmabuf.create(size) as small, device.attach(big) as a, device.attach(small) as b:
        data = noise(size)
        fill(small, data)
        run(Copy(a, b))
        assert peek(big, size) == data
        begin = time.monotonic()
        assert run(Checksum(a)).checksum == zlib.adler32(data)
        assert time.monotonic() - begin < WAIT


def test_a_buffer_by_descriptor(device, buf):
    """Another object of the same buffer is the same buffer."""
    with DmaBuf.from_fd(buf) as again, device.attach(again) as one, device.attach(buf) as two:
        one.poke(b"here")
        assert two.peek(0, 4) == b"here"


def test_implicit_in_one_buffer(a, buf, device, queue, keep):
    """Read and written by one job, whose fence is added once, as a writer's."""
    again = keep(device.attach(buf))
    for src in (a, again):
        with queue.submit(Copy(a, src, dst_offset=PAGE, length=PAGE), implicit=True, hang=True) as job:
            with buf.export_sync_file(Access.READ) as writers:
                assert [fence.obj_name for fence in writers.fences] == ["queue"]
            queue.reset()
            job.fence.wait(WAIT)


def test_reset_in_the_middle_of_an_operation(device, queue, heap, keep):
    """Whom reset() names ends with ECANCELED, and nobody else; what it had done by then stays done."""
    big = keep(device.attach(keep(heap.alloc(32 << 20))))
    ends = set()
    for number in range(1, 256):
        if number > 10 and (True, True) in ends:
            break  # on a slow machine, where the worker begins late or this thread goes on late, it takes more
        with queue.submit(Fill(big, number), ignore_errors=True) as job:
            time.sleep(0.002 * (number % 10))
            named = queue.reset()
            job.fence.wait(WAIT)
            assert named in (0, job.seqno)
            assert job.fence.error == (errno.ECANCELED if named else None)
            ends.add((bool(named), set(big.peek(0, 4)) == {0, number}))
    assert (True, True) in ends  # it had begun, and was reset
