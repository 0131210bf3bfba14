"""examples/pipeline.py: buffers and fences of one process on another's screen."""

from __future__ import annotations

import importlib.util
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import click
import pytest
from drm_words import clients, framebuffers, handles, nothing_left_behind

from linuxsync import DrmDevice, FenceError

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "pipeline.py"
# A vblank of vkms bears the time at which its timer should have run, which on a slow machine is before it did.
LATE = 100_000_000
# vkms reads what it shows with the CPU, and for that a kernel must be able to map a udmabuf.
UDMABUF = pytest.param("udmabuf", marks=pytest.mark.linuxsync(requires=["udmabuf_vmap"]))
Screen = tuple[socket.socket, DrmDevice]
KINDS = pytest.mark.parametrize("kind", [UDMABUF, "vgem"])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Also in the kernel."""
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipeline", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pipeline"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def screen(pipeline: ModuleType) -> Iterator[Screen]:
    """A compositor in a thread: the client's end of its socket, and the device, which is kept open here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, DrmDevice.open("vkms") as device:

        def show() -> None:
            with theirs:  # so that a compositor that fails has left, and nobody waits for it
                pipeline.compositor(theirs, device)

        thread = threading.Thread(target=show)
        thread.start()
        yield ours, device
        ours.close()
        thread.join()
        # All that it had is gone before the device is: else the kernel would clear up behind it.
        assert handles(device.fileno()) == []
        assert framebuffers("vkms") == []


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "always", str(PROGRAM), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(frames: list[dict[str, int]], count: int) -> None:
    """What fences promise: nothing is drawn into a buffer that is on the screen, nothing is shown that is not drawn."""
    assert [frame["frame"] for frame in frames] == list(range(1, count + 1))
    for frame in frames:
        assert frame["buffer"] == frame["frame"] % 3
        assert frame["submitted_ns"] < min(frame["drawn_ns"], frame["overlaid_ns"])
        assert max(frame["drawn_ns"], frame["overlaid_ns"]) - LATE < frame["shown_ns"]
    for frame, following in itertools.pairwise(frames):
        assert frame["shown_ns"] < following["shown_ns"] == frame["released_ns"]
    assert frames[-1]["released_ns"] is None
    for frame, reused in zip(frames, frames[3:], strict=False):
        assert frame["released_ns"] < min(reused["drawn_ns"], reused["overlaid_ns"])


@KINDS
def test_the_program(kind: str) -> None:
    """Every frame comes to the screen, through two processes, and each says that nothing is left open."""
    count = 120
    with started("--buffers", kind, "--frames", str(count), "--json") as program:
        out, err = program.communicate(timeout=300)
    assert (program.returncode, err) == (0, "")
    check(json.loads(out), count)


@KINDS
def test_the_table(kind: str) -> None:
    """A line for each frame; udmabuf is what it takes by itself."""
    with started("--frames", "5", *(() if kind == "udmabuf" else ("--buffers", kind))) as program:
        out, err = program.communicate(timeout=300)
    assert (program.returncode, err) == (0, "")
    lines = out.splitlines()
    assert " ".join(lines[0].split()) == "frame buffer submitted drawn overlaid shown released on screen"
    assert [line.split()[:2] for line in lines[1:6]] == [[str(n), str(n % 3)] for n in range(1, 6)]
    assert f"5 frames, 3 buffers of {kind}, 640x480" in lines[6]


@KINDS
def test_nobody_waits_busily(pipeline: ModuleType, screen: Screen, kind: str) -> None:
    """Client, engines and compositor together take much less of the CPU than of the clock."""
    wall, cpu = time.monotonic(), time.process_time()
    # The longer a picture takes, the less it matters how slow the machine is at what there is to do.
    times = pipeline.Client(screen[0], kind, 1.0).run(5)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    assert [row.frame for row in times] == list(range(1, 6))
    assert wall > 5
    assert cpu < wall / 2


@KINDS
def test_the_screen_shows_what_was_drawn(pipeline: ModuleType, screen: Screen, kind: str) -> None:
    """The memory of the last frame, seen through another descriptor of its buffer, has both engines' colors."""
    client = pipeline.Client(screen[0], kind, 0.001)
    with client.buffers[7 % 3].dmabuf.dup() as buffer:
        client.run(7)
        with buffer.cpu_access() as view:
            assert bytes(view[:4]) == bytes([14, 64, 192, 0])
            assert bytes(view[-4:]) == bytes([0, 7, 0, 0])


@KINDS
def test_an_engine_that_fails(pipeline: ModuleType, screen: Screen, kind: str) -> None:
    """The client learns it; nobody hangs, and the jobs that it did not come to leave no descriptor behind."""
    client = pipeline.Client(screen[0], kind, 0.001)
    client.buffers[5 % 3].memory.close()
    with pytest.raises((FenceError, RuntimeError)) as caught:
        client.run(9)
    # Whichever comes first: the fence that has failed, or the next job for an engine that is no more.
    assert "fence 'frame 5' of sw_sync, timeline" in str(caught.value) or isinstance(caught.value.__cause__, ValueError)


def test_a_compositor_that_leaves(pipeline: ModuleType) -> None:
    """The client says so; before the first frame and in the middle."""
    for answers in (0, 1):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            if answers:
                pipeline.send(theirs, {"width": 64, "height": 64, "mode": "none"})
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(click.ClickException, match="the compositor"):
                pipeline.Client(ours, "udmabuf", 0.001).run(4)
            theirs.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_is_ended(number: int) -> None:
    """Its compositor leaves too, with all that is theirs."""
    with started("--frames", "100000", "--buffers", "vgem") as program, ExitStack() as ended:
        ended.callback(program.kill)  # or the one before would wait for it, whatever fails here
        until = time.monotonic() + 120
        while not framebuffers("vkms"):
            assert time.monotonic() < until
            time.sleep(0.05)
        program.send_signal(number)
        out, err = program.communicate(timeout=120)
        # Ctrl-C ends it after a frame, with the table so far; the others without a word.
        assert (program.returncode, err) == (130 if number == signal.SIGINT else -number, "")
        assert out.startswith("frame") == (number == signal.SIGINT)
        until = time.monotonic() + 120
        while clients("vkms"):
            assert time.monotonic() < until
            time.sleep(0.05)
