"""linuxsync trace export: a recording as a page, as a picture, or as what other tools open."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..trace import Fence, Thread, Trace
from ..trace.page import html
from ..trace.part import part
from ..trace.svg import svg
from .files import Unmade, put
from .seconds import Seconds
from .selection import Selection, matches, selecting
from .text import plain
from .trace_file import opened, warn
from .trace_record import USUAL

__all__ = ["export"]

EXAMPLES = """\b
Examples:
  linuxsync trace record -o run.trace -- kmscube
  linuxsync trace export run.trace --html run.html
  linuxsync trace export run.trace --svg slow.svg --from 1.2 --to 1.3
  linuxsync trace export run.trace --html - --driver sw_sync > sw_sync.html
  linuxsync trace export run.trace --perfetto run.pftrace
"""
QUIET_SECONDS = 2.0


@click.command(short_help="Make a page, a picture, or a file for Perfetto", epilog=EXAMPLES)
@click.argument("file", metavar="[FILE]", type=click.Path(), default=USUAL)
@click.option("--html", "page", metavar="OUT", help="One page for a browser, which needs no network and no other file.")
@click.option("--svg", "picture", metavar="OUT", help="A picture, for a report or an issue.")
@click.option("--perfetto", "protos", metavar="OUT", help="A trace that https://ui.perfetto.dev opens.")
@click.option("--from", "first", type=Seconds(), metavar="S", help="Only what was later, in seconds since the start.")
@click.option("--to", "last", type=Seconds(), metavar="S", help="Only what was earlier.")
@selecting
def export(
    file: str,
    page: str | None,
    picture: str | None,
    protos: str | None,
    first: float | None,
    last: float | None,
    selection: Selection,
) -> None:
    """Make of a recording what people look at, and what other tools open.

    --html is a page to zoom and search in, with keyboard and mouse: press ? in it. A click on a fence lights up what it
    is made of, what is made of it and who waits for it. --svg is one picture of the same: what would be narrower than a
    pixel is drawn as one, so choose a span with --from and --to to see single fences. Without these both
    begin where there is something; the page has the rest, too. --perfetto is for Perfetto's own tools. "-" is stdout.
    FILE is linuxsync.trace, if none is given.

    A process is meant with the fences that it made, signaled or waited for, a fence with all waits for it; the rest is
    left out, and what the output says of inputs counts those, too. A file that is there is replaced, whole or not at
    all.
    """
    outputs = [("--html", page), ("--svg", picture), ("--perfetto", protos)]
    given = [(option, path) for option, path in outputs if path is not None]
    if not given:
        raise click.UsageError("say what to make: --html OUT, --svg OUT or --perfetto OUT")
    if len({path for _, path in given}) < len(given):
        raise click.UsageError(f"{' and '.join(option for option, _ in given)} take a file each")
    if first is not None and last is not None and first >= last:
        raise click.UsageError(f"--from {first:g} is not before --to {last:g}")
    as_protos = to_protos() if protos is not None else None
    with said(f"reading {plain(file)}"):
        whole = opened(Path(file))
        trace = chosen(whole, selection, first, last)
    warn(whole, Path(file))
    about = described(selection, first, last)
    if page is not None:
        with said(f"writing {plain(page)}"):
            put(page, html(trace, about).encode())
    if picture is not None:
        with said(f"writing {plain(picture)}"):
            put(picture, svg(trace, whole=first is not None or last is not None).encode())
    if protos is not None and as_protos is not None:
        with said(f"writing {plain(protos)}"):
            put(protos, as_protos(trace))


def to_protos() -> Callable[[Trace], bytes]:
    """What makes Perfetto's protos, before anything is read: its package may be missing."""
    try:
        from ..trace.perfetto import perfetto  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("perfetto", "google"):
            raise
        raise Unmade("--perfetto takes the Python package perfetto: pip install 'linuxsync[perfetto]'") from None
    return perfetto  # type: ignore[no-any-return,unused-ignore]


def chosen(trace: Trace, selection: Selection, first: float | None, last: float | None) -> Trace:
    """What is meant of it; all of it as it is."""

    def fence(one: Fence) -> bool:
        return matches(selection.drivers, [one.timeline.driver]) and matches(selection.timelines, [one.timeline.name])

    def thread(one: Thread) -> bool:
        number = selection.pids is None or (one.tid if one.pid is None else one.pid) in selection.pids
        return number and matches(selection.comms, [one.comm] if one.process is None else [one.comm, one.process])

    by_thread = selection.pids is not None or bool(selection.comms)
    if not (by_thread or selection.by_fence) and first is None and last is None:
        return trace
    return part(
        trace,
        fence if selection.by_fence else None,
        thread if by_thread else None,
        None if first is None else trace.start_ns + round(first * 1e9),
        None if last is None else trace.start_ns + round(last * 1e9),
    )


def described(selection: Selection, first: float | None, last: float | None) -> str:
    """What part of the recording it is, in words; empty: all."""
    words = [f"pid {pid}" for pid in selection.pids or ()]
    words += [*selection.comms, *selection.drivers, *selection.timelines]
    if first is not None or last is not None:
        words.append(f"{0 if first is None else first:g} s to {'the end' if last is None else f'{last:g} s'}")
    return f"only {', '.join(words)}" if words else ""


@contextmanager
def said(words: str) -> Iterator[None]:
    """Say on a terminal's stderr what is being done, once that takes long."""
    if not os.isatty(2):
        yield
        return
    done, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        if done.wait(QUIET_SECONDS):
            return
        while not done.wait(0.5):
            print(f"\rlinuxsync: {words}, {time.monotonic() - begun:.0f} s", end="", file=sys.stderr, flush=True)
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
