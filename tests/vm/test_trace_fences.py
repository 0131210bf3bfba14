"""What a recording says of fences, against what the fences say themselves, and against what was done with them."""

import errno
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from children import forked
from clock_words import becomes
from kernel_words import free_descriptors
from look_words import linuxsync

from linuxsync import Access, Timeline, VgemDevice, merge, trace
from linuxsync.trace import source

WAIT = 60.0
# A vblank bears the time at which its timer should have run, which on a slow machine is before it did.
LATE = 100_000_000

IOCTL, PPOLL = 16, 271


def named(recorded, fence):
    """The fence of a recording that a sync_file with a name of the kernel's is about."""
    found = [one for one in recorded.fences if one.name == fence.name]
    assert len(found) == 1, (fence.name, [one.name for one in recorded.fences])
    return found[0]


def on(recorded, driver, name=None):
    """The timelines of a driver."""
    return [line for line in recorded.timelines if line.driver == driver and name in (None, line.name)]


def asleep(pid, call):
    """Wait until a process sleeps in a system call, of this number."""
    becomes(str(call), lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0], WAIT)


def in_the_kernel():
    """Whether somebody waits for a fence inside the kernel."""
    for place in Path("/proc").glob("[0-9]*/wchan"):
        try:
            if "dma_fence" in place.read_text():
                return True
        except OSError:
            pass  # it has ended
    return False


@pytest.fixture
def vgem(keep):
    return keep(VgemDevice.open())


@pytest.fixture
def without_probes(monkeypatch):
    """As on a kernel that allows none, or has other functions."""
    monkeypatch.setattr(source, "PROBES", {})


def test_times_are_those_of_the_fences(keep):
    """Signals to the nanosecond; init and the first look at it between what was read before and after."""
    with Timeline("delays") as line, trace.recording() as recorded:
        made, stamps = [], []
        for value in range(1, 9):
            before = time.monotonic_ns()
            fence = keep(line.create_fence(value))
            between = time.monotonic_ns()
            assert not fence.poll()
            stamps.append((before, between, time.monotonic_ns()))
            made.append(fence)
        for fence in made:
            time.sleep(0.003)
            line.inc()
            assert fence.status == 1
    assert recorded.lost == 0
    assert recorded.trace.damage == []
    found = [named(recorded, fence) for fence in made]
    assert [one.signal_ns for one in found] == [fence.timestamp_ns for fence in made]
    assert all(one.exact and one.error is None for one in found)
    for one, (before, between, after) in zip(found, stamps, strict=True):
        assert before < one.init_ns < between < one.enable_ns < after
        assert one.latency_ns == one.signal_ns - one.init_ns > 3_000_000
        assert one.enabled_latency_ns == one.signal_ns - one.enable_ns
        assert one.creator is one.signaler
        assert (one.creator.tid, one.creator.pid) == (os.getpid(), os.getpid())
        assert one.creator.comm == one.creator.process == Path("/proc/self/comm").read_text().strip()
        assert not one.signaled_in_irq
        assert one.destroy_ns is None
    (timeline,) = on(recorded, "sw_sync")
    assert timeline.name == "delays"
    assert timeline.fences == found
    assert timeline.context == found[0].context
    assert recorded.latency(timeline="delays").max_ns == max(one.latency_ns for one in found)
    assert recorded.latency(timeline="delays").count == 8


def test_without_probes_times_come_a_little_later(without_probes, tmp_path, keep):
    """Then they are those of the tracepoint, after the fence's own; and errors are not known, as the report says."""
    file = tmp_path / "plain.trace"
    with Timeline("plain") as line, trace.recording(file) as recorded:
        fence = keep(line.create_fence(1))
        line.inc()
        with Timeline() as other:
            failed = keep(other.create_fence(1))
    assert recorded.trace.probes == ()
    one = named(recorded, fence)
    assert not one.exact
    assert 0 <= one.signal_ns - fence.timestamp_ns < 5_000_000_000
    assert failed.error == errno.ENOENT
    assert named(recorded, failed).error is None
    said = linuxsync("trace", "report", str(file))
    assert "Without a probe: times of signals are those of tracepoints" in said.out


