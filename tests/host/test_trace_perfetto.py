"""A recording as Perfetto's file: decoded with the package's own protos as trace_processor does it, and compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import MS, START, made
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

from linuxsync.trace import Event, Fence, Thread, Timeline, Trace, Vblank, Wait
from linuxsync.trace.perfetto import perfetto


@dataclass(eq=False)
class Slice:
    """A slice, or with no duration an instant; ``end`` is None for one that never ended."""

    name: str
    track: Any
    begin: int
    end: int | None
    facts: dict[str, Any]
    flows: list[int]
    parent: Slice | None
    instant: bool = False


@dataclass
class Decoded:
    """What trace_processor makes of a file: packets sorted by time, those of one time in the order of the file."""

    tracks: dict[int, Any] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    counters: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    packets: list[Any] = field(default_factory=list)

    def __init__(self, file: bytes) -> None:
        self.tracks, self.slices, self.counters = {}, [], defaultdict(list)
        self.packets = list(protos.Trace.FromString(file).packet)
        names: dict[int, str] = {}
        texts: dict[int, str] = {}
        events = []
        for number, packet in enumerate(self.packets):
            # Numbers of names hold from here on, and only where packets say that they need what came before.
            first, needs = packet.SEQ_INCREMENTAL_STATE_CLEARED, packet.SEQ_NEEDS_INCREMENTAL_STATE
            assert packet.sequence_flags == (needs if number else first)
            assert packet.trusted_packet_sequence_id == 1
            names |= {one.iid: one.name for one in packet.interned_data.debug_annotation_names}
            texts |= {one.iid: one.str.decode() for one in packet.interned_data.debug_annotation_string_values}
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                assert track.uuid not in self.tracks
                assert not track.HasField("parent_uuid") or track.parent_uuid in self.tracks
                self.tracks[track.uuid] = track
            elif packet.HasField("track_event"):
                event = packet.track_event
                facts = {}
                for note in event.debug_annotations:
                    assert names[note.name_iid] not in facts
                    facts[names[note.name_iid]] = fact(note, texts)
                events.append((packet.timestamp, event, facts))
        stacks: dict[int, list[Slice]] = defaultdict(list)
        for ns, event, facts in sorted(events, key=lambda one: one[0]):
            track, stack = self.tracks[event.track_uuid], stacks[event.track_uuid]
            if event.type == event.TYPE_COUNTER:
                self.counters[track.uuid].append((ns, event.counter_value))
            elif event.type == event.TYPE_SLICE_END:
                stack.pop().end = ns  # an IndexError: an END without BEGIN
            else:
                instant = event.type == event.TYPE_INSTANT
                parent = stack[-1] if stack else None
                found = Slice(event.name, track, ns, ns if instant else None, facts, list(event.flow_ids), parent)
                found.instant = instant
                self.slices.append(found)
                if not instant:
                    stack.append(found)

    @property
    def flows(self) -> list[tuple[Slice, Slice]]:
        """Arrows, from the one that began first."""
        ends = defaultdict(list)
        for one in self.slices:
            for number in one.flows:
                ends[number].append(one)
        assert all(len(both) == 2 for both in ends.values())
        return [(first, last) for first, last in ends.values()]

    def lanes(self, line: Timeline, trace: Trace) -> list[Any]:
        """The tracks that are drawn as one for a timeline: that they are is looked at."""
        rank = 2 * trace.timelines.index(line)
        found = [
            track
            for track in self.tracks.values()
            if track.sibling_merge_behavior == track.SIBLING_MERGE_BEHAVIOR_BY_SIBLING_MERGE_KEY
            and track.sibling_order_rank == rank
            and self.tracks[track.parent_uuid].name == line.driver
        ]
        assert len({(track.parent_uuid, track.name, track.sibling_merge_key) for track in found}) == 1
        return found

    def of_fences(self) -> list[Slice]:
        """The slices of fences."""
        return [one for one in self.slices if "seqno" in one.facts]

    def of(self, fence: Fence) -> Slice:
        """The slice of a fence."""
        key = fence.timeline.driver, fence.timeline.name, fence.context, fence.seqno
        whose = [one for one in self.of_fences() if key == identity(one)]
        assert len(whose) == 1
        return whose[0]

    def of_waits(self) -> list[Slice]:
        """The slices of waits."""
        return [one for one in self.slices if one.name in ("poll", "dma_fence_wait")]


def identity(one: Slice) -> tuple[str, str, int, int]:
    """What tells a fence from others."""
    return one.facts["driver"], one.facts["timeline"], one.facts["context"], one.facts["seqno"]


def fact(note: Any, texts: dict[int, str]) -> Any:
    """The value of an argument."""
    kind = note.WhichOneof("value")
    if kind == "string_value_iid":
        return texts[note.string_value_iid]
    return getattr(note, kind) if kind else [one.string_value for one in note.array_values]


def a_trace(*fences: Fence, **more: Any) -> Trace:
    """A recording of a second with these fences."""
    trace = Trace(START, START + 1000 * MS, list(fences), **more)
    trace.timelines = list(dict.fromkeys(fence.timeline for fence in fences))
    return trace


FRAMES = Timeline("sw_sync", "frames", 7)
UNBOUND = Timeline("vgem", "unbound", None)


def test_every_fence_is_a_slice_with_its_times() -> None:
    """To the nanosecond from init to signal, on its timeline, with everything that is known of it."""
    trace = made(300)
    file = Decoded(perfetto(trace))
    assert len(file.of_fences()) == len(trace.fences) == 900
    found = {identity(one): one for one in file.of_fences()}
    assert len(found) == 900
    for fence in trace.fences:
        line = fence.timeline
        one = found[line.driver, line.name, fence.context, fence.seqno]
        assert (one.begin, one.end) == (fence.init_ns, fence.signal_ns)
        assert one.name == fence.name + (" (EIO)" if fence.error else "")
        assert one.track in file.lanes(line, trace)
        expected = {"init_ns": fence.init_ns, "enable_ns": fence.enable_ns}
        expected["creator"] = f"{fence.creator.comm} ({fence.creator.tid})"
        if fence.signal_ns is None:
            expected["signaled"] = "not in the recording"
        else:
            expected |= {"signal_ns": fence.signal_ns, "destroy_ns": fence.destroy_ns, "exact": fence.exact}
            expected["signaled_in_irq"] = fence.signaled_in_irq
            expected["signaler"] = f"{fence.signaler.comm} ({fence.signaler.tid})"
        if fence.inputs:
            expected |= {"inputs": [one.name for one in fence.inputs], "guessed": False, "input_count": 2}
        if fence.error:
            expected["error"] = "EIO"
        rest = {key: value for key, value in one.facts.items() if key not in ("driver", "timeline", "context", "seqno")}
        assert rest == expected


def test_all_that_is_known() -> None:
    """What is rare too: 64 bits of context and seqno, twins, a guess, an ambiguous one, an error without a name."""
    fence = Fence(FRAMES, (1 << 64) - 1, (1 << 64) - 2, START, emit_ns=START + 1, signal_ns=START + 9, error=999_999)
    fence.twins, fence.ambiguous, fence.guessed, fence.inputs = 3, True, True, [Fence(UNBOUND, 1, 1, START)]
    one = Decoded(perfetto(a_trace(fence.inputs[0], fence))).of(fence)
    assert one.name == "sw_sync-frames18446744073709551615-18446744073709551614 (999999)"
    assert (one.facts["context"], one.facts["seqno"]) == ((1 << 64) - 1, (1 << 64) - 2)
    assert (one.facts["emit_ns"], one.facts["twins"], one.facts["ambiguous"]) == (START + 1, 3, True)
    assert (one.facts["guessed"], one.facts["error"]) == (True, "999999")


def test_tracks() -> None:
    """A group for each driver, in it one track for each timeline, of which no two are drawn as one."""
    trace = made(100)
    again = Timeline("sw_sync", "frames", 8)
    trace.timelines.append(again)
    trace.fences.append(Fence(again, 8, 1, init_ns=START))
    file = Decoded(perfetto(trace))
    roots = [track.name for track in file.tracks.values() if not track.parent_uuid and not track.HasField("thread")]
    assert roots == ["recording", "sw_sync", "vkms", "dma_fence_array", "weston <b>&\"'", "vblank of CRTC 0"]
    keys = set()
    for line in trace.timelines:
        lanes = file.lanes(line, trace)
        keys.add((lanes[0].parent_uuid, lanes[0].sibling_merge_key))
        name = line.name if line.context is None else f"{line.name} (context {line.context})"
        assert {track.name for track in lanes} == {name}
    assert len(keys) == len(trace.timelines)
    others = [track for track in file.tracks.values() if not track.sibling_merge_key]
    assert {track.sibling_merge_behavior for track in others} == {protos.TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE}


def test_unbound_fences_have_few_lanes() -> None:
    """Fences that have each a context of their own, one after the other, share a lane: the one event rows of #755."""
    fences = [Fence(UNBOUND, 100 + n, 1, START + n * 100, signal_ns=START + n * 100 + 150) for n in range(2000)]
    trace = a_trace(*fences)
    file = Decoded(perfetto(trace))
    assert len(file.of_fences()) == 2000
    assert len(file.lanes(UNBOUND, trace)) == 2


