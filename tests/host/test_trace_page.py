"""The HTML page of a recording, in a real browser: what it draws, finds, says, and never lets in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_trace import MS, START, made
from playwright.sync_api import Browser, Page, sync_playwright

from linuxsync.trace import Event, Fence, Thread, Timeline, Trace, Vblank, Wait
from linuxsync.trace.page import html
from linuxsync.trace.tracks import span_of_interest

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>&amp;"
    "\u2028\u2029\udcff\x1b[31m\u202e{{data}}"
)
SHOWN = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>&amp;"
    r"\u2028\u2029\xff\x1b[31m\u202e{{data}}"
)
PATIENCE = 120_000  # ms, for what comes when a busy machine has time for it
Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, which vm/run test has installed."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=PATIENCE)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """A function that opens the page of a trace; whatever the browser complains of, or asks for, fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(trace: Trace, width: int = 1280, height: int = 720, scheme: str = "light", **options: Any) -> Page:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html(trace, options.pop("part", "")), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: request.url == path.as_uri() or complaints.append(f"asks for {request.url}"))
        page.goto(path.as_uri())
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def settled(page: Page) -> None:
    """Wait until what was asked for is drawn: resizing takes a frame, and drawing another."""
    page.evaluate("async () => { for (let at = 0; at < 3; at++) await new Promise(requestAnimationFrame) }")


def hook(page: Page, expression: str, *arguments: Any) -> Any:
    """What the page says of itself."""
    return page.evaluate(f"([a, b]) => window.linuxsyncTrace.{expression}", [*arguments, None, None][:2])


def the(page: Page, words: str) -> int:
    """The only slice that a search finds."""
    found = hook(page, "find(a)", words)
    assert len(found) == 1, (words, found)
    return int(found[0])


def names(page: Page, slices: list[int]) -> set[str]:
    return {hook(page, "nameOf(a)", one) for one in slices}


