"""tally: how many descriptors each process has, by what they are; what grows and what is counted is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .buffers import HeldBuffer
from .fences import HeldSyncFile
from .processes import Kind, Process, Scan

__all__ = ["Sort", "tally"]

Names = tuple[tuple[str, ...], tuple[str, ...]]
NONE: Names = (), ()


@dataclass(frozen=True, slots=True)
class Sort:
    """Descriptors of one process that are alike.

    Attributes:
        process: whose they are.
        kind: what they are.
        drivers: who made the fences in a sync_file, each name once, sorted; the exporter of a dma-buf; empty for other
            kinds, and for what could not be asked.
        timelines: what the fences in a sync_file are points of, likewise; empty for others.
    """

    process: Process
    kind: Kind
    drivers: tuple[str, ...]
    timelines: tuple[str, ...]

    @property
    def driver_name(self) -> str:
        """The drivers in one word."""
        return ", ".join(self.drivers)

    @property
    def obj_name(self) -> str:
        """The timelines in one word."""
        return ", ".join(self.timelines)


def tally(look: Scan, fences: Iterable[HeldSyncFile], buffers: Iterable[HeldBuffer] = ()) -> Counter[Sort]:
    """Return how many descriptors there are of each sort.

    Args:
        look: what ``scan()`` returned.
        fences: what ``sync_files(look)`` returned.
        buffers: what ``dma_bufs(look)`` returned; without it dma-bufs are counted, but not by exporter.
    """
    names: dict[tuple[int, int], Names] = {}
    for held in fences:
        each = held.info.fences
        if len(each) == 1:
            of_it: Names = (each[0].driver_name,), (each[0].obj_name,)
        else:
            of_it = tuple(sorted({one.driver_name for one in each})), tuple(sorted({one.obj_name for one in each}))
        for holder in held.holders:
            names[holder.process.pid, holder.fd] = of_it
    for buffer in buffers:
        if buffer.exporter is not None:
            for user in buffer.holders:
                for fd in user.fds:
                    names[user.process.pid, fd] = (buffer.exporter,), ()
    # A Sort for each would take longer than all the rest: there are few, and descriptors are many.
    counted = Counter([(pid := one.process.pid, one.kind, names.get((pid, one.fd), NONE)) for one in look.descriptors])
    return Counter({Sort(look.processes[pid], kind, *of_it): count for (pid, kind, of_it), count in counted.items()})
