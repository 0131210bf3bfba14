"""linuxsync leaks: which processes get more and more fences or buffers, and where they make them."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click

from ..inspect import FEWEST, Frame, Growth, Kind, Origin, Sample, Stacks, growth, moments, record_stacks, sample
from .endings import die_of, signals_held_back, wait
from .failures import EXPECTED
from .seconds import Seconds
from .selection import Selection, matches, selecting
from .table import Column, Output, Table
from .text import duration, plain

__all__ = ["leaks"]

COULD_NOT_TELL = 2


class Unable(click.ClickException):
    """It could not be measured."""

    exit_code = COULD_NOT_TELL


@dataclass(frozen=True)
class Line:
    """What grows, and where such things were made; None without --stacks."""

    growth: Growth
    origins: list[Origin] | None


def emfile(line: Line) -> str | float | None:
    return "ended" if line.growth.ended else line.growth.emfile_seconds


def show_emfile(value: str | float | None) -> str:
    """When there will be no more descriptors: ``in 3.2 min``."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"in {duration(int(value * 1e9))}" if value > 0 else "now"


def frame(one: Frame) -> dict[str, Any]:
    return {"function": one.function, "binary": one.binary, "offset": one.offset, "address": one.address}


def origins(line: Line) -> list[dict[str, Any]] | None:
    if line.origins is None:
        return None
    return [
        {
            "count": one.count,
            "made_by": one.made_by,
            "user": [frame(place) for place in one.user],
            "kernel": list(one.kernel),
        }
        for one in line.origins
    ]


