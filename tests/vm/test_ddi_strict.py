"""ddi.strict(): which orders of uses and syncs are wrong, said with both places in the source; and real jobs."""

import errno
import itertools
import os
import re
import resource
from contextlib import suppress

import pytest
from buffer_words import PAGE
from kernel_words import refused

from linuxsync import Access, DmaBuf, SyncFile, _coherence, ddi
from linuxsync.ddi import CoherenceError, DmaFlags, DmaHandle, SyncType
from linuxsync.fencedev import Copy, Fill, ScaleAdd, Use

FORDEV, FORCPU, FORKERNEL = SyncType
READ, WRITE, RDWR = DmaFlags.READ, DmaFlags.WRITE, DmaFlags.RDWR
WAIT = 60.0
STEPS = {
    "cpu read": lambda handle: handle.memory[0],
    "cpu write": lambda handle: handle.memory.__setitem__(0, 1),
    "device reads": lambda handle: handle.device_reads(),
    "device writes": lambda handle: handle.device_writes(),
    "FORDEV": lambda handle: handle.sync(FORDEV),
    "FORCPU": lambda handle: handle.sync(FORCPU),
    "unbind": lambda handle: handle.unbind(),
}
# Which step is wrong right after which.
WRONG = {
    ("cpu write", "device reads"): "no FORDEV since",
    ("cpu write", "device writes"): "no FORDEV since",
    ("cpu write", "FORCPU"): "throws away what the CPU wrote",
    ("cpu write", "unbind"): "throws away what the CPU wrote",
    ("device writes", "cpu read"): "no FORCPU since",
    ("device writes", "cpu write"): "no FORCPU since",
    ("device writes", "FORDEV"): "throws away what the device wrote",
}


@pytest.fixture
def buf(heap, keep) -> DmaBuf:
    """One page."""
    return keep(heap.alloc(PAGE))


@pytest.fixture
def handle(buf):
    """What is bound to it, for both directions, under strict()."""
    with ddi.strict(), DmaHandle() as made:
        yield made.bind(buf, RDWR)
        settle(made)


def settle(handle):
    """Leave nothing to complain about."""
    for kind in (FORDEV, FORCPU):
        with suppress(CoherenceError):
            if handle.bound:
                handle.sync(kind)


@pytest.mark.parametrize("direction", [READ, RDWR])
@pytest.mark.parametrize(("first", "second"), [pair for pair in itertools.product(STEPS, STEPS) if pair[0] != "unbind"])
def test_each_pair_of_steps(first, second, direction, buf):
    """Wrong ones are refused with both places in the source, right ones are not, and without strict() nobody looks."""
    with ddi.strict(), DmaHandle() as handle:
        handle.bind(buf, direction)
        STEPS[first](handle)
        # Nothing is brought to a device that only writes, so nothing of its work is lost by it.
        if (first, second) in WRONG and (direction, first, second) != (READ, "device writes", "FORDEV"):
            with pytest.raises(CoherenceError, match=WRONG[first, second]) as caught:
                STEPS[second](handle)
            assert len(re.findall(rf"{re.escape(__file__)}:\d+, in <lambda>", str(caught.value))) == 2
        else:
            STEPS[second](handle)
        assert handle.bound == (second != "unbind")
        settle(handle)
    assert _coherence.watches == {}
    with DmaHandle() as handle:
        handle.bind(buf, direction)
        STEPS[first](handle)
        STEPS[second](handle)
    assert _coherence.watches == {}


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
        handle.sync(FORDEV)


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


def test_a_loop_of_jobs_keeps_no_fences(device, queue, buf, heap, keep, open_files):
    """However many there are, if nobody syncs and none is under way."""
    with ddi.strict(), DmaHandle() as a, DmaHandle() as b:
        a.bind(buf, WRITE)
        b.bind(keep(heap.alloc(PAGE)), READ)
        with device.attach(a) as src, device.attach(b) as dst:
            before = len(open_files())
            for _ in range(50):
                with queue.submit(Copy(dst, src)) as job:
                    job.fence.wait(WAIT)
            assert len(open_files()) <= before + 2
            assert len(_coherence.watches[b._ino].uses) == 1
        b.sync(FORCPU)


def test_fordev_while_the_device_writes(device, queue, handle):
    """Would overwrite what it has done so far."""
    with device.attach(handle) as seen, queue.submit(Fill(seen, 1), hang=True) as job:
        with pytest.raises(CoherenceError, match=r"FORDEV at .* throws away what the device writes by"):
            handle.sync(FORDEV)
        with pytest.raises(CoherenceError, match=r"bind at .* throws away"), DmaHandle() as other:
            other.bind(seen._bound, RDWR)
        queue.reset()
        job.fence.wait(WAIT)
        handle.sync(FORDEV)  # a job that failed has written nothing


def test_what_failed_has_not_happened(device, queue, handle):
    """A job that is refused, or fails; a poke that is refused; a store that raises; a use of memory that is none."""
    with device.attach(handle) as seen:
        for job in ({"error": errno.EIO}, {"operation": Use(dst=seen)}):
            with queue.submit(**{"operation": Fill(seen, 1), **job}) as submitted:
                submitted.fence.wait(WAIT)
            assert handle.memory[0] == 0
        for wrong in (lambda: handle.memory.__setitem__(PAGE, 1), lambda: handle.memory.__setitem__(0, 256)):
            with pytest.raises((IndexError, ValueError)):
                wrong()
        handle.sync(FORCPU)
        seen.unmap()
        with refused(errno.ENXIO):
            queue.submit(Fill(seen, 1))
        with refused(errno.ENXIO):
            seen.poke(b"x")
        assert handle.memory[0] == 0


