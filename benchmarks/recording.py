"""What recording costs, how much it keeps up with, and how reports grow: ``vm/run -- python -m benchmarks.recording``.

A loop makes two fences, merges them, signals both and closes all. It is timed while nobody records, while trace_pipe of
an instance with the same events is read to /dev/null, and while ``linuxsync trace record`` writes a file; each once a
round, in turn. Recordings of several sizes are made, and reported on by the command as one types it. Then fences are
made at a fixed rate for some seconds, and what was recorded is counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linuxsync import Timeline, trace
from linuxsync.trace.source import source

LOOPS = 2000
SIZES = (10_000, 100_000, 1_000_000)
RATE = 50_000  # events a second, of what they are made of
EVENTS_OF_A_FENCE = 5  # init, sync_timeline, the probe of its signal, signaled, destroy


def loop() -> float:
    """Seconds for a merge and its signal, on average."""
    with Timeline("one") as one, Timeline("two") as two:
        begun = time.perf_counter()
        for value in range(1, LOOPS + 1):
            with one.create_fence(value) as first, two.create_fence(value) as second, first | second:
                one.inc()
                two.inc()
        return (time.perf_counter() - begun) / LOOPS


@contextmanager
def trace_pipe() -> Iterator[None]:
    """The same events, as text, to /dev/null."""
    with source(None, False, None) as made:
        made.go(True)
        with (made.instance.path / "trace_pipe").open("rb") as pipe:
            reader = subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        yield
        made.go(False)
        reader.kill()
        reader.wait()


@contextmanager
def record(path: Path) -> Iterator[None]:
    """``linuxsync trace record``."""
    path.unlink(missing_ok=True)
    recorder = subprocess.Popen(
        [sys.executable, "-m", "linuxsync.cli", "trace", "record", "-o", path], stderr=subprocess.PIPE, text=True
    )
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.05)
    time.sleep(0.5)
    yield
    recorder.terminate()
    recorder.communicate()


def overhead(rounds: int, path: Path) -> None:
    """Print what the loop takes in each of the three."""
    times: dict[str, list[float]] = {"nobody records": [], "trace_pipe to /dev/null": [], "linuxsync trace record": []}
    for _ in range(rounds):
        times["nobody records"].append(loop())
        with trace_pipe():
            times["trace_pipe to /dev/null"].append(loop())
        with record(path):
            times["linuxsync trace record"].append(loop())
    print(f"microseconds for two fences, their merge and their signals; median of {rounds} rounds")
    for name, found in times.items():
        print(f"  {name:<26}{statistics.median(found) * 1e6:8.1f}")
    pairs = zip(times["linuxsync trace record"], times["trace_pipe to /dev/null"], strict=True)
    print(
        f"  record / trace_pipe       {statistics.median(ours / theirs for ours, theirs in pairs):8.2f}  (target: 1.25)"
    )


def produce(rate: int, seconds: float) -> int:
    """Make and signal fences at a rate of so many events a second; returns how many fences."""
    count = int(rate * seconds / EVENTS_OF_A_FENCE)
    with Timeline("fast") as line:
        begun = time.monotonic()
        for value in range(1, count + 1):
            with line.create_fence(value):
                line.inc()
            while time.monotonic() - begun < value * EVENTS_OF_A_FENCE / rate:
                pass
    return count


def record_while_made(rate: int, seconds: float, path: Path) -> tuple[float, float]:
    """Record what ``produce()`` does; returns how long it went, and the CPU time that it took us, in seconds."""
    with trace.recorder(path) as running:
        spent, begun = time.process_time(), time.monotonic()
        child = os.fork()
        if child == 0:
            produce(rate, seconds)
            os._exit(0)
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(trace.EVERY)
            running.collect()
        lasted = time.monotonic() - begun
        running.finish()
        return lasted, time.process_time() - spent


def rates(wanted: list[int], seconds: float, path: Path) -> None:
    """Print what is kept of what happens."""
    print(f"{seconds:g} s of fences")
    print("  events/s wanted  really  recorded     lost     MiB  recorder's share of a CPU")
    for rate in wanted:
        lasted, spent = record_while_made(rate, seconds, path)
        read = trace.load(path)
        told = read.events + read.lost
        print(
            f"  {rate:15,}{told / lasted:8,.0f}{read.events:10,}{read.lost:9,}{path.stat().st_size / 2**20:8.1f}"
            f"{spent / lasted:8.2f}"
        )


def growth(path: Path) -> None:
    """Print what a report takes, of recordings of several sizes."""
    print("linuxsync trace report FILE, Python's start included")
    print("       events   seconds  microseconds an event   MiB")
    for events in SIZES:
        record_while_made(RATE, events / RATE, path)
        begun = time.perf_counter()
        command = [sys.executable, "-m", "linuxsync.cli", "trace", "report", str(path)]
        child = os.posix_spawn(
            sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        )
        _, status, usage = os.wait4(child, 0)
        assert status == 0
        lasted = time.perf_counter() - begun
        print(f"{events:13,}{lasted:10.2f}{lasted / events * 1e6:23.1f}{usage.ru_maxrss / 1024:6.0f}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=int, action="append", help="events a second; may be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fences.trace")
        overhead(options.rounds, path)
        growth(path)  # before we are large ourselves, which the kernel would put down to the child
        rates(options.rate or [10_000, 50_000, 100_000], options.seconds, path)


if __name__ == "__main__":
    main()
