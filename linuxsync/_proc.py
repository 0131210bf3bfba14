"""What /proc says of processes and their threads."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

__all__ = ["comm_of", "process_of", "start_time", "threads"]

GONE = {errno.ENOENT, errno.ESRCH}  # what /proc says once a process has ended


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot (``sysconf(_SC_CLK_TCK)`` a second).

    Raises:
        OSError: ENOENT or ESRCH, there is no such process.

    Mirrors proc_pid_stat(5).
    """
    stat = Path("/proc", str(pid), "stat").read_bytes()
    # The second field is the name in parentheses, which may hold anything; what follows the last one are numbers.
    return int(stat[stat.rindex(b")") + 1 :].split()[19])


def threads(pid: int) -> list[int]:
    """Return the threads of a process; none if it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 (a Path each takes longer)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []


def process_of(tid: int) -> int | None:
    """Return the process that a thread belongs to; None if it is gone."""
    try:
        found = re.search(rb"^Tgid:\t(\d+)$", Path(f"/proc/{tid}/status").read_bytes(), re.MULTILINE)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
    return int(found[1]) if found else None


def comm_of(tid: int) -> str:
    """Return the name of a thread; bytes that are no UTF-8 as os.fsdecode() has them.

    Raises:
        OSError: ENOENT or ESRCH, there is no such thread.
    """
    return os.fsdecode(Path(f"/proc/{tid}/comm").read_bytes().removesuffix(b"\n"))
