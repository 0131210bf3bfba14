"""What the guest's kernel said on its console, and whether it was well."""

from __future__ import annotations

import re
from pathlib import Path

# Bits of /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst).
TAINT_BAD_PAGE = 1 << 5  # of KASAN, too
TAINT_DIE = 1 << 7
TAINT_WARN = 1 << 9

_STAMP = r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
_PANIC = re.compile(_STAMP + r"Kernel panic - not syncing.*", re.MULTILINE)
_OOPS = re.compile(
    _STAMP + r"(?:Oops: |Oops\b.*\[#\d+\]|BUG: |kernel BUG at |Internal error: |general protection fault\b).*",
    re.MULTILINE,
)
# lockdep, UBSAN and kmemleak taint nothing. A WARNING with a place in the source is a WARN_ON, which does.
_REPORT = re.compile(
    _STAMP
    + r"(?:WARNING: (?!CPU: |\S+:\d+ at ).*|INFO: trying to register non-static key.*|UBSAN: .*"
    + r"|kmemleak: \d+ new suspected memory leaks.*)",
    re.MULTILINE,
)
_WARNING = re.compile(_STAMP + r"WARNING: .*", re.MULTILINE)
_CUT_HERE = "[ cut here ]"
# What our tests write to the kernel's log when the first begins and when the last has ended (tests/conftest.py).
BEGIN, END = "linuxsync: tests begin", "linuxsync: tests end"
_END_TRACE = "---[ end trace"


def read(log: Path, start: int = 0) -> str:
    """The console log from a byte on, as text; empty when the guest never wrote one."""
    try:
        return log.read_bytes()[start:].decode("utf-8", "replace").replace("\r", "")
    except FileNotFoundError:
        return ""


def tail(text: str, lines: int = 25) -> str:
    """The last lines of a log, without empty ones."""
    return "\n".join([line for line in text.split("\n") if line.strip()][-lines:])


def panic(text: str) -> str | None:
    """The line with which the kernel panicked, or None."""
    match = _PANIC.search(text)
    return match[0] if match else None


def oops(text: str) -> str | None:
    """The first line of an oops or BUG, or None."""
    match = _OOPS.search(text)
    return match[0] if match else None


def report(text: str) -> str | None:
    """The first line with which one of a debug kernel's detectors reports a mistake, or None."""
    match = _REPORT.search(text)
    return match[0] if match else None


def mistake(text: str) -> str | None:
    """The first line of a detector's report or of a warning (WARN_ON), or None."""
    match = _REPORT.search(text) or _WARNING.search(text)
    return match[0] if match else None


def outside(text: str) -> str:
    """What of a log came before the first test and after the last one; all of it if no test began."""
    before, _, rest = text.partition(BEGIN)
    return before + rest.rpartition(END)[2] if END in rest else before


def warnings(text: str, most: int = 40) -> str:
    """The kernel's warnings (WARN_ON) with their traces, and detectors' first lines, at most so many lines."""
    kept: list[str] = []
    inside = False
    for line in text.split("\n"):
        inside = inside or _CUT_HERE in line
        if inside or _WARNING.match(line) or _REPORT.match(line):
            kept.append(line)
        inside = inside and _END_TRACE not in line
    if len(kept) > most:
        kept = [*kept[:most], f"... {len(kept) - most} more lines in the console log"]
    return "\n".join(kept)
