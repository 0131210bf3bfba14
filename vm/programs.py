"""Runs test programs in the guest, one after the other, and prints their results as KTAP: ``linuxsync vm test``.

Each program is a test. It passes by its exit status, 0; 4 (kselftest's) or 77 (Automake's and Meson's) is a skip. What
it prints is shown as comments, but if its first line of stdout is TAP or KTAP, its results become subtests, and it
fails if one of them does. A warning of the kernel's fails the program that ran.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from . import console, ktap

SKIPPED = (4, 77)
DAEMONS = 2.0  # seconds for output that is on its way when a program has ended


class Output:
    """What one program prints, on its way into ours."""

    def __init__(self) -> None:
        """Nothing was printed yet."""
        self.is_tap: bool | None = None
        self.results: list[ktap.Result] = []
        self.plan: int | None = None
        self.bailed: str | None = None
        self.ended = False
        self._lock = threading.Lock()

    def copy(self, stream: IO[bytes], is_stdout: bool) -> None:
        """Print each line of a stream, until nobody writes to it any more."""
        with stream:
            for raw in stream:
                # What a terminal would overwrite, a progress bar say, is a line of its own to some readers.
                line = raw.decode(errors="replace").rstrip("\r\n").replace("\r", "\u240d")
                with self._lock:
                    if self.ended:
                        return  # another program's lines are printed now
                    print(self._shown(line, is_stdout), flush=True)

    def end(self) -> None:
        """Print nothing more."""
        with self._lock:
            self.ended = True

    def _shown(self, line: str, is_stdout: bool) -> str:
        """A line as it stands in ours."""
        if is_stdout and self.is_tap is None and line.strip():
            self.is_tap = ktap.speaks(line)
            if self.is_tap and not ktap.VERSION.match(line):
                # A nested test begins with this, whatever its program says.
                return f"  KTAP version 1\n{self._subtest(line)}"
        return self._subtest(line) if is_stdout and self.is_tap else f"# {line}"

    def _subtest(self, line: str) -> str:
        if result := ktap.parse(line):
            self.results.append(result)
        elif plan := ktap.PLAN.match(line.rstrip()):
            self.plan = int(plan[1])
        elif line.startswith("Bail out!"):
            self.bailed = line
            return f"  # {line}"  # it is for this program alone
        elif not line[:1].isspace() and not ktap.VERSION.match(line) and not line.startswith("#"):
            line = f"# {line}"
        return f"  {line}".rstrip()

    def trouble(self) -> str | None:
        """What its TAP says against it; None: nothing."""
        if self.bailed:
            return self.bailed
        failed = sum(one.outcome == "failed" for one in self.results)
        if failed:
            return f"{failed} of {len(self.results)} subtests failed"
        if self.plan is not None and self.plan != len(self.results):
            return f"{self.plan} subtests were planned, {len(self.results)} ran"
        if self.is_tap and not self.results and self.plan is None:
            return "no subtest ran"
        return None


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self) -> None:
        """Begin where it ends."""
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def trouble(self) -> str:
        """The warnings and oopses since the last time that this was asked; nothing if there are none."""
        lines = []
        while True:
            try:
                record = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # some were overwritten before they were read
            head, _, text = record.partition(";")
            microseconds = int(head.split(",")[2])
            lines.append(f"[{microseconds // 1000000:5}.{microseconds % 1000000:06}] {text.splitlines()[0]}")
        text = "\n".join(lines)
        return console.warnings(text) or console.oops(text) or ""


def run(program: str, limit: float, log: KernelLog) -> tuple[bool, str]:
    """Run one; returns whether it passed, and what stands behind its name."""
    began = time.monotonic()
    output = Output()
    status: int | None
    try:
        process = subprocess.Popen(
            shlex.split(program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return False, f"can't be started: {error}"
    # Not closed here: a thread that still reads a stream holds its lock.
    assert process.stdout and process.stderr
    copies = [
        threading.Thread(target=output.copy, args=(process.stdout, True), daemon=True),
        threading.Thread(target=output.copy, args=(process.stderr, False), daemon=True),
    ]
    for copy in copies:
        copy.start()
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = None
    # What it started and left behind would keep the streams open, and disturb the next one.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A daemon that it started has a session of its own, and may have kept them all the same.
    end = time.monotonic() + DAEMONS
    for copy in copies:
        copy.join(max(0.0, end - time.monotonic()))
    if any(copy.is_alive() for copy in copies):
        print("# something that it started and that still runs holds its output; no more of that is read", flush=True)
    output.end()
    took = f"{time.monotonic() - began:.3f} s"
    said = log.trouble()
    for line in said.splitlines():
        print(f"# {line}")
    if status is None:
        return False, f"did not end within {limit:g} s, {took}"
    if said:
        return False, f"the kernel warned, {took}"
    if status < 0:
        return False, f"killed by {signal_name(-status)}, {took}"
    if status in SKIPPED and not any(one.outcome == "failed" for one in output.results):
        return True, f"SKIP exit status {status}, {took}"
    if status:
        trouble = output.trouble()
        return False, f"exit status {status}, {trouble + ', ' if trouble else ''}{took}"
    if trouble := output.trouble():
        return False, f"{trouble}, {took}"
    if output.plan == 0 or (output.results and all(one.outcome == "skipped" for one in output.results)):
        return True, f"SKIP all subtests were skipped, {took}"
    return True, took


def signal_name(number: int) -> str:
    """SIGSEGV, say."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of them; 1 if one failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("programs", nargs="+")
    chosen = parser.parse_args(arguments)
    # A program's bytes are replaced where they are no UTF-8, and ours are always.
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    log = KernelLog()
    print(f"KTAP version 1\n1..{len(chosen.programs)}", flush=True)
    failed = False
    for number, program in enumerate(chosen.programs, 1):
        passed, why = run(program, chosen.limit, log)
        failed = failed or not passed
        name = re.sub(r"\s+", " ", program).replace("#", "\\#")
        print(f"{'ok' if passed else 'not ok'} {number} {name} # {why}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
