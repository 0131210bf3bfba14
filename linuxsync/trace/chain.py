"""Why a fence signaled so late: what was waited for, back to when it was made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .choice import Chosen
from .model import Fence, Thread, Trace, Wait

__all__ = ["Chains", "Link", "critical_chain", "slowest"]

What = Literal["merged", "work", "woken", "waited", "interrupt", "flip", "pending", "unknown"]

# By how much the tracepoint's time of an input may be later than the own timestamp of what it is merged into.
TRACEPOINT_NS = 1_000_000
AT_ONCE = 1_000_000  # ns within which a fence follows the last of what it is made of
KMS = "CRTC:"  # how drm_crtc_fence_get_timeline_name() begins


@dataclass(frozen=True, slots=True)
class Link:
    """What a fence's signal waited for during a part of the time.

    Attributes:
        fence: what it is about: the one that signaled at the end of it, or was waited for.
        from_ns, to_ns: from when to when.
        who: the thread that worked or waited; None for an interrupt, or if it is not known.
        what: "merged": from the signal of the last fence that ``fence`` is made of to its own;
            "work": the thread ran, or slept for something that is no fence, before it signaled ``fence`` or made it;
            "woken": from the signal of ``fence`` until the thread that waited for it went on;
            "waited": the thread waited and nothing says what ended that, such as its time limit;
            "interrupt": from when ``fence`` was made until an interrupt signaled it: a device or a timer worked;
            "flip": the thread, a worker of the kernel, went on with an atomic commit, until the vblank at which its
            out-fence ``fence`` signaled;
            "pending": ``fence`` had not signaled when the recording ended;
            "unknown": the recording does not say.
        call: where the thread waited ("woken", "waited"): "poll"; else None.
    """

    fence: Fence
    from_ns: int
    to_ns: int
    who: Thread | None
    what: What
    call: str | None = None

    @property
    def duration_ns(self) -> int:
        """How long."""
        return self.to_ns - self.from_ns


def critical_chain(trace: Trace, fence: Fence) -> list[Link]:
    """Return what ``fence`` waited for from init to signal, in order of time: together all of that time, nothing twice.

    It is found backwards. A fence that is made of others waited for the one of them that signaled last. One that a
    thread signaled waited for that thread; what it had done since its last wait was work, and that wait was for a
    fence, of which the same is asked. What happened before such a fence was made is asked of the thread that made it.
    What a device waited for that signaled by an interrupt is not known, but for KMS: the out-fence of a commit waits
    for the in-fences which a worker of the kernel waited for meanwhile (drm_atomic_helper_wait_for_fences), if no other
    CRTC's commit was under way. For a fence made before the recording it begins with that, and for one that has not
    signaled it ends with it.
    """
    return Chains(trace).of(fence)


def slowest(trace: Trace, chosen: Chosen | None = None, fences: Iterable[Fence] | None = None) -> Fence | None:
    """Return the fence that took longest from init to signal, of those that are meant, or of ``fences``; None: none."""
    if fences is None:
        chosen = chosen or Chosen(trace)
        fences = (fence for timeline in chosen.timelines for fence in chosen.fences_of(timeline))
    found, longest = None, -1
    for fence in fences:
        time = fence.latency_ns
        if time is not None and time > longest:
            found, longest = fence, time
    return found


class Chains:
    """The critical chains of a recording, for many fences of it.

    Threads: one at a time.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._waits: dict[Thread | None, list[tuple[int, Wait]]] = {}
        for wait in trace.waits:
            if wait.end_ns is not None and wait.end_ns >= wait.start_ns:
                self._waits.setdefault(wait.thread, []).append((wait.end_ns, wait))
        lines = [line for line in trace.timelines if line.name.startswith(KMS)]
        self._flips = [fence for line in lines for fence in line.fences] if len(lines) > 1 else []
        for waits in self._waits.values():
            waits.sort(key=lambda one: (one[0], one[1].start_ns))
        # Those of the kernel's workers, which commit what is to be shown, whichever worker it was.
        workers = (waits for thread, waits in self._waits.items() if thread and is_worker(thread))
        self._commits = sorted((wait for waits in workers for _, wait in waits), key=lambda wait: wait.start_ns)

    def of(self, fence: Fence) -> list[Link]:
        """Return the chain of one fence: see ``critical_chain()``."""
        begin = self._trace.start_ns if fence.init_ns is None else fence.init_ns
        end = self._trace.end_ns if fence.signal_ns is None else fence.signal_ns
        return Walk(self._waits, self._commits, self._flips, begin, max(begin, end)).back_from(fence)


