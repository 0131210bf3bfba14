"""The picture of a recording: well-formed whatever the names are, true, and of bounded size."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from made_trace import MS, START, made

from linuxsync.trace import Fence, Thread, Timeline, Trace, Wait
from linuxsync.trace.part import part
from linuxsync.trace.svg import svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert(1)</script>&amp;\"'\u2028\ufffe\udcff\x00\x1b[31m\u202e]]>"
SHOWN = "</title><script>alert(1)</script>&amp;\"'" + r"\u2028\ufffe\xff\x00\x1b[31m\u202e]]>"


def parsed(trace: Trace, width: int = 1280) -> ElementTree.Element:
    """The picture, as a program reads it; UTF-8 can be made of it."""
    return ElementTree.fromstring(svg(trace, width).encode())


def titles(root: ElementTree.Element) -> list[str]:
    """What the tooltips say."""
    return [one.text or "" for one in root.iter(f"{SVG}title")][1:]


def texts(root: ElementTree.Element) -> str:
    return "\n".join(one.text or "" for one in root.iter(f"{SVG}text"))


def short() -> Trace:
    """The last six frames of a recording, 17 ms each; the last has fences that never signal."""
    trace = made(100)
    return part(trace, start_ns=trace.timelines[0].fences[94].init_ns)


def test_each_fence_and_wait_is_there_once() -> None:
    """With its name, and to the nanosecond from when to when."""
    trace = short()
    told = titles(parsed(trace))
    for fence in trace.fences:
        found = [one for one in told if one.startswith(f"{fence.name}\n")]
        assert len(found) == 1
        assert fence.init_ns is not None
        assert f"{(fence.init_ns - trace.start_ns) / 1e6:.6f} ms" in found[0]
        if fence.signal_ns is None:
            assert "never signaled" in found[0]
        else:
            assert f"to {(fence.signal_ns - trace.start_ns) / 1e6:.6f} ms" in found[0]
    waits = len(trace.waits)
    assert sum(one.startswith("poll by compositor 301, process 300\n") for one in told) == waits
    error = next(fence for fence in made(100).fences if fence.error)
    assert error.init_ns is not None
    around = part(made(100), start_ns=error.init_ns - MS, end_ns=error.init_ns + 20 * MS)
    assert any("error EIO, Input/output error" in one for one in titles(parsed(around)))


def test_bars_are_where_the_times_are() -> None:
    """As wide as they lasted, beside the axis's own numbers."""
    root = parsed(short())
    ticks = {
        float((one.text or "").removesuffix(" ms")): float(one.attrib["x"])
        for one in root.iter(f"{SVG}text")
        if re.fullmatch(r"[\d.]+ ms", one.text or "") and one.get("text-anchor") == "middle"
    }
    assert len(ticks) >= 5
    scale = (ticks[max(ticks)] - ticks[0]) / max(ticks)
    trace = short()
    fence = trace.timelines[0].fences[2]
    group = next(
        one for one in root.iter(f"{SVG}g") if (one.findtext(f"{SVG}title") or "").startswith(f"{fence.name}\n")
    )
    bar = group.find(f"{SVG}rect")
    assert bar is not None and fence.init_ns is not None and fence.signal_ns is not None
    assert float(bar.attrib["x"]) == pytest.approx(ticks[0] + (fence.init_ns - trace.start_ns) / 1e6 * scale, abs=0.2)
    assert float(bar.attrib["width"]) == pytest.approx((fence.signal_ns - fence.init_ns) / 1e6 * scale, abs=1.2)
    lines = [one for one in root.iter(f"{SVG}path") if one.get("class") == "link"]
    assert len(lines) == sum(len(one.inputs) for one in trace.fences) + sum(len(one.fences) for one in trace.waits)


def test_what_never_signaled_and_errors_are_not_told_by_colour_alone() -> None:
    root = parsed(made(100))
    looks = {one.get("class") for one in root.iter()}
    assert {"never-h0", "never-h1", "never-h2", "never-wait"} <= looks
    assert "error" in looks
    defined = {one.get("id") for one in root.iter(f"{SVG}pattern")}
    style = root.findtext(f"{SVG}style") or ""
    for name in re.findall(r"url\(#([\w-]+)\)", style):
        assert name in defined
    assert "prefers-color-scheme:dark" in style
    legend = texts(root)
    for words in ("never signaled", "error", "a thread waits", "sw_sync INC", "nobody wanted to know yet"):
        assert words in legend


