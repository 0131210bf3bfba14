"""A recording as one HTML page that needs nothing else: no network, no other file.

What the browser runs is in the folder page/, in files that are put together here. The recording comes as JSON, column
by column, so that 100,000 fences are a few megabytes. Its names are somebody else's choice: what a browser might obey
or hide is escaped, as on a terminal, and no character is left that could end the JSON or be HTML.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from errno import errorcode
from pathlib import Path
from typing import Any

from .._text import plain
from .model import Fence, Thread, Timeline, Trace, Wait
from .tracks import Track, fence_span, fence_tracks, pale_until, span_of_interest, telling, wait_span, wait_tracks

__all__ = ["began", "html"]

PARTS = Path(__file__).with_name("page")
# In this order: each uses what is above it.
SCRIPTS = ("data", "layout", "view", "words", "search", "paint", "axis", "draw", "details", "input", "main")
LARGEST = 2**53  # what JavaScript's numbers hold exactly is below
# Of one fence; page/data.js reads them.
BORN_BEFORE, EXACT, IN_IRQ, GUESSED, AMBIGUOUS = 1, 2, 4, 8, 16


def html(trace: Trace, part: str = "") -> str:
    """A page with all of a recording, to be written as UTF-8.

    Args:
        part: what of the recording this is, if it is not all of it; in words.
    """
    style = (PARTS / "style.css").read_text()
    scripts = "\n".join((PARTS / f"{name}.js").read_text() for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}}})();\n'
    # No part of the page may be loaded from anywhere, and only these two texts are style and program.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, "style": style, "script": script, "data": embedded(columns(trace, part))}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], (PARTS / "page.html").read_text())


def digest(text: str) -> str:
    """What a content security policy calls a text by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(data: Any) -> str:
    """JSON that may stand inside of <script>: ASCII, without a character that is one of HTML's."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def began(trace: Trace) -> str:
    """When a recording began: ``2023-11-14 22:13:25 UTC``; empty if that is not known."""
    if not trace.wall_ns:
        return ""
    try:
        moment = datetime.datetime.fromtimestamp((trace.wall_ns + trace.start_ns) // 10**9, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):  # no year that people have
        return ""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


class Numbers:
    """A number for each thing that was asked for, from 0, and the things."""

    def __init__(self, things: Iterable[Any] = ()) -> None:
        self.things = list(things)
        self._numbers = {id(thing): number for number, thing in enumerate(self.things)}

    def of(self, thing: Any) -> int | None:
        """That of a thing, which gets one if it has none; None for None."""
        if thing is None:
            return None
        number = self._numbers.setdefault(id(thing), len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number

    def known(self, things: Iterable[Any]) -> list[int]:
        """Those of things that have one, each once."""
        return list(dict.fromkeys(self._numbers[id(thing)] for thing in things if id(thing) in self._numbers))


def columns(trace: Trace, part: str) -> dict[str, Any]:
    """What the page gets. Times are ns since the start, and those of a fence or wait since its own start.

    Fences are in the order of timelines, lanes and starts, waits likewise, so that a lane is a range of them.
    """
    timelines, threads, tell = fence_tracks(trace), wait_tracks(trace), telling(trace)
    fences = Numbers(fence for track in timelines for lane in track.lanes for fence in lane)
    waits = [wait for track in threads for lane in track.lanes for wait in lane]
    people = Numbers(trace.threads.values())
    errors = sorted({fence.error for fence in fences.things if fence.error is not None})
    return {
        "about": {
            "kernel": plain(trace.kernel),
            "machine": plain(trace.machine),
            "command": plain(trace.command),
            "began": began(trace),
            "duration": max(0, trace.end_ns - trace.start_ns),
            "shown": [at - trace.start_ns for at in span_of_interest(trace)],
            "events": trace.events,
            "lost": trace.lost,
            "damage": [plain(one) for one in trace.damage],
            "syscalls": trace.syscalls,
            "part": plain(part),
        },
        "timelines": [timeline_row(trace, track, id(track.owner) in tell) for track in timelines],
        "waiters": [[people.of(track.owner), list(map(len, track.lanes))] for track in threads],
        "fences": fence_columns(trace, fences, people),
        "waits": wait_columns(trace, waits, fences, people),
        "marks": mark_tracks(trace),
        "errors": {str(error): [errorcode.get(error, str(error)), os.strerror(error)] for error in errors},
        "threads": [thread_row(thread) for thread in people.things],
    }


def timeline_row(trace: Trace, track: Track[Timeline, Fence], tells: bool) -> list[Any]:
    """Driver, name, context or null, how many fences each lane has; times of INC, values before; whether it tells."""
    owner = track.owner
    values = sorted(owner.values)
    return [
        plain(owner.driver),
        plain(owner.name),
        exact(owner.context),
        list(map(len, track.lanes)),
        steps(at - trace.start_ns for at, _ in values),
        [exact(value) for _, value in values],
        tells,
    ]


def thread_row(thread: Thread) -> list[Any]:
    return [thread.tid, plain(thread.comm), thread.pid, None if thread.process is None else plain(thread.process)]


def fence_columns(trace: Trace, fences: Numbers, people: Numbers) -> dict[str, Any]:
    """Each attribute of all fences; what few have as pairs of number and value."""
    all_of_them: Sequence[Fence] = fences.things
    starts = [fence_span(trace, fence)[0] for fence in all_of_them]
    both = list(zip(all_of_them, starts, strict=True))
    pale = pale_until(trace)
    return {
        "count": len(all_of_them),
        "start": steps(start - trace.start_ns for start in starts),
        "emit": column(since(start, fence.emit_ns) for fence, start in both),
        "enable": column(since(start, fence.enable_ns) for fence, start in both),
        "pale": column(pale[id(fence)] - start for fence, start in both),
        "signal": column(since(start, fence.signal_ns) for fence, start in both),
        "destroy": column(since(start, fence.destroy_ns) for fence, start in both),
        "context": column(exact(fence.context) for fence in all_of_them),
        "seqno": column(exact(fence.seqno) for fence in all_of_them),
        "creator": column(people.of(fence.creator) for fence in all_of_them),
        "signaler": column(people.of(fence.signaler) for fence in all_of_them),
        "flags": column(flags(fence) for fence in all_of_them),
        "error": [[at, one.error] for at, one in enumerate(all_of_them) if one.error is not None],
        "twins": [[at, one.twins] for at, one in enumerate(all_of_them) if one.twins],
        "inputs": [[at, *fences.known(one.inputs)] for at, one in enumerate(all_of_them) if one.inputs],
        "input_count": [[at, one.input_count] for at, one in enumerate(all_of_them) if one.input_count is not None],
    }


def wait_columns(trace: Trace, waits: Sequence[Wait], fences: Numbers, people: Numbers) -> dict[str, Any]:
    """Each attribute of all waits."""
    calls = list(dict.fromkeys(wait.call for wait in waits))
    number = {call: at for at, call in enumerate(calls)}
    return {
        "count": len(waits),
        "start": steps(wait_span(trace, wait)[0] - trace.start_ns for wait in waits),
        "end": column(wait.duration_ns for wait in waits),
        "thread": column(people.of(wait.thread) for wait in waits),
        "call": column(number[wait.call] for wait in waits),
        "calls": [plain(call) for call in calls],
        "fences": [fences.known(wait.fences) for wait in waits],
        "woken_by": column(next(iter(fences.known([wait.woken_by])), None) for wait in waits),
    }


def mark_tracks(trace: Trace) -> list[Any]:
    """What happens at a moment: sort, name, times, and a text for each or for all."""
    crtcs: dict[int, list[tuple[int, str]]] = {}
    for vblank in trace.vblanks:
        crtcs.setdefault(vblank.crtc, []).append((vblank.ns, str(vblank.sequence)))
    kinds: dict[str, list[tuple[int, str]]] = {}
    for event in trace.others:
        told = ", ".join(f"{plain(key)}={plain(str(value))}" for key, value in event.fields.items())
        who = f"{plain(event.thread.comm)} {event.thread.tid}"
        kinds.setdefault(event.name, []).append((event.ns, f"{told}; {who}" if told else who))
    found = [("vblank", f"CRTC {crtc}", marks) for crtc, marks in sorted(crtcs.items())]
    found += [("event", plain(name), marks) for name, marks in kinds.items()]
    return [
        [sort, name, steps(at - trace.start_ns for at, _ in sorted(marks)), column(text for _, text in sorted(marks))]
        for sort, name, marks in found
    ]


def flags(fence: Fence) -> int:
    return (
        BORN_BEFORE * (fence.init_ns is None)
        + EXACT * fence.exact
        + IN_IRQ * fence.signaled_in_irq
        + GUESSED * fence.guessed
        + AMBIGUOUS * fence.ambiguous
    )


def since(start: int, at: int | None) -> int | None:
    return None if at is None else at - start


def exact(number: int | None) -> int | str | None:
    """A number that JavaScript would round as a text."""
    return number if number is None or abs(number) < LARGEST else str(number)


def steps(numbers: Iterable[int]) -> list[int]:
    """Each as what it is more than the one before: shorter than a time."""
    before, found = 0, []
    for number in numbers:
        found.append(number - before)
        before = number
    return found


def column(values: Iterable[Any]) -> Any:
    """A list; where all are the same the value alone."""
    found = list(values)
    return found[0] if found and all(one == found[0] for one in found) else found
