"""Why a fence was late: chains whose truth is known, and any recording's, which fill the time without a gap."""

from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import made

from linuxsync.trace import Chains, Fence, Thread, Timeline, Trace, Wait, critical_chain, slowest


def scene():
    """A trace from 0 to 1000 with one timeline, and two threads."""
    trace = Trace(0, 1000)
    trace.timelines = [Timeline("sw_sync", "gpu", 1)]
    trace.threads = {tid: Thread(tid, f"thread{tid}", tid) for tid in (1, 2)}
    return trace, trace.threads[1], trace.threads[2]


def fence(trace, init=None, signal=None, **more):
    one = Fence(trace.timelines[0], 1, len(trace.fences) + 1, init_ns=init, signal_ns=signal, **more)
    trace.fences.append(one)
    trace.timelines[0].fences.append(one)
    return one


def wait(trace, thread, start, end, fences=(), woken_by=None, call="poll"):
    one = Wait(thread, call, start, end, [*fences], woken_by)
    trace.waits.append(one)
    return one


def steps(links):
    return [(one.what, one.fence.seqno, one.from_ns, one.to_ns, one.who and one.who.tid) for one in links]


def test_work_after_a_wait():
    """Thread 2 is woken by fence 1, works, and signals fence 2; what fence 1 waited for is work of thread 1."""
    trace, one, two = scene()
    first = fence(trace, 100, 300, creator=one, signaler=one)
    last = fence(trace, 120, 500, creator=two, signaler=two)
    wait(trace, two, 130, 310, [first], first)
    assert steps(critical_chain(trace, last)) == [
        ("work", 1, 120, 300, 1),
        ("woken", 1, 300, 310, 2),
        ("work", 2, 310, 500, 2),
    ]
    assert critical_chain(trace, last)[1].call == "poll"


def test_merged():
    """The input that signaled last is the one; it was signaled by an interrupt."""
    trace, one, _ = scene()
    early = fence(trace, 10, 50, signaled_in_irq=True)
    late = fence(trace, 20, 90, signaled_in_irq=True, signaler=one)
    both = fence(trace, 30, 95, inputs=[late, early], creator=one)
    assert steps(critical_chain(trace, both)) == [("interrupt", 2, 30, 90, None), ("merged", 3, 90, 95, None)]


def test_an_array_of_any():
    """One that has signaled with its first fence did not wait for the other."""
    trace, _, _ = scene()
    early = fence(trace, 10, 50, signaled_in_irq=True, exact=True)
    late = fence(trace, 20, 90, signaled_in_irq=True, exact=True)
    either = fence(trace, 30, 51, inputs=[early, late])
    assert steps(critical_chain(trace, either)) == [("interrupt", 1, 30, 50, None), ("merged", 3, 50, 51, None)]


def test_an_input_that_signaled_a_little_later():
    """The tracepoint's time of an input may be after the own timestamp of the array: that is no gap."""
    trace, _, _ = scene()
    early = fence(trace, 10, 50, signaled_in_irq=True)
    late = fence(trace, 20, 96, signaled_in_irq=True)
    both = fence(trace, 30, 95, inputs=[early, late], exact=True)
    assert steps(critical_chain(trace, both)) == [("interrupt", 2, 30, 95, None), ("merged", 3, 95, 95, None)]


def test_before_it_was_made():
    """A fence that is younger than the one in question: its maker is asked what it did before."""
    trace, one, two = scene()
    device = fence(trace, 400, 700, creator=one, signaled_in_irq=True)
    earlier = fence(trace, 150, 350, creator=two, signaled_in_irq=True)
    wait(trace, one, 200, 360, [earlier], earlier, "ioctl SYNCOBJ_WAIT")
    last = fence(trace, 100, 800, creator=two, signaler=two)
    wait(trace, two, 500, 710, [device], device)
    assert steps(critical_chain(trace, last)) == [
        ("work", 2, 100, 150, 2),
        ("interrupt", 2, 150, 350, None),
        ("woken", 2, 350, 360, 1),
        ("work", 1, 360, 400, 1),
        ("interrupt", 1, 400, 700, None),
        ("woken", 1, 700, 710, 2),
        ("work", 3, 710, 800, 2),
    ]


