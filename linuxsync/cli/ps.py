"""linuxsync ps: every sync_file and who holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from ..inspect import HeldSyncFile, scan, sync_files
from ..sync_file import FenceInfo
from .selection import Selection, selecting
from .table import Column, Output, Table
from .text import duration, status

__all__ = ["ps"]


@dataclass(frozen=True)
class Line:
    """A sync_file, or with -v one of the fences in it."""

    held: HeldSyncFile
    fence: FenceInfo | None = None  # of the expanded ones
    last: bool = False

    @property
    def status(self) -> int:
        return self.fence.status if self.fence else self.held.info.status

    @property
    def fences(self) -> tuple[FenceInfo, ...]:
        return (self.fence,) if self.fence else self.held.info.fences


def names(values: Iterable[str]) -> str:
    """Each once; how many more there are if that is long."""
    each = list(dict.fromkeys(values))
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def holders(line: Line) -> list[dict[str, Any]]:
    return [
        {"pid": one.process.pid, "comm": one.process.comm, "uid": one.process.uid, "fd": one.fd}
        for one in line.held.holders
    ]


def show_holders(found: list[dict[str, Any]]) -> str:
    """Processes with their descriptors: ``weston 812:31,40``."""
    fds: dict[tuple[int, str], list[str]] = {}
    for one in found:
        fds.setdefault((one["pid"], one["comm"]), []).append(str(one["fd"]))
    return "; ".join(
        f"{comm} {pid}:{','.join(numbers[:4])}{f' and {len(numbers) - 4} more' if len(numbers) > 4 else ''}"
        for (pid, comm), numbers in fds.items()
    )


def show_age(line: Line) -> int | None:
    if line.fence:
        return line.held.looked_ns - line.fence.timestamp_ns if line.fence.timestamp_ns else None
    return line.held.age_ns


TABLE: Table[Line] = Table(
    "sync_files",
    [
        Column(
            "STATUS",
            "active, signaled, or the error; a fence that nobody polls may be active for ever",
            lambda line: line.status,
            status,
        ),
        Column("FENCES", "how many there are in it", lambda line: len(line.fences), right=True),
        Column("DRIVER", "who made the fences", lambda line: [f.driver_name for f in line.fences], names),
        Column("TIMELINE", "what they are points of", lambda line: [f.obj_name for f in line.fences], names),
        Column(
            "SEQNO",
            "the point, where the sync_file's name tells it",
            lambda line: None if line.fence else line.held.seqno,
            right=True,
        ),
        Column(
            "SINCE",
            "how long ago it signaled; in JSON nanoseconds",
            show_age,
            duration,
            right=True,
        ),
        Column("NAME", "the sync_file's", lambda line: line.held.info.name),
        Column("HOLDERS", "processes and their descriptors", holders, show_holders),
    ],
)


@click.command(epilog=TABLE.help)
@click.option("-v", "--verbose", is_flag=True, help="A line for each fence of a sync_file that has several.")
@click.option("--active", is_flag=True, help="Only what has not signaled.")
@selecting
@TABLE.options
def ps(verbose: bool, active: bool, selection: Selection, output: Output) -> None:
    """List every sync_file on the machine: its fences, and which processes hold it.

    One that several processes hold is one line. Nothing is polled or kept. Exit status: 0; 1 if there is none.
    """
    look = scan(selection.pids)
    found = [held for held in sync_files(look) if selection.wants(held.info.fences, held.holders)]
    if active:
        found = [held for held in found if held.info.status == 0]
    TABLE.print(expanded(found, verbose), output, look.unseen)
    sys.exit(0 if found else 1)


def expanded(found: Iterable[HeldSyncFile], verbose: bool) -> Iterator[Line]:
    """A line each, and with -v one for every fence of several."""
    for held in found:
        yield Line(held)
        if verbose and len(held.info.fences) > 1:
            for fence in held.info.fences:
                yield Line(held, fence, fence is held.info.fences[-1])