def test_a_job_is_submitted_without_a_descriptor_to_spare(device, queue, handle):
    """One for its fence is enough; what can't be watched counts as ended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with device.attach(handle) as seen:
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 1, hard))
        try:
            job = queue.submit(Fill(seen, 0x01010101))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with job:
            job.fence.wait(WAIT)
        with pytest.raises(CoherenceError, match="no FORCPU since"):
            handle.memory[0]
        handle.sync(FORCPU)
        assert handle.memory[0] == 1


def test_handles_of_one_buffer_are_seen_together(buf):
    """The kernel syncs all of it: one handle's sync throws away what was written through the other."""
    with ddi.strict(), DmaHandle() as one, DmaHandle() as other:
        one.bind(buf, RDWR, 0, PAGE // 2)
        other.bind(buf, RDWR, PAGE // 2)
        one.memory[:4] = b"mine"
        for sync in (lambda: other.sync(FORCPU), other.unbind):
            with pytest.raises(CoherenceError, match="throws away what the CPU wrote"):
                sync()
        one.memory[:4] = b"mine"
        one.sync(FORDEV)
        one.sync(FORCPU)
        assert one.memory[:4] == b"mine"


def test_closing_an_attachment_is_a_forcpu(device, queue, handle):
    """Unmapping brings the CPU what the device wrote, and throws away what the CPU wrote meanwhile."""
    for leave in (lambda attachment: attachment.unmap(), lambda attachment: attachment.close()):
        with device.attach(handle) as seen:
            with queue.submit(Fill(seen, 0x05050505)) as job:
                job.fence.wait(WAIT)
            leave(seen)
            assert handle.memory[0] == 5
        handle.sync(FORDEV)
        with device.attach(handle) as seen:
            handle.memory[0] = 1
            with pytest.raises(CoherenceError, match=r"unmapping at .* throws away what the CPU wrote at"):
                leave(seen)
        with pytest.raises(KeyError), device.attach(handle):
            handle.memory[0] = 1
            raise KeyError
    with device.attach(handle, Access.READ):
        handle.memory[0] = 1


def test_ranges(device, queue, handle):
    """The CPU works on one half while the device reads the other: nobody is in anybody's way."""
    half = PAGE // 2
    with device.attach(handle) as seen:
        with queue.submit(Fill(seen, 0x01010101, length=half), hang=True) as job:
            handle.memory[half] = 7
            handle.memory[half + 1 :] = b"x" * (half - 1)
            assert handle.memory[half:][:2] == b"\7x"
            for touch in (slice(0, 1), slice(half - 1, half + 1), slice(None, None, -1), half - 1, -PAGE):
                with pytest.raises(CoherenceError, match="while the device writes"):
                    handle.memory[touch]
            with pytest.raises(CoherenceError, match="throws away"):
                handle.sync(FORCPU, half)
            queue.reset()
            job.fence.wait(WAIT)
        handle.sync(FORDEV)
        with queue.submit(Fill(seen, 0x01010101, length=half), hang=True) as job:
            handle.sync(FORCPU, half)
            assert handle.memory[half] == 7
            with pytest.raises(CoherenceError, match="has not ended"):
                handle.sync(FORCPU, 0, half)
            queue.reset()
            job.fence.wait(WAIT)


def test_unbind_while_the_device_reads(device, queue, buf, heap, keep):
    """It must not, and the fence that was kept is closed all the same."""
    target = keep(device.attach(keep(heap.alloc(PAGE))))
    with ddi.strict():
        handle = DmaHandle().bind(buf, WRITE)
        with device.attach(handle) as seen, queue.submit(Copy(target, seen), hang=True) as job:
            with pytest.raises(CoherenceError, match=r"unbind at .* but the device has not ended"):
                handle.unbind()
            assert not handle.bound and _coherence.watches == {}
            queue.reset()
            job.fence.wait(WAIT)


def test_unbind_waits_for_implicit_fences_before_it_complains(device, queue, buf):
    """A job whose fence it waits for has ended."""
    with ddi.strict(), DmaHandle() as handle:
        handle.bind(buf, RDWR)
        seen = device.attach(handle)
        with queue.submit(Fill(seen, 1), implicit=True, duration=0.1):
            handle.unbind()
        seen.close()


def test_bytes_one_by_one(handle):
    """A loop over them is one thing to remember."""
    for at in range(64):
        handle.memory[at] = at
    (span,) = _coherence.watches[handle._ino].dirty
    assert (span.start, span.end) == (0, 64)


def test_a_merged_fence_may_stand_for_the_work(buf, timeline):
    """Whatever signals when the device has ended."""
    with ddi.strict(), DmaHandle() as handle, timeline.create_fence(1) as one, timeline.create_fence(2) as two:
        handle.bind(buf, RDWR)
        with SyncFile.merge(one, two) as both:
            handle.device_writes(both)
        timeline.inc()
        with pytest.raises(CoherenceError, match="has not ended"):
            handle.sync(FORCPU)
        timeline.inc()
        handle.sync(FORCPU)
