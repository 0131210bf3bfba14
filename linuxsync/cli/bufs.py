"""linuxsync bufs: every dma-buf and who holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

from ..inspect import HeldBuffer, ProcessBuffers, by_process, dma_bufs, scan
from .selection import Selection, matches, selecting
from .table import Column, Output, Table
from .text import status

__all__ = ["bufs"]


@dataclass(frozen=True)
class Line:
    """A buffer, and whether all processes were looked at."""

    held: HeldBuffer
    complete: bool


def size(value: int | None) -> str:
    """Bytes as people say them: ``4 KiB``, ``8.3 MiB``; "-" for None."""
    if value is None:
        return "-"
    amount, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if amount >= 99.95 or amount == int(amount) else f"{amount:.1f} {unit}"


def fences(line: Line) -> list[dict[str, Any]] | None:
    if line.held.fences is None:
        return None
    return [
        {
            "usage": one.usage,
            "driver": one.driver_name,
            "timeline": one.obj_name,
            "seqno": one.seqno,
            "status": one.status,
        }
        for one in line.held.fences
    ]


def show_fences(found: list[dict[str, Any]] | None) -> str:
    """What must be waited for: ``write sw_sync/t 3 active``."""
    if found is None:
        return "?"
    each = [
        f"{one['usage']} {one['driver']}/{one['timeline']}{' ' if one['seqno'] is not None else ''}"
        f"{'' if one['seqno'] is None else one['seqno']} {status(one['status'])}"
        for one in found
    ]
    return some(each) or "-"


def devices(found: list[str] | None) -> str:
    """The devices; "?" where that can't be told."""
    return "?" if found is None else some(found) or "-"


def some(each: list[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def holders(line: Line) -> list[dict[str, Any]]:
    return [
        {
            "pid": one.process.pid,
            "comm": one.process.comm,
            "uid": one.process.uid,
            "fds": list(one.fds),
            "mappings": one.mappings,
        }
        for one in line.held.holders
    ]


def show_holders(found: list[dict[str, Any]]) -> str:
    """Processes with their descriptors and mappings: ``weston 812:31,40+map``."""
    shown = []
    for one in found:
        fds = ",".join(map(str, one["fds"][:4])) + (f" and {len(one['fds']) - 4} more" if len(one["fds"]) > 4 else "")
        maps = ("+" if fds else "") + ("map" if one["mappings"] == 1 else f"{one['mappings']} maps")
        shown.append(f"{one['comm']} {one['pid']}:{fds}{maps if one['mappings'] else ''}")
    return "; ".join(shown) or "no process seen"


TABLE: Table[Line] = Table(
    "buffers",
    [
        Column("INO", "its inode number, which no other buffer has", lambda line: line.held.ino, right=True),
        Column("SIZE", "in JSON bytes", lambda line: line.held.size, size, right=True),
        Column("SHARE", "size by number of processes that hold it", lambda line: line.held.share, size, right=True),
        Column("EXPORTER", "who made it", lambda line: line.held.exporter),
        Column("NAME", "what it was named", lambda line: line.held.name),
        Column(
            "DEVICES",
            "those attached, from debugfs",
            lambda line: None if line.held.devices is None else list(line.held.devices),
            devices,
        ),
        Column(
            "FENCES", "its implicit fences: usage, driver, timeline, seqno from debugfs, state", fences, show_fences
        ),
        Column(
            "USE",
            "held by processes, only in the kernel, or not known",
            lambda line: "processes" if line.held.holders else "kernel" if line.complete else None,
            extra=True,
        ),
        Column("HOLDERS", "processes, their descriptors, and mappings", holders, show_holders),
    ],
)

PROCESSES: Table[ProcessBuffers] = Table(
    "processes",
    [
        Column("PID", "the process", lambda line: line.process.pid, right=True),
        Column("COMM", "its name", lambda line: line.process.comm),
        Column("UID", "its user", lambda line: line.process.uid, right=True, extra=True),
        Column("BUFFERS", "how many it holds", lambda line: line.buffers, right=True),
        Column("FDS", "descriptors of them", lambda line: line.fds, right=True),
        Column("MAPPINGS", "mappings of them", lambda line: line.mappings, right=True),
        Column("SIZE", "of all of them; in JSON bytes", lambda line: line.size, size, right=True),
        Column("SHARE", "each divided by the number of its holders", lambda line: line.share, size, right=True),
        Column("PRIVATE", "of those that nobody else holds", lambda line: line.private, size, right=True),
    ],
)


@click.command(
    short_help="List dma-bufs: size, maker, holders and implicit fences",
    epilog=f"{TABLE.help}\n\n{PROCESSES.help.replace('Columns', 'Columns with --by process')}",
)
@click.option("--by", type=click.Choice(["buffer", "process"]), default="buffer", help="A line for each of these.")
@click.option("--exporter", metavar="NAME", multiple=True, help="Only buffers of this exporter (* and ? match).")
@selecting
@TABLE.options
def bufs(by: str, exporter: tuple[str, ...], selection: Selection, output: Output) -> None:
    """List every dma-buf: its size, who made it, who holds it by descriptors and mappings, and its implicit fences.

    Those that no process holds are listed too. Exit status: 0; 1 if there is none.
    """
    look = scan()  # of all processes, also with --pid: the share depends on the others
    found = [held for held in dma_bufs(look) if wanted(held, exporter, selection)]
    if by == "process":
        sums = by_process(found)
        chosen = [
            one
            for one in sums
            if (selection.pids is None or one.process.pid in selection.pids)
            and matches(selection.comms, [one.process.comm])
        ]
        PROCESSES.print(chosen, output, look.unseen)
        sys.exit(0 if chosen else 1)
    complete = all(one.what != "processes" for one in look.unseen)
    TABLE.print((Line(held, complete) for held in found), output, look.unseen)
    sys.exit(0 if found else 1)


def wanted(held: HeldBuffer, exporters: tuple[str, ...], selection: Selection) -> bool:
    """Whether a buffer is meant."""
    pids: Iterable[int] = (holder.process.pid for holder in held.holders)
    return (
        (selection.pids is None or any(pid in selection.pids for pid in pids))
        and matches(exporters, [held.exporter or ""])
        and selection.wants(held.fences or (), held.holders)
    )
