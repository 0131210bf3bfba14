"""leaks: which processes get more and more descriptors of fences and buffers, and when they may have no more.

Take a ``sample()`` now and then, at ``moments()`` for instance, and ask ``growth()`` what they say together.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._proc import start_time
from .buffers import HeldBuffer, held_by
from .fences import sync_files
from .processes import GONE, Kind, Scan, Unseen, scan
from .tally import Sort, tally

__all__ = ["FEWEST", "Growth", "Sample", "Table", "growth", "moments", "sample"]

FEWEST = 9
"""How many samples ``growth()`` takes at least: 9 random numbers look like growth once in 1700 times, fewer more."""
LIMIT = re.compile(rb"^Max open files +(\d+|unlimited) ", re.MULTILINE)

# A process by number and start time, and what its descriptors are.
Key = tuple[int, int, Kind, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Table:
    """A process's table of descriptors.

    Attributes:
        fds: how many it has open, of whatever kind.
        limit: how many it may have (RLIMIT_NOFILE, soft); None for any number.
    """

    fds: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was at one moment.

    Attributes:
        at_ns: when, CLOCK_BOOTTIME nanoseconds.
        starts: when each process was started, in clock ticks since boot, by pid.
        counts: how many descriptors of each sort.
        tables: of the processes that have any.
        unseen: what could not be looked at.
    """

    at_ns: int
    starts: dict[int, int]
    counts: Counter[Sort]
    tables: dict[int, Table]
    unseen: list[Unseen]


@dataclass(frozen=True, slots=True)
class Growth:
    """How the number of descriptors of one sort in one process went.

    Attributes:
        sort: what they are, and whose, with the name that the process had last.
        start: when the process was started, in clock ticks since boot.
        samples: in how many there was this process.
        count: how many there were in the last one.
        growth: how many more than in the first one (may be negative).
        per_second: the slope of the straight line through all (least squares).
        grows: whether it keeps growing, see ``growth()``.
        fds: how many descriptors of whatever kind the process had in the last one.
        limit: how many it may have (RLIMIT_NOFILE, soft); None for any number.
        fds_per_second: how fast all of its descriptors together grow.
        ended: whether it is gone in the last sample of all.
    """

    sort: Sort
    start: int
    samples: int
    count: int
    growth: int
    per_second: float
    grows: bool
    fds: int
    limit: int | None
    fds_per_second: float
    ended: bool

    @property
    def emfile_seconds(self) -> float | None:
        """How long until open(2) and its like fail with EMFILE, if it goes on so; None if it does not."""
        if self.ended or self.limit is None or not self.grows or self.fds_per_second <= 0:
            return None
        return max(0, self.limit - self.fds) / self.fds_per_second


def moments(interval: float, duration: float) -> Iterator[float]:
    """Yield when to take samples, in seconds from the first, which is at 0: one at random in each interval.

    At random, so that what comes and goes in step with the samples, as frames do, is not taken for what stays or grows.

    Args:
        interval: seconds (> 0).
        duration: seconds; there are 1 + duration / interval samples, rounded up.
    """
    yield 0
    for number in range(math.ceil(duration / interval)):
        yield min(duration, (number + random.random()) * interval)


def sample(pids: Collection[int] | None = None) -> Sample:
    """Count the descriptors of all processes, or of some, by what they are.

    Raises:
        OSError: EMFILE, ENOMEM: of our own. What is not ours to see is no error: ``Sample.unseen``.

    Mirrors /proc/PID/fd and /proc/PID/limits.
    """
    at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    look = scan(pids)
    # Of buffers it takes the exporter only, and no look at mappings, which don't count against RLIMIT_NOFILE.
    buffers = [
        HeldBuffer(ino, one.size, one.exporter, one.name, one.holders(), None, None)
        for ino, one in held_by(Scan({}, look.descriptors, look.missed)).items()
    ]
    counts = tally(look, sync_files(look), buffers)
    starts: dict[int, int] = {}
    tables: dict[int, Table] = {}
    held = {sort.process.pid for sort in counts}
    for pid in look.processes:
        try:
            start = start_time(pid)
            # One that was not there when we began may have the number of one that we have seen: leave it to the next.
            if start < at_ns * os.sysconf("SC_CLK_TCK") // 10**9:
                if pid in held:
                    tables[pid] = table_of(pid)
                starts[pid] = start
        except PermissionError:
            look.miss("processes", "of another user by now")
        except OSError as error:
            if error.errno not in GONE:
                raise
    whole = Counter({sort: count for sort, count in counts.items() if sort.process.pid in starts})
    return Sample(at_ns, starts, whole, tables, look.unseen)


