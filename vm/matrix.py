"""What each of several kernels offers, found by asking it, and how one command fares on each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from . import runner
from .pump import read, write_all

EX_UNAVAILABLE = 69
# What `linuxsync doctor` finds out about the machine and its user, the same whatever kernel the guest has.
OF_THE_MACHINE = frozenset({"root", "ptrace", "hidepid", "kvm", "qemu", "vng", "vm"})
# The words of the table for what doctor calls the states; what it does not list is not there either.
STATES = {"ok": "ok", "missing": "unsupported", "unknown": "unknown"}
UNSUPPORTED = "unsupported"
# In the guest: the probe, a NUL, which no JSON has in it, and the command in the shell's place.
SCRIPT = """\
"$0" -I -m linuxsync.cli doctor --json || exit 69
printf '\\0'
exec "$@"
"""
KEPT = 1 << 16  # of the command's output: what pytest says last is near its end
COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
# pytest's last line: "1 failed, 12 passed, 3 deselected in 4.56s", with or without a frame.
SUMMARY = re.compile(rb"^(?:=+ )?((?:\d+ [a-z]+, )*\d+ [a-z]+) in \d+\.\d+s\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class Feature:
    """What a kernel answered about one thing.

    Attributes:
        state: ok, unsupported or unknown.
        why: how that is known, in doctor's words.
    """

    state: str
    why: str


@dataclass(frozen=True)
class Column:
    """One kernel of a matrix.

    Attributes:
        kernel: as it was asked for.
        release: as uname -r says it.
        features: by name, in doctor's order; none if the guest was lost before it had answered.
        outcomes: what pytest counted, by its own words; none for another command.
        status: the command's exit status, 0 if there was none to run, 69 if the guest was lost.
        seconds: from the start of QEMU to its end.
        lost: why there is no trustworthy status, if so.
    """

    kernel: str
    release: str
    features: dict[str, Feature]
    outcomes: dict[str, int]
    status: int
    seconds: float
    lost: str | None = None


@dataclass(frozen=True)
class Matrix:
    """Features and results by kernel.

    Attributes:
        columns: in the order in which the kernels were named.
        command: what ran on each; None if nothing but the probe did.
    """

    columns: tuple[Column, ...]
    command: tuple[str, ...] | None = None

    @property
    def status(self) -> int:
        """The worst exit status."""
        return max((column.status for column in self.columns), default=0)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The table: a heading, a row for each feature, and rows for what became of the command."""
        yield ("FEATURE", *(column.release for column in self.columns))
        for name in in_order(column.features for column in self.columns):
            yield (name, *(state_of(column, name) for column in self.columns))
        if self.command is not None:
            for word in in_order(column.outcomes for column in self.columns):
                yield (word, *(outcome_of(column, word) for column in self.columns))
            yield ("exit status", *("lost" if column.lost else str(column.status) for column in self.columns))
            yield ("seconds", *(f"{column.seconds:.0f}" for column in self.columns))
        elif any(column.lost for column in self.columns):
            yield ("guest", *("lost" if column.lost else "ok" for column in self.columns))

    def table(self) -> str:
        """The rows as text, each column as wide as it must be."""
        rows = list(self.rows())
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def json(self) -> str:
        """The same as data."""
        kernels = [
            {
                "kernel": column.kernel,
                "release": column.release,
                "features": {name: {"state": one.state, "why": one.why} for name, one in column.features.items()},
                "outcomes": column.outcomes,
                "status": column.status,
                "seconds": round(column.seconds, 1),
                "lost": column.lost,
            }
            for column in self.columns
        ]
        command = None if self.command is None else list(self.command)
        return json.dumps({"command": command, "kernels": kernels, "status": self.status}, indent=2) + "\n"


def in_order(tables: Iterator[dict[str, Feature]] | Iterator[dict[str, int]]) -> list[str]:
    """The keys of several, each once, where the first that has it has it."""
    return list(dict.fromkeys(key for table in tables for key in table))


def state_of(column: Column, name: str) -> str:
    """A cell of the upper part: what a kernel does not even mention, a device say, it has not."""
    if not column.features:
        return "-"
    return column.features[name].state if name in column.features else UNSUPPORTED


def outcome_of(column: Column, word: str) -> str:
    """A cell of the lower part."""
    return str(column.outcomes.get(word, 0)) if column.outcomes else "-"


