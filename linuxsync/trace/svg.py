"""A recording as one picture, for a report or an issue. Its size is bounded, however many fences there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from errno import errorcode
from html import escape
from typing import Any

from .._text import duration, plain
from .model import Fence, Thread, Trace, Wait
from .page import began
from .svg_style import HUES, definitions, style
from .tracks import fence_span, fence_tracks, pale_until, span_of_interest, wait_span, wait_tracks

__all__ = ["svg"]

LEAST_WIDTH = 480
GUTTER, MARGIN, LANE, GAP, MARKS = 200, 14, 17, 10, 9
TIMELINES, WAITERS, LANES = 24, 12, 10  # of more the rest is left out, and said to be
ELEMENTS = 6000  # of more the picture is coarser
CHARACTER = 6.4  # pixels of one in the small font, on average, rather more than less
LINKS = 80  # arrows; of more none is drawn, they would hide the fences


@dataclass(slots=True)
class Row:
    """A track as it is drawn: its name, what is in its lanes, and moments."""

    title: str
    detail: str
    colour: str
    lanes: Sequence[Sequence[Fence | Wait]]
    marks: list[int] = field(default_factory=list)
    rest: str = ""
    top: float = 0.0

    @property
    def height(self) -> float:
        """With what is below its lanes."""
        below = MARKS * (bool(self.marks) and bool(self.lanes)) + 14 * bool(self.rest)
        return max(30, LANE * len(self.lanes) + below) + GAP


def svg(trace: Trace, width: int = 1280, whole: bool = False) -> str:
    """A picture of a recording, to be written as UTF-8.

    What is narrower than a pixel is drawn as one bar with its neighbours, which says how many they are. Of many tracks
    and lanes the first are drawn, and a line says how many are not.

    Args:
        width: in pixels, at least 480.
        whole: draw its time from start to end, even if there is something in a small part of it alone.
    """
    pixels = 1.0
    while True:
        picture = Picture(trace, max(LEAST_WIDTH, width), pixels, whole)
        text = picture.drawn()
        if picture.elements <= ELEMENTS or pixels > width:
            return text
        pixels *= 2


def rows_of(trace: Trace) -> tuple[list[Row], list[str]]:
    """The tracks that are drawn, and what is said of the others."""
    timelines, waiters = fence_tracks(trace), wait_tracks(trace)
    drivers = list(dict.fromkeys(track.owner.driver for track in timelines))
    rows, left = [], []
    crtcs: dict[int, list[int]] = {}
    for vblank in trace.vblanks:
        crtcs.setdefault(vblank.crtc, []).append(vblank.ns)
    for crtc, marks in sorted(crtcs.items())[:4]:
        rows.append(Row(f"CRTC {crtc}", "vblank", "muted", [], marks))
    for of_fences in timelines[:TIMELINES]:
        owner = of_fences.owner
        detail = owner.driver if owner.context is None else f"{owner.driver}, context {owner.context}"
        colour = f"h{drivers.index(owner.driver) % HUES}"
        rest = rest_of(of_fences.lanes, "fences")
        rows.append(Row(owner.name, detail, colour, of_fences.lanes[:LANES], [at for at, _ in owner.values], rest))
    for of_waits in waiters[:WAITERS]:
        thread = of_waits.owner
        detail = "waits" if thread.pid is None else f"waits, in {thread.process or '?'} {thread.pid}"
        rest = rest_of(of_waits.lanes, "waits")
        rows.append(Row(f"{thread.comm} {thread.tid}", detail, "wait", of_waits.lanes[:LANES], [], rest))
    if more := timelines[TIMELINES:]:
        count = sum(len(lane) for track in more for lane in track.lanes)
        left.append(f"{len(more)} more timelines, with {count} fences, are left out")
    if also := waiters[WAITERS:]:
        count = sum(len(lane) for track in also for lane in track.lanes)
        left.append(f"{len(also)} more threads, with {count} waits, are left out")
    return rows, left


def rest_of(lanes: Sequence[Sequence[Any]], what: str) -> str:
    count = sum(map(len, lanes[LANES:]))
    return f"and {count} more {what} at the same time" if count else ""


class Picture:
    """One attempt, in which what is narrower than so many pixels is merged."""

    def __init__(self, trace: Trace, width: int, pixels: float, whole: bool) -> None:
        self.trace, self.width, self.pixels = trace, width, pixels
        self.elements = self.merged = 0
        self.parts: list[str] = []
        self.places: dict[int, tuple[float, str]] = {}  # the middle of the lane of each thing that is drawn alone
        self.pale = pale_until(trace)
        self.start, self.end = (trace.start_ns, trace.end_ns) if whole else span_of_interest(trace)
        self.ns = max(1, self.end - self.start)
        self.room = width - GUTTER - MARGIN - 8

    def x(self, at: int) -> float:
        """Where a time is; what is out of the picture is at its edge."""
        inside = min(max(at, self.start), self.end)
        return GUTTER + (inside - self.start) / self.ns * self.room

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.elements += 1

    def drawn(self) -> str:
        """The whole text."""
        rows, left = rows_of(self.trace)
        axis = self.heading(left)
        y = axis + 24
        for row in rows:
            row.top = y
            y += row.height
        self.bands(rows)
        self.axis(axis + 14, axis + 20, y)
        for row in rows:
            self.row(row)
        self.links()
        if not rows:
            self.add(f'<text class="muted" x="{GUTTER}" y="{y + 16:g}">This recording has no fences.</text>')
            y += 24
        self.legend(y + 20, rows)
        return self.framed(y + 36, self.parts)

    def framed(self, height: float, parts: list[str]) -> str:
        title = plain(self.trace.command) or "linuxsync trace"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="linuxsync" width="{self.width}" height="{height:g}" '
                f'viewBox="0 0 {self.width} {height:g}" font-size="11" '
                "font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" role=\"img\">",
                f"<title>{escape(title)}: fences and waits</title>",
                style(),
                definitions(),
                f'<rect class="bg" width="{self.width}" height="{height:g}"/>',
                *parts,
                "</svg>",
                "",
            ]
        )

    def heading(self, left: list[str]) -> float:
        """What was recorded, and what is missing; returns where to go on."""
        trace = self.trace
        count = len(trace.fences)
        lasted = duration(trace.end_ns - trace.start_ns)
        if (self.start, self.end) != (trace.start_ns, trace.end_ns):
            unit, scale = ("ms", 1e6) if trace.end_ns - trace.start_ns < 1e9 else ("s", 1e9)
            first, last = ((at - trace.start_ns) / scale for at in (self.start, self.end))
            lasted = f"{first:.3f} {unit} to {last:.3f} {unit} of {lasted}"
        facts = [f"{count} fence{'s' * (count != 1)}", lasted, began(trace)]
        facts += [
            f"Linux {plain(trace.kernel)}" * bool(trace.kernel),
            f"on {plain(trace.machine)}" * bool(trace.machine),
        ]
        title = cut(plain(trace.command) or "linuxsync trace", self.width - 2 * MARGIN, 8.2)
        self.add(f'<text class="text" x="{MARGIN}" y="24" font-size="14" font-weight="600">{escape(title)}</text>')
        line = cut(" · ".join(filter(None, facts)), self.width - 2 * MARGIN)
        self.add(f'<text class="muted" x="{MARGIN}" y="41">{escape(line)}</text>')
        y = 50.0
        notices = [f"{trace.lost} events were lost: this may be half of the truth"] if trace.lost else []
        notices += [f"the file is damaged: {plain(one)}" for one in trace.damage]
        more = [f"and {len(notices) - 4} more problems"] if len(notices) > 4 else []
        for words, kind in [*((one, "error") for one in notices[:4] + more), *((one, "muted") for one in left)]:
            y += 15
            sign = "\u26a0 " if kind == "error" else ""
            self.add(
                f'<text class="{kind}" x="{MARGIN}" y="{y:g}" font-weight="600">'
                f"{escape(cut(sign + words, self.width - 2 * MARGIN))}</text>"
            )
        return y + 8

    def bands(self, rows: Sequence[Row]) -> None:
        for row in rows[::2]:
            self.add(f'<rect class="band" y="{row.top:g}" width="{self.width}" height="{row.height:g}"/>')

    def axis(self, text: float, top: float, bottom: float) -> None:
        """Round times, with a line through all tracks."""
        step = tick_step(self.ns * 90 / self.room)
        unit, scale = ("ms", 1e6) if step < 1e8 else ("s", 1e9)
        digits = max(0, -math.floor(math.log10(step / scale) + 1e-9))
        before = self.start - self.trace.start_ns
        for number in range(math.ceil(before / step), int((before + self.ns) // step) + 1):
            x = GUTTER + (number * step - before) / self.ns * self.room
            words = f"{number * step / scale:.{digits}f} {unit}"
            self.add(f'<path class="grid" d="M{x:.1f} {top:g}V{bottom:g}"/>')
            if x + len(words) * CHARACTER / 2 < self.width:
                self.add(f'<text class="muted" x="{x:.1f}" y="{text:g}" text-anchor="middle">{words}</text>')
        self.add(f'<path class="line" d="M0 {top:g}H{self.width}M{GUTTER - 6} {top:g}V{bottom:g}"/>')

    def row(self, row: Row) -> None:
        """A track: its name, its lanes, its marks."""
        top = row.top + GAP / 2
        colour = "edge" if row.colour == "wait" else row.colour
        self.add(f'<rect class="{colour}" x="6" y="{top:g}" width="3" height="{row.height - GAP:g}"/>')
        for words, down, look, size in ((row.title, 12, "text", 7.2), (row.detail, 26, "muted", 6.2)):
            weight = ' font-weight="600"' if look == "text" else ""
            name = cut(plain(words), GUTTER - 22, size)
            self.add(f'<text class="{look}" x="{MARGIN}" y="{top + down:g}"{weight}>{escape(name)}</text>')
        y = top + max(0.0, (row.height - GAP - self.lanes_height(row)) / 2)
        for lane in row.lanes:
            self.lane(row, lane, y)
            y += LANE
        if row.marks:
            self.marks(row, y if row.lanes else top + 7)
            y += MARKS if row.lanes else 0
        if row.rest:
            self.add(f'<text class="muted" x="{GUTTER}" y="{y + 11:g}">{row.rest}</text>')

    def lanes_height(self, row: Row) -> float:
        return len(row.lanes) * LANE + MARKS * (bool(row.marks) and bool(row.lanes)) + 14 * bool(row.rest)

    def span(self, one: Fence | Wait) -> tuple[int, int]:
        return fence_span(self.trace, one) if isinstance(one, Fence) else wait_span(self.trace, one)

    def lane(self, row: Row, lane: Sequence[Fence | Wait], y: float) -> None:
        for group in self.groups(lane):
            if len(group) == 1:
                self.one(row, group[0], y)
            else:
                self.many(row, group, y)

    def groups(self, lane: Sequence[Fence | Wait]) -> Iterator[list[Fence | Wait]]:
        """What is narrow together with its neighbours, as far as they make a bar of a few pixels; the rest alone."""
        group: list[Fence | Wait] = []
        begun = over = 0.0
        for one in lane:
            start, end = map(self.x, self.span(one))
            narrow = end - start < self.pixels
            if group and not (narrow and start - over < self.pixels and end - begun < 6 * self.pixels):
                yield group
                group = []
            if not narrow:
                yield [one]
                continue
            begun = begun if group else start
            over = end
            group.append(one)
        if group:
            yield group

    def many(self, row: Row, group: Sequence[Fence | Wait], y: float) -> None:
        """A bar for all of them, the darker the more of it they fill."""
        self.merged += 1
        start, end = self.span(group[0])[0], self.span(group[-1])[1]
        lasted = [past - first for first, past in map(self.span, group)]
        full = sum(lasted) / max(1, end - start)
        wrong = sum(isinstance(one, Fence) and one.error is not None for one in group)
        what = "fences" if isinstance(group[0], Fence) else "waits"
        words = f"{len(group)} {what}, {self.moment(start)} to {self.moment(end)}; each {duration(min(lasted))} to "
        words += f"{duration(max(lasted))}{f'; {wrong} with an error' if wrong else ''}"
        x, width = self.x(start), max(self.pixels, self.x(end) - self.x(start))
        opacity = 0.45 + 0.18 * math.ceil(min(1.0, full) * 3)
        bar = f'x="{x:.1f}" y="{y + 1:g}" width="{width:.1f}" height="{LANE - 3}" opacity="{opacity:.2g}"'
        mark = triangle(x + width / 2, y) if wrong else ""
        self.add(f'<g><title>{words}</title><rect class="{row.colour}" {bar} shape-rendering="crispEdges"/>{mark}</g>')

    def one(self, row: Row, one: Fence | Wait, y: float) -> None:
        """A bar with what is known of it."""
        start, end = self.span(one)
        x, right = self.x(start), self.x(end)
        width = max(1.0, right - x - (right - x > 3))
        height = LANE - 3
        self.places[id(one)] = (y + 1 + height / 2, row.colour)
        fence = one if isinstance(one, Fence) else None
        hatched = (fence.signal_ns if fence else one.end_ns if isinstance(one, Wait) else None) is None
        look = f"never-{row.colour}" if hatched else row.colour
        inside = [
            f"<title>{escape(self.told(one))}</title>",
            f'<rect class="{look}" x="{x:.1f}" y="{y + 1:g}" width="{width:.1f}" height="{height}"/>',
        ]
        if isinstance(one, Wait):
            inside.append(f'<path class="edges" d="M{x:.1f} {y + 1.5:g}h{width:.1f}m0 {height - 1}h-{width:.1f}"/>')
        elif fence and not hatched:
            until = min(self.x(self.pale[id(fence)]), x + width)
            if until - x > 1.5:
                early = f'x="{x:.1f}" y="{y + 1:g}" width="{until - x:.1f}" height="{height}"'
                inside.append(f'<rect class="bg" {early} opacity=".42"/>')
        if hatched and end >= self.trace.end_ns and width > 8:
            inside.append(f'<path class="bg" d="M{x + width + 0.5:.1f} {y:g}v{LANE - 1}l-5 -3.5l4 -4l-4 -4z"/>')
        before = fence is not None and fence.init_ns is None
        if before and width > 8:
            inside.append(f'<path class="bg" d="M{x - 0.5:.1f} {y:g}v{LANE - 1}l5 -3.5l-4 -4l4 -4z"/>')
        if isinstance(one, Wait):
            label = plain(one.call)
        else:  # a seqno says nothing where each fence has a context of its own
            label = f"#{one.seqno}" if one.timeline.context is not None else f"{one.context}-{one.seqno}"
        taken = 12 if fence and fence.error is not None else 0
        if len(label) * CHARACTER + 8 + taken < width:
            longer = f"{label}  {duration(end - start)}"
            if not (hatched or before) and len(longer) * CHARACTER + 8 + taken < width:
                label = longer
            ink = "text" if hatched or isinstance(one, Wait) else "on"
            if hatched:
                behind = f'x="{x + 1:.1f}" y="{y + 2:g}" width="{len(label) * CHARACTER + 7:.1f}" height="{height - 2}"'
                inside.append(f'<rect class="bg" {behind}/>')
            inside.append(f'<text class="{ink}" x="{x + 4:.1f}" y="{y + 12:g}">{escape(label)}</text>')
        if taken:
            inside.append(cap(x + width, y + 1, height) if width > 14 else triangle(x + width, y))
        self.add(f"<g>{''.join(inside)}</g>")

    def marks(self, row: Row, y: float) -> None:
        """Moments, those on one pixel as one."""
        alone = not row.lanes
        path, last = [], -9.0
        inside = sorted(at for at in row.marks if self.start <= at <= self.end)
        for at in inside:
            x = self.x(at)
            if x - last >= (2 if alone else 5) * self.pixels:
                path.append(f"M{x:.1f} {y:g}v16" if alone else f"M{x:.1f} {y:g}l3 7h-6z")
                last = x
        # One element for all of them: hundreds of ticks need no names.
        words = f"{len(inside)} times {'vblank' if alone else 'INC'}"
        look = f'class="ticks" d="{"".join(path)}"' if alone else f'class="{row.colour}" d="{"".join(path)}"'
        self.elements += len(path) // 4
        self.add(f"<g><title>{words}</title><path {look}/></g>")

    def links(self) -> None:
        """Arrows from the end of an input to what is made of it, and from a signal to the wait that it ended."""
        pairs: list[tuple[Fence, Fence | Wait]] = []
        for fence in self.trace.fences:
            pairs += [(one, fence) for one in fence.inputs]
        pairs += [(one, wait) for wait in self.trace.waits for one in wait.fences]
        drawn = [pair for pair in pairs if id(pair[0]) in self.places and id(pair[1]) in self.places]
        if len(pairs) > LINKS:
            return
        for one, other in drawn:
            start, end = self.span(other)
            x0, x1 = self.x(self.span(one)[1]), self.x(max(start, min(end, self.span(one)[1])))
            y0, y1 = self.places[id(one)][0], self.places[id(other)][0]
            bow = 8 + min(20.0, abs(y1 - y0) / 6)
            if x1 < self.x(end) - 10:  # on its edge, so that its name can be read
                y1 += (LANE - 3) / 2 * (-1 if y0 < y1 else 1)
                up = -6 if y0 < y1 else 6
                bent = f"M{x0:.1f} {y0:g}C{x0 + bow:.1f} {y0:g} {x1:.1f} {(y0 + y1) / 2:g} {x1:.1f} {y1 + up:g}"
                head = f"M{x1:.1f} {y1:g}l-3.5 {up}h7z"
            else:
                bent = f"M{x0:.1f} {y0:g}C{x0 + bow:.1f} {y0:g} {x1 + bow:.1f} {y1:g} {x1 + 4:.1f} {y1:g}"
                head = f"M{x1:.1f} {y1:g}l6 -3.5v7z"
            self.add(f'<path class="link" d="{bent}"/><path class="head" d="{head}"/>')

    def legend(self, y: float, rows: Sequence[Row]) -> None:
        """What is drawn how, of that which is there."""
        fences, waits = self.trace.fences, self.trace.waits
        known: list[tuple[bool, str, str]] = [
            (bool(fences), "h0", "fence, init to signal"),
            (
                any(self.pale[id(one)] > fence_span(self.trace, one)[0] for one in fences),
                "early",
                "nobody wanted to know yet",
            ),
            (any(one.signal_ns is None for one in fences), "never-h0", "never signaled"),
            (any(one.error is not None for one in fences), "cap", "error"),
            (bool(waits), "wait", "a thread waits"),
            (self.merged > 0, "many", "many, narrower than a pixel"),
            (any(row.marks and row.lanes for row in rows), "inc", "sw_sync INC"),
        ]
        x = float(MARGIN)
        for there, look, words in known:
            if not there:
                continue
            if x + 34 + len(words) * CHARACTER > self.width:
                break
            box = f'x="{x:g}" y="{y - 9:g}" width="26" height="11"'
            if look == "early":
                sample = f'<rect class="h0" {box}/><rect class="bg" {box} opacity=".42"/>'
            elif look == "cap":
                sample = f'<rect class="h0" {box}/>{cap(x + 26, y - 9, 11)}'
            elif look == "many":
                thirds = ((0, 9, 0.45), (9, 9, 0.75), (18, 8, 1))
                sample = "".join(
                    f'<rect class="h0" x="{x + at:g}" y="{y - 9:g}" width="{wide}" height="11" opacity="{opacity}"/>'
                    for at, wide, opacity in thirds
                )
            elif look == "inc":
                sample = f'<path class="h0" d="M{x + 13:g} {y - 8:g}l4 9h-8z"/>'
            elif look == "wait":
                sample = f'<rect class="wait" {box}/><path class="edges" d="M{x:g} {y - 8.5:g}h26m0 10h-26"/>'
            else:
                sample = f'<rect class="{look}" {box}/>'
            self.add(f'{sample}<text class="muted" x="{x + 32:g}" y="{y:g}">{words}</text>')
            x += 50 + len(words) * CHARACTER

    def moment(self, at: int) -> str:
        return f"{(at - self.trace.start_ns) / 1e6:.6f} ms"

    def told(self, one: Fence | Wait) -> str:
        """What a tooltip says."""
        if isinstance(one, Wait):
            lines = [
                f"{one.call} by {who(one.thread)}",
                self.from_to(one.start_ns, one.end_ns, "still waiting at the end"),
            ]
            lines += [f"for {fence.name}" for fence in one.fences[:8]]
            if one.woken_by is not None:
                lines.append(f"woken by {one.woken_by.name}")
            return "\n".join(map(plain, lines))
        never = "never signaled" if one.destroy_ns is None else "destroyed without a signal"
        lines = [one.name, self.from_to(one.init_ns, one.signal_ns, never)]
        if one.enable_ns is not None:
            after = "" if one.enabled_latency_ns is None else f", {duration(one.enabled_latency_ns)} before the signal"
            lines.append(f"enabled at {self.moment(one.enable_ns)}{after}")
        if one.error is not None:
            lines.append(f"error {errorcode.get(one.error, one.error)}, {os.strerror(one.error)}")
        if one.creator is not None:
            lines.append(f"made by {who(one.creator)}")
        if one.signaler is not None:
            place = "an interrupt in place of " if one.signaled_in_irq else ""
            lines.append(f"signaled by {place}{who(one.signaler)}")
        if one.inputs:
            lines.append(f"made of {', '.join(each.name for each in one.inputs[:8])}")
        return "\n".join(map(plain, lines))

    def from_to(self, start: int | None, end: int | None, never: str) -> str:
        first = "before the recording" if start is None else self.moment(start)
        if end is None:
            return f"{first}, {never}"
        return f"{first} to {self.moment(end)}{'' if start is None else f', {duration(end - start)}'}"


def who(thread: Thread) -> str:
    return f"{thread.comm} {thread.tid}" + ("" if thread.pid in (None, thread.tid) else f", process {thread.pid}")


def cut(words: str, width: float, character: float = CHARACTER) -> str:
    """A text that fits, by and large."""
    most = max(1, int(width / character))
    return words if len(words) <= most else words[: most - 1] + "\u2026"


def tick_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, of ns."""
    power: float = 10 ** math.floor(math.log10(max(1.0, least)))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)


def cap(right: float, y: float, height: float) -> str:
    """An error where there is room."""
    middle = y + height / 2
    return (
        f'<rect class="error" x="{right - 11:.1f}" y="{y:g}" width="11" height="{height:g}"/>'
        f'<path class="cross" d="M{right - 8.5:.1f} {middle - 3:g}l6 6m0 -6l-6 6"/>'
    )


def triangle(x: float, y: float) -> str:
    """An error where there is none."""
    return f'<path class="error" d="M{x - 4:.1f} {y:g}h8l-4 7z"/>'