def table_of(pid: int) -> Table:
    """How many descriptors a process has and may have."""
    folder = Path("/proc", str(pid))
    limit = LIMIT.search((folder / "limits").read_bytes())
    assert limit is not None
    return Table(len([*(folder / "fd").iterdir()]), None if limit[1] == b"unlimited" else int(limit[1]))


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Return how the number of descriptors of each sort in each process went, the fastest growing first.

    It grows if, with the samples in three equal spans, even the lowest count of each span is above the highest of the
    span before; the two samples where spans meet may be equal, for there may be little time between them. So a steady
    number does not, nor one that goes up and down, nor one that has gone up once; what grows in every interval does,
    and so does what grows and shrinks more slowly than the samples last. It takes at least ``FEWEST`` samples of the
    process.

    Args:
        samples: in the order in which they were taken.
    """
    latest: dict[Key, Sort] = {}
    counts: list[Counter[Key]] = []
    for one in samples:
        counts.append(Counter())
        for sort, count in one.counts.items():
            pid = sort.process.pid
            key = (pid, one.starts[pid], sort.kind, sort.drivers, sort.timelines)
            counts[-1][key] += count
            latest[key] = sort
    found = [one_growth(samples, counts, key, sort) for key, sort in latest.items()]
    return sorted(found, key=lambda one: (-one.per_second, one.sort.process.pid, one.sort.kind.value))


def one_growth(samples: Sequence[Sample], counts: Sequence[Counter[Key]], key: Key, sort: Sort) -> Growth:
    """How one number went."""
    pid, start = key[:2]
    present = [at for at, one in enumerate(samples) if one.starts.get(pid) == start]
    points = [(samples[at].at_ns, counts[at][key]) for at in present]
    # Where it had no descriptors of ours its table was not looked at.
    tables = [(samples[at].at_ns, samples[at].tables[pid]) for at in present if pid in samples[at].tables]
    last = tables[-1][1]
    return Growth(
        sort,
        start,
        len(points),
        points[-1][1],
        points[-1][1] - points[0][1],
        slope(points),
        keeps_growing([count for _, count in points]),
        last.fds,
        last.limit,
        slope([(at_ns, table.fds) for at_ns, table in tables]),
        present[-1] != len(samples) - 1,
    )


def keeps_growing(counts: Sequence[int]) -> bool:
    """Whether each third lies above the one before."""
    if len(counts) < FEWEST:
        return False
    ends = [len(counts) * part // 3 for part in range(4)]
    first, second, third = (counts[ends[part] : ends[part + 1]] for part in range(3))
    return lies_above(second, first) and lies_above(third, second)


def lies_above(later: Sequence[int], earlier: Sequence[int]) -> bool:
    """Whether all of one span are more than all of the span before; the two that are next to each other may be equal.

    Samples are taken at random, one in each interval: these two may have no time between them, others have an interval.
    """
    return max(earlier[:-1]) < min(later) and max(earlier) < min(later[1:]) and earlier[-1] <= later[0]


def slope(points: Sequence[tuple[int, int]]) -> float:
    """Rise per second of the straight line that fits best; times are in nanoseconds."""
    middle = sum(at for at, _ in points) / len(points)
    mean = sum(value for _, value in points) / len(points)
    spread = sum((at - middle) ** 2 for at, _ in points)
    if not spread:
        return 0.0
    return sum((at - middle) * (value - mean) for at, value in points) / spread * 1e9
