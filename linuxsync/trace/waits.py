"""Who waited for which fence: what threads were seen to do, put together.

dma_fence_wait() says itself for which fence it waits. Of a system call that waits only its begin and its end are seen;
that it was about a fence shows from what happened in between: the thread had a fence's signaling enabled, or was woken
right after a fence had signaled, by the thread or interrupt which had signaled it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import Fence, Thread, Trace, Wait

__all__ = ["Waits"]

AT_ONCE = 5_000_000  # ns after a signal within which those who wait for it are woken
NEXT = 1_000_000  # ns between the wake-ups of two of them
IOCTLS = 0xFFFF  # what tells request numbers apart, but for size and direction


@dataclass(slots=True)
class Call:
    """A system call that a thread is in."""

    thread: Thread
    name: str
    ns: int
    known: bool  # whether it waits for fences, whatever is seen meanwhile
    fences: dict[Fence, None] = field(default_factory=dict)  # in their order
    woken_by: Fence | None = None
    inner: bool = False  # dma_fence_wait() was seen in it, and tells more


@dataclass(slots=True)
class Signal:
    """A fence that has signaled on a CPU, by whom, and when somebody was last woken for it."""

    ns: int
    before: int
    tid: int
    in_irq: bool
    fence: Fence


class Waits:
    """Waits as they are at some moment of the recording; those that are over are in the trace."""

    def __init__(self, trace: Trace, ioctls: dict[int, str]) -> None:
        self._trace = trace
        self._ioctls = {number & IOCTLS: name for number, name in ioctls.items()}
        self._calls: dict[int, Call] = {}
        self._inside: dict[tuple[int, Fence], list[Wait]] = {}
        self._last: dict[int, Signal] = {}
        self._cpus: dict[int, set[int]] = {}  # of which that is, by thread

    def started(self, ns: int, thread: Thread, fence: Fence) -> None:
        """dma_fence_wait() begins."""
        call = self._calls.get(thread.tid)
        name = f"dma_fence_wait in {call.name}" if call is not None else "dma_fence_wait"
        if call is not None:
            call.inner = True
        wait = Wait(thread, name, ns, None, [fence])
        self._inside.setdefault((thread.tid, fence), []).append(wait)
        self._add(wait)

    def ended(self, ns: int, thread: Thread, fence: Fence) -> None:
        """dma_fence_wait() is over."""
        inside = self._inside.get((thread.tid, fence))
        if not inside:
            return  # it began before the recording
        wait = inside.pop()
        wait.end_ns = ns
        if fence.signal_ns is not None and wait.start_ns <= fence.signal_ns <= ns:
            wait.woken_by = fence

    def entered(self, ns: int, thread: Thread, name: str, number: int) -> None:
        """A system call begins."""
        ioctl = self._ioctls.get(number & IOCTLS, hex(number)) if name == "ioctl" else None
        # DMA_BUF_IOCTL_SYNC may have nothing to wait for; if it has, dma_fence_wait() says so.
        known = ioctl is not None and ioctl.startswith("SYNCOBJ")
        self._calls[thread.tid] = Call(thread, name if ioctl is None else f"ioctl {ioctl}", ns, known)
        self._forget(thread.tid)

    def left(self, ns: int, tid: int, name: str, returned: int) -> None:
        """A system call is over."""
        self._forget(tid)
        call = self._calls.pop(tid, None)
        if call is not None and call.name.partition(" ")[0] == name:
            self._add_call(call, ns, returned)

    def _add_call(self, call: Call, ns: int | None, returned: int) -> None:
        # Of poll and its like 0 is a time limit, and of all of them less an error: no fence ended that.
        ended_by_one = returned >= 0 if call.name.startswith("ioctl ") else returned > 0
        woken_by = call.woken_by if ended_by_one else None
        if call.inner or not (call.known or call.fences or woken_by):
            return
        if woken_by is not None:
            call.fences[woken_by] = None
        # What a merged fence has enabled is waited for through it.
        fences = [fence for fence in call.fences if not any(out in call.fences for out in fence.outputs)]
        self._add(Wait(call.thread, call.name, call.ns, ns, fences, woken_by if woken_by in fences else None))

    def _add(self, wait: Wait) -> None:
        self._trace.waits.append(wait)
        for fence in wait.fences:
            fence.waits.append(wait)

    def enabled(self, tid: int, fence: Fence) -> None:
        """A thread has had a fence's signaling enabled."""
        call = self._calls.get(tid)
        if call is not None:
            call.fences[fence] = None

    def signaled(self, ns: int, tid: int, cpu: int, in_irq: bool, fence: Fence) -> None:
        """A fence has signaled, there."""
        self._forget_cpu(cpu)
        self._last[cpu] = Signal(ns, ns, tid, in_irq, fence)
        self._cpus.setdefault(tid, set()).add(cpu)

    def woken(self, ns: int, by: int, cpu: int, in_irq: bool, tid: int) -> None:
        """A thread was woken by what ran on a CPU."""
        call = self._calls.get(tid)
        if call is None:
            return
        call.woken_by = None
        last = self._last.get(cpu)
        if last is None:
            return
        if (last.tid, last.in_irq) != (by, in_irq) or ns - last.ns > AT_ONCE or ns - last.before > NEXT:
            self._forget_cpu(cpu)  # something else runs there by now
        else:
            last.before, call.woken_by = ns, last.fence  # of many who wait each is woken in turn

    def _forget_cpu(self, cpu: int) -> None:
        last = self._last.pop(cpu, None)
        if last is not None:
            self._cpus[last.tid].discard(cpu)

    def _forget(self, tid: int) -> None:
        """A thread does something else: whom it wakes from now on it does not wake by a signal before that."""
        for cpu in self._cpus.pop(tid, ()):
            del self._last[cpu]

    def finish(self) -> None:
        """The recording is over; what goes on has no end."""
        for call in self._calls.values():
            self._add_call(call, None, 0)
        self._trace.waits.sort(key=lambda wait: wait.start_ns)
