"""dma_fences as the kernel documents them: points of sw_sync timelines, merged fences, and what waits for them.

Of drivers/dma-buf: sw_sync.c, sync_file.c, dma-fence-unwrap.c and dma-resv.c, in plain Python.
"""

import errno
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

events = count()  # an ever rising number for each fence that signals
contexts = count()  # and for each context: the kernel's numbers rise like that too, but are others
last_look = [0]  # when everything was compared last


def just_now():
    """Between which two times it must have been that the kernel did what the model does now."""
    return last_look[0], time.monotonic_ns()


def signed(number):
    """The C int with the same low 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def cut(text):
    """As much of it as fits into char[32]."""
    return text.encode("utf-8", "surrogateescape")[:31].decode("utf-8", "surrogateescape")


@dataclass(eq=False)
class Fence:
    """A dma_fence: active, then signaled or failed, and then never anything else."""

    status: int = 0
    event: int = -1  # in which order it signaled
    between: tuple = (0, 0)  # two times, and when
    stamp: int = 0  # its timestamp, as it was first seen
    deadline: int | None = None

    driver = timeline = name = ""
    context = value = 0
    clock = 0  # fences of one clock have signaled in the order of their events

    def signal(self, error=0):
        assert self.status == 0
        self.status = -error or 1
        self.event = next(events)
        self.between = just_now()

    def set_deadline(self, when):
        """The earliest stays, compared as signed numbers are; one that has signaled does not care."""
        when = (when + 2**63) % 2**64 - 2**63
        if self.status == 0 and (self.deadline is None or when < self.deadline):
            self.deadline = when


@dataclass(eq=False)
class Point(Fence):
    """A fence of a sw_sync timeline."""

    line: object = None
    value: int = 0

    driver = "sw_sync"

    @property
    def timeline(self):
        return self.line.name

    @property
    def context(self):
        return self.line.number

    @property
    def name(self):
        return f"{self.driver}-{self.line.name}{self.line.context}-{self.value}"


@dataclass(eq=False)
class Stub(Fence):
    """The fence that stands for "nothing is left to wait for"."""

    status: int = 1
    driver = timeline = "stub"
    name = "stub-stub0-0"


IDLE = Stub(between=(1, 1 << 63))  # the one that there is once and for all, from its first use on


def stub(fences=()):
    """A new one, of now, or of when the last of those fences signaled."""
    if all(fence.stamp for fence in fences):
        return Stub(stamp=max((fence.stamp for fence in fences), default=0), between=just_now())
    low, high = zip(*((fence.stamp,) * 2 if fence.stamp else fence.between for fence in fences), strict=True)
    return Stub(between=(max(low), max(high)))


@dataclass
class Line:
    """A sw_sync timeline: where it stands, and the points that were ahead when they were made, by value."""

    name: str
    number: int = field(default_factory=lambda: next(contexts))
    value: int = 0
    opened: int = 1  # descriptors
    context: int | None = None  # as the kernel numbers it, once a name of a fence has told
    points: dict = field(default_factory=dict)

    def create(self, value):
        """A point; one that is ahead exists only once."""
        if signed(value - self.value) <= 0:
            point = Point(line=self, value=value)
            point.signal()
            return point
        return self.points.setdefault(value, Point(line=self, value=value))

    def ahead(self):
        """What has not signaled, in order."""
        found = [point for point in self.points.values() if point.status == 0]
        return sorted(found, key=lambda point: signed(point.value - self.value))

    def inc(self, step):
        """Advance without jumping over any point."""
        for point in self.ahead():
            if (point.value - self.value) % 2**32 <= step:
                point.signal()
                del self.points[point.value]
        self.value = signed(self.value + step)

    def close(self):
        """A descriptor is closed; with the last one, whoever still waits is told that nothing will come."""
        self.opened -= 1
        for point in self.ahead() if not self.opened else ():
            point.signal(errno.ENOENT)

    def forget(self, alive):
        """Points that nobody holds do not exist: a later one of the same value is another."""
        self.points = {value: point for value, point in self.points.items() if point in alive}


def later(one, other):
    """The later of two fences of one context; the first of equal ones."""
    return one if signed(one.value - other.value) >= 0 else other


def merged(*inputs):
    """What sync_files merge to: of what is active the latest of each timeline, by context; a stub if nothing is."""
    latest = {}
    for fence in (fence for fences in inputs for fence in fences if fence.status == 0):
        latest[fence.context] = later(fence, latest.get(fence.context, fence))
    if latest:
        return [latest[context] for context in sorted(latest)]
    return [stub([fence for fences in inputs for fence in fences])]


def status_of(statuses):
    """FILE_INFO's summary: the first that is not 1."""
    return next((status for status in statuses if status != 1), 1)


