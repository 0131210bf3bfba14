"""Runs make, tar and their like: output to a log, a progress bar, nothing left running whatever ends us."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# A line of kbuild's output that stands for one object.
OBJECT = re.compile(rb"\s+(?:CC|AS|AR|LD|HOSTCC|HOSTLD)\b")
# How often progress is told where there is no terminal to draw a bar on, in seconds.
PLAIN_INTERVAL = 30.0
# Variables with which a user's environment would build another kernel than the cache's key says.
FOREIGN = ("ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "MAKEFLAGS", "MAKELEVEL", "KCFLAGS", "KCONFIG_CONFIG", "CC")


def say(text: str) -> None:
    """One line about what is going on, on stderr."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


class MakeError(Exception):
    """A step of the build failed; the message has the log's last lines."""


class Make:
    """Runs one build's commands and collects their output in one log."""

    def __init__(self, log: Path) -> None:
        """Nothing runs yet; the log is appended to."""
        self.log = log

    def run(self, command: Sequence[str]) -> None:
        """Run a command to its end; MakeError if that is not 0."""
        for _ in self._lines(command):
            pass

    def run_with_progress(self, command: Sequence[str], total: int) -> None:
        """The same, counting objects towards a total."""
        done = 0
        with progress_bar(total) as show:
            for line in self._lines(command):
                if OBJECT.match(line):
                    done += 1
                    show(done)

    def _lines(self, command: Sequence[str]) -> Iterator[bytes]:
        env = {k: v for k, v in os.environ.items() if k not in FOREIGN}
        env.update(LC_ALL="C", KBUILD_BUILD_USER="linuxsync", KBUILD_BUILD_HOST="vm")
        with open(self.log, "ab") as log:
            log.write(f"+ {' '.join(command)}\n".encode())
            log.flush()
            with process_group(command, env) as process:
                assert process.stdout
                for line in process.stdout:
                    log.write(line)
                    yield line
                status = process.wait()
        if status != 0:
            tail = "\n".join(self.log.read_text(errors="replace").rstrip().split("\n")[-25:])
            raise MakeError(f"{command[0]} failed with status {status}\n{tail}\nThe whole log: {self.log}")


@contextlib.contextmanager
def process_group(command: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a session of its own, and end the whole of it when the block or this process ends."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    ) as process:
        # When this process is killed with SIGKILL, the watchdog reads the end of its pipe.
        watchdog = ["sh", "-c", 'read -r _; kill -KILL -- "-$0"', str(process.pid)]
        with subprocess.Popen(watchdog, stdin=subprocess.PIPE, start_new_session=True) as guard:
            try:
                yield process
            finally:
                guard.kill()
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes the number of objects done; the total is an estimate."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("vm: kernel"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("objects,"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("kernel", total=total)
            yield lambda done: bar.update(task, completed=done, total=max(done, total))
        return

    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            say(f"kernel: {done} of about {max(done, total)} objects")

    yield tell