def test_errors(keep):
    """A timeline that is closed ends its fences with ENOENT."""
    with trace.recording() as recorded:
        with Timeline("closed") as line:
            fence = keep(line.create_fence(1))
        assert fence.error == errno.ENOENT
    one = named(recorded, fence)
    assert one.error == errno.ENOENT
    assert one.signal_ns == fence.timestamp_ns


def test_merged_fences(keep):
    """What they are made of, and that they signal right after the last of it."""
    with Timeline("a") as a, Timeline("b") as b, trace.recording() as recorded:
        first, second, third = keep(a.create_fence(1)), keep(b.create_fence(1)), keep(b.create_fence(2))
        both = keep(first | second)
        more = keep(both | third)
        assert not more.poll()
        assert not both.poll()
        a.inc()
        time.sleep(0.01)
        b.inc(2)
        more.wait(WAIT)
        both.wait(WAIT)
    one, two, three = (named(recorded, fence) for fence in (first, second, third))
    merged, again = named(recorded, both), named(recorded, more)
    assert merged.inputs == [one, two]
    # Of two on one timeline the kernel keeps the later.
    assert again.inputs == [one, three]
    assert merged.input_count == again.input_count == 2
    assert one.outputs == [merged, again]
    assert not merged.guessed
    assert merged.signal_ns >= two.signal_ns == second.timestamp_ns
    assert merged.exact
    # All of them are on one line, though each has a context of its own.
    (line,) = on(recorded, "dma_fence_array")
    assert line.fences == [merged, again]
    assert (line.name, line.context) == ("unbound", None)
    assert merged.context != again.context


def test_a_merged_fence_of_many(keep):
    """A probe reads sixteen; how many there are is known."""
    with trace.recording() as recorded:
        lines = [keep(Timeline(f"line{number}")) for number in range(20)]
        fences = [keep(line.create_fence(1)) for line in lines]
        with free_descriptors(64):
            together = keep(merge(fences))
    one = named(recorded, together)
    assert one.input_count == 20
    assert len(one.inputs) == 16
    assert {*one.inputs} < {named(recorded, fence) for fence in fences}


def test_the_last_of_many_may_not_be_known(keep):
    """Then nobody is said to have been the one that a merged fence waited for."""
    with trace.recording() as recorded:
        lines = [keep(Timeline(f"line{number}")) for number in range(20)]
        with free_descriptors(64):
            together = keep(merge([keep(line.create_fence(1)) for line in lines]))
        assert not together.poll()
        for line in lines:
            time.sleep(0.005)
            line.inc()
        together.wait(WAIT)
    one = named(recorded, together)
    assert len(one.inputs) == 16
    (link,) = [link for link in trace.critical_chain(recorded.trace, one) if link.to_ns == one.signal_ns]
    known = max(part.signal_ns for part in one.inputs)
    assert link.what == ("unknown" if one.signal_ns - known > 1_000_000 else "merged")


def test_merged_of_what_was_born_before(keep):
    """It is known of what, once that is seen."""
    with Timeline("a") as a, Timeline("b") as b:
        old, other = keep(a.create_fence(1)), keep(b.create_fence(1))
        with trace.recording() as recorded:
            both = keep(old | other)
            assert not both.poll()
            a.inc()
            time.sleep(0.005)
            b.inc()
            both.wait(WAIT)
        one = named(recorded, both)
        assert {*one.inputs} == {named(recorded, old), named(recorded, other)}
        assert all(part.init_ns is None and part.outputs == [one] for part in one.inputs)
        assert trace.critical_chain(recorded.trace, one)[-1].what == "merged"


def test_merged_fences_without_probes(without_probes, tmp_path, keep):
    """What they enable is taken for what they are made of, and marked, and said."""
    file = tmp_path / "guessed.trace"
    with Timeline("a") as a, Timeline("b") as b, trace.recording(file) as recorded:
        first, second = keep(a.create_fence(1)), keep(b.create_fence(1))
        both = keep(first | second)
        assert not both.poll()
        unrelated = keep(b.create_fence(2))
        assert not unrelated.poll()
    merged = named(recorded, both)
    assert merged.inputs == [named(recorded, first), named(recorded, second)]
    assert merged.guessed
    assert merged.input_count is None
    said = linuxsync("trace", "report", str(file))
    assert "Without a probe: what 1 fence is made of is guessed" in said.out


