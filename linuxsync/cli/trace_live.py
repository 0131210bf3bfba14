"""linuxsync trace live: what happens to fences, a line each, as it happens."""

from __future__ import annotations

import json
import signal
import sys
import time
from errno import errorcode
from typing import Any

import click

from ..trace import EVERY, Seen, live_events
from .endings import die_of, signals_held_back, wait
from .seconds import Seconds
from .selection import matches
from .text import duration, plain
from .trace_record import explained

__all__ = ["live"]

AT_ONCE = 256  # events

EPILOG = """\b
Examples:
  linuxsync trace live
  linuxsync trace live --timeline 'frames*' --event signaled
  linuxsync trace live --driver dma_fence_array --json | jq .inputs
"""


@click.command(short_help="Print what happens to fences, as it happens", epilog=EPILOG)
@click.option("--for", "lasting", type=Seconds(0.05), metavar="S", help="Seconds to watch; until Ctrl-C.")
@click.option("--pid", "pids", type=click.IntRange(1), multiple=True, help="Only what this process does, and signals.")
@click.option("--comm", "comms", metavar="NAME", multiple=True, help="Only threads of this name (* and ? match).")
@click.option("--driver", "drivers", metavar="NAME", multiple=True, help="Only fences of this driver (* and ? match).")
@click.option("--timeline", "timelines", metavar="NAME", multiple=True, help="Only of this timeline (* and ? match).")
@click.option("--event", "events", metavar="NAME", multiple=True, help="Only init, signaled, ... (* and ? match).")
@click.option("-J", "--json", "as_json", is_flag=True, help="A JSON object a line.")
def live(
    lasting: float | None,
    pids: tuple[int, ...],
    comms: tuple[str, ...],
    drivers: tuple[str, ...],
    timelines: tuple[str, ...],
    events: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what happens to fences as it happens, one line each: what strace(1) is for system calls.

    A line has the seconds of CLOCK_MONOTONIC, the thread, what happened, and the fence as driver, timeline and
    CONTEXT:SEQNO. Events are init, emit, enable_signal (somebody wants to know of its signal), signaled, destroy,
    wait_start and wait_end (of waits inside the kernel); inc, of a sw_sync timeline; vblank; those of gpu_scheduler.
    An interrupt runs in the place of whichever thread it found. Where events were lost a line says so.

    It takes root. Lines come in order, up to a tenth of a second late, or later where they come faster than
    they can be printed. Ctrl-C ends it.
    """
    begun = time.monotonic()
    came, lost = None, 0
    with signals_held_back() as endings, explained(), live_events(pids or None) as watched:
        while came is None and (lasting is None or time.monotonic() - begun < lasting):
            came = wait(EVERY, endings)
            for number, seen in enumerate(watched.read()):
                if number and number % AT_ONCE == 0:  # then whoever ends it has seen enough
                    came = came or wait(0, endings)
                    if came is not None:
                        break
                if (
                    matches(comms, [seen.comm])
                    and matches(drivers, [seen.driver or ""])
                    and matches(timelines, [seen.timeline or ""])
                    and matches(events, [seen.event])
                ):
                    print(json.dumps(as_object(seen)) if as_json else line(seen))
            lost, before = watched.lost(), lost
            if lost > before:
                gap = Seen(time.monotonic_ns(), 0, "", "lost", more={"events": lost - before})
                print(json.dumps(as_object(gap)) if as_json else line(gap))
            sys.stdout.flush()
    if lost:
        print(f"linuxsync: {lost:,} events lost, they came faster than they could be printed", file=sys.stderr)
    if came in (signal.SIGTERM, signal.SIGHUP):
        die_of(came)


def as_object(seen: Seen) -> dict[str, Any]:
    """What JSON has."""
    return {
        "ns": seen.ns,
        "tid": seen.tid,
        "comm": seen.comm,
        "event": seen.event,
        "driver": seen.driver,
        "timeline": seen.timeline,
        "context": seen.context,
        "seqno": seen.seqno,
        "since_init_ns": seen.since_init_ns,
        "error": seen.error,
        "inputs": [{"context": context, "seqno": seqno} for context, seqno in seen.inputs],
        "more": seen.more,
    }


def line(seen: Seen) -> str:
    """A line for people."""
    who = f"{plain(seen.comm)}/{seen.tid}"
    parts = []
    if seen.driver is not None:
        numbers = "" if seen.context is None else f" {seen.context}:{seen.seqno}"
        parts.append(f"{plain(seen.driver)} {plain(seen.timeline or '')}{numbers}")
    parts += [f"{name}={plain(str(value))}" for name, value in seen.more.items()]
    if seen.inputs:
        parts.append("of " + " ".join(f"{context}:{seqno}" for context, seqno in seen.inputs))
    if seen.since_init_ns is not None:
        parts.append(f"+{duration(seen.since_init_ns)}")
    if seen.error is not None:
        parts.append(f"error {errorcode.get(seen.error, seen.error)}")
    return f"{seen.ns // 1000 / 1e6:14.6f}  {who:<22} {seen.event:<13} {'  '.join(parts)}"
