"""What tells a process from another one that gets its number later."""

from __future__ import annotations

from pathlib import Path

__all__ = ["start_time"]


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot (``sysconf(_SC_CLK_TCK)`` a second).

    Raises:
        OSError: ENOENT or ESRCH, there is no such process.

    Mirrors proc_pid_stat(5).
    """
    stat = Path("/proc", str(pid), "stat").read_bytes()
    # The second field is the name in parentheses, which may hold anything; what follows the last one are numbers.
    return int(stat[stat.rindex(b")") + 1 :].split()[19])