def until(page: Page, true: Callable[[], bool]) -> None:
    """Wait for what an event does, which comes when the browser has time for it."""
    for _ in range(PATIENCE // 100):
        if true():
            return
        page.wait_for_timeout(100)
    pytest.fail("it never came")


def span(page: Page) -> tuple[float, float]:
    """From when to when is shown, in ns."""
    settled(page)
    view = hook(page, "view")
    return view["from"], view["to"]


def colour(page: Page, x: float, y: float) -> tuple[int, int, int]:
    """What the canvas has at a place of the window."""
    return tuple(
        page.evaluate(
            """([x, y]) => {
                const canvas = document.getElementById("canvas"), { left, top, width } = canvas.getBoundingClientRect();
                const copy = document.createElement("canvas"), ratio = canvas.width / width;
                copy.width = copy.height = 1;
                const pen = copy.getContext("2d", { willReadFrequently: true });
                pen.drawImage(canvas, -Math.floor((x - left) * ratio), -Math.floor((y - top) * ratio));
                return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
            }""",
            [x, y],
        )
    )


def look_at(page: Page, words: str) -> int:
    """Zoom to the only slice that a search finds; nothing is selected."""
    found = the(page, words)
    page.locator("#search").fill(words)
    page.locator("#search").press("Enter")
    page.locator("#canvas").focus()
    page.keyboard.press("z")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    settled(page)
    assert hook(page, "state.selected") is None
    return found


def where(page: Page, found: int) -> tuple[float, float]:
    place = hook(page, "where(a)", found)
    return place["x"], place["y"]


def test_fences_are_drawn_where_they_were(opened: Opened) -> None:
    """A fence's colour from its init to its signal, pale until it was enabled, and nothing of it before or after."""
    page = opened(made(20))
    found = look_at(page, "timeline:frames seqno:17")
    x, y = where(page, found)
    fence = made(20).timelines[0].fences[16]
    first, last = span(page)
    canvas = page.locator("#canvas").bounding_box()
    assert canvas is not None
    scale = (canvas["width"] - 196) / (last - first)
    left = canvas["x"] + 196 + (fence.init_ns - START - first) * scale
    right = canvas["x"] + 196 + (fence.signal_ns - START - first) * scale
    assert colour(page, x, y + 9) == (0, 103, 165)
    assert colour(page, right - 5, y) == (0, 103, 165)
    background = {(255, 255, 255), (245, 247, 249), (232, 236, 240)}  # with the bands of tracks, and the grid
    assert colour(page, right + 5, y) in background
    assert colour(page, left - 5, y) in background
    enabled = left + 200_000 * scale
    assert colour(page, enabled - 2, y + 9) == pytest.approx((107, 167, 203), abs=3)
    assert colour(page, enabled + 2, y + 9) == (0, 103, 165)


def test_pale_is_what_nobody_wanted_to_know(opened: Opened) -> None:
    """To the first wait or its enabling; of a driver that never tells of the latter nothing is pale, or said of it."""
    trace = quiet()
    page = opened(trace)
    for words, pale, enabled in (
        ("ctx:3 seqno:1", False, None),  # waited for
        ("ctx:3 seqno:2", False, None),
        ("ctx:4 seqno:1", True, "not seen"),
        ("ctx:4 seqno:2", False, "14.000000 ms, 4 ms after init"),
        ("ctx:4 seqno:3", True, "24.000000 ms, 4 ms after init"),
    ):
        found = look_at(page, words)
        x, y = where(page, found)
        hue = {"3": (0, 103, 165), "4": (0, 117, 90)}[words[4]]
        # The middle is at 4 ms of 8: a little before it is pale where the fence was enabled just then.
        assert colour(page, x - 20, y + 9) == (
            pytest.approx(tuple(round(0.58 * of + 107) for of in hue), abs=3) if pale else hue
        )
        page.mouse.move(x, y)
        settled(page)
        told = page.locator("#tooltip").inner_text().splitlines()
        assert (told[told.index("Enabled") + 1] if "Enabled" in told else None) == enabled, words
    assert page.locator("#legend .early").count() == 1
    for fence in trace.timelines[1].fences:
        fence.enable_ns = None
    page = opened(trace)
    assert page.locator(".early").count() == 0


def quiet() -> Trace:
    """Fences of 8 ms each: two of a driver that does not tell when somebody wants to know, three of one that does."""
    flips, frames = Timeline("vkms", "CRTC:38-crtc-0", 3), Timeline("sw_sync", "frames", 4)
    for timeline, count in ((flips, 2), (frames, 3)):
        begins = [START + 10 * MS * number for number in range(count)]
        timeline.fences = [
            Fence(timeline, timeline.context or 0, number, init_ns=at, signal_ns=at + 8 * MS)
            for number, at in enumerate(begins, 1)
        ]
    flip, (_, second, third) = flips.fences[0], frames.fences
    second.enable_ns, third.enable_ns = START + 14 * MS, START + 24 * MS
    waiter = Thread(5, "waiter")
    waits = [Wait(waiter, "poll", START + 2 * MS, START + 8 * MS, [flip], flip)]
    waits.append(Wait(waiter, "poll", START + 11 * MS, START + 18 * MS, [second], second))
    for wait in waits:
        wait.fences[0].waits = [wait]
    return Trace(START, START + 30 * MS, flips.fences + frames.fences, [flips, frames], waits, {5: waiter})


def test_what_never_signaled_is_hatched(opened: Opened) -> None:
    """Lines and what is between them, to the end of the recording, where it is torn off."""
    page = opened(made(20))
    found = look_at(page, "timeline:frames seqno:20")
    x, y = where(page, found)
    seen = {colour(page, x + dx, y) for dx in range(16)}
    assert len(seen) >= 3
    assert max(one[0] for one in seen) - min(one[0] for one in seen) > 100


def test_an_error_has_a_mark(opened: Opened) -> None:
    """Near its end, not by its colour alone: there is a cross."""
    page = opened(made(60))
    found = look_at(page, "error")
    x, y = where(page, found)
    right = next(x + dx for dx in range(2000) if colour(page, x + dx, y + 10) == (200, 50, 0))
    cap = {colour(page, right + dx, y + dy) for dx in range(11) for dy in range(-4, 5)}
    assert {(200, 50, 0), (255, 255, 255)} <= cap


def test_wheel_keys_and_buttons_zoom(opened: Opened) -> None:
    """Where the pointer is time stays; +, -, w, s and the buttons zoom on the middle, 0 and f show everything."""
    page = opened(made(50))
    whole = span(page)
    page.mouse.move(900, 400)
    at = (900 - 196) / (1280 - 196)
    before = whole[0] + at * (whole[1] - whole[0])
    page.mouse.wheel(0, -500)
    page.wait_for_function(
        "([was]) => linuxsyncTrace.view.to - linuxsyncTrace.view.from < was", arg=[whole[1] - whole[0]]
    )
    first, last = span(page)
    assert last - first < 0.6 * (whole[1] - whole[0])
    assert first + at * (last - first) == pytest.approx(before, rel=0.002)
    for key, less in (("+", True), ("w", True), ("-", False), ("s", False)):
        first, last = span(page)
        page.keyboard.press(key)
        now = span(page)
        assert (now[1] - now[0] < last - first) is less, key
        assert sum(now) / 2 == pytest.approx((first + last) / 2, rel=1e-6)
    for key in ("0", "f"):
        page.locator("#zoom-in").click()
        assert span(page) != whole
        page.keyboard.press(key)
        assert span(page) == pytest.approx(whole)
    page.locator("#zoom-in").click()
    page.locator("#fit").click()
    assert span(page) == pytest.approx(whole)
    page.locator("#zoom-out").click()
    assert span(page) == pytest.approx(whole)  # there is no more


def late(seconds: int = 10) -> Trace:
    """A recording that begins so long before there is anything."""
    trace = made(60)
    trace.start_ns -= seconds * 1000 * MS
    return trace


def test_it_opens_where_there_is_something(opened: Opened) -> None:
    """Fit goes there, too; once more, or with Shift, it shows the whole recording, of which the overview is."""
    trace = late()
    page = opened(trace)
    home, length = span(page), trace.end_ns - trace.start_ns
    assert 9_900 * MS < home[0] < 10_016 * MS
    assert trace.timelines[0].fences[-1].init_ns - trace.start_ns < home[1] < length
    whole = (pytest.approx(-0.015 * length), pytest.approx(1.015 * length))
    page.locator("#canvas").focus()
    for first, again in (("f", "f"), ("0", "0"), ("f", "F")):
        page.keyboard.press("+")
        page.keyboard.press(first)
        assert span(page) == pytest.approx(home)
        page.keyboard.press(again)
        assert span(page) == whole
        page.keyboard.press(first)
        assert span(page) == pytest.approx(home)
    page.locator("#fit").click()
    assert span(page) == whole
    page.locator("#fit").click()
    assert span(page) == pytest.approx(home)
    page.keyboard.press("+")
    page.locator("#fit").click(modifiers=["Shift"])
    assert span(page) == whole
    page.locator("#fit").click()
    canvas = page.locator("#canvas").bounding_box()
    assert canvas is not None
    page.mouse.click(200, canvas["y"] + 10)  # the overview's left is the start of the recording
    assert span(page)[0] < 0


def test_a_moment_in_a_long_recording_is_shown_with_some_span() -> None:
    """What never ends counts as its start, and vblanks where there is nothing else; nothing at all: everything."""
    timeline = Timeline("d", "t", 1)
    timeline.fences = [Fence(timeline, 1, 1, init_ns=START + 5_000 * MS)]
    trace = Trace(START, START + 10_000 * MS, timeline.fences, [timeline])
    assert span_of_interest(trace) == (START + 4_990 * MS, START + 5_010 * MS)
    trace.vblanks = [Vblank(START + at * 16 * MS, 0, at) for at in range(1, 300)]
    assert span_of_interest(trace) == (START + 4_990 * MS, START + 5_010 * MS)
    trace.fences, trace.timelines, trace.vblanks = [], [], trace.vblanks[:100]
    assert span_of_interest(trace) == (START, START + 1_649_500_000)
    trace.vblanks = []
    assert span_of_interest(trace) == (trace.start_ns, trace.end_ns)


def test_zoom_ends_at_what_clocks_tell_apart(opened: Opened) -> None:
    """100 ns is all that is shown at the nearest, and the times on the axis differ."""
    page = opened(made(5))
    page.locator("#canvas").focus()
    for _ in range(60):
        page.keyboard.press("+")
    first, last = span(page)
    assert last - first == pytest.approx(100)


def test_dragging_and_arrows_pan(opened: Opened) -> None:
    """A drag moves as far as the pointer, the keys a part of the window, and nothing goes beyond the recording."""
    page = opened(made(50))
    page.locator("#canvas").focus()
    for _ in range(4):
        page.keyboard.press("+")
    first, last = span(page)
    page.mouse.move(700, 500)
    page.mouse.down()
    page.mouse.move(650, 500, steps=4)
    page.mouse.up()
    now = span(page)
    assert now[0] - first == pytest.approx(50 * (last - first) / (1280 - 196), rel=1e-6)
    for key, later in (("ArrowRight", True), ("ArrowLeft", False), ("d", True), ("a", False)):
        before = span(page)
        page.keyboard.press(key)
        now = span(page)
        assert (now[0] > before[0]) is later
        assert now[1] - now[0] == pytest.approx(before[1] - before[0])
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert span(page)[0] < 0 < span(page)[1]


def test_shift_drag_zooms_to_a_span_and_overview_moves_there(opened: Opened) -> None:
    page = opened(made(50))
    first, last = span(page)
    page.keyboard.down("Shift")
    page.mouse.move(400, 500)
    page.mouse.down()
    page.mouse.move(500, 500, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    scale = (last - first) / (1280 - 196)
    now = span(page)
    assert now == (pytest.approx(first + (400 - 196) * scale), pytest.approx(first + (500 - 196) * scale))
    canvas = page.locator("#canvas").bounding_box()
    assert canvas is not None
    page.mouse.click(1000, canvas["y"] + 10)
    assert sum(span(page)) / 2 == pytest.approx(first + (1000 - 196) * scale, rel=1e-6)


def test_fingers_pan_pinch_and_select(opened: Opened) -> None:
    """One moves, two zoom between them, and a tap selects."""
    page = opened(made(50), has_touch=True)
    look_at(page, "timeline:frames seqno:17")
    for _ in range(3):
        page.keyboard.press("-")
    first, last = span(page)
    client = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(places)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (600, 500))
    touch("touchMove", (560, 500))
    touch("touchEnd")
    moved = span(page)
    assert moved[0] - first == pytest.approx(40 * (last - first) / (1280 - 196), rel=0.01)
    touch("touchStart", (600, 500), (700, 500))
    touch("touchMove", (550, 500), (750, 500))
    touch("touchEnd")
    now = span(page)
    assert now[1] - now[0] == pytest.approx((moved[1] - moved[0]) / 2, rel=0.05)
    page.keyboard.press("0")
    found = look_at(page, "timeline:frames seqno:17")
    page.touchscreen.tap(*where(page, found))
    settled(page)
    assert hook(page, "state.selected") == found
    assert page.locator("#tooltip").is_hidden()


def lasted(start: int | None, end: int | None) -> int:
    """How long, and until the end of the recording if it has no end."""
    assert start is not None
    return (LAST if end is None else end) - start


TRACE = made(120)
LAST = TRACE.end_ns


def of_fences(wanted: Callable[[Fence], bool]) -> int:
    return sum(map(wanted, TRACE.fences))


@pytest.fixture(scope="module")
def searchable(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page for many searches."""
    path = tmp_path_factory.mktemp("search") / "page.html"
    path.write_text(html(TRACE))
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(path.as_uri())
    yield page
    page.close()


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("timeline:frames", of_fences(lambda one: one.timeline.name == "frames")),
        ("driver:VKMS", of_fences(lambda one: one.timeline.driver == "vkms")),
        ("seqno:42", of_fences(lambda one: one.seqno == 42)),
        ("ctx:9 seqno:17", 1),
        ("error", of_fences(lambda one: one.error is not None)),
        ("never", of_fences(lambda one: one.signal_ns is None)),
        ("never timeline:frames", 1),
        (
            "slow:>20ms driver:s",
            of_fences(lambda one: one.context == 7 and lasted(one.init_ns, one.signal_ns) > 20 * MS)
            + of_fences(lambda one: one.context == 9 and lasted(one.init_ns, one.signal_ns) > 20 * MS),
        ),
        (
            "slow:<2500us",
            of_fences(lambda one: one.signal_ns is not None and lasted(one.init_ns, one.signal_ns) < 2.5 * MS),
        ),
        ("merged", of_fences(lambda one: bool(one.inputs))),
        ("waited", of_fences(lambda one: bool(one.waits))),
        ("pid:201", of_fences(lambda one: one.context == 7)),
        ("pid:300", of_fences(lambda one: one.context != 7) + len(TRACE.waits)),
        ("comm:weston", of_fences(lambda one: one.context != 7) + len(TRACE.waits)),
        ("poll", len(TRACE.waits)),
        ("crtc-09-17", 1),
        ("irq", of_fences(lambda one: one.signaled_in_irq)),
        ("nothing-is-called-so", 0),
        ("   ", 0),
    ],
)
def test_search_finds_what_there_is(searchable: Page, words: str, count: int) -> None:
    """As many as the recording has, and it says how many; what is meant lights up."""
    searchable.locator("#search").fill(words)
    until(searchable, lambda: hook(searchable, "searched")["words"] == words.strip())
    assert len(hook(searchable, "searched")["found"]) == count
    told = searchable.locator("#matches").text_content()
    if not words.strip():
        assert told == ""
        assert hook(searchable, "lit()") is None
    else:
        assert told == (f"{count} match" if count == 1 else f"{count} matches")
        assert sorted(hook(searchable, "lit()")) == sorted(hook(searchable, "searched")["found"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nonsense:foo", "unknown word nonsense:"),
        ("timeline:frames Pdi:201", "unknown word pdi:"),
        ("constructor:1", "unknown word constructor:"),
        ("crtc:crtc-0", f"{len(TRACE.timelines[1].fences)} matches"),
        ("crtc:crtc-0 error", "0 matches"),
        ("pid:7777777", "0 matches"),
        (f"{'x' * 100}:", f"unknown word {'x' * 19}\u2026"),
    ],
)
def test_an_unknown_word_is_said_to_be_one(searchable: Page, words: str, told: str) -> None:
    """Unless it is in a name, which may have colons."""
    searchable.locator("#search").fill(words)
    until(searchable, lambda: hook(searchable, "searched")["words"] == words)
    assert searchable.locator("#matches").text_content() == told
    assert searchable.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_enter_goes_from_match_to_match(opened: Opened) -> None:
    """In the order of time, round and back, each in sight; / is the way into the field, Escape the way out."""
    trace = made(60)
    page = opened(trace)
    page.locator("#canvas").focus()
    page.keyboard.press("/")
    page.keyboard.type("slow:>20ms timeline:frames")
    slow = [
        one.seqno for one in trace.timelines[0].fences if one.signal_ns is None or one.signal_ns - one.init_ns > 20 * MS
    ]
    assert len(slow) == 4
    for number, seqno in [*enumerate(slow, 1), (1, slow[0])]:
        page.keyboard.press("Enter")
        settled(page)
        selected = hook(page, "state.selected")
        assert hook(page, "nameOf(a)", selected) == f"sw_sync-frames7-{seqno}"
        assert page.locator("#matches").text_content() == f"{number} of 4"
        x, _ = where(page, selected)
        assert 196 < x < 1280 - 340
    page.keyboard.press("Shift+Enter")
    assert hook(page, "nameOf(linuxsyncTrace.state.selected)") == f"sw_sync-frames7-{slow[-1]}"
    page.keyboard.press("Escape")
    assert page.locator("#search").input_value() == ""
    assert hook(page, "lit()") is None
    page.locator("#search").fill("slow:>soon")
    until(page, lambda: hook(page, "searched")["words"] == "slow:>soon")
    assert page.locator("#matches").text_content() == "slow:>4ms?"


def test_tooltip_says_everything(opened: Opened) -> None:
    """Times to the nanosecond, 64-bit numbers to the last digit, people, error, inputs and doubts."""
    trace = rich()
    page = opened(trace)
    found = look_at(page, f"ctx:{2**64 - 2}")
    page.mouse.move(*where(page, found))
    settled(page)
    told = page.locator("#tooltip").inner_text()
    for words in (
        f"ring-gfx{2**64 - 2}-{2**63 + 1}",
        "failed after 3 ms: ECANCELED",
        "1.000001 ms",
        "1.250001 ms, 250 us after init",
        "4.000001 ms, 3 ms after init, 2.5 ms after enable",
        "exact: the fence's own timestamp",
        "1.500001 ms, 500 us after init",
        "9.000001 ms, 8 ms after init",
        "maker 11, in app 10",
        "an interrupt, in place of <idle> 0",
        "3 fences, 2 not in the recording; guessed, not seen: old-ring5-1",
        "made 2 times more",
        "the same lower 32 bits",
        "1 wait: dma_fence_wait by maker 11, waited 2 ms",
    ):
        assert words in told, (words, told)
    other = look_at(page, "ctx:5")
    page.mouse.move(*where(page, other))
    settled(page)
    told = page.locator("#tooltip").inner_text()
    assert f"1 fence: ring-gfx{2**64 - 2}-{2**63 + 1}" in told
    assert "before the recording" in told
    assert "never signaled in this recording" in told
    page.mouse.move(100, 5)
    assert page.locator("#tooltip").is_hidden()


def rich() -> Trace:
    """One fence of which everything is known, one of which hardly anything, a wait, and marks."""
    trace = Trace(START, START + 12 * MS, kernel="6.12", machine="m", command="c", wall_ns=10**18)
    maker, idle = Thread(11, "maker", 10, "app"), Thread(0, "<idle>")
    first, gfx = Timeline("old", "ring", 5), Timeline("ring", "gfx", None)
    source = Fence(first, 5, 1)
    full = Fence(
        gfx, 2**64 - 2, 2**63 + 1, START + MS + 1, START + MS + 250_001, START + MS + 500_001, START + 4 * MS + 1
    )
    full.destroy_ns, full.exact, full.error, full.creator = START + 9 * MS + 1, True, 125, maker
    full.signaler, full.signaled_in_irq, full.inputs, full.input_count = idle, True, [source], 3
    full.guessed, full.twins, full.ambiguous = True, 2, True
    source.outputs = [full]
    wait = Wait(maker, "dma_fence_wait", START + 2 * MS, START + 4 * MS, [full], full)
    full.waits = [wait]
    first.fences, gfx.fences = [source], [full]
    first.values = [(START + 6 * MS, 41)]
    trace.fences, trace.timelines, trace.waits = [source, full], [first, gfx], [wait]
    trace.threads = {11: maker, 0: idle}
    trace.vblanks = [Vblank(START + 6 * MS, 0, 77)]
    trace.others = [Event(START + 6 * MS, maker, "drm_run_job", {"job": 3, "ring": "gfx"})]
    return trace


def test_marks_have_tooltips(opened: Opened) -> None:
    """Vertical blankings, increments of sw_sync and other events are told where they were."""
    page = opened(rich())
    first, last = span(page)
    x = 196 + (6 * MS - first) / (last - first) * (1280 - 196)
    told = []
    canvas = page.locator("#canvas").bounding_box()
    assert canvas is not None
    for y in range(int(canvas["y"]) + 60, 400, 3):
        page.mouse.move(x, y)
        if page.locator("#tooltip").is_visible():
            told.append(page.locator("#tooltip").inner_text())
    text = "\n".join(told)
    assert "vblank 77 at 6.000000 ms" in text
    assert "event job=3, ring=gfx; maker 11 at 6.000000 ms" in text
    assert "INC, the value was 41 at 6.000000 ms" in text


def test_click_lights_up_what_belongs_together(opened: Opened) -> None:
    """A merged fence, its inputs and who waits for it; of an input what was made of it. The rest is dimmed."""
    page = opened(made(20))
    found = look_at(page, "ctx:1017")
    page.keyboard.press("-")
    page.keyboard.press("-")
    other = the(page, "timeline:frames seqno:16")
    settled(page)
    bright = colour(page, *where(page, other))
    page.mouse.click(*where(page, found))
    settled(page)
    together = {"sw_sync-frames7-17", "vkms-CRTC:crtc-09-17", "dma_fence_array-unbound1017-1", "poll by compositor 301"}
    assert names(page, hook(page, "lit()")) == together
    assert {tuple(names(page, [a, b])) == () for a, b in hook(page, "state.links")} == {False}
    links = {(hook(page, "nameOf(a)", one), hook(page, "nameOf(a)", two)) for one, two in hook(page, "state.links")}
    assert links == {
        ("sw_sync-frames7-17", "dma_fence_array-unbound1017-1"),
        ("vkms-CRTC:crtc-09-17", "dma_fence_array-unbound1017-1"),
        ("dma_fence_array-unbound1017-1", "poll by compositor 301"),
    }
    dimmed = colour(page, *where(page, other))
    assert sum(dimmed) > sum(bright) + 100
    panel = page.locator("#panel")
    assert panel.locator("h2").text_content() == "dma_fence_array-unbound1017-1"
    assert panel.locator("li button").all_text_contents() == [
        "sw_sync-frames7-17",
        "vkms-CRTC:crtc-09-17",
        "poll by compositor 301",
    ]
    assert "dma_fence_array-unbound1017-1, signaled after" in (page.locator("#said").text_content() or "")
    panel.get_by_role("button", name="sw_sync-frames7-17").click()
    assert hook(page, "nameOf(linuxsyncTrace.state.selected)") == "sw_sync-frames7-17"
    assert names(page, hook(page, "lit()")) == together - {"vkms-CRTC:crtc-09-17"}
    assert page.evaluate("document.activeElement.textContent") == "sw_sync-frames7-17"
    page.locator("#close").click()
    settled(page)
    assert panel.is_hidden()
    assert hook(page, "lit()") is None


def test_links_of_the_panel_are_reached_by_keys(opened: Opened) -> None:
    page = opened(made(20))
    page.locator("#search").fill("ctx:1017")
    page.keyboard.press("Enter")
    page.locator("#canvas").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "vkms-CRTC:crtc-09-17":
            break
    page.keyboard.press("Enter")
    assert hook(page, "nameOf(linuxsyncTrace.state.selected)") == "vkms-CRTC:crtc-09-17"


def test_keys_walk_along_and_across_tracks(opened: Opened) -> None:
    """n, p and the arrows go through a track in the order of time, whatever the lane, and up and down to others."""
    page = opened(made(40))
    page.locator("#canvas").focus()

    def selected() -> Any:
        settled(page)
        return hook(page, "nameOf(linuxsyncTrace.state.selected)")

    page.keyboard.press("n")
    assert selected() == "sw_sync-frames7-1"
    for seqno in range(2, 20):
        page.keyboard.press("n" if seqno % 2 else "ArrowRight")
        assert selected() == f"sw_sync-frames7-{seqno}"
    page.keyboard.press("p")
    page.keyboard.press("ArrowLeft")
    assert selected() == "sw_sync-frames7-17"
    page.keyboard.press("ArrowDown")
    assert str(selected()).startswith("vkms-CRTC:crtc-09-1")
    page.keyboard.press("ArrowUp")
    assert str(selected()).startswith("sw_sync-frames7-1")
    page.keyboard.press("Escape")
    assert hook(page, "state.selected") is None


def test_help_opens_and_closes(opened: Opened) -> None:
    page = opened(made(3), 400, 700)
    page.locator("#canvas").focus()
    before = span(page)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("+")  # is not for the page below
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    assert span(page) == before


@pytest.mark.parametrize(("scheme", "background"), [("light", (255, 255, 255)), ("dark", (20, 23, 28))])
def test_theme_is_the_systems_until_it_is_switched(
    opened: Opened, scheme: str, background: tuple[int, int, int]
) -> None:
    """The canvas and the rest of the page have the same colours, before and after."""
    page = opened(made(3), scheme=scheme)

    def both() -> tuple[tuple[int, int, int], str]:
        settled(page)
        return colour(page, 700, 650), page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert both() == (background, f"rgb{background}")
    page.locator("#theme").click()
    other = (20, 23, 28) if scheme == "light" else (255, 255, 255)
    assert both() == (other, f"rgb{other}")
    page.keyboard.press("t")
    assert both() == (background, f"rgb{background}")


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (400, 800), (320, 480)])
def test_everything_fits(opened: Opened, width: int, height: int) -> None:
    """Nothing is cut or wider than the window: without and with a selection, with long names and notices."""
    trace = made(30)
    trace.command, trace.machine, trace.lost, trace.damage = "x" * 300, "m" * 100, 3, ["w" * 300]
    trace.timelines[0].name = "n" * 200
    page = opened(trace, width, height)
    for step in range(2):
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("button, input, #facts, footer li, #notices, #scroll, #panel")]
                .filter((one) => one.checkVisibility() && !one.closest("#panel > *") && !one.closest("dialog"))
                .map((one) => [one.id || one.textContent, one.getBoundingClientRect()])"""
        )
        for name, box in boxes:
            assert box["left"] >= 0, name
            assert box["right"] <= width + 0.5, name
        controls = [box for name, box in boxes if name in {"search", "previous", "next", "fit", "theme", "helping"}]
        assert len(controls) == 6
        for at, one in enumerate(controls):
            for two in controls[at + 1 :]:
                apart = one["right"] <= two["left"] or two["right"] <= one["left"]
                assert apart or one["bottom"] <= two["top"] or two["bottom"] <= one["top"]
        canvas = page.locator("#canvas").bounding_box()
        assert canvas is not None
        assert canvas["height"] > 100
        if step == 0:
            page.locator("#canvas").focus()
            page.keyboard.press("n")
            assert page.locator("#panel").is_visible()


def test_sharp_where_pixels_are_small(opened: Opened) -> None:
    """The canvas has as many pixels as the screen."""
    page = opened(made(3), device_scale_factor=2)
    assert page.evaluate("(({ width, clientWidth }) => width / clientWidth)(document.getElementById('canvas'))") == 2


def test_hostile_names_are_only_text(opened: Opened) -> None:
    """Whatever a name is made of, it is shown as it is, escaped where it would not be seen, and nothing runs."""
    trace = rich()
    for timeline in trace.timelines:
        timeline.name = timeline.driver = HOSTILE
    for thread in trace.threads.values():
        thread.comm = thread.process = HOSTILE
    trace.kernel = trace.machine = trace.command = HOSTILE
    trace.damage = [HOSTILE]
    trace.waits[0].call = HOSTILE
    trace.others[0].name, trace.others[0].fields = HOSTILE, {HOSTILE: HOSTILE}
    page = opened(trace, part=HOSTILE)
    found = look_at(page, f"ctx:{2**64 - 2}")
    page.mouse.move(*where(page, found))
    settled(page)
    assert SHOWN in page.locator("#tooltip").inner_text()
    page.mouse.click(*where(page, found))
    settled(page)
    assert f"{SHOWN}-{SHOWN}{2**64 - 2}-{2**63 + 1}" == page.locator("#panel h2").inner_text()
    assert SHOWN in page.locator("#notices").inner_text()
    assert f"Linux {SHOWN}" in page.locator("#facts").inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.scripts.length") == 2


def test_the_text_has_nothing_that_could_be_html() -> None:
    """Of the data no character is HTML's or ends a line of JavaScript, and all are ASCII."""
    trace = rich()
    trace.command = HOSTILE
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', html(trace), re.DOTALL)
    assert data is not None
    assert not set("<>&\u2028\u2029") & set(data[1])
    assert data[1].isascii()
    assert data[1].endswith("}")


def test_no_network_is_allowed(browser: Browser, tmp_path: Path) -> None:
    """Its own policy forbids to ask anybody, and to run anything that it did not have when it was made."""
    path = tmp_path / "page.html"
    path.write_text(html(made(2)))
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    refused: list[tuple[str, str | None]] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: refused.append((request.url, request.failure)))
    page.goto(path.as_uri())
    assert page.evaluate("fetch('https://example.org/').then(() => 'loaded', () => 'refused')") == "refused"
    page.evaluate(
        """() => {
            const script = document.createElement("script"), image = document.createElement("img");
            script.textContent = "window.ran = 1";
            image.src = "https://example.org/x.png";
            document.body.append(script, image);
        }"""
    )
    assert page.evaluate("window.ran") is None
    settled(page)
    until(page, lambda: len(refused) == len(asked) - 1)
    assert asked[0] == path.as_uri()
    assert {why for _, why in refused} <= {"csp"}
    page.close()