def test_ends_of_one_are_begins_of_the_next() -> None:
    """Fences that touch share a lane, those of no duration too, and stay in order."""
    spans = [(0, 5), (5, 5), (5, 5), (5, 9), (9, 9)]
    fences = [Fence(FRAMES, 7, n, START + begin, signal_ns=START + end) for n, (begin, end) in enumerate(spans)]
    trace = a_trace(*reversed(fences))
    file = Decoded(perfetto(trace))
    assert len(file.lanes(FRAMES, trace)) == 1
    assert {(one.facts["seqno"], one.begin - START, one.end - START) for one in file.of_fences()} == {
        (n, *span) for n, span in enumerate(spans)
    }
    assert all(one.parent is None for one in file.of_fences())


@pytest.mark.parametrize(
    ("times", "begin", "end", "facts"),
    [
        ({"signal_ns": START + 7}, START, START + 7, {"born": "before the recording"}),
        ({"init_ns": START + 3}, START + 3, None, {"signaled": "not in the recording"}),
        ({"init_ns": START + 3, "destroy_ns": START + 9}, START + 3, START + 9, {"signaled": "not in the recording"}),
        ({"enable_ns": START + 3, "destroy_ns": START + 9}, START, START + 9, {"born": "before the recording"}),
        ({"destroy_ns": START + 9}, START + 9, START + 9, {"signaled": "not in the recording"}),
        ({"enable_ns": START + 3}, START, None, {"signaled": "not in the recording"}),
        ({}, START, None, {"born": "before the recording"}),
        # Its own timestamp may be from before the recording, and with a clock that a driver sets, from before init.
        ({"signal_ns": START - 7, "destroy_ns": START + 1}, START, START, {"born": "before the recording"}),
        ({"init_ns": START + 7, "signal_ns": START + 3}, START + 7, START + 7, {"signal_ns": START + 3}),
    ],
)
def test_what_the_recording_did_not_see(times: dict[str, int], begin: int, end: int | None, facts: Any) -> None:
    """A fence of which a part is missing is there, from the start, or to the last, and says so."""
    fence = Fence(FRAMES, 7, 1, **times)
    one = Decoded(perfetto(a_trace(fence))).of(fence)
    assert (one.begin, one.end) == (begin, end)
    assert facts.items() <= one.facts.items()
    assert ("born" in one.facts) == ("init_ns" not in times)
    assert ("signaled" in one.facts) == ("signal_ns" not in times)