def test_pale_is_what_nobody_wanted_to_know() -> None:
    """Up to the first wait, or its enabling; of a driver that never tells of the latter nothing, nor in the legend."""
    flips, frames = Timeline("vkms", "CRTC:38-crtc-0", 3), Timeline("sw_sync", "frames", 4)
    for timeline in (flips, frames):
        timeline.fences = [
            Fence(timeline, 3, number, START + number * 10 * MS, signal_ns=START + number * 10 * MS + 8 * MS)
            for number in range(3)
        ]
    waited, enabled, neither = frames.fences
    enabled.enable_ns, waited.enable_ns = START + 14 * MS, START + 6 * MS
    waited.waits = [Wait(Thread(5, "waiter"), "poll", START + 2 * MS, START + 8 * MS, [waited], waited)]
    trace = Trace(START, START + 30 * MS, flips.fences + frames.fences, [flips, frames], waited.waits)

    def pale(fence: Fence) -> float:
        """How much of its bar, from 0 to 1."""
        begin = f"{fence.name}\n"
        (group,) = [
            one for one in parsed(trace).iter(f"{SVG}g") if (one.findtext(f"{SVG}title") or "").startswith(begin)
        ]
        bar, *over = [float(one.attrib["width"]) for one in group.iter(f"{SVG}rect")]
        return over[0] / bar if over else 0

    assert [pale(one) for one in flips.fences] == [0, 0, 0]
    assert [pale(one) for one in (waited, enabled, neither)] == pytest.approx([0.25, 0.5, 1], abs=0.01)
    assert "nobody wanted" in texts(parsed(trace))
    waited.enable_ns = enabled.enable_ns = None
    assert [pale(one) for one in frames.fences] == [0, 0, 0]
    assert "nobody wanted" not in texts(parsed(trace))


def test_what_is_drawn_is_the_span_that_has_something() -> None:
    """And the head says which it is; the axis has the recording's time. All of it is drawn when that is asked for."""
    trace = made(60)
    trace.start_ns -= 10_000 * MS
    fence = trace.timelines[0].fences[30]
    assert fence.init_ns is not None

    def place(root: ElementTree.Element) -> tuple[float, float]:
        """Where the fence begins, and where its time is on the axis, from its first to its last tick."""
        begin = f"{fence.name}\n"
        (group,) = [one for one in root.iter(f"{SVG}g") if (one.findtext(f"{SVG}title") or "").startswith(begin)]
        bar = group.find(f"{SVG}rect")
        ticks = [
            (float((one.text or "").removesuffix(" s")), float(one.attrib["x"]))
            for one in root.iter(f"{SVG}text")
            if re.fullmatch(r"[\d.]+ s", one.text or "")
        ]
        (early, left), (later, right) = ticks[0], ticks[-1]
        at = (fence.init_ns or 0) - trace.start_ns
        assert bar is not None
        return float(bar.attrib["x"]), left + (at / 1e9 - early) / (later - early) * (right - left)

    root = parsed(trace)
    said = re.search(r"([\d.]+) s to ([\d.]+) s of 11.1 s", texts(root))
    assert said is not None
    assert 9.9 < float(said[1]) < 10.016 < 11 < float(said[2]) < 11.1
    bar, time = place(root)
    assert bar == pytest.approx(time, abs=0.5)
    assert 600 < bar < 800
    whole = ElementTree.fromstring(svg(trace, 20_000, whole=True).encode())
    assert not re.search(r" s to [\d.]+ s of", texts(whole))
    bar, time = place(whole)
    assert bar == pytest.approx(time, abs=0.5)
    assert bar > 18_000


