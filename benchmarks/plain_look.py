"""What a Python program without linuxsync would write to see who holds which fence: os.readlink, ctypes, json."""

from __future__ import annotations

import ctypes
import json
import os
from typing import TextIO

from .plain import info

SYS_pidfd_getfd = 438  # on every architecture, like all system calls that are that young
libc = ctypes.CDLL(None, use_errno=True)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Return a duplicate of another process's descriptor."""
    fd: int = libc.syscall(SYS_pidfd_getfd, pidfd, number, 0)
    if fd == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd


def look_at(pid: int) -> list[dict[str, object]]:
    """The fences of a process; none if it has ended."""
    found: list[dict[str, object]] = []
    try:
        numbers = [
            int(number)
            for number in os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 (a Path for each would be slower still)
            if os.readlink(f"/proc/{pid}/fd/{number}") == "anon_inode:sync_file"  # noqa: PTH115
        ]
        if not numbers:
            return []
        with open(f"/proc/{pid}/comm") as file:
            comm = file.read().rstrip("\n")
        pidfd = os.pidfd_open(pid)
    except OSError:
        return []
    for number in numbers:
        fd = pidfd_getfd(pidfd, number)
        name, status, fences = info(fd)
        os.close(fd)
        found.append({"pid": pid, "comm": comm, "fd": number, "name": name, "status": status, "fences": fences})
    os.close(pidfd)
    return found


def look() -> list[dict[str, object]]:
    """The fences of all processes."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    return [fence for pid in pids for fence in look_at(pid)]


def print_look(file: TextIO) -> None:
    """Write them as JSON."""
    file.write(json.dumps(look()) + "\n")
