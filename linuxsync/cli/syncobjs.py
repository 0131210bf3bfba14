"""linuxsync syncobjs: those that processes hold as descriptors, and the points that they owe."""

from __future__ import annotations

import sys

import click

from ..inspect import HeldSyncobj, scan, syncobj_files
from .ps import names, show_holders
from .selection import Selection, selecting
from .table import Column, Output, Table
from .text import status

__all__ = ["syncobjs"]


def kind(row: HeldSyncobj) -> str | None:
    """What was put into it decides."""
    if row.fences is None:
        return None
    return "timeline" if row.is_timeline else "binary" if row.fences else "empty"


def some(found: list[str]) -> str:
    """The names, "-" if there are none."""
    return names(found) or "-"


TABLE: Table[HeldSyncobj] = Table(
    "syncobjs",
    [
        Column("KIND", "binary, timeline or empty; nothing where it could not be asked", kind),
        Column(
            "STATUS",
            "of its fences: active, signaled, or the error",
            lambda row: row.status,
            lambda value: "-" if value is None else status(value),
        ),
        Column("SIGNALED", "the last point up to which a timeline has signaled", lambda row: row.signaled, right=True),
        Column("SUBMITTED", "the last that it has; those in between are owed", lambda row: row.submitted, right=True),
        Column("DRIVER", "who made its fences", lambda row: [f.driver_name for f in row.fences or ()], some),
        Column("TIMELINE", "what those are points of", lambda row: [f.obj_name for f in row.fences or ()], some),
        Column("HOLDERS", "processes and their descriptors", "holders", show_holders),
    ],
)


@click.command(short_help="List DRM syncobjs that processes hold as descriptors", epilog=TABLE.help)
@click.option("--active", is_flag=True, help="Only those with fences that have not signaled.")
@selecting
@TABLE.options
def syncobjs(active: bool, selection: Selection, output: Output) -> None:
    """List every DRM syncobj that processes hold as a descriptor: its points, its fences, and who holds it.

    Syncobjs that are but handles of a device can't be seen. Exit status: 0; 1 if there is none.
    """
    look = scan(selection.pids)
    found = [held for held in syncobj_files(look) if selection.wants(held.fences or (), held.holders)]
    if active:
        found = [held for held in found if held.status == 0]
    TABLE.print(found, output, look.unseen)
    sys.exit(0 if found else 1)
