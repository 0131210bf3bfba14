"""What happens to fences, as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .._proc import comm_of
from .decode import Happened, Pages, What
from .source import Source, source

__all__ = ["Live", "Seen", "live_events"]

U32 = 0xFFFFFFFF
WORDS = {
    What.INIT: "init",
    What.EMIT: "emit",
    What.ENABLE: "enable_signal",
    What.SIGNALED: "signaled",
    What.DESTROY: "destroy",
    What.WAIT_START: "wait_start",
    What.WAIT_END: "wait_end",
}
MOST = 1 << 20  # fences that are remembered: of one whose end was lost nobody tells

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """Something that has happened.

    Attributes:
        ns: when, CLOCK_MONOTONIC.
        tid, comm: the thread that ran; 0 is the idle thread, in whose place an interrupt did.
        event: "init", "emit", "enable_signal", "signaled", "destroy", "wait_start", "wait_end"; "inc" of a sw_sync
            timeline; "vblank"; or an event of gpu_scheduler by its name.
        driver, timeline, context, seqno: of the fence; of "inc" the timeline. None where it is about none. The numbers
            are the lower 32 bits, but of "signaled" all 64 where the kernel allows a probe.
        since_init_ns: how old the fence is; None: it was made before.
        error: of "signaled": the positive errno; None: no error, or not known.
        inputs: of "init": context and seqno of each fence that it is made of, as far as a probe tells.
        more: of what is no fence's: the event's fields.
    """

    ns: int
    tid: int
    comm: str
    event: str
    driver: str | None = None
    timeline: str | None = None
    context: int | None = None
    seqno: int | None = None
    since_init_ns: int | None = None
    error: int | None = None
    inputs: tuple[Key, ...] = ()
    more: dict[str, int | str] = field(default_factory=dict)


class Live:
    """Events as they come. Made by ``live_events()``.

    Threads: of one only.
    """

    def __init__(self, made: Source) -> None:
        self._source = made
        self._pages = Pages((made.instance.root / "events/header_page").read_text(), made.formats, sys.byteorder)
        self._comms: dict[int, str] = {}
        self._born: dict[Key, int] = {}
        self._signal: dict[Key, Happened] = {}
        self._inputs: dict[int, tuple[Key, ...]] = {}
        made.go(True)

    def lost(self) -> int:
        """Return how many events the kernel has thrown away until now.

        Mirrors per_cpu/cpuN/stats of the trace instance.
        """
        return self._source.count()[1]

    def read(self) -> Iterator[Seen]:
        """Return what has happened since the last call, in order.

        What happened while the buffers of the CPUs were read one by one is left for the next call.

        Mirrors per_cpu/cpuN/trace_pipe_raw of the trace instance.
        """
        now = time.monotonic_ns()
        for _, cpu, page in self._source.read():
            self._pages.add_page(cpu, page)
        happened = sorted(self._pages.found, key=lambda one: one[0])
        due = [one for one in happened if one[0] < now]
        self._pages.found[:] = happened[len(due) :]
        for one in due:
            yield from self._seen(one)

    def _comm(self, tid: int) -> str:
        comm = self._comms.get(tid)
        if comm is None:
            try:
                comm = comm_of(tid) if tid else "<idle>"
            except OSError:
                comm = self._source.instance.comms().get(tid, "?")
            self._comms[tid] = comm
        return comm

    def _seen(self, one: Happened) -> Iterator[Seen]:
        ns, what, tid = one[:3]
        if what in WORDS:
            yield self._of_fence(one)
        elif what == What.PROBE_SIGNAL:
            self._signal[one[5] & U32, one[6] & U32] = one
        elif what == What.PROBE_INPUTS:
            self._inputs[tid] = tuple(numbers for numbers in one[7] if numbers != (0, 0))
        elif what == What.INC:
            yield Seen(ns, tid, self._comm(tid), "inc", "sw_sync", one[5], more={"from": one[6]})
        elif what == What.VBLANK:
            yield Seen(ns, tid, self._comm(tid), "vblank", more={"crtc": one[5], "sequence": one[6]})
        elif what == What.OTHER:
            yield Seen(ns, tid, self._comm(tid), one[5], more=one[6])

    def _of_fence(self, one: Happened) -> Seen:
        ns, what, tid, _, _, driver, timeline, context, seqno = one
        key = context, seqno
        error = None
        inputs: tuple[Key, ...] = ()
        if what == What.INIT:
            if len(self._born) >= MOST:
                self._born.clear()
            self._born[key] = ns
            inputs = self._inputs.pop(tid, ())
        elif what == What.SIGNALED and key in self._signal:
            context, seqno, code, ns = self._signal.pop(key)[5:]
            error = -code if code < 0 else None
        born = self._born.pop(key, None) if what == What.DESTROY else self._born.get(key)
        since = None if born is None or what == What.INIT else ns - born
        return Seen(ns, tid, self._comm(tid), WORDS[what], driver, timeline, context, seqno, since, error, inputs)


@contextmanager
def live_events(pids: Collection[int] | None = None, buffer: int | None = None) -> Iterator[Live]:
    """Watch what happens to fences until the block ends; ``Live.read()`` says what has, 20 times a second say.

    Args, Raises: as for ``recorder()``.

    Mirrors the tracepoints dma_fence:* (include/trace/events/dma_fence.h) in a trace instance of its own.
    """
    with source(pids, False, buffer) as made:
        yield Live(made)