def test_what_is_missing_is_said_first(opened: Opened) -> None:
    """Lost events and damage are above everything else; a recording without either has no notice."""
    trace = made(5)
    page = opened(trace)
    assert page.locator("#notices").is_hidden()
    trace.lost, trace.damage = 1234, ["block 7: its checksum is wrong"]
    page = opened(trace, part="only 1 s to 2 s")
    told = page.locator("#notices").inner_text()
    assert "1,234 events lost" in told
    assert "block 7: its checksum is wrong" in told
    assert "only 1 s to 2 s" in page.locator("#facts").inner_text()
    box = page.locator("#notices").bounding_box()
    assert box is not None
    assert box["y"] < 60


def test_head_says_what_was_recorded(opened: Opened) -> None:
    page = opened(made(5))
    told = page.locator("#facts").inner_text()
    for words in ("made up", "15 fences", "Linux 6.12.0", "on made", "2023-11-14 22:13:25 UTC"):
        assert words in told
    assert "15 fences" in page.title()


def test_empty_and_tiny_recordings(opened: Opened) -> None:
    """Nothing at all; one fence without a time to last; a fence that is born and gone outside of the recording."""
    page = opened(Trace(START, START))
    assert page.locator("#nothing").is_visible()
    page.locator("#canvas").focus()
    for key in ("+", "-", "0", "n", "p", "ArrowDown", "ArrowLeft", "z", "Escape"):
        page.keyboard.press(key)
    page.mouse.move(600, 300)
    page.mouse.click(600, 300)
    page.locator("#search").fill("never")
    until(page, lambda: hook(page, "searched")["words"] == "never")
    assert page.locator("#matches").text_content() == "0 matches"
    timeline = Timeline("d", "t", 1)
    timeline.fences = [Fence(timeline, 1, 1, init_ns=START, signal_ns=START)]
    page = opened(Trace(START, START, fences=timeline.fences, timelines=[timeline]))
    page.locator("#canvas").focus()
    page.keyboard.press("n")
    settled(page)
    assert page.locator("#panel h2").text_content() == "d-t1-1"
    odd = Fence(timeline, 1, 2, init_ns=START + MS, signal_ns=START - MS, destroy_ns=START - MS)
    timeline.fences.append(odd)
    page = opened(Trace(START, START + MS, fences=timeline.fences, timelines=[timeline]))
    assert hook(page, "fences") == 2


