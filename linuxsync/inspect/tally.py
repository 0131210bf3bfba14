"""tally: how many descriptors each process has, by what they are; what grows and what is counted is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .buffers import HeldBuffer
from .fences import HeldSyncFile
from .processes import Kind, Process, Scan

__all__ = ["Sort", "tally"]


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
    names: dict[tuple[int, int], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for held in fences:
        drivers = tuple(sorted({fence.driver_name for fence in held.info.fences}))
        timelines = tuple(sorted({fence.obj_name for fence in held.info.fences}))
        for one in held.holders:
            names[one.process.pid, one.fd] = (drivers, timelines)
    for buffer in buffers:
        if buffer.exporter is not None:
            for holder in buffer.holders:
                for fd in holder.fds:
                    names[holder.process.pid, fd] = ((buffer.exporter,), ())
    return Counter(
        Sort(one.process, one.kind, *names.get((one.process.pid, one.fd), ((), ()))) for one in look.descriptors
    )
