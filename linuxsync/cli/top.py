"""linuxsync top: what each process holds and waits for, look after look."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.cells import cell_len, set_cell_size

from ..inspect import Activity, HeldSyncFile, Unseen, Watch, names_by_process, scan, sync_files
from .bufs import size
from .seconds import Seconds
from .selection import Selection, selecting
from .table import Column, Output, Table
from .terminal import Terminal, can_draw
from .text import duration, plain

__all__ = ["top"]

FASTEST, SLOWEST = 0.05, 86400.0  # seconds


def show_growth(value: float | None) -> str:
    """Descriptors per second with a sign; nothing where there is none."""
    return "-" if value is None else "0" if value == 0 else f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.0f}"


def waiting(row: Activity) -> dict[str, Any] | None:
    """How long, and whether that is sure."""
    return None if row.waiting_ns is None else {"ns": row.waiting_ns, "sure": row.sure}


def show_waiting(found: dict[str, Any] | None) -> str:
    """The time, with a question mark where only the name speaks for it."""
    return "-" if found is None else duration(found["ns"]) + ("" if found["sure"] else "?")


def owed(row: Activity) -> dict[str, str] | None:
    """What it waits for."""
    return row.waits_for and {"driver": row.waits_for[0], "timeline": row.waits_for[1]}


def show_owed(found: dict[str, str] | None) -> str:
    """``sw_sync/gpu``."""
    return "-" if found is None else f"{found['driver']}/{found['timeline']}"


TABLE: Table[Activity] = Table(
    "processes",
    [
        Column("PID", "the process", lambda row: row.process.pid, right=True),
        Column("COMM", "its name", lambda row: row.process.comm),
        Column("UID", "its user", lambda row: row.process.uid, right=True, extra=True),
        Column(
            "FDS", "descriptors of fences, buffers and devices", lambda row: row.descriptors, right=True, extra=True
        ),
        Column("SYNCS", "how many of them are sync_files", lambda row: row.sync_files, right=True),
        Column("ACTIVE", "how many of those have not signaled", lambda row: row.active, right=True),
        Column("BUFS", "dma-bufs that it has descriptors of", lambda row: row.dma_bufs, right=True),
        Column("SHARE", "their size, each by how many have it; in JSON bytes", lambda row: row.share, size, right=True),
        Column("SYNCOBJS", "descriptors of syncobjs", lambda row: row.syncobjs, right=True),
        Column("GROWTH", "descriptors more per second since the last look", lambda row: row.growth, show_growth, True),
        Column("WAITING", "how long, at least, its oldest fence has been active", waiting, show_waiting, right=True),
        Column("FOR", "the driver and timeline of that one", owed, show_owed),
    ],
)
# What the screen shows, in cells; COMM is as wide as a comm may be, FOR what is left.
WIDTHS = {
    "PID": 7,
    "COMM": 15,
    "SYNCS": 6,
    "ACTIVE": 6,
    "BUFS": 5,
    "SHARE": 8,
    "SYNCOBJS": 8,
    "GROWTH": 8,
    "WAITING": 8,
}
KEYS = "g growth  w waiting  n number  s size  / filter  space freeze  + - time  q quit"

ORDERS: dict[str, Callable[[Activity], tuple[float, ...]]] = {
    "growth": lambda row: (row.growth or 0, row.waiting_ns or 0, row.descriptors),
    "waiting": lambda row: (-1 if row.waiting_ns is None else row.waiting_ns, row.growth or 0, row.descriptors),
    "number": lambda row: (row.descriptors, row.growth or 0),
    "size": lambda row: (row.share, row.descriptors),
}


@dataclass(frozen=True)
class Look:
    """One refresh.

    Attributes:
        rows: the processes.
        fences: what they hold.
        unseen: what could not be looked at.
        began: when, by time.monotonic().
        took: seconds that it took to ask for all this.
        cpu: of one core (float, 1.0 is all of it) since the look before, drawing included; None at the first.
    """

    rows: list[Activity]
    fences: list[HeldSyncFile]
    unseen: list[Unseen]
    began: float
    took: float
    cpu: float | None

    def due(self, interval: float) -> float:
        """When to look next. Where a look takes longer than that, we rest as long: half a core is enough."""
        return self.began + max(interval, 2 * self.took)


class Looker:
    """Looks again and again, at what the options choose."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.watch = Watch()
        self.last: tuple[float, float] | None = None  # wall clock and our CPU time, at the last look

    def look(self) -> Look:
        """Ask everything once."""
        began = time.monotonic()
        used = time.process_time()
        cpu = None if self.last is None else (used - self.last[1]) / (began - self.last[0])
        self.last = began, used
        whole = scan()  # of all processes, also with --pid: the share depends on the others
        part = self.selection.of_processes(whole)
        fences = sync_files(part)
        if self.selection.by_fence:
            fences = [held for held in fences if self.selection.wants(held.info.fences, held.holders)]
            meant = {(one.process.pid, one.fd) for held in fences for one in held.holders}
            part.descriptors = [one for one in part.descriptors if (one.process.pid, one.fd) in meant]
        rows = self.watch.update(part, fences, time.monotonic_ns(), whole)
        return Look(rows, fences, whole.unseen, began, time.monotonic() - began, cpu)