def test_a_value_that_has_a_fence(timeline, keep):
    """sw_sync makes one more and throws it away without a word: it is no fence that never signaled."""
    with trace.recording() as recorded:
        first = keep(timeline.create_fence(5))
        second = keep(timeline.create_fence(5))
        timeline.inc(5)
        assert second.status == 1
        late = keep(timeline.create_fence(5))
        assert late.status == 1
    ours = [one for one in recorded.fences if one.seqno == 5]
    assert len(ours) == 2
    assert [one.twins for one in ours] == [1, 0]
    assert ours[0].signal_ns == first.timestamp_ns == second.timestamp_ns
    # One that is made when its value is over signals at once.
    assert ours[1].signal_ns == late.timestamp_ns > ours[0].signal_ns
    assert not any(one.ambiguous for one in ours)


def test_born_before(timeline, keep):
    """What was made before the recording is there from its first event on."""
    old = keep(timeline.create_fence(1))
    silent = keep(timeline.create_fence(2))
    with trace.recording() as recorded:
        timeline.inc()
        assert old.status == 1
    one = named(recorded, old)
    assert (one.init_ns, one.creator, one.latency_ns) == (None, None, None)
    assert one.signal_ns == old.timestamp_ns
    assert all(fence.name != silent.name for fence in recorded.fences)


def test_never_signaled(timeline):
    """A fence that is given up has an end and no signal."""
    with trace.recording() as recorded:
        timeline.create_fence(7).close()
        with pytest.raises(TimeoutError), timeline.create_fence(8) as waited_for:
            waited_for.wait(0.01)
    given_up, waited = (next(one for one in recorded.fences if one.seqno == seqno) for seqno in (7, 8))
    assert given_up.signal_ns is waited.signal_ns is None
    assert given_up.init_ns < given_up.destroy_ns
    assert given_up.enable_ns is None
    assert waited.init_ns < waited.enable_ns < waited.destroy_ns


def test_values_are_those_after_the_increment(keep):
    """The tracepoint has the value before; of the last increment only what it has signaled is certain."""
    with trace.recording() as recorded:
        line = keep(Timeline("counted"))
        fences = [keep(line.create_fence(value)) for value in (3, 10)]
        moments = []
        for count in (1, 2, 7):
            before = time.monotonic_ns()
            line.inc(count)
            moments.append((before, time.monotonic_ns()))
        assert [fence.status for fence in fences] == [1, 1]
    (found,) = on(recorded, "sw_sync")
    found = [(ns, value) for ns, value in found.values if ns > moments[0][0]]
    assert [value for _, value in found] == [1, 3, 10]
    for (ns, _), (before, after) in zip(found, moments, strict=True):
        assert before < ns < after


def test_values_go_round(keep):
    """A timeline counts to 2**32 and begins anew."""
    with trace.recording() as recorded:
        line = keep(Timeline("round"))
        line.inc(2**31 - 1)
        line.inc(2**31 - 1)
        fence = keep(line.create_fence(3))
        line.inc(5)
        assert fence.status == 1
    values = [value for _, value in on(recorded, "sw_sync", "round")[0].values]
    assert values[-3:] == [2**31 - 1, 2**32 - 2, 3]


def test_two_timelines_of_one_name(keep):
    """They are two: a timeline is a fence context. Each has its own increments."""
    with trace.recording() as recorded:
        one, two = keep(Timeline("same")), keep(Timeline("same"))
        fences = [keep(line.create_fence(value)) for line, value in ((one, 1), (two, 4))]
        two.inc(4)
        one.inc(1)
        assert [fence.status for fence in fences] == [1, 1]
    lines = on(recorded, "sw_sync", "same")
    assert len(lines) == 2
    assert [[fence.seqno for fence in line.fences] for line in lines] == [[1], [4]]
    assert [line.values[-1][1] for line in lines] == [1, 4]