def test_arrows() -> None:
    """From each fence to where it signaled inside a merged one, and from the merged one to where it woke a thread."""
    trace = made(100)
    file = Decoded(perfetto(trace))
    expected = Counter()
    for fence in trace.fences:
        for one in fence.inputs:
            at = fence.init_ns if one.signal_ns is None else one.signal_ns
            expected[one.name, one.init_ns, fence.name, at] += 1
    for wait in trace.waits:
        if wait.woken_by:
            expected[wait.woken_by.name, wait.woken_by.init_ns, "poll", wait.end_ns] += 1
    found = Counter()
    for first, last in file.flows:
        assert first.begin <= last.begin
        assert last.instant and last.parent
        assert last.begin <= (last.parent.end or last.begin)
        found[first.name.removesuffix(" (EIO)"), first.begin, last.parent.name, last.begin] += 1
    assert found == expected
    assert sum(found.values()) == 299


def test_inputs_that_signaled_before_and_after() -> None:
    """Inputs show inside the merged fence, whenever they signaled; those of one time as one, as others are dropped."""
    times = [None, START + 1, START + 15, START + 15, START + 99]
    inputs = [Fence(FRAMES, 7, n, START, signal_ns=at) for n, at in enumerate(times)]
    merged = Fence(UNBOUND, 9, 1, START + 10, signal_ns=START + 20, inputs=inputs)
    file = Decoded(perfetto(a_trace(*inputs, merged)))
    inside = [one for one in file.slices if one.parent is file.of(merged)]
    assert [(one.name, one.begin - START, one.facts["inputs"], len(one.flows)) for one in inside] == [
        ("2 inputs", 10, [inputs[0].name, inputs[1].name], 2),
        ("2 inputs signaled", 15, [inputs[2].name, inputs[3].name], 2),
        ("input signaled", 20, [inputs[4].name], 1),
    ]
    assert Counter(first.facts["seqno"] for first, _last in file.flows) == dict.fromkeys(range(5), 1)


