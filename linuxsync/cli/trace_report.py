"""linuxsync trace report: how long the fences of a recording took, who waited, and why the slowest was so slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..trace import (
    Chosen,
    Fence,
    Latency,
    Link,
    ProcessStatistics,
    TimelineStatistics,
    Trace,
    Wait,
    critical_chain,
    process_statistics,
    slowest,
    timeline_statistics,
)
from .selection import Selection, matches, selecting
from .table import Output, Table
from .text import duration, plain
from .trace_file import LOST, Unusable, among, opened, recording_json, unseen, warn
from .trace_record import USUAL
from .trace_tables import (
    CHAIN,
    CSV_COLUMNS,
    PROCESSES,
    TIMELINES,
    WAITERS,
    bars,
    link_json,
    print_csv,
    process_json,
    times_table,
    who,
)

__all__ = ["report"]

MOST_LINKS = 40  # that are printed
FOR_PEOPLE = Output(as_json=False, columns="", no_headings=False, raw=False)
SINCE: dict[str, Callable[[TimelineStatistics], Latency]] = {
    "From init to signal": lambda row: row.init,
    "From enable_signal to signal": lambda row: row.enable,
    "Waits": lambda row: row.wait,
}
Row = TypeVar("Row")


@click.command(short_help="Say how long fences took, who waited, and why", epilog=TIMELINES.help)
@click.argument("file", type=click.Path(path_type=Path), default=USUAL)
@click.option("--histogram", is_flag=True, help="Also draw how many took how long.")
@click.option("--chain", metavar="NAME", help="Explain this fence, or the slowest of this timeline (* and ? match).")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, a line for each timeline, times in ns.")
@selecting
@TIMELINES.options
def report(file: Path, histogram: bool, chain: str | None, as_csv: bool, selection: Selection, output: Output) -> None:
    """Say how long the fences of a recording took, who waited for them, and why the slowest took so long.

    \b
    linuxsync trace report                                   what record wrote, linuxsync.trace
    linuxsync trace report FILE --timeline 'CRTC*' --histogram
    linuxsync trace report FILE --chain sw_sync-frames7-42
    linuxsync trace report FILE --json | jq '.timelines[] | {timeline, p99}'
    linuxsync trace report FILE -o timeline,count,p50,p99,max

    A percentile is the shortest time such that at least so many percent took no longer, and always one that was really
    taken. A wait that was not over when the recording ended counts until then. --pid and --comm mean fences that such a
    process made, and waits of it.

    Last comes the critical chain of the slowest fence: what its signal waited for, link by link, from when it was made;
    together they are all of that time. A fence that is made of others waits for the last of them; a thread that signals
    one waited for what its last wait was for. Beyond an interrupt nothing is known, but for a flip of KMS.

    With -o, -n or -r only the table of the timelines is printed. --json has everything, and histograms too.

    Exit status: 0, also where events were lost or the file is damaged, which stands at the top and on stderr; 2 if it
    can't be read or has nothing of that name.
    """
    only_table = bool(output.columns or output.no_headings or output.raw)
    if as_csv and (output.as_json or only_table):
        raise click.UsageError("--csv has all columns: not with -J, -o, -n or -r")
    if (as_csv or (only_table and not output.as_json)) and (histogram or chain is not None):
        raise click.UsageError("--histogram and --chain are not with --csv, nor with -o, -n or -r")
    TIMELINES.choose(output)  # what is wrong with -o is to be known before the file is read
    trace = opened(file)
    try:
        chosen = among(trace, selection).insist()
    except ValueError as error:
        raise Unusable(f"{plain(str(file))}: {error}") from None
    rows = timeline_statistics(trace, chosen)
    if as_csv:
        print_csv([one.name.lower() for one in CSV_COLUMNS], ([one.of(row) for one in CSV_COLUMNS] for row in rows))
    elif only_table and not output.as_json:
        TIMELINES.print(rows, output)
    else:
        fence = slowest(trace, chosen) if chain is None else named(chosen, chain)
        links = [] if fence is None else critical_chain(trace, fence)
        processes = process_statistics(trace, chosen)
        if output.as_json:
            TIMELINES.print(rows, output, unseen(trace), as_json(trace, processes, fence, links))
        else:
            print_head(trace)
            print_timelines(rows, histogram)
            print_processes(processes)
            print_chain(fence, links)
    warn(trace, file)


def named(chosen: Chosen, name: str) -> Fence:
    """The fence of that name, or the slowest of the timelines of that name; one that never signaled if none has."""
    fences = [fence for one in chosen.timelines for fence in chosen.fences_of(one) if fence.name == name]
    if not fences:
        timelines = [one for one in chosen.timelines if matches((name,), [one.name])]
        fences = [fence for one in timelines for fence in chosen.fences_of(one)]
    if not fences:
        there = ", ".join(plain(one) for one in sorted({one.name for one in chosen.timelines})[:20])
        raise Unusable(f"no fence and no timeline is called {plain(name)}; timelines are {there or 'none'}")
    return slowest(chosen.trace, fences=fences) or fences[0]


def as_json(trace: Trace, processes: list[ProcessStatistics], fence: Fence | None, links: list[Link]) -> dict[str, Any]:
    """What JSON has besides the timelines."""
    chain = fence and {
        "fence": fence.name,
        "driver": fence.timeline.driver,
        "timeline": fence.timeline.name,
        "init_ns": fence.init_ns,
        "signal_ns": fence.signal_ns,
        "links": [*map(link_json, links)],
    }
    return {"recording": recording_json(trace), "processes": [*map(process_json, processes)], "chain": chain}


def print_head(trace: Trace) -> None:
    """What was recorded; first what is wrong with it."""
    if trace.lost:
        print(f"LOST: {trace.lost:,} events: {LOST}.")
    for words in trace.damage:
        print(f"DAMAGED: {plain(words)}")
    if trace.command:
        print(plain(trace.command))
    where = f"Linux {plain(trace.kernel or '?')}{f' on {plain(trace.machine)}' if trace.machine else ''}"
    print(
        f"{where}, {duration(trace.end_ns - trace.start_ns)}, {counted(trace.events, 'event')}:\n"
        f"{counted(len(trace.fences), 'fence')} on {counted(len(trace.timelines), 'timeline')},"
        f" {counted(len(trace.waits), 'wait')}"
    )
    if "signal" not in trace.probes:
        print("Without a probe: times of signals are those of tracepoints, a little later, and errors are not known")
    guessed = sum(fence.guessed for fence in trace.fences)
    if guessed:
        print(f"Without a probe: what {counted(guessed, 'fence')} is made of is guessed, from what it enabled")


def counted(number: int, what: str) -> str:
    """``1 fence``, ``2,000 fences``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def titled(title: str, table: Table[Row], rows: Sequence[Row]) -> None:
    """A table below its title; nothing if it would be empty."""
    if rows:
        print(f"\n{title}:")
        table.print(rows, FOR_PEOPLE)


