"""kill -9 at random moments: of who makes fences, of who waits for them, and of every command."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from linuxsync import Access, DmaHeap, DrmDevice, FenceDevice, SyncFile, Syncobj, Timeline, trace

TRACEFS = Path("/sys/kernel/tracing")
CLI = [sys.executable, "-m", "linuxsync.cli"]
FEWEST = 3  # processes to kill where a slow machine has time for hardly one
SILENT = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def killed(work, after: float) -> None:
    """Fork a child that works until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL


def test_producers(duration, tally):
    """Fences of a producer that is killed signal, with an error, whoever else holds them."""
    chance = random.Random()
    until, kills = time.monotonic() + duration, 0
    while time.monotonic() < until or kills < FEWEST:
        ours, theirs = socket.socketpair()
        with ours, theirs:

            def produce(theirs: socket.socket = theirs) -> None:
                with Timeline("killed") as line:
                    for value in range(1, 50):
                        with line.create_fence(value) as fence:
                            socket.send_fds(theirs, [b"x"], [fence.fileno()])
                        if value % 3 == 0:
                            line.inc()

            theirs.settimeout(20)
            killed(produce, chance.uniform(0.001, 0.1))
            theirs.close()
            ours.setblocking(False)
            got = 0
            while True:
                try:
                    data, fds, _, _ = socket.recv_fds(ours, 1, 1)
                except BlockingIOError:
                    break
                if not data:
                    break
                for fd in fds:
                    with SyncFile.from_fd(fd) as fence:
                        os.close(fd)
                        assert fence.poll(10)  # nobody is left who could signal it later
                        got += 1
            kills += 1
            tally.killed += 1
            tally.operations += got


def test_consumers(duration, tally):
    """Who waits, merges, submits or maps and is killed in it leaves nothing behind, and the producer goes on."""
    chance = random.Random()
    until, kills = time.monotonic() + duration, 0
    with (
        Timeline("goes on") as line,
        DmaHeap() as heap,
        FenceDevice() as device,
        DrmDevice.open(driver="virtio_gpu") as gpu,
        line.create_fence(1 << 20) as never,
    ):

        def consume() -> None:
            what = chance.randrange(5)
            if what == 0:
                never.poll(0.01)
            elif what == 1:
                with line.create_fence(1 << 21) as other, never | other as both:
                    both.poll(0.001)
            elif what == 2:
                with heap.alloc(1 << 16) as buf, buf.mmap() as memory:
                    buf.import_sync_file(never, Access.WRITE)
                    memory[:4] = b"abcd"
            elif what == 3:
                with device.create_queue() as queue, queue.submit(in_fences=[never]) as job:
                    job.fence.poll(0.001)
            else:
                with Syncobj.create(gpu) as syncobj:
                    syncobj.import_sync_file(never)
                    syncobj.export_sync_file().close()

        while time.monotonic() < until or kills < FEWEST:
            chance.seed(random.random())
            killed(consume, chance.uniform(0.001, 0.1))
            kills += 1
            tally.killed += 1
            assert not never.poll()
        with line.create_fence(1) as fence:
            line.inc()
            fence.wait(1)


COMMANDS = {
    "ps": [],
    "bufs": [],
    "timelines": [],
    "syncobjs": [],
    "top": [],
    "metrics": ["--listen", "0"],
    "stuck": ["--after", "0.1"],
    "leaks": ["--interval", "0.1", "--stacks"],
    "doctor": [],
    "show": ["/dev/dri/card0"],
    "trace report": ["before"],
    "trace diff": ["before", "before"],
    "trace export": ["--html", "page.html", "--svg", "page.svg", "before"],
    "trace record": ["-o", "recorded"],
    "trace live": [],
}
RECORDERS = ("trace record", "trace live", "leaks")


@contextmanager
def busy() -> Iterator[None]:
    """Somebody who makes fences all the time."""
    code = "from linuxsync import *\nwith Timeline('busy') as t:\n print(flush=True)\n while 1:\n"
    code += "  with t.create_fence(1 << 20): t.inc()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()  # it takes a while to start
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def start_takes() -> float:
    """Seconds that a command takes which has little to do: most of it is Python's start."""
    start = time.monotonic()
    subprocess.run([*CLI, "ps"], check=False, **SILENT)  # 1, as nobody has a fence
    return time.monotonic() - start


def instances() -> set[str]:
    """Names of the instances of tracefs that are recorders'."""
    return {entry.name for entry in (TRACEFS / "instances").iterdir() if entry.name.startswith("linuxsync_")}


def seen_afterwards() -> list:
    """What a recording after all that has of somebody who makes fences, which may take a while to come."""
    deadline = time.monotonic() + 60
    while True:
        with trace.recording() as recorded:
            time.sleep(0.2)
        if recorded.fences or time.monotonic() > deadline:
            return recorded.fences


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, duration, tally, tmp_path, start_takes):
    """A command that is killed leaves a temporary file, or a tracefs instance, which the next recording removes."""
    chance = random.Random()
    until = time.monotonic() + duration
    with busy():
        if "before" in COMMANDS[command]:
            subprocess.run(
                [*CLI, "trace", "record", "-o", "before", "--for", "0.1"], cwd=tmp_path, check=True, **SILENT
            )
        while True:
            words, before = [*CLI, *command.split(), *COMMANDS[command]], instances()
            begun = time.monotonic()
            with subprocess.Popen(words, cwd=tmp_path, **SILENT) as process:
                try:
                    if command in RECORDERS:
                        # A start takes longer now that others want the CPUs, as who looks all the time would.
                        while not instances() - before:
                            assert process.poll() is None and time.monotonic() - begun < 60 + 50 * start_takes
                            time.sleep(0.05)
                        time.sleep(chance.uniform(0, start_takes))
                    else:
                        time.sleep(chance.uniform(0.5, 1.5) * start_takes)
                finally:
                    process.kill()
            tally.killed += 1
            if command in RECORDERS:
                assert instances() - before  # it was in the middle of it
            if time.monotonic() > until:
                break
        assert seen_afterwards()
    # Nobody finds half of a page under its name.
    for page, end in (("page.html", "</html>"), ("page.svg", "</svg>")):
        assert not (tmp_path / page).exists() or (tmp_path / page).read_text().rstrip().endswith(end)
    assert instances() == set()
    assert "linuxsync_" not in (TRACEFS / "kprobe_events").read_text()


def test_two_recorders(tally, tmp_path):
    """Two at once see the same fences, and the end of one takes nothing from the other."""
    with trace.recording() as first:
        with trace.recording() as second, Timeline("twice") as line:
            for value in range(1, 101):
                with line.create_fence(value):
                    line.inc()
        with Timeline("once") as line, line.create_fence(1):
            line.inc()
    names = [
        [fence.timeline.name for fence in one.fences if fence.timeline.name in ("twice", "once")]
        for one in (first, second)
    ]
    assert names == [["twice"] * 100 + ["once"], ["twice"] * 100]
    tally.operations += 201


def test_disk_full(tally, tmp_path):
    """A recorder whose disk is full says so and ends; another on a disk with room goes on."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], check=True)
    try:
        with busy(), trace.recording() as other:
            done = subprocess.run(
                [*CLI, "trace", "record", "-o", str(place / "f")], capture_output=True, text=True, timeout=120
            )
        assert done.returncode == 2
        assert done.stderr.endswith("Error: can't write: No space left on device\n")
        assert len(other.fences) > 100
        assert trace.load(place / "f").damage
    finally:
        subprocess.run(["umount", str(place)], check=True)
    tally.operations += 1