def test_waits() -> None:
    """Each wait is a slice on the track of its thread, which is below its process."""
    trace = made(100)
    file = Decoded(perfetto(trace))
    assert [(one.begin, one.end) for one in file.of_waits()] == [(wait.start_ns, wait.end_ns) for wait in trace.waits]
    for one, wait in zip(file.of_waits(), trace.waits, strict=True):
        assert (one.track.thread.pid, one.track.thread.tid) == (300, 301)
        assert one.track.thread.thread_name == "compositor"
        assert one.facts["fences"] == [fence.name for fence in wait.fences]
        assert one.facts.get("woken_by") == (wait.woken_by and wait.woken_by.name)
    assert one.facts["end"] == "not in the recording"
    processes = [track.process for track in file.tracks.values() if track.HasField("process")]
    assert [(process.pid, process.process_name) for process in processes] == [(300, "weston <b>&\"'")]


def test_threads_of_unknown_processes() -> None:
    """A thread without a known process has a track too, and none says that it is a process; nor is number 0 one."""
    threads = [Thread(n, f"t{n}") for n in range(3)] + [Thread(9, "nine", 9), Thread(1 << 40, "far", 9, "nine")]
    threads += [Thread(10, "ten", 9), Thread(0, "idle", 9)]
    trace = a_trace(waits=[Wait(thread, "poll", START, START + 1) for thread in threads])
    file = Decoded(perfetto(trace))
    assert [one.track.name for one in file.of_waits()] == [
        *("t0 (0)", "t1 (1)", "t2 (2)", "nine", "far (1099511627776)", "ten", "idle (0)")
    ]
    for one in file.of_waits():
        parent = file.tracks.get(one.track.parent_uuid)
        assert one.track.HasField("thread") == (parent is None) == (one.track.name in ("nine", "ten"))
        assert parent is None or parent.name == "threads of unknown processes"
    (process,) = (track for track in file.tracks.values() if track.HasField("process"))
    assert (process.process.pid, process.process.process_name, process.name) == (9, "", "process 9")


