"""selection: the options that say which processes and fences a command is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import click

from .._text import matches
from ..inspect import Process, Scan
from .completion import comms, drivers, pids, timelines

__all__ = ["Selection", "matches", "selecting"]


class Fence(Protocol):
    """What has a driver and a timeline."""

    @property
    def driver_name(self) -> str: ...

    @property
    def obj_name(self) -> str: ...


class Holder(Protocol):
    """What belongs to a process."""

    @property
    def process(self) -> Process: ...


@dataclass(frozen=True)
class Selection:
    """What --pid, --comm, --driver and --timeline ask for; empty: everything."""

    pids: tuple[int, ...] | None
    comms: tuple[str, ...]
    drivers: tuple[str, ...]
    timelines: tuple[str, ...]

    def wants(self, fences: Iterable[Fence], holders: Iterable[Holder]) -> bool:
        """Whether something with these fences and holders is meant."""
        return (
            matches(self.comms, (holder.process.comm for holder in holders))
            and matches(self.drivers, (fence.driver_name for fence in fences))
            and matches(self.timelines, (fence.obj_name for fence in fences))
        )

    def wants_process(self, process: Process) -> bool:
        """Whether a process is meant."""
        return (self.pids is None or process.pid in self.pids) and matches(self.comms, [process.comm])

    def of_processes(self, look: Scan) -> Scan:
        """What a scan found of the processes that are meant; what it or this one could not see is noted in both."""
        if self.pids is None and not self.comms:
            return replace(look)
        return Scan(
            {pid: process for pid, process in look.processes.items() if self.wants_process(process)},
            [descriptor for descriptor in look.descriptors if self.wants_process(descriptor.process)],
            look.missed,
        )

    @property
    def by_fence(self) -> bool:
        """Whether --driver or --timeline is given: then what has no fence is not meant."""
        return bool(self.drivers or self.timelines)


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command: its function gets ``selection``."""

    def wrapped(pid: tuple[int, ...], comm: Any, driver: Any, timeline: Any, **others: Any) -> Any:
        return command(selection=Selection(pid or None, comm, driver, timeline), **others)

    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--timeline",
            metavar="NAME",
            multiple=True,
            shell_complete=timelines,
            help="Only fences of this timeline (* and ? match).",
        ),
        click.option(
            "--driver",
            metavar="NAME",
            multiple=True,
            shell_complete=drivers,
            help="Only fences of this driver (* and ? match).",
        ),
        click.option(
            "--comm",
            metavar="NAME",
            multiple=True,
            shell_complete=comms,
            help="Only processes of this name (* and ? match).",
        ),
        click.option(
            "--pid",
            type=click.IntRange(1),
            multiple=True,
            shell_complete=pids,
            help="Only this process; may be repeated.",
        ),
    ):
        option(wrapped)
    return wrapped
