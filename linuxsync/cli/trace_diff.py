"""linuxsync trace diff: what is slower in one recording than in another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..trace import Change, Chosen, Comparison, Spread, changes, compare
from .selection import Selection, selecting
from .table import Column, Output, Table
from .text import duration, plain
from .trace_file import Unusable, among, opened, recording_json, unseen, warn
from .trace_tables import print_csv

__all__ = ["diff"]

UNITS = {"us": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9, "d": 86400e9}
VERDICTS = ("slower", "faster", "same", "too few")
FOR_PEOPLE = Output(as_json=False, columns="", no_headings=False, raw=False)


def spread_json(one: Spread) -> dict[str, int | None]:
    return {"count": one.count, "p50": one.p50_ns, "spread": one.spread_ns}


def show_spread(found: dict[str, int | None]) -> str:
    """The median, and half the distance of the quartiles in its unit: ``4.52±0.29 ms``."""
    if found["p50"] is None or found["spread"] is None:
        return "-"
    number, unit = duration(found["p50"]).split(" ")
    return f"{number}±{found['spread'] / UNITS[unit]:.2g} {unit}"


def show_chance(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


TABLE: Table[Comparison] = Table(
    "comparisons",
    [
        Column("DRIVER", "who made the fences", "driver"),
        Column("TIMELINE", "what they are points of; those of one name are taken together", "timeline"),
        Column("SINCE", "init or enable: until the signal; wait: how long each wait for one was", "since"),
        Column(
            "A",
            "the median in A, ± half the distance of the quartiles; in JSON ns, and how many",
            lambda row: spread_json(row.a),
            show_spread,
            right=True,
        ),
        Column("B", "likewise in B", lambda row: spread_json(row.b), show_spread, right=True),
        Column(
            "RATIO",
            "B's median in A's",
            "ratio",
            lambda value: "-" if value is None else f"{value:.2f}",
            right=True,
        ),
        Column("VERDICT", "of B: slower, faster, same or too few", "verdict"),
        Column(
            "CHANCE", "how likely such a difference is by chance", "probability", show_chance, right=True, extra=True
        ),
    ],
)


def show_pair(found: tuple[int | None, int | None]) -> str:
    """``200``, ``1 -> 12``; a minus where a recording has no such timeline."""
    words = ["-" if one is None else str(one) for one in found]
    return words[0] if words[0] == words[1] else " -> ".join(words)


def where(row: Change) -> str:
    """Which recordings have it."""
    return "B" if row.count[0] is None else "A" if row.count[1] is None else "both"


COUNTS: Table[Change] = Table(
    "timelines",
    [
        Column("DRIVER", "who made the fences", "driver"),
        Column("TIMELINE", "what they are points of", "timeline"),
        Column("IN", "which recordings", where),
        Column("COUNT", "how many fences", "count", show_pair, right=True),
        Column("NEVER", "not signaled", "never", show_pair, right=True),
        Column("ERRORS", "signaled with an error", "errors", show_pair, right=True),
    ],
)
CSV_COLUMNS = [
    "driver",
    "timeline",
    "since",
    "count_a",
    "p50_a",
    "spread_a",
    "count_b",
    "p50_b",
    "spread_b",
    "ratio",
    "chance",
    "verdict",
]


@click.command(short_help="Say what is slower in one recording than in another", epilog=TABLE.help)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--fail-if-slower", is_flag=True, help="End with 1 if anything is slower in B.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, a line for each comparison, times in ns.")
@selecting
@TABLE.options
def diff(a: Path, b: Path, fail_if_slower: bool, as_csv: bool, selection: Selection, output: Output) -> None:
    """Say what is slower or faster in recording B than in A, and what only looks so.

    \b
    linuxsync trace diff before.trace after.trace
    linuxsync trace diff before.trace after.trace --driver i915 --fail-if-slower

    Fences of one driver whose timelines have one name are compared, as contexts differ from run to run: how long from
    init to signal, from enable_signal to signal, and each wait. "Slower" means both of two things: the median has grown
    by 5 % or more, and by the Mann-Whitney U test, which asks how often a time of B is longer than one of A, chance
    alone would do that less than once in 100 times. With fewer than 8 times in one of them nothing is said: "too few".
    "Same" also means that no difference can be told. A wait that was not over when a recording ended counts until then.
    Frames in a row are alike: many from one run say less than they seem to; compare several runs before you believe in
    a small difference.

    Fences that did not signal have no time: their numbers, and those of errors, stand in a table of their own, with the
    timelines that only one recording has.

    Exit status: 0; with --fail-if-slower 1 if anything is slower; 2 if a file can't be read.
    """
    only_table = bool(output.columns or output.no_headings or output.raw)
    if as_csv and (output.as_json or only_table):
        raise click.UsageError("--csv has all columns: not with -J, -o, -n or -r")
    TABLE.choose(output)  # what is wrong with -o is to be known before the files are read
    first, second = opened(a), opened(b)
    one, other = among(first, selection), among(second, selection)
    insist(one, other)
    rows = sorted(compare(one, other), key=lambda row: VERDICTS.index(row.verdict))
    counts = changes(one, other)
    if as_csv:
        print_csv(CSV_COLUMNS, map(as_cells, rows))
    elif output.as_json:
        more = {"timelines": [*map(change_json, counts)], "a": recording_json(first), "b": recording_json(second)}
        TABLE.print(rows, output, unseen(first, second), more)
    elif only_table:
        TABLE.print(rows, output)
    else:
        print_all(rows, counts)
    warn(first, a)
    warn(second, b)
    if fail_if_slower and any(row.verdict == "slower" for row in rows):
        sys.exit(1)


def insist(one: Chosen, other: Chosen) -> None:
    """See that at least one of the recordings has what is meant."""
    try:
        one.insist()
    except ValueError:
        try:
            other.insist()
        except ValueError as error:
            raise Unusable(f"in both recordings: {error}") from None


def as_cells(row: Comparison) -> list[Any]:
    """A comparison as CSV has it."""
    spreads = [value for one in (row.a, row.b) for value in (one.count, one.p50_ns, one.spread_ns)]
    return [row.driver, row.timeline, row.since, *spreads, row.ratio, row.probability, row.verdict]


def change_json(row: Change) -> dict[str, Any]:
    """Numbers of fences as JSON has them: of A, of B."""
    return {
        "driver": row.driver,
        "timeline": row.timeline,
        "in": where(row),
        "count": list(row.count),
        "never": list(row.never),
        "errors": list(row.errors),
    }


def print_all(rows: list[Comparison], counts: list[Change]) -> None:
    """Both tables, and what they come to."""
    if rows:
        TABLE.print(rows, FOR_PEOPLE)
        print()
    if counts:
        COUNTS.print(counts, FOR_PEOPLE)
        print()
    numbers = [(sum(row.verdict == verdict for row in rows), verdict) for verdict in VERDICTS]
    print(", ".join(f"{number} {verdict}" for number, verdict in numbers if number) or "nothing to compare")
    for row in counts:
        before, after = row.never
        if before is not None and after is not None and after > before:
            print(f"{plain(row.driver)} {plain(row.timeline)}: {after - before} more never signaled, and have no time")