class Walk:
    """One way back. Each fence and each wait is passed once, so that it ends whatever a recording says."""

    def __init__(
        self,
        waits: dict[Thread | None, list[tuple[int, Wait]]],
        commits: list[Wait],
        flips: list[Fence],
        begin: int,
        end: int,
    ) -> None:
        self._waits = waits
        self._commits = commits
        self._flips = flips
        self._begin = begin
        self._at = end
        self._left: dict[Thread, int] = {}
        self._passed: set[Fence] = set()
        self._links: list[Link] = []

    def back_from(self, fence: Fence) -> list[Link]:
        """The links, the first one first."""
        following: Fence | None = fence
        while following is not None:
            fence, following = following, self._before(following)
        self._link(fence, self._begin, None, "unknown")
        return self._links[::-1]

    def _link(self, fence: Fence, start: int, who: Thread | None, what: What, call: str | None = None) -> None:
        """Add what was before the rest, from ``start`` on; of no length only where a fence follows another."""
        start = min(max(start, self._begin), self._at)
        if start < self._at or what in ("merged", "woken", "flip"):
            self._links.append(Link(fence, start, self._at, who, what, call))
            self._at = start

    def _before(self, fence: Fence) -> Fence | None:
        """Go back from a fence's signal to that of the one which it waited for; None: the way ends."""
        if fence in self._passed or (self._at <= self._begin and self._passed):
            return None
        self._passed.add(fence)
        if fence.signal_ns is None:
            pending = next((one for one in fence.inputs if one.signal_ns is None and one not in self._passed), None)
            if pending is not None:
                self._link(fence, self._at, None, "merged")
                return pending
            self._link(fence, self._begin if fence.init_ns is None else fence.init_ns, None, "pending")
            return self._work(fence, fence.creator, self._begin)
        last = last_input(fence, self._at)
        made = self._begin if fence.init_ns is None else fence.init_ns
        if last is not None and last.signal_ns is not None:
            if not some_are_missing(fence) or self._at - last.signal_ns <= AT_ONCE:
                self._link(fence, last.signal_ns, None, "merged")
                return last
            self._link(fence, made, None, "unknown")
        elif fence.signaled_in_irq:
            frame = self._flip(fence, made)
            if frame is not None:
                return frame
            self._link(fence, made, None, "interrupt")
        elif fence.signaler is None:
            self._link(fence, made, None, "unknown")
        else:
            before = self._work(fence, fence.signaler, made)
            if before is not None:
                return before
        return self._work(fence, fence.creator, self._begin)

    def _flip(self, fence: Fence, made: int) -> Fence | None:
        """Go back from the out-fence of an atomic commit to what a worker waited for before it could be shown."""
        if not fence.timeline.name.startswith(KMS):
            return None
        # A wait may end after the signal: that has the vblank's time, and the interrupt may come late.
        for wait in reversed(self._commits[: bisect_right(self._commits, self._at, key=lambda one: one.start_ns)]):
            if wait.start_ns < made:
                break
            frame = what_ended(wait)
            if frame is None or frame in self._passed:
                continue
            if not self._others(fence, wait):
                self._link(fence, wait.end_ns or self._at, wait.thread, "flip")
                self._link(frame, frame.signal_ns or made, wait.thread, "woken", wait.call)
                return frame
        return None

    def _others(self, fence: Fence, wait: Wait) -> bool:
        """Whether another CRTC's commit was under way: then the worker's wait may have been for that."""
        return any(
            one.init_ns is not None
            and one.init_ns <= wait.start_ns
            and (one.signal_ns is None or wait.end_ns is None or one.signal_ns >= wait.end_ns)
            for one in self._flips
            if one.timeline is not fence.timeline
        )

    def _work(self, fence: Fence, thread: Thread | None, since: int) -> Fence | None:
        """Go back over what a thread did for a fence, at most to ``since``; return what it had waited for before."""
        if thread is None:
            return None
        since = max(since, self._begin)
        while self._at > since:
            wait, ended_before = self._last_wait(thread)
            if wait is None or wait.end_ns is None or wait.end_ns <= since:
                break
            self._link(fence, wait.end_ns, thread, "work")
            awaited = what_ended(wait)
            if awaited is not None and awaited.signal_ns is not None:
                self._link(awaited, awaited.signal_ns, thread, "woken", wait.call)
                return awaited
            about = wait.fences[0] if wait.fences else fence
            # A wait inside this one may be known better.
            self._link(about, max(wait.start_ns, ended_before, since), thread, "waited", wait.call)
        self._link(fence, since, thread, "work")
        return None

    def _last_wait(self, thread: Thread) -> tuple[Wait | None, int]:
        """The last wait of a thread that is over by now and was not returned yet, and when the one before it ended."""
        waits = self._waits.get(thread, [])
        left = bisect_right(waits, self._at, hi=self._left.get(thread), key=lambda one: one[0])
        self._left[thread] = max(0, left - 1)
        return (waits[left - 1][1] if left else None), (waits[left - 2][0] if left > 1 else 0)


def is_worker(thread: Thread) -> bool:
    """Whether it is one of the kernel's, to which drm_atomic_helper_commit gives a commit that does not block."""
    return thread.comm.startswith("kworker/")


def some_are_missing(fence: Fence) -> bool:
    """Whether it is made of more than is known, so that the last of what is known need not be the last."""
    return fence.input_count is not None and len(fence.inputs) < fence.input_count


def last_input(fence: Fence, at: int) -> Fence | None:
    """Which of the fences that one is made of it waited for, until about ``at``; None: none is known."""
    signaled = sorted((one for one in fence.inputs if one.signal_ns is not None), key=lambda one: one.signal_ns or 0)
    if not signaled:
        return None
    known = len(signaled) == len(fence.inputs)
    slack = TRACEPOINT_NS if known and not signaled[-1].exact else 0
    in_time = [one for one in signaled if one.signal_ns is not None and one.signal_ns <= at + slack]
    # An array may be one that signals with the first of its fences.
    return in_time[-1] if in_time else signaled[0]


def what_ended(wait: Wait) -> Fence | None:
    """Whose signal a wait ended with; None: it is not known."""
    if wait.woken_by is not None:
        signal = wait.woken_by.signal_ns
        return wait.woken_by if signal is not None and signal >= wait.start_ns else None
    during = [
        one
        for one in wait.fences
        if one.signal_ns is not None and wait.end_ns is not None and wait.start_ns <= one.signal_ns <= wait.end_ns
    ]
    return max(during, key=lambda one: one.signal_ns or 0, default=None)
