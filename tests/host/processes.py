"""What runs on the host because of a test, what is left of it, and what its kernels are known for."""

from __future__ import annotations

import os
import time
from pathlib import Path

# What of `linuxsync doctor`'s list Linux 6.1 has not.
OLDEST_LACKS = {"set_deadline", "syncobj", "timeline_syncobj", "syncobj_eventfd", "udmabuf_vmap", "udmabuf_pinned"}


def environment(cache: Path) -> dict[str, str]:
    """That of a run with a cache of its own."""
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


def processes_of(folder: Path) -> list[str]:
    """The processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found.append(command)
    return found


def assert_nothing_left(folder: Path) -> None:
    """No such process, within a moment, which is longer where several guests are emulated."""
    end = time.monotonic() + 120
    while processes_of(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(folder) == []


def kept_logs(cache: Path) -> list[Path]:
    """The console logs that runs with this cache have left."""
    return sorted((cache / "linuxsync" / "logs").glob("*.log"))
