"""gauges: what a monitor keeps of one look at the machine, as numbers with names and labels, for any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .buffers import HeldBuffer, by_process
from .fences import HeldSyncFile
from .processes import Kind, Scan
from .timelines import HeldTimeline

__all__ = ["Gauge", "gauges"]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down, once for each combination of its labels.

    Attributes:
        name: by the conventions of Prometheus: what is counted, the unit last.
        help: what it tells, in a sentence or two.
        labels: the labels' names.
        samples: the number by the labels' values, which are whatever bytes (os.fsdecode).
    """

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


def gauges(
    look: Scan,
    fences: Iterable[HeldSyncFile],
    buffers: Iterable[HeldBuffer],
    timelines: Iterable[HeldTimeline],
    processes: bool = True,
) -> list[Gauge]:
    """Return the counters of one look.

    How many samples there are is up to the machine: each process that holds something has up to seven, each timeline
    four. An application that names a timeline per frame or per window has as many of those.

    Args:
        look: what ``scan()`` returned, whose ``unseen`` is complete by now.
        fences: what ``sync_files(look)`` returned.
        buffers: what ``dma_bufs(look)`` returned.
        timelines: what ``fence_timelines(look, fences)`` returned.
        processes: whether processes are told apart; without, no label has a pid.
    """
    buffers, timelines = list(buffers), list(timelines)
    # What is 0 is said too where that is known: an alert can't be made of a series that comes and goes.
    descriptors: Counter[tuple[str, ...]] = Counter({} if processes else {(kind.value,): 0 for kind in Kind})
    for one in look.descriptors:
        owner = (str(one.process.pid), one.process.comm) if processes else ()
        key = (*owner, one.kind.value)
        descriptors[key] += 1
    files: Counter[tuple[str, ...]] = Counter({(state,): 0 for state in ("active", "signaled", "error")})
    for held in fences:
        files[state_of(held.info.status),] += 1
    points: dict[tuple[str, ...], float] = {}
    pending: Counter[tuple[str, ...]] = Counter()
    for line in timelines:
        name = line.driver_name, line.obj_name
        points |= {(*name, "active"): line.active, (*name, "signaled"): line.signaled, (*name, "error"): line.failed}
        for listed in line.sw_sync:
            pending[line.obj_name,] += sum(point.state == "active" for point in listed.points)
    count: Counter[tuple[str, ...]] = Counter()
    size: Counter[tuple[str, ...]] = Counter()
    for buffer in buffers:
        count[buffer.exporter or "",] += 1
        size[buffer.exporter or "",] += buffer.size or 0
    whose = ("pid", "comm") if processes else ()
    found = [
        Gauge(
            "linuxsync_descriptors",
            "Open descriptors of fences, buffers and their devices, which count against RLIMIT_NOFILE. "
            "One that only grows is a leak.",
            (*whose, "kind"),
            descriptors,
        ),
        Gauge(
            "linuxsync_sync_files",
            "Open sync_files, each once however many descriptors it has. One that nobody polls may be active for ever.",
            ("status",),
            files,
        ),
        Gauge(
            "linuxsync_fences",
            "Fences in those sync_files, by who made them and the timeline they are points of. "
            "One that is in several sync_files counts in each.",
            ("driver", "timeline", "status"),
            points,
        ),
        Gauge(
            "linuxsync_sw_sync_timeline_pending_points",
            "Points that sw_sync timelines of this name owe, whether or not a sync_file has them; from debugfs.",
            ("timeline",),
            pending,
        ),
        Gauge(
            "linuxsync_dma_bufs",
            "dma-bufs, each once, by who made them; no exporter: only a mapping told of it.",
            ("exporter",),
            count,
        ),
        Gauge("linuxsync_dma_buf_bytes", "Memory of those dma-bufs.", ("exporter",), size),
    ]
    if processes:
        shares: dict[tuple[str, ...], float] = {
            (str(one.process.pid), one.process.comm): one.share
            for one in by_process(buffers)
            if one.process.pid in look.processes
        }
        found.append(
            Gauge(
                "linuxsync_process_dma_buf_share_bytes",
                "Memory of the dma-bufs that a process holds or maps, each divided by the number of its holders, "
                "so that the sum over processes is the memory there is.",
                whose,
                shares,
            )
        )
    unseen: dict[tuple[str, ...], float] = {(one.what, one.why): one.count for one in look.unseen}
    found.append(
        Gauge(
            "linuxsync_unseen",
            "What could not be looked at, so that the other numbers lack it. None for root, usually.",
            ("what", "why"),
            unseen,
        )
    )
    return found


def state_of(status: int) -> str:
    """A fence's status as a label."""
    return "active" if status == 0 else "signaled" if status > 0 else "error"