def test_many_tracks_are_scrolled(opened: Opened) -> None:
    """What is below is reached with keys, and with the wheel over the names; a selection scrolls to itself."""
    trace = Trace(START, START + 10 * MS)
    for number in range(100):
        timeline = Timeline("d", f"t{number}x", number)
        timeline.fences = [Fence(timeline, number, 1, init_ns=START + MS, signal_ns=START + 2 * MS)]
        trace.timelines.append(timeline)
        trace.fences += timeline.fences
    page = opened(trace)
    page.mouse.move(100, 400)
    page.mouse.wheel(0, 300)
    until(page, lambda: hook(page, "view")["scroll"] == 300)
    whole = span(page)
    page.locator("#canvas").focus()
    page.keyboard.press("PageDown")
    settled(page)
    assert hook(page, "view")["scroll"] > 600
    page.locator("#search").fill("timeline:t99x")
    page.keyboard.press("Enter")
    settled(page)
    _, y = where(page, hook(page, "state.selected"))
    assert 150 < y < 700
    assert span(page) == pytest.approx(whole)
    x, y = where(page, hook(page, "state.selected"))
    assert colour(page, x, y + 6) == (0, 103, 165)


def test_100000_fences_are_drawn_with_bounded_work(opened: Opened) -> None:
    """However many there are, a frame draws no more than its pixels take, and all of them can still be found."""
    trace = made(33_334)
    page = opened(trace)
    assert hook(page, "fences") == 100_002
    lanes = sum(track["lanes"][1] - track["lanes"][0] for track in hook(page, "tracks"))
    bound = (lanes + 3) * (1280 - 196) // 2 + 500
    page.mouse.move(700, 300)
    seen = []
    for number in range(40):
        page.mouse.wheel(60 if number % 5 == 4 else 0, -200 if number < 24 else 200)
        settled(page)
        seen.append(hook(page, "stats")["primitives"])
    assert max(seen) <= bound
    assert min(seen) > 20
    page.locator("#search").fill("seqno:33000 timeline:frames")
    page.keyboard.press("Enter")
    settled(page)
    assert hook(page, "nameOf(linuxsyncTrace.state.selected)") == "sw_sync-frames7-33000"
    assert hook(page, "stats")["primitives"] <= bound


def test_a_leak_of_100000_fences_is_drawn_with_bounded_work(opened: Opened) -> None:
    """None of which ever signals: as many lanes, of which those in sight are drawn."""
    timeline = Timeline("leaky", "unbound", None)
    timeline.fences = [Fence(timeline, 2**63 + at, 1, init_ns=START + at * 1000) for at in range(100_000)]
    trace = Trace(START, START + 110 * MS, timeline.fences, [timeline])
    page = opened(trace)
    page.locator("#canvas").focus()
    for key in ("PageDown", "PageDown", "+", "+", "ArrowRight", "n", "ArrowRight"):
        page.keyboard.press(key)
        settled(page)
        assert 20 < hook(page, "stats")["primitives"] < 3000
    first, last = span(page)  # the first that was in sight, and the next
    at = hook(page, "state.selected")
    assert page.locator("#panel h2").text_content() == f"leaky-unbound{2**63 + at}-1"
    assert first < at * 1000 < last


def test_100000_fences_are_a_few_megabytes() -> None:
    """Columns, not objects: less than 100 bytes a fence, its wait and its links included."""
    assert len(html(made(33_334))) < 100 * 100_000
