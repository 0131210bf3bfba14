"""linuxsync ps: every sync_file and who holds it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from .._collector import no_search_for_circles
from ..inspect import Descriptor, HeldSyncFile, Process, polled, scan, sync_files
from ..sync_file import FenceInfo
from .selection import Selection, selecting
from .table import Column, Output, Table
from .text import duration, status

__all__ = ["ps"]


@dataclass(frozen=True)
class Part:
    """One fence of several, as a line that looks like that of a sync_file."""

    name: str
    status: int
    driver_names: list[str]
    obj_names: list[str]
    age_ns: int | None
    holders: tuple[Descriptor, ...]
    seqno: None = None
    num_fences: int = 1

    @classmethod
    def of(cls, held: HeldSyncFile, fence: FenceInfo) -> Part:
        """The line of a fence."""
        age = held.looked_ns - fence.timestamp_ns if fence.timestamp_ns else None
        return cls(held.name, fence.status, [fence.driver_name], [fence.obj_name], age, held.holders)


def names(values: Iterable[str]) -> str:
    """Each once; how many more there are if that is long."""
    each = list(dict.fromkeys(values))
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def show_holders(found: Iterable[Descriptor]) -> str:
    """Processes with their descriptors: ``weston 812:31,40``."""
    fds: dict[Process, list[str]] = {}
    for one in found:
        fds.setdefault(one.process, []).append(str(one.fd))
    return "; ".join(
        f"{process.comm} {process.pid}:{','.join(numbers[:4])}"
        f"{f' and {len(numbers) - 4} more' if len(numbers) > 4 else ''}"
        for process, numbers in fds.items()
    )


TABLE: Table[HeldSyncFile | Part] = Table(
    "sync_files",
    [
        Column(
            "STATUS",
            "active, signaled, or the error; a fence that nobody polls may be active for ever",
            "status",
            status,
        ),
        Column("FENCES", "how many there are in it", "num_fences", right=True),
        Column("DRIVER", "who made the fences", "driver_names", names),
        Column("TIMELINE", "what they are points of", "obj_names", names),
        Column("SEQNO", "the point, where the sync_file's name tells it", "seqno", right=True),
        Column("SINCE", "how long ago it signaled; in JSON nanoseconds", "age_ns", duration, right=True),
        Column("NAME", "the sync_file's", "name"),
        Column("HOLDERS", "processes and their descriptors", "holders", show_holders),
    ],
)


@click.command(short_help="List sync_files: their fences, and who holds them", epilog=TABLE.help)
@click.option("-v", "--verbose", is_flag=True, help="A line for each fence of a sync_file that has several.")
@click.option("--active", is_flag=True, help="Only what has not signaled.")
@click.option("--confirm", is_flag=True, help="Poll what is active, which enables its signaling, and ask again.")
@selecting
@TABLE.options
def ps(verbose: bool, active: bool, confirm: bool, selection: Selection, output: Output) -> None:
    """List every sync_file on the machine: its fences, and which processes hold it.

    One that several processes hold is one line. Nothing is kept, and nothing polled without --confirm. Exit status: 0;
    1 if there is none.
    """
    # What one look makes has no circles: to search 10,000 fences for some takes as long as to print them.
    with no_search_for_circles():
        look = scan(selection.pids)
        found = sync_files(look)
        if selection.comms or selection.drivers or selection.timelines:
            found = [held for held in found if selection.wants(held.info.fences, held.holders)]
        if confirm:
            found = [confirmed(held) if held.status == 0 else held for held in found]
        if active:
            found = [held for held in found if held.status == 0]
        TABLE.print(expanded(found) if verbose else found, output, look.unseen)
    sys.exit(0 if found else 1)


def confirmed(held: HeldSyncFile) -> HeldSyncFile:
    """What it says after a poll; as it was where that is not to be had."""
    info = polled(held)
    return held if info is None else HeldSyncFile(info, held.holders, time.monotonic_ns())


def expanded(found: Iterable[HeldSyncFile]) -> Iterator[HeldSyncFile | Part]:
    """A line each, and one for every fence of several."""
    for held in found:
        yield held
        if held.num_fences > 1:
            for fence in held.info.fences:
                yield Part.of(held, fence)
