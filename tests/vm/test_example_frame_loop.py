"""examples/frame_loop.py: late is what the kernel's timestamps say, and nothing blocks meanwhile."""

import asyncio
import errno
import json
import signal
import time
from contextlib import ExitStack

import pytest
from clock_words import becomes
from drm_words import framebuffers, nothing_left_behind
from example_words import called, helps, load, started
from kernel_words import has_deadlines

# A vblank of vkms bears the time at which its timer should have run, which on a slow machine is before it did.
LATE = 100_000_000


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Also in the kernel."""
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def program():
    return load("frame_loop")


def play(program, *arguments, beside=None, **options):
    """Run the loop, and something beside it; return it when it is closed."""

    async def run():
        with ExitStack() as stack:
            loop = program.Loop(stack, asyncio.Event())
            task = asyncio.create_task(beside(loop)) if beside else None
            try:
                await loop.run(*arguments, **options)
            finally:
                if task:
                    task.cancel()
            return loop

    return asyncio.run(run())


def test_slow_pictures_are_late(program):
    """Those, and whichever else the machine has held up: by the fence's timestamp and the deadline."""
    loop = play(program, 12, 0.004, slow_every=4, slow=0.5)
    assert [frame.number for frame in loop.frames] == list(range(1, 13))
    for frame in loop.frames:
        assert frame.late == (frame.ready_ns > frame.deadline_ns)
        assert frame.error is None
        assert frame.ready_ns - LATE < frame.shown_ns
    assert all(frame.late and frame.vblanks > 1 for frame in loop.frames if frame.number % 4 == 0)
    # Thirty periods of 60 Hz, less those that it was allowed, and what passed until the deadline was worked out.
    assert min(f.ready_ns - f.deadline_ns for f in loop.frames if f.number % 4 == 0) > 50_000_000
    shown = [frame.shown_ns for frame in loop.frames]
    assert shown == sorted(set(shown))
    passed = sum(frame.vblanks for frame in loop.frames[1:])
    # The period is that of the refresh rate in whole Hz, which the mode's own need not be.
    assert (shown[-1] - shown[0]) / loop.screen.period_ns == pytest.approx(passed, rel=0.002, abs=0.5)
    text = program.report(loop)
    late = sum(frame.late for frame in loop.frames)
    assert f"12 frames at 60 Hz: {12 - late} on time, {late} late" in text


def test_nothing_blocks(program):
    """While a picture takes three seconds, whatever else the loop has to do is done."""
    turns = []

    async def beside(_):
        while True:
            turns.append(time.monotonic_ns())
            await asyncio.sleep(0.01)

    loop = play(program, 1, 3, beside=beside)
    (frame,) = loop.frames
    during = [turn for turn in turns if frame.ready_ns - 2_900_000_000 < turn < frame.ready_ns]
    assert len(during) > 5


def test_the_kernel_knows_the_deadline(program, monkeypatch, keep):
    """sw_sync tells it; where the kernel has no deadlines the loop says so."""
    kept = []
    ask_for = program.ask_for

    def watched(fence, deadline):
        kept.append((keep(fence.dup()), deadline))
        return ask_for(fence, deadline)

    async def beside(loop):
        while not kept:
            await asyncio.sleep(0.001)
        fence, deadline = kept[0]
        kept.append(loop.gpu.timeline.deadline_ns(fence) == deadline if has_deadlines(fence.fileno()) else None)

    monkeypatch.setattr(program, "ask_for", watched)
    loop = play(program, 1, 0.3, beside=beside)
    (fence, deadline), told = kept
    assert loop.has_deadlines == has_deadlines(fence.fileno())
    assert told == (True if loop.has_deadlines else None)
    assert loop.frames[0].deadline_ns == deadline
    assert ("were told" if loop.has_deadlines else "can't be told") in program.report(loop)


def test_a_gpu_that_is_lost(program, monkeypatch, capfd):
    """Its picture is not shown and the next one is; the exit status says that something was wrong."""
    status, out, err = called(program, monkeypatch, capfd, "--frames", "4", "--fail", "2", "--json")
    assert (status, err) == (1, "")
    frames = json.loads(out)
    assert [frame["error"] for frame in frames] == [None, errno.ENOENT, None, None]
    assert [frame["shown_ns"] is None for frame in frames] == [False, True, False, False]
    assert (frames[1]["late"], frames[1]["vblanks"]) == (False, 0)


def test_the_program_and_ctrl_c():
    """It ends with what there was, and turns the screen off."""
    with started("frame_loop", "--frames", "1000000") as program, ExitStack() as ended:
        ended.callback(program.kill)
        until = time.monotonic() + 60
        while len(framebuffers("vkms")) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (130, "")
    assert " frames at 60 Hz: " in out
    becomes([], lambda: framebuffers("vkms"))  # a worker of the last flip may hold one for a moment


def test_help_and_bad_options(program, monkeypatch, capfd):
    """--help teaches; what makes no sense is refused with 2."""
    assert "--slow-every" in helps(program, monkeypatch, capfd)
    with pytest.raises(SystemExit) as end:
        called(program, monkeypatch, capfd, "--render", "-1")
    assert end.value.code == 2