def test_waits_inside_and_across_one_another() -> None:
    """What a thread does inside a system call is below it; what can't be so has a track below the thread's."""
    thread = Thread(5, "t", 5, "p")
    spans = {"poll": [(0, 100), (200, None)], "dma_fence_wait": [(10, 20), (20, 100), (50, 150), (160, None)]}
    waits = [
        Wait(thread, call, START + begin, None if end is None else START + end)
        for call, calls in spans.items()
        for begin, end in calls
    ]
    waits.append(Wait(thread, "dma_fence_wait", START + 300, START + 301))
    outer, inner = (
        Wait(thread, call, START + 500, START + end) for call, end in (("ioctl", 520), ("dma_fence_wait", 510))
    )
    waits += [inner, outer]
    file = Decoded(perfetto(a_trace(waits=waits)))
    found = {one.begin - START: one for one in file.of_waits()}
    assert [found[at].parent for at in (0, 10, 20, 50)] == [None, found[0], found[0], None]
    both = {one.name: one for one in file.slices if one.begin == START + 500}
    assert both["dma_fence_wait"].parent is both["ioctl"]
    assert both["dma_fence_wait"].track is both["ioctl"].track is found[0].track
    assert found[50].track is not found[0].track
    assert found[50].track.parent_uuid == found[0].track.uuid
    ends = {at: one.end and one.end - START for at, one in found.items() if at < 500}
    # A thread waits for one at a time: the one whose end was lost was over when the next began.
    assert ends == {0: 100, 10: 20, 20: 100, 50: 150, 160: 300, 200: None, 300: 301}


def test_values_of_a_timeline() -> None:
    """The counter has from each INC on the value that it then was."""
    line = Timeline("sw_sync", "frames", 7, values=[(START + 1, 4), (START + 2, 5), (START + 3, 4_000_000_000)])
    trace = a_trace()
    trace.timelines = [line]
    file = Decoded(perfetto(trace))
    ((uuid, values),) = file.counters.items()
    assert file.tracks[uuid].name == "frames (context 7) value"
    assert file.tracks[uuid].HasField("counter")
    assert values == line.values


def test_vblanks_and_other_events() -> None:
    """Each is an instant, with what the kernel says of it."""
    others = [
        Event(START + 5, Thread(8, "kworker"), "drm_run_job", {"fence": "a", "id": (1 << 64) - 1, "left": -5}),
        Event(
            START + 6, Thread(8, "kworker"), "drm_run_job", {"id": 1 << 70, "least": -(1 << 63), "low\udcff": -1 << 70}
        ),
    ]
    file = Decoded(perfetto(a_trace(vblanks=[Vblank(START + 1, 1, 77), Vblank(START + 2, 0, 78)], others=others)))
    instants = [one for one in file.slices if one.instant]
    assert [(one.track.name, one.name, one.begin - START, one.facts) for one in instants] == [
        ("vblank of CRTC 1", "vblank", 1, {"sequence": 77}),
        ("vblank of CRTC 0", "vblank", 2, {"sequence": 78}),
        ("drm_run_job", "drm_run_job", 5, {"fence": "a", "id": (1 << 64) - 1, "left": -5, "thread": "kworker (8)"}),
        (
            "drm_run_job",
            "drm_run_job",
            6,
            {"id": str(1 << 70), "least": -(1 << 63), "low\\xff": str(-1 << 70), "thread": "kworker (8)"},
        ),
    ]


