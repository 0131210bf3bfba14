"""linuxsync timelines: what fences are points of, how far it has come, and who is to advance it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import click

from ..inspect import Descriptor, HeldTimeline, Scan, fence_timelines, named_timelines, scan, sync_files
from .selection import Selection, selecting
from .table import Column, Output, Table

__all__ = ["timelines"]


def points(row: HeldTimeline) -> list[list[int]]:
    """Of each sw_sync timeline of that name."""
    return [[point.seqno for point in one.points if point.state == "active"] for one in row.sw_sync]


def show_points(found: list[list[int]]) -> str:
    """Those of one timeline with commas, several timelines with semicolons: ``8,9; -``."""
    return "; ".join(some(map(str, one)) for one in found) or "-"


def some(words: Iterable[str]) -> str:
    """The first four, and how many more there are."""
    each = list(words)
    return (",".join(each[:4]) + (f" and {len(each) - 4} more" if len(each) > 4 else "")) or "-"


def as_json(found: Iterable[Descriptor]) -> list[dict[str, Any]]:
    return [{"pid": one.process.pid, "comm": one.process.comm, "uid": one.process.uid, "fd": one.fd} for one in found]


def owner(row: HeldTimeline) -> dict[str, Any] | None:
    return {"sure": row.sure, "descriptors": as_json(row.descriptors)} if row.descriptors else None


def show_owner(found: dict[str, Any] | None) -> str:
    """Descriptors, with a question mark where only the name speaks for it: ``weston 812:4?``."""
    if found is None:
        return "-"
    each = [f"{one['comm']} {one['pid']}:{one['fd']}" for one in found["descriptors"]]
    return "; ".join(each) + ("" if found["sure"] else "?")


def show_holders(found: list[dict[str, Any]]) -> str:
    """Processes, and how many descriptors each has: ``weston 812 x40``."""
    counts = Counter((one["comm"], one["pid"]) for one in found)
    each = [f"{comm} {pid}{f' x{count}' if count > 1 else ''}" for (comm, pid), count in counts.items()]
    return ("; ".join(each[:4]) + (f" and {len(each) - 4} more" if len(each) > 4 else "")) or "-"


TABLE: Table[HeldTimeline] = Table(
    "timelines",
    [
        Column("DRIVER", "whose it is", lambda row: row.driver_name),
        Column("TIMELINE", "its name, which others may have too", lambda row: row.obj_name),
        Column(
            "VALUE",
            "where a sw_sync timeline is, from debugfs; several of one name: several",
            lambda row: [one.value for one in row.sw_sync],
            lambda found: "; ".join(map(str, found)) or "-",
            right=True,
        ),
        Column("PENDING", "points of each that have not signaled, from debugfs", points, show_points),
        Column("ACTIVE", "fences in sync_files that have not signaled", lambda row: row.active, right=True),
        Column("SIGNALED", "those that have", lambda row: row.signaled, right=True),
        Column("FAILED", "those that have, with an error", lambda row: row.failed, right=True),
        Column("OWNER", "who can advance a sw_sync timeline; with ? by its name only", owner, show_owner),
        Column("HOLDERS", "who holds the sync_files", lambda row: as_json(row.holders), show_holders),
    ],
)


@click.command(short_help="List timelines of fences in sync_files, and of sw_sync", epilog=TABLE.help)
@click.option("--active", is_flag=True, help="Only those with points or fences that have not signaled.")
@click.option("--confirm", is_flag=True, help="Ask sw_sync timelines for their names by a fence: then OWNER is sure.")
@selecting
@TABLE.options
def timelines(active: bool, confirm: bool, selection: Selection, output: Output) -> None:
    """List the timelines of all fences in sync_files, and all sw_sync timelines.

    With --confirm each sw_sync timeline makes a fence that has signaled already, and that is closed at once.

    Exit status: 0; 1 if there is none.
    """
    look = scan()  # of all processes, also with --pid: only then it is known whose a timeline is
    rows = fence_timelines(look, sync_files(look))
    found = [row for row in (owned(rows, look) if confirm else rows) if wanted(row, selection)]
    if active:
        found = [row for row in found if row.active or any(points(row))]
    TABLE.print(found, output, look.unseen)
    sys.exit(0 if found else 1)


def owned(rows: Iterable[HeldTimeline], look: Scan) -> Iterator[HeldTimeline]:
    """The same rows, with the owners that sw_sync timelines told."""
    owners: dict[str, list[Descriptor]] = {}
    for name, holders in named_timelines(look):
        owners.setdefault(name, []).extend(holders)
    for row in rows:
        its = owners.get(row.obj_name, []) if row.driver_name == "sw_sync" else []
        yield replace(row, descriptors=tuple(its), sure=True) if its else row


def wanted(row: HeldTimeline, selection: Selection) -> bool:
    """Whether a timeline is meant."""
    there = row.holders + row.descriptors
    by_pid = selection.pids is None or any(one.process.pid in selection.pids for one in there)
    return by_pid and selection.wants([row], there)
