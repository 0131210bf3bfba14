"""trace_file: read a recording for a command, and say what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .. import trace as recordings
from ..inspect import Unseen
from ..trace import Chosen, Trace
from .failures import EXPECTED
from .selection import Selection
from .text import plain

__all__ = ["LOST", "Unusable", "among", "opened", "recording_json", "unseen", "warn"]


class Unusable(click.ClickException):
    """The recording can't be read, or has nothing of what was asked for; 1 may be an answer."""

    exit_code = 2


def opened(path: Path) -> Trace:
    """Read a recording."""
    try:
        return recordings.load(path)
    except recordings.TraceError as error:
        raise Unusable(f"{plain(str(path))}: {plain(str(error))}") from None
    except OSError as error:
        if error.errno in EXPECTED:
            raise
        raise Unusable(f"{plain(str(path))}: {error.strerror or error}") from None


def among(trace: Trace, selection: Selection) -> Chosen:
    """What the options mean of a recording."""
    return Chosen(
        trace,
        drivers=selection.drivers,
        timelines=selection.timelines,
        pids=selection.pids or (),
        comms=selection.comms,
    )


LOST = "the kernel threw them away before they were read, so that all numbers may be wrong; try a larger --buffer"


def unseen(*traces: Trace) -> list[Unseen]:
    """What the kernel threw away, for JSON."""
    lost = sum(trace.lost for trace in traces)
    return [Unseen("events", lost, LOST)] if lost else []


def warn(trace: Trace, path: Path) -> None:
    """Say on stderr what a recording lacks."""
    if trace.lost:
        print(f"linuxsync: {plain(str(path))}: {trace.lost} events lost: {LOST}", file=sys.stderr)
    for words in trace.damage:
        print(f"linuxsync: {plain(str(path))}: damaged: {plain(words)}", file=sys.stderr)


def recording_json(trace: Trace) -> dict[str, Any]:
    """A recording without what it has in it."""
    return {
        "kernel": trace.kernel,
        "machine": trace.machine,
        "command": trace.command,
        "start_ns": trace.start_ns,
        "end_ns": trace.end_ns,
        "wall_ns": trace.wall_ns,
        "events": trace.events,
        "lost": trace.lost,
        "damage": trace.damage,
        "syscalls": trace.syscalls,
        "probes": list(trace.probes),
        "fences": len(trace.fences),
        "timelines": len(trace.timelines),
        "waits": len(trace.waits),
    }
