"""ddi.strict(): which orders of uses and syncs are wrong, said with both places in the source; and real jobs."""

import errno
import itertools
import re

import pytest
from buffer_words import PAGE
from kernel_words import refused

from linuxsync import Access, DmaBuf, ddi
from linuxsync.ddi import CoherenceError, DmaFlags, DmaHandle, SyncType
from linuxsync.fencedev import Copy, Fill, ScaleAdd

FORDEV, FORCPU, FORKERNEL = SyncType
READ, WRITE, RDWR = DmaFlags.READ, DmaFlags.WRITE, DmaFlags.RDWR
WAIT = 10.0
STEPS = {
    "cpu read": lambda handle: handle.memory[0],
    "cpu write": lambda handle: handle.memory.__setitem__(0, 1),
    "device reads": lambda handle: handle.device_reads(),
    "device writes": lambda handle: handle.device_writes(),
    "FORDEV": lambda handle: handle.sync(FORDEV),
    "FORCPU": lambda handle: handle.sync(FORCPU),
    "unbind": lambda handle: handle.unbind(),
}
# Which step is wrong right after which, by direction: what is only read by the device can't be lost by fetching.
WRONG = {
    ("cpu write", "device reads"): "no FORDEV since",
    ("cpu write", "device writes"): "no FORDEV since",
    ("cpu write", "FORCPU"): "throws away",
    ("cpu write", "unbind"): "throws away",
    ("device writes", "cpu read"): "no FORCPU since",
    ("device writes", "cpu write"): "no FORCPU since",
}
FETCHES = {"FORCPU", "unbind"}


@pytest.fixture
def buf(heap, keep) -> DmaBuf:
    """One page."""
    return keep(heap.alloc(PAGE))


@pytest.fixture
def handle(buf):
    """What is bound to it, for both directions, under strict()."""
    with ddi.strict(), DmaHandle() as made:
        yield made.bind(buf, RDWR)
        if made.bound:
            made.sync(FORDEV)


def settle(handle):
    """Leave nothing to complain about."""
    if handle.bound:
        handle.sync(FORDEV)


@pytest.mark.parametrize("direction", [WRITE, RDWR])
@pytest.mark.parametrize(("first", "second"), [pair for pair in itertools.product(STEPS, STEPS) if pair[0] != "unbind"])
def test_each_pair_of_steps(first, second, direction, buf):
    """Wrong ones are refused with both places in the source, right ones are not, and without strict() nobody looks."""
    with ddi.strict(), DmaHandle() as handle:
        handle.bind(buf, direction)
        STEPS[first](handle)
        if (first, second) in WRONG and not (direction is WRITE and first == "cpu write" and second in FETCHES):
            with pytest.raises(CoherenceError, match=WRONG[first, second]) as caught:
                STEPS[second](handle)
            assert len(re.findall(rf"{re.escape(__file__)}:\d+, in <lambda>", str(caught.value))) == 2
        else:
            STEPS[second](handle)
        assert handle.bound == (second != "unbind")
        settle(handle)
    with DmaHandle() as handle:
        handle.bind(buf, direction)
        STEPS[first](handle)
        STEPS[second](handle)


def test_the_right_order(handle):
    """CPU, FORDEV, device, FORCPU, CPU, as often as one likes."""
    for _ in range(3):
        handle.memory[:4] = b"work"
        handle.sync(FORDEV)
        handle.device_reads()
        handle.device_writes()
        handle.sync(FORCPU)
        assert handle.memory[:4] == b"work"


def test_what_fetching_does_not_lose_stays_unpublished(buf):
    """Of memory that the device only reads: FORCPU brings nothing, and is no FORDEV either."""
    with ddi.strict(), DmaHandle() as handle:
        handle.bind(buf, WRITE)
        handle.memory[0] = 1
        handle.sync(FORCPU)
        assert handle.memory[0] == 1
        with pytest.raises(CoherenceError, match="no FORDEV since"):
            handle.device_reads()


def test_it_ends_with_its_block(buf):
    """What was seen inside is forgotten by the syncs outside, and blocks may be nested."""
    with DmaHandle() as handle:
        handle.bind(buf, RDWR)
        with ddi.strict():
            with ddi.strict():
                handle.memory[0] = 1
            with pytest.raises(CoherenceError):
                handle.device_reads()
        handle.device_reads()
        handle.sync(FORDEV)
        with ddi.strict():
            handle.device_reads()
            handle.device_writes()
        handle.memory[0] = 2


def test_unbind_complains_and_unbinds(buf, handle):
    """At the end of a with block too, unless the block has raised something itself."""
    with pytest.raises(CoherenceError, match="throws away"), DmaHandle() as lost:
        lost.bind(buf, RDWR)
        lost.memory[0] = 1
    assert repr(lost) == "<freed DmaHandle>"
    with pytest.raises(KeyError), DmaHandle() as interrupted:
        interrupted.bind(buf, RDWR)
        interrupted.memory[0] = 1
        raise KeyError
    assert repr(interrupted) == "<freed DmaHandle>"