def test_a_wait_that_ran_out():
    """Nothing ended it: it was waited, and before that worked."""
    trace, one, _ = scene()
    never = fence(trace, 5)
    last = fence(trace, 100, 400, signaler=one)
    wait(trace, one, 200, 300, [never])
    assert steps(critical_chain(trace, last)) == [
        ("work", 2, 100, 200, 1),
        ("waited", 1, 200, 300, 1),
        ("work", 2, 300, 400, 1),
    ]


def test_a_wait_inside_another():
    """The system call does not say whose signal ended it, the wait in the kernel does."""
    trace, one, _ = scene()
    first = fence(trace, 90, 250, signaled_in_irq=True)
    last = fence(trace, 100, 400, signaler=one)
    wait(trace, one, 200, 300, call="ioctl")
    wait(trace, one, 210, 290, [first], call="dma_fence_wait")
    assert steps(critical_chain(trace, last)) == [
        ("interrupt", 1, 100, 250, None),
        ("woken", 1, 250, 290, 1),
        ("waited", 2, 290, 300, 1),
        ("work", 2, 300, 400, 1),
    ]


def test_not_yet_signaled():
    """An array that is not signaled owes that to one of its fences, which nobody has signaled."""
    trace, _, _ = scene()
    done = fence(trace, 10, 20)
    hanging = fence(trace, 15)
    both = fence(trace, 30, inputs=[done, hanging])
    assert steps(critical_chain(trace, both)) == [("pending", 2, 30, 1000, None), ("merged", 3, 1000, 1000, None)]


def test_nothing_known():
    """Made before the recording, and nobody saw who signaled it."""
    trace, _, _ = scene()
    assert steps(critical_chain(trace, fence(trace, None, 40))) == [("unknown", 1, 0, 40, None)]
    assert critical_chain(trace, fence(trace, 40, 40)) == []
    assert slowest(trace).seqno == 2
    assert slowest(Trace(0, 0)) is None


def test_circles():
    """Fences made of each other, and threads that woke each other at one moment: an end, and all of the time."""
    trace, one, two = scene()
    first, second = fence(trace, 10, 90), fence(trace, 10, 90)
    first.inputs, second.inputs = [second, first], [first]
    links = critical_chain(trace, first)
    assert [one.what for one in links] == ["unknown", "merged", "merged"][: len(links)]
    covered(first, links, trace)
    third, fourth = fence(trace, 10, 90, signaler=one), fence(trace, 10, 90, signaler=two)
    for _ in range(3):
        wait(trace, one, 90, 90, [fourth], fourth)
        wait(trace, two, 90, 90, [third], third)
    covered(third, critical_chain(trace, third), trace)


def test_made():
    """Each fence of a recording like real ones."""
    trace = made(300)
    chains = Chains(trace)
    for one in trace.fences:
        covered(one, chains.of(one), trace)
    links = chains.of(next(one for one in trace.fences if one.inputs and one.signal_ns))
    assert [one.what for one in links] == ["work", "merged"]
    assert links[-1].fence.inputs[0] is links[0].fence


def covered(one, links, trace):
    """The links are one after another, from init to signal."""
    begin = trace.start_ns if one.init_ns is None else one.init_ns
    end = max(begin, trace.end_ns if one.signal_ns is None else one.signal_ns)
    at = begin
    for link in links:
        assert link.from_ns == at
        assert link.to_ns >= at
        at = link.to_ns
    assert at == end
    assert sum(link.duration_ns for link in links) == end - begin


TIMES = st.integers(-5, 60)