def test_signals_out_of_order(keep):
    """The events of both CPUs, and of a timeline that is signaled from its end, are in the order of time."""
    with trace.recording() as recorded:
        lines = [keep(Timeline(f"line{number}")) for number in range(10)]
        fences = [keep(line.create_fence(1)) for line in lines]

        def signal():
            for line in reversed(lines[:5]):
                line.inc()

        with forked(signal) as child:
            for line in reversed(lines[5:]):
                line.inc()
    found = [named(recorded, fence) for fence in fences]
    assert [one.signal_ns for one in found] == [fence.timestamp_ns for fence in fences]
    assert [one.signal_ns for one in reversed(found[:5])] == sorted(one.signal_ns for one in found[:5])
    assert {one.signaler.tid for one in found[5:]} == {os.getpid()}
    assert {one.signaler.tid for one in found[:5]} == {child}
    assert {one.creator.tid for one in found} == {os.getpid()}


def test_vgem_fences_share_a_line(vgem, keep):
    """Each has a context of its own and number 1; thousands of them are still one line."""
    with trace.recording() as recorded:
        gem = vgem.create_dumb(64, 64, 32)
        buffer = keep(gem.export())
        stamps = []
        for _ in range(50):
            fence = vgem.attach_fence(gem, write=True)
            held = buffer.export_sync_file(Access.RW)
            fence.signal()
            stamps.append(held.timestamp_ns)
            held.close()
        gem.close()
    (line,) = on(recorded, "vgem")
    assert (line.name, line.context, len(line.fences)) == ("unbound", None, 50)
    assert [fence.signal_ns for fence in line.fences] == stamps
    assert len({fence.context for fence in line.fences}) == 50
    assert {fence.seqno for fence in line.fences} == {1}


def test_signaled_by_a_timer(vgem, keep):
    """vgem's own after 10 seconds: in an interrupt, in whose place whatever thread was running."""
    with trace.recording() as recorded:
        gem = vgem.create_dumb(64, 64, 32)
        buffer = keep(gem.export())
        vgem.attach_fence(gem, write=True)
        fence = keep(buffer.export_sync_file(Access.RW))
        fence.wait(WAIT)
        gem.close()
    (one,) = on(recorded, "vgem")[0].fences
    assert one.signaled_in_irq
    assert one.signal_ns == fence.timestamp_ns
    assert 9.9e9 < one.latency_ns < 60e9
    assert one.creator.tid == os.getpid()


def test_fence_device(device, queue, keep):
    """Its jobs, in order, with their errors and with what they waited for."""
    with Timeline("gate") as gate, trace.recording() as recorded:
        closed = keep(gate.create_fence(1))
        held = keep(queue.submit(in_fences=[closed], duration=0.005))
        failed = keep(queue.submit(error=errno.EIO))
        time.sleep(0.02)
        gate.inc()
        for job in (held, failed):
            job.fence.wait(WAIT)
    (line,) = on(recorded, "fencedev", "queue")
    assert [fence.signal_ns for fence in line.fences] == [job.fence.timestamp_ns for job in (held, failed)]
    assert [fence.error for fence in line.fences] == [None, errno.EIO]
    opened = named(recorded, closed)
    assert line.fences[0].signal_ns - opened.signal_ns > 5_000_000


@pytest.mark.parametrize(
    "name", ["a b", "tab\there", "new\nline", "\x1b[31mred", "<b>&amp;\"'", "\udcff\udcfe", "%s %n"]
)
def test_names_with_anything_in_them(name, keep):
    """As FILE_INFO has them."""
    with trace.recording() as recorded:
        line = keep(Timeline(name))
        fence = keep(line.create_fence(1))
    assert [one.timeline.name for one in recorded.fences if one.context] == [name]
    assert fence.fences[0].obj_name == name


