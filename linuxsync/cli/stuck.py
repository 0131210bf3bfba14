"""linuxsync stuck: fences that do not signal, who waits for them, who is to signal them, and deadlocks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from ..inspect import Deadlock, Descriptor, Owed, Scan, StuckFence, Waiter, deadlocks, stuck_fences
from .files import hold_many
from .graph import as_dot, as_svg, as_trees, sentence
from .ps import show_holders
from .seconds import Seconds
from .selection import Selection, selecting
from .table import Column, Output, Table
from .text import duration
from .timelines import as_json

__all__ = ["stuck"]


def missing_json(owed: Owed) -> dict[str, Any]:
    return {"driver": owed.driver_name, "timeline": owed.obj_name}


def owed_json(owed: Owed) -> dict[str, Any]:
    return {
        "driver": owed.driver_name,
        "timeline": owed.obj_name,
        "by_process": owed.by_process,
        "sure": owed.sure,
        "owners": as_json(owed.owners),
    }


def show_owed(found: list[dict[str, Any]] | None) -> str:
    """The timelines: ``sw_sync gpu, fencedev draw``."""
    if found is None:
        return "?"
    each = [f"{one['driver']} {one['timeline']}" for one in found]
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "") or "not submitted"


def show_owners(found: list[dict[str, Any]]) -> str:
    """The processes, with a question mark where it is not sure: ``client 78; compositor 80?``."""
    each = dict.fromkeys(
        f"{owner['comm']} {owner['pid']}{'' if one['sure'] else '?'}" for one in found for owner in one["owners"]
    )
    return "; ".join([*each][:4]) + (f" and {len(each) - 4} more" if len(each) > 4 else "") or "-"


def waiter_json(waiter: Waiter) -> dict[str, Any]:
    return {
        "pid": waiter.process.pid,
        "comm": waiter.process.comm,
        "tid": waiter.tid,
        "thread": waiter.comm,
        "call": waiter.call,
        "fds": list(waiter.fds),
    }


def show_waiters(found: list[dict[str, Any]]) -> str:
    """Threads: ``compositor 80 in ppoll``, and one that is not the first with its own number: ``80/92``."""
    each = [
        f"{one['thread']} {one['pid']}{'' if one['tid'] == one['pid'] else '/' + str(one['tid'])} in {one['call']}"
        for one in found
    ]
    return "; ".join(each[:4]) + (f" and {len(each) - 4} more" if len(each) > 4 else "") or "-"


TABLE: Table[StuckFence] = Table(
    "stuck",
    [
        Column(
            "KIND",
            "sync_file, dma_buf, syncobj_file, or drm for a syncobj that is but a handle",
            lambda row: row.kind.value,
        ),
        Column("NAME", "a sync_file's, or a buffer's; a handle and its point", lambda row: row.name),
        Column("INO", "a buffer's inode number", lambda row: row.ino, right=True, extra=True),
        Column("FOR", "how long it has not signaled; in JSON ns", lambda row: row.active_ns, duration, right=True),
        Column(
            "OWED",
            "what is missing: drivers and timelines; ? where the kernel does not tell",
            lambda row: None if row.owed is None else [*map(missing_json, row.owed)],
            show_owed,
        ),
        Column(
            "BY",
            "who is to signal that, or gave a device the work; ? where it may be another",
            lambda row: [*map(owed_json, row.owed or ())],
            show_owners,
        ),
        Column("HOLDERS", "processes and their descriptors", "holders", show_holders),
        Column(
            "WAITERS",
            "threads that wait for it, and in which call",
            lambda row: [*map(waiter_json, row.waiters)],
            show_waiters,
        ),
    ],
)


def deadlock_json(one: Deadlock) -> dict[str, Any]:
    return {
        "doubts": list(one.doubts),
        "steps": [
            {
                "waiter": waiter_json(step.waiter),
                "kind": step.fence.kind.value,
                "name": step.fence.name,
                "driver": step.owed.driver_name,
                "timeline": step.owed.obj_name,
            }
            for step in one.steps
        ],
    }


@click.command(short_help="Find fences that do not signal, who waits, who is to signal", epilog=TABLE.help)
@click.option("--after", metavar="S", type=Seconds(), default=1.0, show_default=True, help="Seconds to poll them for.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, and print only what is new.")
@click.option("--dot", is_flag=True, help="Print who waits for whom as a graph for Graphviz, instead of the table.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, allow_dash=True), help="Draw that graph into a file, or -, by dot(1)."
)
@selecting
@TABLE.options
def stuck(after: float, watch: bool, dot: bool, svg: str | None, selection: Selection, output: Output) -> None:
    """Find fences that do not signal: who holds them, which threads wait, and who is to signal them.

    Sync_files, dma-bufs and syncobjs with active fences are polled for --after seconds, which has drivers signal that
    do it only for those who wait. Below the table stands who waits for whom; processes that wait for each other in a
    circle are called a deadlock, and what may end it is said.

    Exit status: 0; 1 if something is stuck; 2 if that could not be told.
    """
    if (dot or svg is not None) and (watch or output.as_json):
        raise click.UsageError("a graph is of one moment, and no JSON: not with --watch or --json")
    hold_many()
    try:
        if watch:
            sys.exit(keep_watching(after, selection, output))
        found, look = stuck_fences(after, progress=say_how_many(after))
    except KeyboardInterrupt:
        sys.exit(130)
    rows, circles = chosen(found, selection)
    if dot or svg is not None:
        text = as_dot(rows, circles)
        print(text) if svg is None else as_svg(text, svg)
    else:
        report(rows, circles, output, look)
    sys.exit(1 if rows else 0)


def chosen(found: list[StuckFence], selection: Selection) -> tuple[list[StuckFence], list[Deadlock]]:
    """Those that are meant, and the circles in which one of them is."""
    rows = [row for row in found if wanted(row, selection)]
    return rows, [circle for circle in deadlocks(found) if any(step.fence in rows for step in circle.steps)]


def keep_watching(after: float, selection: Selection, output: Output) -> int:
    """Print what comes to be stuck until somebody presses Ctrl-C; the exit status."""
    status, known = 0, set[object]()
    try:
        while True:
            begun = time.monotonic()
            found, look = stuck_fences(after)
            rows, circles = chosen(found, selection)
            new = [row for row in rows if key_of(row) not in known]
            known = {key_of(row) for row in rows}
            if new:
                status = 1
                report(new, circles, output, look)
                sys.stdout.flush()
            # What has signaled ends the wait early, and then there is nothing to hurry for.
            time.sleep(max(0, max(0.5, min(after, 1)) - (time.monotonic() - begun)))
    except KeyboardInterrupt:
        return status


def key_of(row: StuckFence) -> object:
    """What a fence is known by from one look to the next."""
    return row.kind, row.name, row.ino, *((one.process.pid, one.fd) for one in row.holders[:1])


def say_how_many(after: float) -> Callable[[int], None]:
    """A line for whoever waits for more than two seconds."""

    def say(count: int) -> None:
        if after > 2 and count and sys.stderr.isatty():
            print(f"linuxsync: polling {count} fence{'s' if count > 1 else ''} for {after:g} s ...", file=sys.stderr)

    return say


def wanted(row: StuckFence, selection: Selection) -> bool:
    """Whether a fence is meant: by who holds it, waits for it or is to signal it."""
    there: list[Descriptor | Waiter] = [
        *row.holders,
        *row.waiters,
        *(owner for owed in row.owed or () for owner in owed.owners),
    ]
    by_pid = selection.pids is None or any(one.process.pid in selection.pids for one in there)
    return by_pid and selection.wants(row.owed or (), there)


def report(rows: list[StuckFence], circles: list[Deadlock], output: Output, look: Scan) -> None:
    """The table, and for people below it who waits for whom; a deadlock is always told."""
    TABLE.print(rows, output, look.unseen, {"deadlocks": [*map(deadlock_json, circles)]})
    if output.as_json:
        return
    whole = not (output.raw or output.columns)
    if whole and any(row.waiters for row in rows):
        print()
        as_trees(rows)
    for circle in circles:
        for line in sentence(circle):
            print(line, file=sys.stdout if whole else sys.stderr)