@st.composite
def recordings(draw):
    """Anything, sensible or not."""
    trace, one, two = scene()
    trace.end_ns = draw(TIMES)
    threads = st.sampled_from([None, one, two])
    for _ in range(draw(st.integers(1, 8))):
        fence(
            trace,
            draw(st.none() | TIMES),
            draw(st.none() | TIMES),
            creator=draw(threads),
            signaler=draw(threads),
            signaled_in_irq=draw(st.booleans()),
            exact=draw(st.booleans()),
        )
    some = st.lists(st.sampled_from(trace.fences), max_size=3)
    for each in trace.fences:
        each.inputs = draw(some)
    for _ in range(draw(st.integers(0, 10))):
        wait(
            trace,
            draw(st.sampled_from([one, two])),
            draw(TIMES),
            draw(st.none() | TIMES),
            draw(some),
            draw(st.none() | st.sampled_from(trace.fences)),
        )
    return trace


@settings(deadline=None)
@given(recordings())
def test_any_recording(trace):
    """Whatever it says, a chain ends and accounts for each nanosecond once."""
    chains = Chains(trace)
    for one in trace.fences:
        links = chains.of(one)
        covered(one, links, trace)
        assert len(links) <= 4 * (len(trace.fences) + len(trace.waits)) + 1
        assert links == chains.of(one)


def flip_scene(crtcs):
    """A worker of the kernel that waits for a frame of CRTC 0, while the first of its flips is under way."""
    trace, one, worker = scene()
    worker.comm = "kworker/u8:1"
    frame = fence(trace, 90, 400, creator=one, signaler=one)
    for number in range(crtcs):
        trace.timelines.append(Timeline("vkms", f"CRTC:{number}-crtc-{number}", 10 + number))
        flip = Fence(trace.timelines[-1], 10 + number, 1, init_ns=100, signal_ns=500, signaled_in_irq=True)
        trace.fences.append(flip)
        trace.timelines[-1].fences.append(flip)
    return trace, worker, frame, trace.timelines[1].fences[0]


def test_a_flip():
    """It waited for the frame that a worker waited for, if only one CRTC was to be changed."""
    trace, worker, frame, flip = flip_scene(1)
    wait(trace, worker, 110, 410, [frame], frame, call="dma_fence_wait")
    assert [(one.what, one.to_ns) for one in critical_chain(trace, flip)] == [
        ("work", 400),
        ("woken", 410),
        ("flip", 500),
    ]
    trace, worker, frame, flip = flip_scene(2)
    wait(trace, worker, 110, 410, [frame], frame, call="dma_fence_wait")
    assert [one.what for one in critical_chain(trace, flip)] == ["interrupt"]


def test_a_flip_whose_interrupt_came_late():
    """Its time is the vblank's, and the worker went on after that, but before the interrupt."""
    trace, worker, frame, flip = flip_scene(1)
    wait(trace, worker, 110, 520, [frame], frame, call="dma_fence_wait")
    assert [(one.what, one.to_ns) for one in critical_chain(trace, flip)] == [
        ("work", 400),
        ("woken", 500),
        ("flip", 500),
    ]


def test_what_a_worker_waited_for_before_the_flip():
    """Was for another."""
    trace, worker, frame, flip = flip_scene(1)
    wait(trace, worker, 95, 410, [frame], frame, call="dma_fence_wait")
    assert [one.what for one in critical_chain(trace, flip)] == ["interrupt"]


def test_what_is_not_known_of_a_merged_fence():
    """Where inputs are missing, it need not be the last of the others that it waited for."""
    trace, one, _ = scene()
    known = fence(trace, 10, 50, signaled_in_irq=True)
    late = fence(trace, 20, 5_000_000, inputs=[known], input_count=2, creator=one)
    trace.end_ns = 6_000_000
    assert [(link.what, link.fence) for link in critical_chain(trace, late)][-1] == ("unknown", late)
    late.input_count = 1
    assert critical_chain(trace, late)[-1].what == "merged"
    late.input_count, known.signal_ns = 2, 4_500_000
    assert critical_chain(trace, late)[-1].what == "merged"