def test_a_job_on_dirty_memory_is_not_submitted(device, queue, handle, heap):
    """The line that submits it and the line that wrote are in the message; the queue has no job."""
    with device.attach(handle) as seen:
        handle.memory[0] = 1
        for operation in (Fill(seen, 0), ScaleAdd(seen, seen, 1, dst_offset=0, src_offset=8, length=8)):
            with pytest.raises(
                CoherenceError, match=r"the device (reads|writes over) what the CPU wrote at .* no FORDEV since"
            ) as caught:
                queue.submit(operation)
            assert len(re.findall(rf"{re.escape(__file__)}:\d+, in test_a_job", str(caught.value))) == 2
        with pytest.raises(CoherenceError):
            seen.poke(b"x")
        handle.sync(FORDEV)
        with queue.submit(Fill(seen, 0)) as job:
            assert job.seqno == 1
            job.fence.wait(WAIT)
        handle.sync(FORCPU)


def test_what_a_job_wrote_is_read_after_forcpu(device, queue, handle):
    with device.attach(handle) as seen, queue.submit(Fill(seen, 0x01010101)) as job:
        job.fence.wait(WAIT)
        with pytest.raises(CoherenceError, match=r"the CPU read at .* what the device wrote at .*: no FORCPU since"):
            handle.memory[0]
        handle.sync(FORCPU)
        assert handle.memory[:] == b"\1" * PAGE


def test_forcpu_before_the_end_of_a_job(device, queue, handle):
    """Comes too early, and so does unbind; FORCPU that waits for the job's implicit fence does not."""
    with device.attach(handle) as seen:
        with queue.submit(Fill(seen, 0x01010101), hang=True) as job:
            for use in (lambda: handle.sync(FORCPU), lambda: handle.sync(FORKERNEL)):
                with pytest.raises(CoherenceError, match="but the device has not ended"):
                    use()
            for use in (lambda: handle.memory[0], lambda: handle.memory.__setitem__(0, 1)):
                with pytest.raises(CoherenceError, match="while the device writes"):
                    use()
            queue.reset()
            job.fence.wait(WAIT)
        handle.sync(FORCPU)
        with queue.submit(Fill(seen, 0x02020202), implicit=True, duration=0.1):
            handle.sync(FORCPU)
            assert handle.memory[0] == 2


def test_what_the_device_still_reads_may_be_read(device, queue, handle, heap, keep):
    """But not written, before the job that reads it has ended."""
    target = keep(device.attach(keep(heap.alloc(PAGE))))
    with device.attach(handle) as seen:
        with queue.submit(Copy(target, seen), hang=True) as job:
            assert handle.memory[0] == 0
            handle.sync(FORCPU)
            with pytest.raises(CoherenceError, match=r"the CPU wrote at .* while the device reads"):
                handle.memory[0] = 1
            queue.reset()
            job.fence.wait(WAIT)
        handle.memory[0] = 1


def test_an_attachment_is_of_what_is_bound(device, queue, buf):
    """The range, from its beginning, in the direction of the binding; nothing more."""
    with DmaHandle() as handle:
        handle.bind(buf, RDWR, 64, 16)
        with device.attach(handle) as seen, device.attach(buf) as whole:
            assert (seen.size, seen.handle, whole.size, whole.handle) == (16, handle, PAGE, None)
            seen.poke(b"abcd", 8)
            with queue.submit(Fill(seen, 0x21212121, length=4)) as job:
                job.fence.wait(WAIT)
            assert whole.peek(60, 20) == b"\0\0\0\0!!!!\0\0\0\0abcd\0\0\0\0"
            assert seen.peek() == b"!!!!\0\0\0\0abcd\0\0\0\0"
            with queue.submit(Copy(whole, seen, dst_offset=1024)) as job:
                job.fence.wait(WAIT)
            assert whole.peek(1023, 18) == b"\0!!!!\0\0\0\0abcd\0\0\0\0\0"
            for offset, length in ((0, 17), (16, 1), (8, 9)):
                with pytest.raises(ValueError, match="are not in the buffer, which has 16"):
                    seen.peek(offset, length)


@pytest.mark.parametrize(
    ("direction", "access"), [(WRITE, Access.READ), (READ, Access.WRITE), (RDWR, Access.RW)], ids=str
)
def test_the_device_may_do_what_was_bound_for(device, buf, direction, access):
    """WRITE is memory to device, so the device reads."""
    with DmaHandle() as handle:
        with pytest.raises(ValueError, match="nothing is bound"):
            device.attach(handle)
        handle.bind(buf, direction)
        with device.attach(handle) as seen:
            assert seen.access is access
            if access is Access.READ:
                with refused(errno.EACCES):
                    seen.poke(b"x")
        for other in Access.READ, Access.WRITE, Access.RW:
            if other & ~access:
                with pytest.raises(ValueError, match="is bound for"):
                    device.attach(handle, other)
            else:
                device.attach(handle, other).close()


def test_an_attachment_does_not_outlive_the_binding(device, queue, buf):
    """Jobs are refused once the memory has been unbound, bound again or not."""
    with DmaHandle() as handle:
        handle.bind(buf, RDWR)
        with device.attach(handle) as seen:
            for _ in range(2):
                handle.unbind()
                with pytest.raises(ValueError, match="unbound"):
                    queue.submit(Fill(seen, 0))
                handle.bind(buf, RDWR)
                with pytest.raises(ValueError, match="unbound"):
                    seen.poke(b"x")