@dataclass
class View:
    """What the keys choose."""

    order: str
    interval: float
    filter: str = ""
    typing: bool = False
    frozen: bool = False
    done: bool = False

    def press(self, key: str) -> None:
        """Do what a key says."""
        if self.typing:
            self.type(key)
        elif key in "gwns":
            self.order = next(order for order in ORDERS if order[0] == key)
        elif key == "/":
            self.typing, self.filter = True, ""
        elif key in " f":
            self.frozen = not self.frozen
        elif key in "+-":
            self.interval = min(SLOWEST, max(FASTEST, self.interval * (2 if key == "+" else 0.5)))
        elif key == "q":
            self.done = True

    def type(self, key: str) -> None:
        """A key of the filter: Enter keeps it, Escape drops it."""
        if key in "\r\n":
            self.typing = False
        elif key == "\x1b":
            self.typing, self.filter = False, ""
        elif key in "\x7f\b":
            self.filter = self.filter[:-1]
        elif key.isprintable():
            self.filter += key

    def chosen(self, look: Look) -> list[Activity]:
        """Those that the filter lets through, first what the order puts first."""
        found = look.rows
        if self.filter:
            names = names_by_process(look.fences)
            found = [row for row in found if self.lets(row.process.comm, *names.get(row.process.pid, ()))]
        return sorted(found, key=lambda row: (*(-value for value in ORDERS[self.order](row)), row.process.pid))

    def lets(self, *names: str) -> bool:
        """Whether the filter is in one of these names."""
        return any(self.filter in name for name in names)


@click.command(
    short_help="Show what each process holds and waits for, again and again",
    epilog=f"\b\nKeys:\n  {KEYS}\n\n{TABLE.help}",
)
@click.option(
    "-d",
    "--interval",
    type=Seconds(FASTEST, SLOWEST),
    metavar="S",
    default=1.0,
    help="Seconds from one look to the next, 0.05 to a day; 1.",
)
@click.option("--sort", type=click.Choice([*ORDERS]), default="growth", help="What comes first; growth.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many looks.")
@click.option("-b", "--batch", is_flag=True, help="Tables one after another, for a file or a pipe.")
@click.option("-J", "--json", "as_json", is_flag=True, help="One line of JSON for each look.")
@selecting
def top(interval: float, sort: str, count: int | None, batch: bool, as_json: bool, selection: Selection) -> None:
    """Show what each process holds and what it waits for, again and again.

    First comes what grows fastest, then what waits longest. "Waiting" is counted from when top has first seen a fence
    active, as the kernel does not keep when it was made; with a question mark another one of the same name may have
    taken its place. The filter is for a part of a process's name, a driver or a timeline. A look asks every fence once
    and polls none. With --driver or --timeline, only sync_files with such a fence count.

    Without a terminal it is --batch. Exit status: 0.
    """
    looker, view = Looker(selection), View(sort, interval)
    try:
        if batch or as_json or not can_draw():
            listed(looker, view, count, as_json)
        else:
            live(looker, view, count)
    except (KeyboardInterrupt, EOFError):
        pass
    sys.exit(0)


