"""perfetto: a recording as ui.perfetto.dev and trace_processor read it. Needs the Python package perfetto.

A track of Perfetto shows a slice inside another only, and fences of one timeline overlap as they like. So a timeline
has lanes, as many as it has fences that are pending at once, which have one merge key and are drawn as one track.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from errno import errorcode
from functools import partial
from io import BytesIO

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (  # type: ignore[import-untyped]
    BUILTIN_CLOCK_MONOTONIC,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
    TracePacket,
    TrackEvent,
)

from .model import Fence, Thread, Timeline, Trace, Wait
from .packets import I32, U64, Fact, Lanes, Packets, shown, within

__all__ = ["perfetto"]

NEVER = 1 << 64  # after all times


def perfetto(trace: Trace) -> bytes:
    """Return the recording as a file for ui.perfetto.dev: a serialized ``perfetto.protos.Trace``.

    Each fence is one slice, from init to signal: one from before the recording begins with that, one that never
    signaled ends with its destruction, and one that was there to the last has no end. Arrows (flows) lead from the
    signal of a fence to where it woke a thread, and to where it signaled inside the merged fence that it is an input
    of. What else is known of a fence are the arguments of its slice, by the names of ``Fence``'s attributes. All times
    are CLOCK_MONOTONIC's.
    """
    with BytesIO() as stream:
        packets = Packets(stream)
        write_recording(packets, trace)
        links = Links(trace)
        write_timelines(packets, trace, links)
        write_waits(packets, trace, links)
        write_instants(packets, trace)
        packets.flush()
        return stream.getvalue()


class Links:
    """The numbers of the arrows, of which each has two ends.

    Attributes:
        from_fence: those that begin at a fence.
        to_fence: the first of those to a fence, one for each of its inputs in their order.
        to_wait: the one to a wait.
    """

    def __init__(self, trace: Trace) -> None:
        self.from_fence: defaultdict[Fence, list[int]] = defaultdict(list)
        self.to_fence: dict[Fence, int] = {}
        self.to_wait: dict[Wait, int] = {}
        number = 1
        for fence in trace.fences:
            if fence.inputs:
                self.to_fence[fence] = number
            for one in fence.inputs:
                self.from_fence[one].append(number)
                number += 1
        for wait in trace.waits:
            if wait.woken_by is not None:
                self.from_fence[wait.woken_by].append(number)
                self.to_wait[wait] = number
                number += 1


def write_recording(packets: Packets, trace: Trace) -> None:
    """Write what holds for all that follows: the clocks, and the recording itself, with what is missing in it."""
    first = packets.packet()
    first.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    first.trace_packet_defaults.timestamp_clock_id = BUILTIN_CLOCK_MONOTONIC
    # Else trace_processor would want BOOTTIME, which nothing here is tied to.
    first.clock_snapshot.primary_trace_clock = BUILTIN_CLOCK_MONOTONIC
    first.clock_snapshot.clocks.add(clock_id=BUILTIN_CLOCK_MONOTONIC, timestamp=max(within(trace.start_ns), 0))
    if trace.wall_ns:
        now = max(within(trace.start_ns + trace.wall_ns), 0)
        first.clock_snapshot.clocks.add(clock_id=BUILTIN_CLOCK_REALTIME, timestamp=now)
    system = packets.packet().system_info.utsname
    system.sysname, system.release = "Linux", shown(trace.kernel)
    track = packets.track("recording")
    facts: dict[str, bool | int | str | list[str]] = {
        "command": trace.command,
        "kernel": trace.kernel,
        "machine": trace.machine,
        "events": trace.events,
        "lost": trace.lost,
        "damage": trace.damage,
        "syscalls": trace.syscalls,
        "probes": list(trace.probes),
    }
    packets.event(trace.start_ns, TrackEvent.TYPE_SLICE_BEGIN, track, trace.command or "recording", facts.items())
    if trace.lost:
        packets.event(trace.start_ns, TrackEvent.TYPE_INSTANT, track, f"{trace.lost} events lost")
        # What trace_processor takes for data that was lost, of which the page then warns.
        packets.packet().trace_stats.buffer_stats.add().trace_writer_packet_loss = min(trace.lost, U64)
    if trace.damage:
        # In one, as instants of one time are nested, and deep ones are dropped.
        packets.event(trace.start_ns, TrackEvent.TYPE_INSTANT, track, "damaged file", [("damage", list(trace.damage))])
    packets.event(max(trace.start_ns, trace.end_ns), TrackEvent.TYPE_SLICE_END, track)


def write_timelines(packets: Packets, trace: Trace, links: Links) -> None:
    """Write the fences: a track for each driver, below which one for each timeline, and what sw_sync counts."""
    fences: dict[Timeline, list[Fence]] = {line: [] for line in trace.timelines}
    for fence in trace.fences:
        fences.setdefault(fence.timeline, []).append(fence)
    drivers: dict[str, int] = {}
    for rank, line in enumerate(fences):
        if line.driver not in drivers:
            drivers[line.driver] = packets.track(line.driver)
        driver = drivers[line.driver]
        name = line.name if line.context is None else f"{line.name} (context {line.context})"
        lanes = Lanes(partial(packets.track, name, driver, str(rank), 2 * rank))
        for begin, end, fence in sorted(((*span(one, trace), one) for one in fences[line]), key=in_time):
            write_fence(packets, lanes.take(begin, end), fence, (begin, end), links, trace)
        if line.values:
            write_values(packets, line, (name, driver, 2 * rank + 1))


def write_fence(
    packets: Packets, track: int, fence: Fence, lasts: tuple[int, int | None], links: Links, trace: Trace
) -> None:
    """Write a fence as a slice, and inside of it when its inputs signaled."""
    begin, end = lasts
    name = fence.name if fence.error is None else f"{fence.name} ({error_name(fence.error)})"
    event = packets.event(begin, TrackEvent.TYPE_SLICE_BEGIN, track, name, facts_of_fence(fence))
    event.flow_ids.extend(links.from_fence.get(fence, ()))
    # Instants of one time are nested, and deep ones are dropped: one for all inputs that signaled at a time.
    moments: defaultdict[int, list[tuple[int, Fence]]] = defaultdict(list)
    for number, one in enumerate(fence.inputs, links.to_fence.get(fence, 0)):
        at = span(one, trace)[1]
        at = begin if at is None else max(begin, at)
        moments[at if end is None else min(at, end)].append((number, one))
    for at, inputs in sorted(moments.items()):
        what = "input" if len(inputs) == 1 else f"{len(inputs)} inputs"
        if all(one.signal_ns is not None for _number, one in inputs):
            what += " signaled"
        event = packets.event(at, TrackEvent.TYPE_INSTANT, track, what, [("inputs", [one.name for _n, one in inputs])])
        # Not as terminating ones: those are dropped where, of two events at one time, the other one comes later.
        event.flow_ids.extend(number for number, _one in inputs)
    if end is not None:
        packets.event(end, TrackEvent.TYPE_SLICE_END, track)


def write_values(packets: Packets, line: Timeline, place: tuple[str, int, int]) -> None:
    """Write what a sw_sync timeline was counted up to, and when."""
    name, driver, rank = place
    counter = packets.described(f"{name} value", driver, None, rank)
    counter.counter.unit = CounterDescriptor.UNIT_COUNT
    for ns, value in line.values:
        packets.event(ns, TrackEvent.TYPE_COUNTER, counter.uuid).counter_value = within(value)


def write_waits(packets: Packets, trace: Trace, links: Links) -> None:
    """Write the waits, each on the track of its thread, and inside of it, at its end, what woke the thread."""
    threads: defaultdict[Thread, list[Wait]] = defaultdict(list)
    for wait in trace.waits:
        threads[wait.thread].append(wait)
    parents: dict[int | None, int] = {}
    for thread, waits in threads.items():
        # Of each track the waits that are not over, the innermost last: what it shows has to nest.
        lanes = [(thread_track(packets, thread, parents), list[tuple[int, Wait]]())]
        for begin, end, wait in sorted(over(waits), key=lambda one: (one[0], -one[1])):
            for track, pending in lanes:
                while pending and pending[-1][0] <= begin:
                    end_wait(packets, track, *pending.pop(), links)
                if not pending or pending[-1][0] >= end:
                    break
            else:
                track, pending = packets.track("more waits", lanes[0][0], "waits"), []
                lanes.append((track, pending))
            pending.append((end, wait))
            event = packets.event(begin, TrackEvent.TYPE_SLICE_BEGIN, track, wait.call, facts_of_wait(wait))
            if end == NEVER and wait in links.to_wait:
                event.flow_ids.append(links.to_wait[wait])
        for track, pending in lanes:
            while pending:
                end_wait(packets, track, *pending.pop(), links)


def over(waits: Iterable[Wait]) -> Iterator[tuple[int, int, Wait]]:
    """When each wait of a thread began and was over: one whose end is lost was when the thread did the same again."""
    following: dict[str, int] = {}
    for wait in sorted(waits, key=lambda wait: wait.start_ns, reverse=True):
        end = following.get(wait.call, NEVER) if wait.end_ns is None else wait.end_ns
        following[wait.call] = wait.start_ns
        yield wait.start_ns, max(wait.start_ns, end), wait


def end_wait(packets: Packets, track: int, ns: int, wait: Wait, links: Links) -> None:
    """End the innermost slice of a track."""
    if ns == NEVER:
        return
    if wait.woken_by is not None:
        event = packets.event(ns, TrackEvent.TYPE_INSTANT, track, f"woken by {wait.woken_by.name}")
        event.flow_ids.append(links.to_wait[wait])
    packets.event(ns, TrackEvent.TYPE_SLICE_END, track)


def thread_track(packets: Packets, thread: Thread, parents: dict[int | None, int]) -> int:
    """The track of a thread: that of its process where this is known, else one below those of unknown ones."""
    pid = thread.pid if thread.pid is not None and 0 < thread.pid <= I32 and 0 < thread.tid <= I32 else None
    if pid is None:
        if None not in parents:
            parents[None] = packets.track("threads of unknown processes")
        return packets.track(label(thread), parents[None])
    if pid not in parents:
        about = packets.described(thread.process or f"process {pid}")
        about.process.pid = pid
        if thread.process is not None:
            about.process.process_name = shown(thread.process)
        parents[pid] = about.uuid
    about = packets.described(thread.comm)
    about.thread.pid, about.thread.tid, about.thread.thread_name = pid, thread.tid, shown(thread.comm)
    return about.uuid  # type: ignore[no-any-return]


def write_instants(packets: Packets, trace: Trace) -> None:
    """Write the vertical blankings, a track for each CRTC, and the other events, a track for each name."""
    crtcs: dict[int, int] = {}
    for vblank in trace.vblanks:
        if vblank.crtc not in crtcs:
            crtcs[vblank.crtc] = packets.track(f"vblank of CRTC {vblank.crtc}")
        about = [("sequence", vblank.sequence)]
        packets.event(vblank.ns, TrackEvent.TYPE_INSTANT, crtcs[vblank.crtc], "vblank", about)
    names: dict[str, int] = {}
    for other in trace.others:
        if other.name not in names:
            names[other.name] = packets.track(other.name)
        facts: Iterable[Fact] = {**other.fields, "thread": label(other.thread)}.items()
        packets.event(other.ns, TrackEvent.TYPE_INSTANT, names[other.name], other.name, facts)


def facts_of_fence(fence: Fence) -> Iterator[Fact]:
    """What is known of a fence; of what may be true or not, what is true."""
    yield "driver", fence.timeline.driver
    yield "timeline", fence.timeline.name
    yield "context", fence.context
    yield "seqno", fence.seqno
    for name in ("init_ns", "emit_ns", "enable_ns", "signal_ns", "destroy_ns"):
        ns = getattr(fence, name)
        if ns is not None:
            yield name, ns
    if fence.init_ns is None:
        yield "born", "before the recording"
    if fence.signal_ns is None:
        yield "signaled", "not in the recording"
    else:
        yield "exact", fence.exact
        yield "signaled_in_irq", fence.signaled_in_irq
    if fence.error is not None:
        yield "error", error_name(fence.error)
    if fence.creator is not None:
        yield "creator", label(fence.creator)
    if fence.signaler is not None:
        yield "signaler", label(fence.signaler)
    if fence.inputs:
        yield "inputs", [one.name for one in fence.inputs]
        yield "guessed", fence.guessed
    if fence.input_count is not None:
        yield "input_count", fence.input_count
    if fence.twins:
        yield "twins", fence.twins
    if fence.ambiguous:
        yield "ambiguous", True


def facts_of_wait(wait: Wait) -> Iterator[Fact]:
    """What is known of a wait."""
    yield "fences", [fence.name for fence in wait.fences]
    if wait.woken_by is not None:
        yield "woken_by", wait.woken_by.name
    if wait.end_ns is None:
        yield "end", "not in the recording"


def span(fence: Fence, trace: Trace) -> tuple[int, int | None]:
    """From when to when a fence is shown; None: to the last."""
    end = fence.destroy_ns if fence.signal_ns is None else fence.signal_ns
    if fence.init_ns is not None:
        begin = fence.init_ns
    elif end is not None and fence.signal_ns is fence.enable_ns is fence.emit_ns is None and not fence.waits:
        # Of this one there is its destruction alone. It has signaled long ago, and never was pending.
        begin = end
    else:
        begin = trace.start_ns
    return begin, None if end is None else max(begin, end)


def in_time(one: tuple[int, int | None, Fence]) -> tuple[int, int]:
    """The key to sort what goes from when to when by."""
    begin, end, _fence = one
    return begin, NEVER if end is None else end


def label(thread: Thread) -> str:
    """A thread for people."""
    return f"{thread.comm} ({thread.tid})"


def error_name(error: int) -> str:
    """The name of an errno."""
    return errorcode.get(error, str(error))