@dataclass(eq=False)
class Group:
    """What is behind an open sync_file: fences that never change, and a name, "" for one that the kernel makes up."""

    fences: list
    name: str = ""
    ordered: bool = True  # merging sorts; what a buffer exports has no order that anybody promised

    @property
    def done(self):
        return all(fence.status for fence in self.fences)

    @property
    def failed(self):
        """The first error, 0 without one."""
        return next((fence.status for fence in self.fences if fence.status < 0), 0)

    def agree(self, file):
        """Assert that a SyncFile says all this."""
        info = file.info()
        # Its fences have no numbers there: those of one timeline are told apart by when they signaled, if at all.
        told = [(fence.driver_name, fence.obj_name, fence.status, fence.timestamp_ns) for fence in info.fences]
        model = [(fence.driver, fence.timeline, fence.status, fence.event, fence) for fence in self.fences]
        if not self.ordered:
            told.sort()
            model.sort(key=lambda one: one[:4])
        assert [one[:3] for one in told] == [one[:3] for one in model]
        for fence, (*_, stamp) in zip((one[-1] for one in model), told, strict=True):
            self.stamped(fence, stamp)
        assert info.status == file.status == status_of(fence.status for fence in info.fences)
        assert file.signaled == (info.status == 1) and file.error == (-info.status if info.status < 0 else None)
        assert file.poll() == self.done
        assert all(fence.flags == 0 for fence in info.fences) and info.flags == 0
        assert file.timestamp_ns == (max(fence.stamp for fence in self.fences) if self.done else None)
        self.named(info.name)
        return info

    def stamped(self, fence, stamp):
        """A fence has no timestamp, then one of the moment at which it signaled, and that for good."""
        if fence.status and not fence.stamp:
            assert fence.between[0] <= stamp <= fence.between[1]
            fence.stamp = stamp
        assert stamp == fence.stamp

    def named(self, name):
        """By whoever merged, or after what is in it."""
        if self.name:
            assert name == self.name
        elif len(self.fences) > 1:
            assert re.fullmatch(r"dma_fence_array-unbound\d+-1", name)
        else:
            fence = self.fences[0]
            if not fence.name:
                assert re.fullmatch(rf"{fence.driver}-{fence.timeline}\d+-{fence.value}", name)
                return
            if isinstance(fence, Point) and fence.line.context is None:
                said = re.fullmatch(re.escape(f"{fence.driver}-{fence.line.name}") + r"(\d+)(-\d*)?", name)
                if said is None or said[2] is None:
                    return  # cut off before it is complete
                fence.line.context = int(said[1])
            assert name == cut(fence.name)


READ, WRITE, RW = 1, 2, 3


@dataclass
class Reservation:
    """The implicit fences of a buffer: for each, whether it stands for a write."""

    slots: list = field(default_factory=list)

    def waited_for(self, access):
        """What must have signaled before somebody reads, or writes: a reader waits for writers, a writer for all."""
        return [fence for fence, writes in self.slots if fence.status == 0 and (writes or access & WRITE)]

    def add(self, fences, access, listed):
        """Add them, all that has not signaled, and see what became of what was there.

        Where there is a later fence of the same context that stands for at least as much, a slot may go; it need not.

        Args:
            listed: what the kernel has of it now: whether it writes, timeline, number, and whether it has signaled.
        """
        added = [(fence, bool(access & WRITE)) for fence in fences if fence.status == 0]
        there = [(fence, writes) for fence, writes in self.slots if fence.status == 0] + added
        left = Counter((writes, timeline, number) for writes, timeline, number, signaled in listed if not signaled)
        kept = []
        for fence, writes in reversed(there):  # of equal ones any would do
            if left[writes, fence.timeline, fence.value] > 0:
                left[writes, fence.timeline, fence.value] -= 1
                kept.insert(0, (fence, writes))
        assert not +left, "fences that nobody added"
        for fence, writes in there:
            assert any(
                other.context == fence.context and stands >= writes and later(other, fence) is other
                for other, stands in kept
            ), "nobody waits for this fence any more"
        self.slots = kept