def paced(looker: Looker, view: View, count: int | None) -> Iterator[Look]:
    """A look each interval, so many times."""
    while count is None or count > 0:
        look = looker.look()
        yield look
        if count is not None:
            count -= 1
        if count != 0:
            time.sleep(max(0.0, look.due(view.interval) - time.monotonic()))


def listed(looker: Looker, view: View, count: int | None, as_json: bool) -> None:
    """Each look as a table, or as a line of JSON."""
    for look in paced(looker, view, count):
        rows = view.chosen(look)
        if as_json:
            print(json.dumps(as_object(look, rows)), flush=True)
            continue
        print(summary(look, view))
        TABLE.print(rows, Output(as_json=False, columns="", no_headings=False, raw=False))
        print(cost(look))
        if look.unseen:
            print(lacking(look))
        print(flush=True)


def as_object(look: Look, rows: Iterable[Activity]) -> dict[str, Any]:
    """A look as JSON has it."""
    return {
        TABLE.name: [{name.lower(): column.of(row) for name, column in TABLE.columns.items()} for row in rows],
        "unseen": [{"what": one.what, "count": one.count, "why": one.why} for one in look.unseen],
        "took": look.took,
        "cpu": look.cpu,
    }


def live(looker: Looker, view: View, count: int | None) -> None:
    """Draw each look, and do what keys say."""
    with Terminal() as terminal:
        looks = 0
        look = None
        while not view.done:
            if look is None or (not view.frozen and time.monotonic() >= look.due(view.interval)):
                if looks == count:
                    return
                look, looks = looker.look(), looks + 1
            terminal.draw(screen(look, view, *terminal.size()), header=1)
            for key in terminal.keys(None if view.frozen else look.due(view.interval) - time.monotonic()):
                view.press(key)


def screen(look: Look, view: View, width: int, height: int) -> list[str]:
    """The lines of a screen, each of at most so many cells."""
    rows = view.chosen(look)
    fixed = sum(WIDTHS.values()) + len(WIDTHS)
    widths = WIDTHS | ({"FOR": width - fixed} if width - fixed >= 8 else {})
    columns = [TABLE.columns[name] for name in widths]
    room = max(0, height - 5)
    lines = [
        summary(look, view),
        line([column.name for column in columns], widths, columns),
        *(line([column.text(row) for column in columns], widths, columns) for row in rows[:room]),
    ]
    lines += [""] * (height - 3 - len(lines))
    hidden = f"{len(rows) - room} more rows; " if len(rows) > room else ""
    if view.filter or view.typing:
        hidden += f"filter {plain(view.filter)}: {len(rows)} of {len(look.rows)}; "
    return [
        cut(one, width)
        for one in [
            *lines,
            f"{hidden}{cost(look)}",
            lacking(look),
            f"/{plain(view.filter)}_  Enter keeps it, Esc drops it" if view.typing else KEYS,
        ]
    ][:height]


def summary(look: Look, view: View) -> str:
    """What there is, and what the keys have chosen."""
    descriptors, active = sum(row.sync_files for row in look.rows), sum(row.active for row in look.rows)
    return (
        f"{'FROZEN  ' if view.frozen else ''}{len(look.rows)} processes, sync_files: {descriptors} descriptors, "
        f"{active} active; by {view.order}, every {view.interval:g} s"
    )


def lacking(look: Look) -> str:
    """What could not be seen, in a line."""
    return "; ".join(f"{one.count} {one.what} not seen: {one.why}" for one in look.unseen)


def cost(look: Look) -> str:
    """What this costs the machine."""
    cpu = "" if look.cpu is None else f"linuxsync uses {look.cpu:.1%} of a core, "
    return f"{cpu}a look takes {duration(round(look.took * 1e9))}"


def line(cells: Iterable[str], widths: dict[str, int], columns: Iterable[Column[Activity]]) -> str:
    """Cells, cut where they don't fit."""
    shown = []
    for cell, width, column in zip(cells, widths.values(), columns, strict=True):
        fits = cut(cell, width)
        blanks = " " * (width - cell_len(fits))
        shown.append(blanks + fits if column.right else fits + blanks)
    return " ".join(shown)


def cut(text: str, width: int) -> str:
    """A text of at most so many cells; an ellipsis where it was cut."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "\N{HORIZONTAL ELLIPSIS}"