def test_a_flip_that_waits(screen, timeline, keep):
    """On vkms: the in-fence is waited for inside the kernel, the out-fence signals at a vblank."""
    screen.flip(screen.fbs[1]).wait(WAIT)
    with trace.recording() as recorded:
        rendered = keep(timeline.create_fence(1))
        out = screen.flip(screen.fbs[2], in_fence=rendered)
        becomes(True, in_the_kernel, WAIT)
        time.sleep(0.05)
        timeline.inc()
        out.wait(WAIT)
        time.sleep(0.05)
    flip, frame = named(recorded, out), named(recorded, rendered)
    assert flip.signal_ns == out.timestamp_ns
    assert frame.signal_ns == rendered.timestamp_ns
    assert flip.timeline.driver == "vkms"
    (wait,) = frame.waits
    assert wait.call == "dma_fence_wait"
    assert wait.woken_by is frame
    assert wait.start_ns < frame.signal_ns < min(wait.end_ns, flip.signal_ns + LATE)
    assert wait.end_ns < flip.signal_ns + LATE
    assert wait.thread.tid != os.getpid()
    assert wait.duration_ns > 40_000_000
    blanks = recorded.trace.vblanks
    assert [blank.sequence for blank in blanks] == sorted(blank.sequence for blank in blanks)
    assert flip.signal_ns in {blank.ns for blank in blanks}


def test_chain_of_a_late_flip(screen, timeline, keep):
    """Why it was late: it waited for the frame, which was made by a thread that had waited itself."""
    screen.flip(screen.fbs[1]).wait(WAIT)
    with Timeline("input") as source_line, trace.recording(syscalls=True) as recorded:
        event = keep(source_line.create_fence(1))
        rendered = keep(timeline.create_fence(1))

        def render():
            event.wait(WAIT)
            time.sleep(0.2)
            timeline.inc()

        with forked(render) as child:
            out = screen.flip(screen.fbs[2], in_fence=rendered)
            becomes(True, in_the_kernel, WAIT)
            asleep(child, PPOLL)
            source_line.inc()
            out.wait(WAIT)
    flip = named(recorded, out)
    links = trace.critical_chain(recorded.trace, flip)
    assert links[0].from_ns == flip.init_ns or links[0].from_ns == min(link.from_ns for link in links)
    assert links[-1].to_ns == flip.signal_ns
    assert all(before.to_ns == after.from_ns for before, after in pairwise(links))
    fences = [link.fence for link in links]
    wanted = [named(recorded, fence) for fence in (event, rendered, out)]
    assert [fence for fence in dict.fromkeys(fences) if fence in wanted] == wanted
    shown = links[-1]
    assert (shown.what, shown.fence, shown.who.comm[:8]) == ("flip", flip, "kworker/")
    assert any(link.what == "work" and link.who.tid == child and link.duration_ns > 15_000_000 for link in links)


def test_children_and_sockets_do_not_matter(timeline, keep):
    """A fence that is signaled by a child is one fence, made here and signaled there."""
    with trace.recording() as recorded:
        fence = keep(timeline.create_fence(1))
        with forked(timeline.inc) as child:
            pass
        assert fence.status == 1
    one = named(recorded, fence)
    assert (one.creator.pid, one.signaler.pid) == (os.getpid(), child)


@pytest.mark.parametrize("syscalls", [False, True], ids=["tracepoints", "syscalls"])
def test_a_wait_inside_the_kernel(heap, timeline, syscalls, keep):
    """DMA_BUF_IOCTL_SYNC waits for a buffer's fences there."""
    buffer = keep(heap.alloc(4096))

    def later():
        try:
            asleep(os.getppid(), IOCTL)
        finally:
            timeline.inc()  # that wait has no end of its own

    with trace.recording(syscalls=syscalls) as recorded:
        fence = keep(timeline.create_fence(1))
        buffer.import_sync_file(fence, Access.WRITE)
        with forked(later):
            buffer.begin_cpu_access(Access.READ)
    buffer.end_cpu_access(Access.READ)
    one = named(recorded, fence)
    (wait,) = one.waits
    assert wait.call == "dma_fence_wait" + " in ioctl DMA_BUF_IOCTL_SYNC" * syscalls
    assert wait.thread.tid == os.getpid()
    assert wait.woken_by is one
    assert wait.start_ns < one.signal_ns == fence.timestamp_ns < wait.end_ns