def print_timelines(rows: list[TimelineStatistics], histogram: bool) -> None:
    """What happened on each."""
    titled("Timelines", TIMELINES, rows)
    for title, of in SINCE.items():
        titled(title, times_table(of), [row for row in rows if of(row).count])
        for row in rows if histogram else ():
            if of(row).count:
                context = "" if row.context is None else f" {row.context}"
                print("\n".join(["", f"{plain(row.driver)} {plain(row.timeline)}{context}:", *bars(of(row))]))
    titled("Who waited", WAITERS, [(row, one) for row in rows for one in row.waiters])


def print_processes(processes: list[ProcessStatistics]) -> None:
    """What each did, and the longest wait of all."""
    titled("Processes", PROCESSES, processes)
    longest = max((one for one in processes if one.longest), key=lambda one: one.longest_ns or 0, default=None)
    if longest is not None and longest.longest is not None:
        print(f"Longest wait: {duration(longest.longest_ns)}, {plain(in_words(longest.longest))}")
    if unfinished := sum(one.unfinished for one in processes):
        print(f"{counted(unfinished, 'wait')} not over when the recording ended, and counted until then.")


def in_words(wait: Wait) -> str:
    """A wait: ``compositor 301 of weston 300 in poll for sw_sync-frames7-42``."""
    fences = [wait.woken_by] if wait.woken_by else wait.fences
    about = f" for {fences[0].name}" if fences else ""
    more = f" and {len(fences) - 1} more" if len(fences) > 1 else ""
    return f"{who(wait.thread)} in {wait.call}{about}{more}"


def print_chain(fence: Fence | None, links: list[Link]) -> None:
    """Why a fence was late."""
    if fence is None:
        return
    if fence.signal_ns is None:
        words = "has not signaled"
    elif fence.init_ns is None:
        words = "was made before the recording"
    else:
        words = f"took {duration(fence.latency_ns)}"
    print(f"\nWhy {plain(fence.name)} {words}:")
    rows = [(links[0].from_ns, link) for link in links]
    if len(rows) > MOST_LINKS:
        print(f"(the first and last {MOST_LINKS // 2} of {len(rows):,} links; --json has all)")
        rows[MOST_LINKS // 2 : -(MOST_LINKS // 2)] = []
    CHAIN.print(rows, FOR_PEOPLE)