def test_clocks() -> None:
    """Times are CLOCK_MONOTONIC's, which is the time of the whole, and tied to the wall clock where this is known."""
    trace = made(1)
    first = Decoded(perfetto(trace)).packets[0]
    assert first.trace_packet_defaults.timestamp_clock_id == protos.BUILTIN_CLOCK_MONOTONIC
    assert first.clock_snapshot.primary_trace_clock == protos.BUILTIN_CLOCK_MONOTONIC
    assert {clock.clock_id: clock.timestamp for clock in first.clock_snapshot.clocks} == {
        protos.BUILTIN_CLOCK_MONOTONIC: START,
        protos.BUILTIN_CLOCK_REALTIME: START + trace.wall_ns,
    }
    trace.wall_ns = 0
    clocks = Decoded(perfetto(trace)).packets[0].clock_snapshot.clocks
    assert [clock.clock_id for clock in clocks] == [protos.BUILTIN_CLOCK_MONOTONIC]


def test_nothing_happened() -> None:
    """A recording of nothing says what it is, and from when to when it went."""
    trace = Trace(START, START + 5, kernel="6.12.0", machine="here", command="sleep 1", events=3, probes=("signal",))
    file = Decoded(perfetto(trace))
    (one,) = file.slices
    assert (one.track.name, one.name, one.begin, one.end) == ("recording", "sleep 1", START, START + 5)
    about = {"command": "sleep 1", "kernel": "6.12.0", "machine": "here", "events": 3, "lost": 0, "syscalls": False}
    assert one.facts == about | {"probes": ["signal"]}
    assert [p.system_info.utsname.release for p in file.packets if p.HasField("system_info")] == ["6.12.0"]
    assert not any(packet.HasField("trace_stats") for packet in file.packets)


def test_loss_and_damage() -> None:
    """What is missing is seen where one looks first, and by trace_processor."""
    trace = made(3)
    trace.lost, trace.damage = 12, [f"block {n} is damaged" for n in range(600)]
    file = Decoded(perfetto(trace))
    instants = [one for one in file.slices if one.track.name == "recording" and one.instant]
    assert [(one.name, one.begin, one.facts) for one in instants] == [
        ("12 events lost", START, {}),
        ("damaged file", START, {"damage": trace.damage}),
    ]
    (stats,) = (packet.trace_stats for packet in file.packets if packet.HasField("trace_stats"))
    assert [buffer.trace_writer_packet_loss for buffer in stats.buffer_stats] == [12]


def test_hostile_names() -> None:
    """Bytes that are no UTF-8 show as such, and characters that control something as numbers; others stay."""
    evil = "\udcff\x00\x1b[31m\ud800 <script>\N{SNOWMAN}\\n"
    safe = "\\xff\\x00\\x1b[31m\\ud800 <script>\N{SNOWMAN}\\n"
    thread = Thread(5, evil, 5, evil)
    fence = Fence(Timeline(evil, evil, 1), 1, 1, START, signal_ns=START + 1, creator=thread)
    trace = a_trace(fence, command=evil, kernel=evil, machine=evil, damage=[evil], probes=(evil,))
    trace.waits = [Wait(thread, evil, START, START + 2, [fence], fence)]
    trace.others = [Event(START, thread, evil, {evil: evil})]
    file = Decoded(perfetto(trace))
    (one,) = file.of_fences()
    assert (one.name, one.facts["driver"]) == (f"{safe}-{safe}1-1", safe)
    assert one.facts["creator"] == f"{safe} (5)"
    names = [track.name for track in file.tracks.values()]
    assert names == ["recording", safe, f"{safe} (context 1)", safe, safe, safe]
    wait = next(one for one in file.slices if one.track.HasField("thread") and not one.instant)
    assert (wait.name, wait.facts["fences"], wait.track.thread.thread_name) == (safe, [one.name], safe)
    assert [one.facts[safe] for one in file.slices if safe in one.facts] == [safe]


def test_hostile_times() -> None:
    """Times that Perfetto has no room for are the nearest that it has, and the arguments say which they were."""
    fence = Fence(FRAMES, 7, 1, -5, signal_ns=1 << 80)
    trace = Trace(-10, 1 << 90, [fence], [FRAMES], wall_ns=-1 << 90)
    one = Decoded(perfetto(trace)).of(fence)
    assert (one.begin, one.end, one.facts["init_ns"], one.facts["signal_ns"]) == (0, (1 << 63) - 1, -5, str(1 << 80))