def test_hostile_names_are_text() -> None:
    """They are valid XML, they are read as they are shown, and there is no element that was not ours."""
    thread = Thread(1, HOSTILE, 2, HOSTILE)
    timeline = Timeline(HOSTILE, HOSTILE, 1)
    fence = Fence(timeline, 1, 1, START, None, START, START + MS, error=5, creator=thread, signaler=thread)
    timeline.fences = [fence]
    wait = Wait(thread, HOSTILE, START, START + MS, [fence], fence)
    fence.waits = [wait]
    trace = Trace(START, START + 2 * MS, [fence], [timeline], [wait], lost=1, damage=[HOSTILE])
    trace.kernel = trace.machine = trace.command = HOSTILE
    root = parsed(trace, 4000)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {
        "svg", "title", "style", "defs", "pattern", "path", "rect", "text", "g",
    }  # fmt: skip
    assert f"{SHOWN}-{SHOWN}1-1" in titles(root)[0]
    assert f"the file is damaged: {SHOWN}" in texts(root)
    assert root.findtext(f"{SVG}title") == f"{SHOWN}: fences and waits"
    assert not re.search(r"\son\w+=", svg(trace))


def test_what_is_missing_is_said() -> None:
    trace = made(5)
    assert "lost" not in texts(parsed(trace))
    trace.lost, trace.damage = 77, [f"block {number}" for number in range(10)]
    told = texts(parsed(trace))
    assert "77 events were lost" in told
    assert "the file is damaged: block 0" in told
    assert "and 7 more problems" in told


def test_many_fences_are_merged_and_counted() -> None:
    """All are in the picture, alone or in bars that say how many they are; its size does not grow with them."""
    sizes = []
    for count in (3_000, 30_000):
        trace = made(count)
        root = parsed(trace)
        told = titles(root)
        merged = sum(int(found[1]) for one in told if (found := re.match(r"(\d+) fences, ", one)))
        alone = sum(bool(re.match(r"(sw_sync-|vkms-|dma_fence_array-)", one)) for one in told)
        fences = 3 * count
        assert merged + alone == fences
        assert merged > fences / 2
        wrong = sum(int(found[1]) for one in told if (found := re.search(r"; (\d+) with an error", one)))
        wrong += sum("error EIO" in one for one in told)
        failed = len([one for one in trace.fences if one.error is not None])
        assert wrong == failed
        sizes.append(len(svg(trace)))
    assert max(sizes) < 1_500_000
    assert sizes[1] < 2 * sizes[0]


def test_many_tracks_and_lanes_are_left_out_and_counted() -> None:
    """The first are drawn; a line says how many are not."""
    trace = Trace(START, START + 100 * MS)
    for number in range(100):
        timeline = Timeline("d", f"t{number}x", number)
        timeline.fences = [Fence(timeline, number, at, init_ns=START + at) for at in range(50)]
        trace.timelines.append(timeline)
        trace.fences += timeline.fences
        thread = Thread(number + 1, f"w{number}x")
        trace.waits.append(Wait(thread, "poll", START, START + MS))
    root = parsed(trace)
    told = texts(root)
    assert "t0x" in told and "t99x" not in told
    assert "76 more timelines, with 3800 fences, are left out" in told
    assert "88 more threads, with 88 waits, are left out" in told
    assert told.count("and 40 more fences at the same time") == 24
    drawn = sum(one.startswith("d-t") for one in titles(root))
    assert drawn == 24 * 10
    assert float(root.attrib["height"]) < 8000


def test_empty_and_tiny_recordings() -> None:
    assert "no fences" in texts(parsed(Trace(START, START)))
    timeline = Timeline("d", "t", 1)
    timeline.fences = [Fence(timeline, 1, 1, init_ns=START, signal_ns=START), Fence(timeline, 1, 2)]
    root = parsed(Trace(START, START, timeline.fences, [timeline]), 1)
    assert float(root.attrib["width"]) >= 480
    assert "2 fences" in texts(root)


def test_nothing_is_beside_the_picture() -> None:
    """Every place is within it, for a part of a recording, too, whose fences began before and end after."""
    trace = made(50)
    middle = part(trace, start_ns=START + 300 * MS, end_ns=START + 330 * MS)
    assert any(one.init_ns < middle.start_ns for one in middle.fences if one.init_ns)
    root = parsed(middle, 800)
    height = float(root.attrib["height"])
    for one in root.iter(f"{SVG}rect"):
        if one.get("x") is None or "patternUnits" in one.attrib:
            continue
        assert 0 <= float(one.attrib["x"]) <= float(one.attrib["x"]) + float(one.attrib["width"]) <= 800
        assert 0 <= float(one.attrib["y"]) <= height
    for one in root.iter(f"{SVG}text"):
        assert 0 <= float(one.attrib["x"]) < 800
        assert 0 < float(one.attrib["y"]) < height
