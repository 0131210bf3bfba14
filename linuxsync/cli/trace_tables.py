"""trace_tables: the tables that report prints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from errno import errorcode
from typing import Any

from ..trace import Latency, Link, ProcessStatistics, Thread, TimelineStatistics, Waiter
from .table import Column, Table
from .text import duration, plain

__all__ = [
    "CHAIN",
    "CSV_COLUMNS",
    "PROCESSES",
    "TIMELINES",
    "WAITERS",
    "bars",
    "link_json",
    "print_csv",
    "process_json",
    "times_table",
    "who",
]

BAR = 40  # cells
EIGHTHS = " ▏▎▍▌▋▊▉"

Row = TimelineStatistics


def errors(row: Row) -> dict[str, int]:
    return {errorcode.get(number, str(number)): count for number, count in row.errors.items()}


def show_errors(found: dict[str, int]) -> str:
    """``EIO x4``; more than two sorts: how many more."""
    each = [f"{name} x{count}" for name, count in found.items()]
    return (", ".join(each[:2]) + (f" and {len(each) - 2} more" if len(each) > 2 else "")) or "-"


def show_rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}/s" if value < 1000 else f"{value:.0f}/s"


def thread_json(thread: Thread | None) -> dict[str, Any]:
    if thread is None:
        return {"tid": None, "comm": None, "pid": None, "process": None}
    return {"tid": thread.tid, "comm": thread.comm, "pid": thread.pid, "process": thread.process}


def waiters_json(row: Row) -> list[dict[str, Any]]:
    return [
        {
            **thread_json(one.thread),
            "waits": one.waits,
            "blocked_ns": one.blocked_ns,
            "longest_ns": one.longest_ns,
            "unfinished": one.unfinished,
        }
        for one in row.waiters
    ]


def who(thread: Thread) -> str:
    """A thread, and its process where that is another: ``compositor 301 of weston 300``."""
    if thread.pid is None or thread.pid == thread.tid:
        return f"{thread.comm} {thread.tid}"
    return f"{thread.comm} {thread.tid} of {thread.process or '?'} {thread.pid}"


def times_columns(prefix: str, what: str, of: Callable[[Row], Latency]) -> list[Column[Row]]:
    """The columns of one sort of times."""

    def number(name: str, words: str, attribute: str) -> Column[Row]:
        return Column(prefix + name, words, lambda row: getattr(of(row), attribute), duration, right=True, extra=True)

    def histogram(row: Row) -> list[dict[str, int]]:
        return [{"from": lower, "to": upper, "count": count} for lower, upper, count in of(row).histogram]

    return [
        number("MIN", f"the shortest time {what}", "min_ns"),
        number("P50", "the median: half of them took no longer", "p50_ns"),
        number("P90", "so long or less took 90 %", "p90_ns"),
        number("P99", "and 99 %", "p99_ns"),
        number("MAX", "the longest", "max_ns"),
        Column(
            prefix + "TIMES", "how many took how long; in JSON from, to, count", histogram, show_buckets, extra=True
        ),
    ]


def show_buckets(found: list[dict[str, int]]) -> str:
    """``2 ms: 40, 5 ms: 7``: what each begins with."""
    return ", ".join(f"{duration(one['from'])}: {one['count']}" for one in found if one["count"]) or "-"


DRIVER: Column[Row] = Column("DRIVER", "who made the fences", "driver")
TIMELINE: Column[Row] = Column("TIMELINE", "what they are points of; unbound: each of one of its own", "timeline")
CONTEXT: Column[Row] = Column("CONTEXT", "its number, the lower 32 bits", "context", right=True)

TIMELINES: Table[Row] = Table(
    "timelines",
    [
        DRIVER,
        TIMELINE,
        CONTEXT,
        Column("COUNT", "how many fences", "count", right=True),
        Column("RATE", "made in a second", "rate", show_rate, right=True),
        Column("NEVER", "of those, not signaled until the recording ended", "never", right=True),
        Column("ERRORS", "signaled with an error, where that is known", errors, show_errors),
        Column("WAITS", "how often somebody waited for one", lambda row: row.wait.count, right=True),
        Column("GONE", "of NEVER, how many were destroyed, so never will", "never_destroyed", right=True, extra=True),
        Column("BEFORE", "made before the recording", "born_before", right=True, extra=True),
        Column(
            "AMBIGUOUS", "perhaps taken for one another: only 32 bits are known", "ambiguous", right=True, extra=True
        ),
        Column("EXACT", "whose time of signaling is their own timestamp", "exact", right=True, extra=True),
        Column("SIGNALED", "made and signaled: in MIN to MAX", lambda row: row.init.count, right=True, extra=True),
        *times_columns("", "from init to signal; all times in JSON and CSV in ns", lambda row: row.init),
        Column("ENABLED", "in E_MIN to E_MAX", lambda row: row.enable.count, right=True, extra=True),
        *times_columns("E_", "from enable_signal to signal", lambda row: row.enable),
        *times_columns("W_", "of a wait", lambda row: row.wait),
        Column(
            "UNFINISHED",
            "of WAITS, not over when the recording ended; until then they count",
            lambda row: row.wait.unfinished,
            right=True,
            extra=True,
        ),
        Column(
            "WAITERS",
            "the threads that waited, and for how long",
            waiters_json,
            lambda found: (
                ", ".join(f"{one['comm']} {one['tid']}: {duration(one['blocked_ns'])}" for one in found) or "-"
            ),
            extra=True,
        ),
    ],
)

# What has several values in one cell is for JSON.
CSV_COLUMNS = [one for one in TIMELINES.columns.values() if one.name != "WAITERS" and not one.name.endswith("TIMES")]


def times_table(of: Callable[[Row], Latency]) -> Table[Row]:
    """A table of how long fences took."""
    return Table(
        "times",
        [
            DRIVER,
            TIMELINE,
            CONTEXT,
            Column("COUNT", "how many", lambda row: of(row).count, right=True),
            Column("P50", "the median", lambda row: of(row).p50_ns, duration, right=True),
            Column("P90", "90 %", lambda row: of(row).p90_ns, duration, right=True),
            Column("P99", "99 %", lambda row: of(row).p99_ns, duration, right=True),
            Column("MAX", "the longest", lambda row: of(row).max_ns, duration, right=True),
        ],
    )


WAITERS: Table[tuple[Row, Waiter]] = Table(
    "waiters",
    [
        Column("DRIVER", "whose fences", lambda pair: pair[0].driver),
        Column("TIMELINE", "which", lambda pair: pair[0].timeline),
        Column("CONTEXT", "its number", lambda pair: pair[0].context, right=True),
        Column("THREAD", "who waited", lambda pair: f"{pair[1].thread.comm} {pair[1].thread.tid}"),
        Column("WAITS", "how often", lambda pair: pair[1].waits, right=True),
        Column("BLOCKED", "for how long", lambda pair: pair[1].blocked_ns, duration, right=True),
        Column("LONGEST", "the longest", lambda pair: pair[1].longest_ns, duration, right=True),
    ],
)

PROCESSES: Table[ProcessStatistics] = Table(
    "processes",
    [
        Column("PID", "its number", "pid", right=True),
        Column("PROCESS", "its name", "name"),
        Column("MADE", "fences", "created", right=True),
        Column("SIGNALED", "fences", "signaled", right=True),
        Column("WAITS", "how many", "waits", right=True),
        Column("BLOCKED", "all its threads together", "blocked_ns", duration, right=True),
        Column("LONGEST", "wait", "longest_ns", duration, right=True),
    ],
)


def process_json(row: ProcessStatistics) -> dict[str, Any]:
    """A process as JSON has it."""
    longest = row.longest and {
        **thread_json(row.longest.thread),
        "call": row.longest.call,
        "start_ns": row.longest.start_ns,
        "end_ns": row.longest.end_ns,
        "fences": [fence.name for fence in row.longest.fences],
        "woken_by": row.longest.woken_by and row.longest.woken_by.name,
    }
    return {
        "pid": row.pid,
        "name": row.name,
        "tids": list(row.tids),
        "created": row.created,
        "signaled": row.signaled,
        "waits": row.waits,
        "unfinished": row.unfinished,
        "blocked_ns": row.blocked_ns,
        "longest_ns": row.longest_ns,
        "longest": longest,
    }


def link_json(link: Link) -> dict[str, Any]:
    """A link as JSON has it."""
    return {
        "from_ns": link.from_ns,
        "to_ns": link.to_ns,
        "what": link.what,
        "call": link.call,
        "fence": link.fence.name,
        "driver": link.fence.timeline.driver,
        "timeline": link.fence.timeline.name,
        **thread_json(link.who),
    }


def sentence(link: Link) -> str:
    """A link in words."""
    name, thread = link.fence.name, who(link.who) if link.who else "?"
    return {
        "merged": f"{name} followed the last of its inputs",
        "work": f"{thread} was at work, for {name}",
        "woken": f"{thread} woke up in {link.call} for {name}",
        "waited": f"{thread} was in {link.call} for {name}, which did not end that",
        "interrupt": f"a device or a timer, whose interrupt signaled {name}",
        "flip": f"{thread} went on with the commit, most likely, until the vblank that signaled {name}",
        "pending": f"{name} had not signaled when the recording ended",
        "unknown": f"not known what {name} waited for",
    }[link.what]


# Rows: since when the chain goes (ns), and a link.
CHAIN: Table[tuple[int, Link]] = Table(
    "chain",
    [
        Column(
            "AT", "since init", lambda pair: pair[1].from_ns - pair[0], lambda value: f"+{duration(value)}", right=True
        ),
        Column("FOR", "how long", lambda pair: pair[1].duration_ns, duration, right=True),
        Column("WHAT", "happened", lambda pair: sentence(pair[1])),
    ],
)


def bars(one: Latency) -> list[str]:
    """A histogram as lines, for people."""
    most = max(count for _, _, count in one.histogram)
    lines = []
    for lower, upper, count in one.histogram:
        # What is there is seen, however little.
        eighths = max(1, round(8 * BAR * count / most)) if count else 0
        bar = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
        lines.append(f"  {duration(lower):>7} to {duration(upper):>7} {count:>8}  {bar}".rstrip())
    return lines


def print_csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print rows for a spreadsheet, one a line whatever is in a name: that is escaped as in the tables."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(map(cell, row))


def cell(value: Any) -> Any:
    """A value as CSV has it: ``EIO:4 EINVAL:1`` for counts of several things, nothing for None."""
    if isinstance(value, dict):
        return " ".join(f"{name}:{count}" for name, count in value.items())
    return plain(value) if isinstance(value, str) else value
