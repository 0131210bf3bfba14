"""Where file systems are mounted."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["mounts"]


def mounts(kind: str) -> list[tuple[Path, str]]:
    """Where a kind of file system, ``debugfs`` say, is mounted in this mount namespace, and with which options.

    The options are those of the file system, as proc_pid_mountinfo(5) has them last.
    """
    return mounted(kind, os.fsdecode(Path("/proc/self/mountinfo").read_bytes()))


def mounted(kind: str, mountinfo: str) -> list[tuple[Path, str]]:
    """The same, of what mountinfo says."""
    found = []
    for line in mountinfo.split("\n"):
        before, _, rest = line.partition(" - ")
        fields = before.split(" ")
        if rest.startswith(f"{kind} ") and len(fields) > 4:
            # proc(5): space, tab, newline and backslash in a path are written as \ooo, and nothing else is.
            path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            found.append((Path(path), rest.split(" ")[-1]))
    return found