def show_origins(found: list[dict[str, Any]] | None) -> str:
    """The ways in one line: ``304x ioctl < leak_here < render_frame``."""
    if found is None:
        return "-"
    ways = [(one["count"], [place["function"] or "?" for place in one["user"]] or one["kernel"]) for one in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(f"{count}x {' < '.join(names)}" for count, names in ways) + more or "none seen"


TABLE: Table[Line] = Table(
    "leaks",
    [
        Column("PID", "the process", lambda line: line.growth.sort.process.pid, right=True),
        Column("COMM", "its name", lambda line: line.growth.sort.process.comm),
        Column("UID", "its user", lambda line: line.growth.sort.process.uid, right=True, extra=True),
        Column("KIND", "what it has more and more descriptors of", lambda line: line.growth.sort.kind.value),
        Column(
            "DRIVER",
            "who made the fences, or exported the dma-bufs",
            lambda line: list(line.growth.sort.drivers),
            lambda value: ", ".join(value) or "-",
        ),
        Column(
            "TIMELINE",
            "what the fences are points of",
            lambda line: list(line.growth.sort.timelines),
            lambda value: ", ".join(value) or "-",
        ),
        Column("COUNT", "how many at the end", lambda line: line.growth.count, right=True),
        Column(
            "GROWTH",
            "how many more than at the start",
            lambda line: line.growth.growth,
            lambda value: f"{value:+d}",
            right=True,
        ),
        Column(
            "RATE",
            "a second, by the straight line through all samples",
            lambda line: line.growth.per_second,
            lambda value: f"{value:.3g}/s",
            right=True,
        ),
        Column("FDS", "all descriptors of the process", lambda line: line.growth.fds, right=True),
        Column("LIMIT", "how many it may have, RLIMIT_NOFILE", lambda line: line.growth.limit, right=True),
        Column(
            "EMFILE",
            "when it has that many if all go on growing as they do; in JSON seconds",
            emfile,
            show_emfile,
            right=True,
        ),
        Column("GROWS", "whether it keeps growing", lambda line: line.growth.grows, extra=True),
        Column("SAMPLES", "how often it was counted", lambda line: line.growth.samples, right=True, extra=True),
        Column("STACKS", "with --stacks: how often and where this kind was made", origins, show_origins, extra=True),
    ],
)


@click.command(short_help="Find processes that get more and more fences or buffers", epilog=TABLE.help)
@click.option("--interval", type=Seconds(0.05), default=1.0, metavar="S", help="Seconds between samples; 1.")
@click.option("--for", "lasting", type=Seconds(), metavar="S", help="Seconds to measure; 10 intervals.")
@click.option(
    "--alarm", type=click.IntRange(0), metavar="N", help="End with 1 when something has grown by more than N."
)
@click.option("--all", "show_all", is_flag=True, help="Also what does not grow.")
@click.option("--stacks", is_flag=True, help="Also where fences and buffers are made; takes root and tracefs.")
@selecting
@TABLE.options
def leaks(
    interval: float,
    lasting: float | None,
    alarm: int | None,
    show_all: bool,
    stacks: bool,
    selection: Selection,
    output: Output,
) -> None:
    """Find processes that get more and more fences or buffers, and say when they run out of descriptors.

    Descriptors of each process are counted by what they are: kind, driver and timeline. Such a number grows if, with
    the samples in three equal spans, even the lowest count of each span is above the highest of the span before (the
    two samples where spans meet may be equal): a steady number does not, one that goes up and down does not, one that
    went up once does not. Something that comes and goes more slowly than --for does: measure longer. Samples are taken
    at random moments, one in each interval.

    --stacks puts probes on the kernel's functions that make sync_files and dma-bufs, in a trace instance of its own,
    removed in the end. Of programs without frame pointers only the innermost function is known, and of one that calls
    ioctl(2) in a C library without them the caller is left out. Buffers may be seen twice: when one is made, and when
    a descriptor of it is.

    Ctrl-C ends it early and shows what was found until then. Exit status: 0 if nothing grows, 1 if something does, 2 if
    it could not be told. With --alarm N: 1 as soon as some process has more than N descriptors of one sort more than
    when it was first seen, which ends the measurement, else 0.
    """
    lasting = 10 * interval if lasting is None else lasting
    if math.ceil(lasting / interval) + 1 < FEWEST:
        raise click.UsageError(f"--for takes at least {FEWEST - 1} intervals: {(FEWEST - 1) * interval:g} s")
    TABLE.choose(output)  # what is wrong with -o is to be known before the measurement
    with ExitStack() as stack:
        endings = stack.enter_context(signals_held_back())
        recorded = stack.enter_context(recording(selection.pids)) if stacks else None
        samples, ended_by = measure(interval, lasting, alarm, selection, recorded, endings)
        made = None if recorded is None else recorded.origins()
    if ended_by in (signal.SIGTERM, signal.SIGHUP):
        die_of(ended_by)
    found = [one for one in growth(samples) if wanted(one, selection)]
    past = [one for one in found if alarm is not None and one.growth > alarm]
    short = len(samples) < FEWEST and not past
    shown = [one for one in found if show_all or one.grows or one in past or (short and one.growth > 0)]
    lines = [Line(one, None if made is None else of(one, made)) for one in shown]
    TABLE.print(lines, output, samples[-1].unseen)
    if made is not None and not output.as_json:
        print_stacks(lines)
    if recorded is not None and recorded.lost:
        print(f"linuxsync: at least {recorded.lost} stacks lost: measure with a shorter --interval", file=sys.stderr)
    if short:
        print(f"linuxsync: {len(samples)} samples, it takes {FEWEST} to tell what grows", file=sys.stderr)
        sys.exit(COULD_NOT_TELL)
    sys.exit(1 if (past if alarm is not None else any(one.grows for one in found)) else 0)


def measure(
    interval: float,
    lasting: float,
    alarm: int | None,
    selection: Selection,
    recorded: Stacks | None,
    endings: set[signal.Signals],
) -> tuple[list[Sample], signal.Signals | None]:
    """Take samples until it is time, an alarm or a signal, which is returned too."""
    samples: list[Sample] = []
    first: dict[tuple[int, int], Sample] = {}
    begun = time.monotonic()
    watched = sys.stderr.isatty() and lasting > 2
    try:
        for moment in moments(interval, lasting):
            if ended_by := wait(begun + moment - time.monotonic(), endings):
                return samples or [sample(selection.pids)], ended_by
            samples.append(sample(selection.pids))
            if selection.pids and not samples[0].starts:
                raise Unable(f"no process {', '.join(map(str, selection.pids))}")
            if recorded is not None:
                recorded.collect()
            if watched:
                print(f"\r{time.monotonic() - begun:.0f} of {lasting:g} s", end="", file=sys.stderr, flush=True)
            last = samples[-1]
            for process in last.starts.items():
                first.setdefault(process, last)
            if alarm is not None and any(one.growth > alarm for one in since(first, last) if wanted(one, selection)):
                break
    finally:
        if watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return samples, None


def since(first: dict[tuple[int, int], Sample], last: Sample) -> Iterator[Growth]:
    """How much of each sort a process has more than when it was first seen, without a look at what was in between."""
    processes = {(pid, last.starts[pid]) for pid in last.tables}
    for early in {id(first[process]): first[process] for process in processes}.values():
        for one in growth([early, last]):
            if first.get((one.sort.process.pid, one.start)) is early:
                yield one


@contextmanager
def recording(pids: Collection[int] | None) -> Iterator[Stacks]:
    """``record_stacks()``, with words for what it lacks."""
    try:
        with record_stacks(pids) as recorded:
            yield recorded
    except PermissionError as error:
        raise Unable(f"--stacks takes root, it puts probes into the kernel: {error.strerror}") from None
    except OSError as error:
        if error.errno in EXPECTED:
            raise
        raise Unable(f"--stacks: {error.strerror or error}") from None


def wanted(one: Growth, selection: Selection) -> bool:
    """Whether what it is about is meant."""
    return (
        matches(selection.comms, [one.sort.process.comm])
        and matches(selection.drivers, one.sort.drivers)
        and matches(selection.timelines, one.sort.timelines)
    )


def of(one: Growth, made: list[Origin]) -> list[Origin]:
    """Where the process has made what is of that kind."""
    return [
        origin
        for origin in made
        if (origin.pid, origin.start, origin.kind) == (one.sort.process.pid, one.start, one.sort.kind)
    ]


def print_stacks(lines: list[Line]) -> None:
    """For each process and kind the ways on which such things were made."""
    groups = {(line.growth.sort.process, line.growth.sort.kind): line.origins or [] for line in lines}
    for (process, kind), found in groups.items():
        if kind not in (Kind.SYNC_FILE, Kind.DMA_BUF):
            continue
        print(f"\n{plain(process.comm)} {process.pid}, {kind.value}:{'' if found else ' none was made meanwhile'}")
        for one in found:
            print(f"  {one.count} by {one.made_by} < {' < '.join(map(plain, one.kernel))}")
            for place in one.user:
                print(f"    {show_frame(place)}")
            if len(one.user) == 1:
                print("    (no frame pointers: its callers are not known)")


def show_frame(place: Frame) -> str:
    """``leak_here (/usr/bin/compositor+0x11c2)``."""
    if place.binary is None or place.offset is None:
        return f"{place.address:#x}"
    where = f"{plain(place.binary)}+{place.offset:#x}"
    return where if place.function is None else f"{plain(place.function)} ({where})"