def run_matrix(
    kernels: Sequence[str],
    command: Sequence[str] | None,
    settings: Callable[[str], runner.Settings],
    output: int = 1,
) -> Matrix:
    """Probe each kernel, and run a command on it, in one boot for both.

    Args:
        kernels: as --kernel takes them; one that is named twice counts once.
        command: program and arguments; None to do nothing but probe.
        settings: how a guest with that kernel is booted; asked for all of them before the first is, because it builds
            what is not built yet. With ``linuxsync`` in the guest's Python, which is this one.
        output: an fd of the host that the command's stdout goes to.

    A guest that is lost ends its own column and no other. What is going on is said on stderr.
    """
    wanted = {kernel: settings(kernel) for kernel in kernels}
    columns = []
    for at, (kernel, chosen) in enumerate(wanted.items(), 1):
        if not chosen.quiet:
            runner.note(f"kernel {kernel}, {at} of {len(wanted)}")
        columns.append(run_column(kernel, command, chosen, output))
    return Matrix(tuple(columns), None if command is None else tuple(command))


def show_matrix(
    kernels: Sequence[str], command: Sequence[str] | None, settings: Callable[[str], runner.Settings], as_json: bool
) -> int:
    """The same for a command line: the table behind the command's output, or JSON and nothing else on stdout.

    Returns:
        The exit status.
    """
    found = run_matrix(kernels, command, settings, output=2 if as_json else 1)
    if command is not None and not as_json:
        print()
    print(found.json() if as_json else found.table(), end="", flush=True)
    return found.status


def run_column(kernel: str, command: Sequence[str] | None, settings: runner.Settings, output: int) -> Column:
    """One boot."""
    script = ["sh", "-c", SCRIPT, sys.executable, *(command if command is not None else ["true"])]
    started = time.monotonic()
    lost: str | None = None
    with Splitter(output, started + settings.timeout) as splitter:
        try:
            status = runner.run(script, settings, stdin=None, stdout=splitter.sink)
        except runner.GuestLost as error:
            status, lost = EX_UNAVAILABLE, error.reason
            error.tell()
    features = features_of(splitter.probe) if splitter.answered else {}
    if not splitter.answered and lost is None:
        lost = "linuxsync doctor did not answer in the guest"
        runner.note(lost)
    return Column(
        kernel,
        settings.kernel.version,
        features,
        outcomes_of(splitter.tail) if command is not None else {},
        EX_UNAVAILABLE if lost else status,
        time.monotonic() - started,
        lost,
    )


def features_of(probe: bytes) -> dict[str, Feature]:
    """What of doctor's JSON is about the kernel."""
    return {
        check["name"]: Feature(STATES[check["state"]], check["why"])
        for check in json.loads(probe)["checks"]
        if check["name"] not in OF_THE_MACHINE
    }


def outcomes_of(said: bytes) -> dict[str, int]:
    """What pytest counted: "2 failed, 40 passed in 3.21s" by its words; nothing if it was not pytest."""
    found = SUMMARY.findall(COLOURS.sub(b"", said))
    pairs = (word.split() for word in found[-1].decode().split(", ")) if found else ()
    return {{"error": "errors", "warning": "warnings"}.get(word, word): int(count) for count, word in pairs}


@dataclass
class Splitter:
    """A pipe for the guest's stdout: keeps the probe, passes on what follows the first NUL, and keeps the end of it.

    Attributes:
        output: the fd that the rest goes to.
        deadline: how long to wait, on the monotonic clock, for whoever reads that.
        sink: the pipe's end for the guest, while the block runs.
        probe: all that came before the NUL.
        answered: whether the NUL has come.
        tail: the last of what was passed on.
    """

    output: int
    deadline: float
    sink: int = -1
    probe: bytes = b""
    answered: bool = False
    tail: bytes = b""
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Splitter:
        """Start copying."""
        source, self.sink = os.pipe()
        self._threads = [threading.Thread(target=self._copy, args=(source,), daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything has been written."""
        os.close(self.sink)
        self._threads[0].join(max(0.0, self.deadline - time.monotonic()))

    def _copy(self, fd: int) -> None:
        # A reader who has gone must be noticed by the guest's runner, so the pipe goes too.
        with contextlib.suppress(OSError), open(fd, "rb", buffering=0) as source:
            while data := read(source.fileno()):
                if not self.answered:
                    before, nul, data = data.partition(b"\0")
                    self.probe += before
                    self.answered = bool(nul)
                if data:
                    self.tail = (self.tail + data)[-KEPT:]
                    write_all(self.output, data)