def test_many_packets_and_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few packets are kept at a time and texts numbered, the file says the same."""
    trace = made(50)
    whole = Decoded(perfetto(trace))
    monkeypatch.setattr("linuxsync.trace.packets.PIECE", 3)
    monkeypatch.setattr("linuxsync.trace.packets.MOST_TEXTS", 2)
    pieces = Decoded(perfetto(trace))
    assert len(pieces.packets) == len(whole.packets)
    assert [(one.name, one.begin, one.end, one.facts, one.flows) for one in pieces.slices] == [
        (one.name, one.begin, one.end, one.facts, one.flows) for one in whole.slices
    ]


TIMES = st.integers(START - 3, START + 25)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Recordings in which anything may be missing, overlap and come in any order."""
    lines = [FRAMES, UNBOUND, Timeline("vgem", "unbound", 3)]
    threads = [Thread(0, "idle"), Thread(5, "t", 5, "p"), Thread(6, "u", 5, "p")]
    fences: list[Fence] = []
    for number in range(draw(st.integers(0, 14))):
        line = draw(st.sampled_from(lines))
        times = {name: draw(st.none() | TIMES) for name in ("init_ns", "enable_ns", "signal_ns", "destroy_ns")}
        fence = Fence(line, line.context or 100 + number, number, **times)
        fence.inputs = draw(st.lists(st.sampled_from(fences), max_size=3)) if fences else []
        fences.append(fence)
    trace = Trace(START, START + 20, fences, lines)
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(START, START + 20))
        wait = Wait(draw(st.sampled_from(threads)), draw(st.sampled_from(["poll", "dma_fence_wait"])), start)
        wait.end_ns = draw(st.none() | st.integers(start, START + 20))
        wait.woken_by = draw(st.none() | st.sampled_from(fences)) if fences else None
        trace.waits.append(wait)
    return trace


@given(traces())
@settings(max_examples=300, deadline=None)
def test_any_recording(trace: Trace) -> None:
    """Of any recording: a slice for each fence and wait, lanes that never overlap and are few, arrows with two ends."""
    file = Decoded(perfetto(trace))
    of_fences, of_waits = file.of_fences(), file.of_waits()
    assert Counter(one.facts["seqno"] for one in of_fences) == Counter(fence.seqno for fence in trace.fences)
    assert Counter((one.begin, one.name) for one in of_waits) == Counter((w.start_ns, w.call) for w in trace.waits)
    assert all(one.parent is None for one in of_fences)
    for wait in trace.waits:
        assert wait.end_ns is None or (wait.start_ns, wait.end_ns) in {(one.begin, one.end) for one in of_waits}
    for one in of_waits:
        assert one.parent is None or (one.parent.end or 1 << 99) >= (one.end or 1 << 99)
    for line in trace.timelines:
        lanes = file.lanes(line, trace)
        on = [one for one in of_fences if one.track in lanes]
        assert len(on) == sum(fence.timeline is line for fence in trace.fences)
        assert len(lanes) == max(1, most_at_once(on))
    inputs = sum(len(fence.inputs) for fence in trace.fences)
    assert len(file.flows) == inputs + sum(wait.woken_by is not None for wait in trace.waits)


def most_at_once(slices: list[Slice]) -> int:
    """How many lanes it takes, counted at each begin: a slice of no duration takes one apart from those around it."""
    most = 0
    for at in {one.begin for one in slices}:
        ends = [1 << 99 if one.end is None else one.end for one in slices if one.begin <= at]
        around = sum(one.begin < at and (one.end is None or one.end > at) for one in slices)
        most = max(
            most, sum(end > at for end in ends), around + (at in ends and any(o.begin == o.end == at for o in slices))
        )
    return most
