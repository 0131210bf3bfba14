"""linuxsync trace record: the kernel's tracepoints about fences, into a file."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from ..trace import EVERY, MAGIC, Recorder, recorder
from .completion import pids as completing_pids
from .endings import die_of, signals_held_back, wait
from .failures import EXPECTED
from .seconds import Seconds
from .text import duration, plain

__all__ = ["Unable", "explained", "record"]

USUAL = "linuxsync.trace"
SHOW_EVERY = 0.5  # seconds
SIGNALED = 128

EPILOG = """\b
Examples:
  linuxsync trace record                           until Ctrl-C, everything
  linuxsync trace record --for 10 -o slow.trace
  linuxsync trace record --pid "$(pidof weston)" --syscalls
  linuxsync trace record -- ./render --frames 100
  linuxsync trace report
"""


class Unable(click.ClickException):
    """It can't be recorded here."""

    exit_code = 2


class NotFound(Unable):
    """There is no such command; the status is that of sh(1)."""

    exit_code = 127


@click.command(short_help="Record what happens to fences", epilog=EPILOG)
@click.option(
    "-o", "output", metavar="FILE", default=USUAL, help=f"Where to; {USUAL}. A recording is overwritten. -: stdout."
)
@click.option("--for", "lasting", type=Seconds(0.05), metavar="S", help="Seconds to record; until Ctrl-C.")
@click.option(
    "--pid",
    "pids",
    type=click.IntRange(1),
    multiple=True,
    shell_complete=completing_pids,
    help="Only what this process, its threads and children do; may be repeated. Others' signals of fences are kept.",
)
@click.option("--syscalls", is_flag=True, help="Also waits in poll, select, epoll_wait and ioctl, and who wakes whom.")
@click.option(
    "--buffer",
    type=click.IntRange(64, 1 << 20),
    metavar="KIB",
    help="The kernel's memory for each CPU; 4096, and at most 256 MiB for all.",
)
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
def record(
    output: str,
    lasting: float | None,
    pids: tuple[int, ...],
    syscalls: bool,
    buffer: int | None,
    command: tuple[str, ...],
) -> None:
    """Record what happens to fences: until Ctrl-C, for some seconds, or as long as a COMMAND runs.

    Everything that the machine does with fences is recorded: who makes one, who wants its signal, when it signals, what
    it is made of, who waits for it inside the kernel. Waits in system calls take --syscalls, which records every
    poll(2) of the machine, and is more. Times are those of SYNC_IOC_FILE_INFO, to the nanosecond, where the kernel
    allows a probe on its functions dma_fence_signal_timestamp_locked, dma_fence_array_create and dma_fence_chain_init.

    It takes root, and uses a trace instance and a buffer of its own, which are gone when it ends; what trace-cmd or
    others do meanwhile is left alone. If the kernel makes events faster than they are read some are lost: how many is
    said. Blocks are written each second, or when they are full, so that a crash takes the last one at most.

    Exit status: that of COMMAND; else 0, and 2 if it could not be recorded.
    """
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("a recording is nothing for a terminal: -o FILE")
    if output != "-":
        check_free(Path(output))
    words = shlex.join(["linuxsync", *sys.argv[1:]])
    target: str | BinaryIO = sys.stdout.buffer if output == "-" else output
    child = None
    with signals_held_back() as endings:
        try:
            with (
                explained(),
                recorder(target, pids=pids or None, syscalls=syscalls, buffer=buffer, command=words) as running,
            ):
                if command:
                    child = start(command, endings, output == "-")
                begun = time.monotonic()
                ended_by = run(running, lasting, child, endings)
                lasted = time.monotonic() - begun
                running.finish()
                say(running, lasted, output)
        finally:
            if child is not None:
                status = await_end(child, endings)
    if child is not None:
        sys.exit(status if status >= 0 else SIGNALED - status)
    if ended_by in (signal.SIGTERM, signal.SIGHUP):
        die_of(ended_by)


def check_free(path: Path) -> None:
    """Refuse to write over what is no recording."""
    try:
        if not path.is_file():  # nothing yet, or a pipe, to which nobody writes
            return
        with path.open("rb") as old:
            begin = old.read(len(MAGIC))
    except OSError as error:
        raise Unable(f"{plain(str(path))}: {error.strerror}") from None
    if begin not in (b"", MAGIC):
        raise Unable(f"{plain(str(path))} is no recording, and is not overwritten: choose another -o FILE")


@contextmanager
def explained() -> Iterator[None]:
    """What may be missing, in words."""
    try:
        yield
    except PermissionError as error:
        raise Unable(f"it takes root, to use the kernel's tracing and to write the file: {error}") from None
    except ProcessLookupError as error:
        raise Unable(error.strerror or "no such process") from None
    except OSError as error:
        if error.errno in EXPECTED:
            raise
        raise Unable(
            f"{error.strerror or error}" + (f": {plain(str(error.filename))}" if error.filename else "")
        ) from None


def start(command: Sequence[str], endings: set[signal.Signals], away: bool) -> subprocess.Popen[bytes]:
    """Run a command, to which signals come as usual; where stdout is the recording, its output goes to stderr."""
    try:
        return subprocess.Popen(
            command,
            stdout=sys.stderr if away else None,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, endings),
        )
    except OSError as error:
        raise NotFound(f"{plain(command[0])}: {error.strerror}") from None


def run(
    running: Recorder, lasting: float | None, child: subprocess.Popen[bytes] | None, endings: set[signal.Signals]
) -> signal.Signals | None:
    """Collect until it is time, the command has ended, or a signal came, which is returned."""
    begun = shown = time.monotonic()
    came = None
    watched = sys.stderr.isatty()
    try:
        while lasting is None or time.monotonic() - begun < lasting:
            came = wait(EVERY, endings)
            running.collect()
            now = time.monotonic()
            if watched and now - shown >= SHOW_EVERY:
                shown = now
                print(f"\r\x1b[K{now - begun:.0f} s, {counted(running)}", end="", file=sys.stderr, flush=True)
            if child is not None and child.poll() is not None:
                break
            if came is not None:
                # Ctrl-C comes to the command as well, other signals to us alone.
                if child is None or came == signal.SIGINT:
                    break
                child.send_signal(came)
    finally:
        if watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return came


def await_end(child: subprocess.Popen[bytes], endings: set[signal.Signals]) -> int:
    """The command's exit status, as Popen has it; whoever wants to end us meanwhile means the command."""
    while child.poll() is None:
        came = wait(EVERY, endings)
        if came is not None and came != signal.SIGINT:
            child.send_signal(came)
    return child.returncode


def counted(running: Recorder) -> str:
    """What there is until now."""
    events, lost = running.source.count()
    return f"{events:,} events, {lost:,} lost, {running.size / (1 << 20):.1f} MiB"


def say(running: Recorder, lasted: float, output: str) -> None:
    """The end, on stderr."""
    where = "" if output == "-" else f" in {plain(output)}"
    print(f"linuxsync: {counted(running)}{where}, {duration(int(lasted * 1e9))}", file=sys.stderr)
    if running.source.count()[1]:
        print("linuxsync: nobody read the lost events in time: try a larger --buffer, or --pid", file=sys.stderr)
