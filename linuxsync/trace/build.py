"""From what happened, in order, to fences and who waited for them.

What the tracepoints do not tell, and what is done about it:

- context and seqno come as their lower 32 bits. Two fences that have these in common are told apart by a probe that
  sees all of them, or else by their order, and are marked as ambiguous.
- sw_sync makes a fence for a value that has one already, and frees it without a word: an init without a destroy.
- an event may come before the one that explains it, by its place in the buffer: they are sorted by time.
- sync_timeline has the value before the increment: the next one has the value after it.
- of what a merged fence is made only a probe tells. Where there is none, what it enables is taken for its inputs.
- fences may have been made before the recording: the first that is seen of them then is something else than init.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from .decode import HARDIRQ, Happened, What
from .model import Event, Fence, Thread, Timeline, Trace, Vblank
from .waits import Waits

__all__ = ["build"]

U32 = 0xFFFFFFFF
MOST_ERRNO = 4095
UNBOUND = "unbound"
CONTAINERS = {"dma_fence_array", "dma_fence_chain"}
SOON = 1_000_000  # ns within which a container enables what it has

# Fences with the same numbers that there may be: of more, the ends of old ones were lost.
MOST_ALIKE = 16

Key = tuple[int, int]


def build(
    happened: list[Happened], trace: Trace, names: dict[int, Thread], ioctls: dict[int, str], by_pid: bool
) -> None:
    """Add fences, timelines and waits to a trace.

    Args:
        happened: as ``Pages`` read them; nothing is left of it, for it is as large as what is made of it.
        names: what threads are called, by their numbers.
        ioctls: what those that wait are called, by their numbers.
        by_pid: whether only some processes were meant, so that signals of others' fences say nothing.
    """
    happened.sort(key=itemgetter(0))
    happened.reverse()
    builder = Builder(trace, names, ioctls)
    while happened:
        builder.add(happened.pop())
    builder.finish(by_pid)


class Builder:
    """Fences as they are at some moment of the recording, and the trace that they are added to."""

    def __init__(self, trace: Trace, names: dict[int, Thread], ioctls: dict[int, str]) -> None:
        self._trace = trace
        self._names = names
        self._waits = Waits(trace, ioctls)
        self._timelines: dict[tuple[str, str, int | None], Timeline] = {}
        self._living: dict[Key, list[Fence]] = {}
        self._inputs: dict[int, Happened] = {}  # what the probe of a container saw, by thread, until its init
        self._wanted: dict[Key, list[Fence]] = {}  # containers of fences of which nothing was seen yet
        self._signal: dict[Key, Happened] = {}  # what the probe of a signal saw, until its event
        self._enabling: dict[int, tuple[int, Fence]] = {}  # the container that a thread has enabled, and when
        self._incs: dict[int, tuple[int, str, int]] = {}  # by thread, until a signal tells of which timeline
        self._unsettled: list[tuple[int, str, int]] = []
        self._on = {
            What.INIT: self._init,
            What.EMIT: self._emit,
            What.ENABLE: self._enable,
            What.SIGNALED: self._signaled,
            What.DESTROY: self._destroy,
            What.WAIT_START: self._wait_start,
            What.WAIT_END: self._wait_end,
            What.INC: self._inc,
            What.PROBE_SIGNAL: self._probe_signal,
            What.PROBE_INPUTS: self._probe_inputs,
            What.ENTER: self._enter,
            What.EXIT: self._exit,
            What.WAKING: self._waking,
            What.VBLANK: self._vblank,
            What.OTHER: self._other,
        }

    def add(self, one: Happened) -> None:
        """Take in what happened next."""
        self._on[one[1]](one)

    def _thread(self, tid: int) -> Thread:
        found = self._trace.threads.get(tid)
        if found is None:
            found = self._trace.threads[tid] = self._names.get(tid) or Thread(tid, "<idle>" if tid == 0 else "?")
        return found

    def _timeline(self, driver: str, name: str, context: int) -> Timeline:
        key = driver, name, None if name == UNBOUND else context
        found = self._timelines.get(key)
        if found is None:
            found = self._timelines[key] = Timeline(*key)
            self._trace.timelines.append(found)
        return found

    def _new(self, one: Happened) -> Fence:
        """A fence that nothing was known of."""
        driver, name, context, seqno = one[5:]
        timeline = self._timeline(driver, name, context)
        fence = Fence(timeline, context, seqno)
        timeline.fences.append(fence)
        self._trace.fences.append(fence)
        living = self._living.setdefault((context, seqno), [])
        living.append(fence)
        if len(living) > MOST_ALIKE:
            del living[0]
        return fence

    def _born_before(self, one: Happened) -> Fence:
        """A fence from before the recording, now first seen; what is made of it may be known."""
        fence = self._new(one)
        for container in self._wanted.pop(one[7:], ()):
            container.inputs.append(fence)
            fence.outputs.append(container)
        return fence

    def _find(self, one: Happened, signaled: bool | None = None) -> Fence:
        """The fence that an event is about; if several may be, the oldest, of those that have signaled or not."""
        living = self._living.get(one[7:])
        if not living:
            return self._born_before(one)
        if len(living) == 1:
            return living[0]
        fitting = [fence for fence in living if (fence.signal_ns is not None) == signaled] or living
        if len(fitting) > 1:
            for fence in fitting:
                fence.ambiguous = True
        return fitting[0]

    def _init(self, one: Happened) -> None:
        ns, _, tid, _, _, driver, _, context, seqno = one
        self._enabling.pop(tid, None)
        living = self._living.get((context, seqno))
        if living and driver == "sw_sync":
            same = [fence for fence in living if fence.signal_ns is None]
            if same:
                same[0].twins += 1
                return
        fence = self._new(one)
        fence.init_ns, fence.creator = ns, self._thread(tid)
        self._wanted.pop((context, seqno), None)  # that one was another, whose end was lost
        seen = self._inputs.pop(tid, None)
        if seen is not None and driver in CONTAINERS:
            _, _, _, _, _, count, full, inputs = seen
            if full is not None and full & U32 == seqno:
                fence.seqno = full
            fence.input_count = count
            for numbers in inputs:
                self._add_input(fence, numbers)
            if count is None:  # a chain: the link before, and a fence
                fence.input_count = sum(context != 0 or seqno != 0 for context, seqno in inputs)

    def _add_input(self, fence: Fence, numbers: tuple[int, int]) -> None:
        """Note what a container is made of, if that is in the recording: then a probe has seen the right thing."""
        context, seqno = numbers
        living = [
            one
            for one in self._living.get((context & U32, seqno & U32), ())
            if one is not fence and one not in fence.inputs
        ]
        exactly = [one for one in living if one.seqno == seqno]
        for found in (exactly or [one for one in living if one.seqno == seqno & U32])[:1]:
            found.context, found.seqno = context, seqno
            fence.inputs.append(found)
            found.outputs.append(fence)
        if not living and context:
            self._wanted.setdefault((context & U32, seqno & U32), []).append(fence)

    def _emit(self, one: Happened) -> None:
        fence = self._find(one, False)
        fence.emit_ns = one[0]

    def _enable(self, one: Happened) -> None:
        ns, _, tid, _, flags = one[:5]
        fence = self._find(one, False)
        if fence.enable_ns is None:
            fence.enable_ns = ns
        if fence.timeline.driver in CONTAINERS:
            self._enabling[tid] = ns, fence
        elif tid in self._enabling:
            since, container = self._enabling[tid]
            if ns - since > SOON:
                del self._enabling[tid]
            elif not container.inputs or container.guessed:
                container.guessed = True
                container.inputs.append(fence)
                fence.outputs.append(container)
        if not flags & HARDIRQ:
            self._waits.enabled(tid, fence)

    def _probe_signal(self, one: Happened) -> None:
        self._signal[one[5] & U32, one[6] & U32] = one

    def _signaled(self, one: Happened) -> None:
        ns, _, tid, cpu, flags = one[:5]
        key: Key = one[7:]
        seen = self._signal.pop(key, None)
        fence = None
        if seen is not None:
            fitting = [
                fence
                for fence in self._living.get(key, ())
                if fence.signal_ns is None and fence.seqno in (seen[6], key[1])
            ]
            exactly = [fence for fence in fitting if fence.seqno == seen[6]]
            if len(exactly or fitting) == 1:
                fence = (exactly or fitting)[0]
        if fence is None:
            fence = self._find(one, False)
        if fence.signal_ns is not None:  # of an older one with the same numbers we never saw the end
            fence = self._new(one)
        fence.signal_ns = ns
        if seen is not None:
            _, _, _, _, _, fence.context, fence.seqno, error, at = seen
            if at >= 0:  # as in any recording that nobody has changed
                fence.signal_ns, fence.exact = at, True
            fence.error = -error if -MOST_ERRNO <= error < 0 else None
        fence.signaler, fence.signaled_in_irq = self._thread(tid), bool(flags & HARDIRQ)
        self._enabling.pop(tid, None)
        self._waits.signaled(ns, tid, cpu, fence.signaled_in_irq, fence)
        if tid in self._incs and fence.timeline.name == self._incs[tid][1]:
            at, _, value = self._incs.pop(tid)
            fence.timeline.values.append((at, value))

    def _destroy(self, one: Happened) -> None:
        fence = self._find(one, True)
        fence.destroy_ns = one[0]
        key: Key = one[7:]
        living = self._living[key]
        living.remove(fence)
        if not living:
            del self._living[key]

    def _wait_start(self, one: Happened) -> None:
        self._waits.started(one[0], self._thread(one[2]), self._find(one))

    def _wait_end(self, one: Happened) -> None:
        # Of a fence that nothing was seen of before, it is not known when anything was.
        if one[7:] in self._living:
            self._waits.ended(one[0], self._thread(one[2]), self._find(one))

    def _inc(self, one: Happened) -> None:
        ns, _, tid, _, _, name, value = one
        self._settle_inc(tid)
        self._incs[tid] = ns, name, value

    def _settle_inc(self, tid: int) -> None:
        """An INC that has signaled nothing: of which timeline it was may show when all are known."""
        if tid in self._incs:
            self._unsettled.append(self._incs.pop(tid))

    def _settle_incs(self) -> None:
        """Note those, where only one timeline has the name."""
        named: dict[str, list[Timeline]] = {}
        for line in self._trace.timelines:
            if line.driver == "sw_sync":
                named.setdefault(line.name, []).append(line)
        for ns, name, value in [*self._unsettled, *self._incs.values()]:
            lines = named.get(name, [])
            if len(lines) == 1:
                lines[0].values.append((ns, value))

    def _probe_inputs(self, one: Happened) -> None:
        self._inputs[one[2]] = one

    def _enter(self, one: Happened) -> None:
        self._waits.entered(one[0], self._thread(one[2]), one[5], one[6])

    def _exit(self, one: Happened) -> None:
        self._waits.left(one[0], one[2], one[5], one[6])

    def _waking(self, one: Happened) -> None:
        ns, _, tid, cpu, flags, woken = one
        self._waits.woken(ns, tid, cpu, bool(flags & HARDIRQ), woken)

    def _vblank(self, one: Happened) -> None:
        ns, _, _, _, _, crtc, sequence, *at = one
        self._trace.vblanks.append(Vblank(at[0] if at and at[0] > 0 else ns, crtc, sequence))

    def _other(self, one: Happened) -> None:
        self._trace.others.append(Event(one[0], self._thread(one[2]), one[5], one[6]))

    def finish(self, by_pid: bool) -> None:
        """Settle what was open."""
        trace = self._trace
        self._settle_incs()
        self._waits.finish()
        if by_pid:
            self._forget_others()
        for timeline in trace.timelines:
            timeline.fences.sort(key=lambda fence: -1 if fence.init_ns is None else fence.init_ns)
            timeline.values = after(sorted(timeline.values), timeline.fences)

    def _forget_others(self) -> None:
        """Leave out fences of which only signal and end were seen, which come from everybody."""
        trace = self._trace
        ours = [
            fence
            for fence in trace.fences
            if fence.waits or fence.outputs or not fence.init_ns == fence.emit_ns == fence.enable_ns == None  # noqa: E711
        ]
        kept = set(ours)
        trace.fences = ours
        for timeline in trace.timelines:
            timeline.fences = [fence for fence in timeline.fences if fence in kept]
        trace.timelines = [timeline for timeline in trace.timelines if timeline.fences]


def after(values: list[tuple[int, int]], fences: Iterable[Fence]) -> list[tuple[int, int]]:
    """What a timeline's value was from each INC on: the next one says; of the last only what it has signaled."""
    if not values:
        return []
    last = values[-1][1]
    signaled = [fence.seqno for fence in fences if fence.signal_ns is not None and fence.error is None]
    # Values go round after 2**32 - 1: those in the half ahead of the last are later.
    ahead = [seqno - last & U32 for seqno in signaled if (seqno - last & U32) < 1 << 31]
    final = last + max(ahead, default=0) & U32
    return [(ns, value) for (ns, _), (_, value) in zip(values, [*values[1:], (0, final)], strict=True)]
