"""What the kernel says of the fence device elsewhere than through /dev/fencedev, and the module's coming and going."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from kernel_words import libc

DEBUGFS = Path("/sys/kernel/debug/fencedev")
SYS_DELETE_MODULE = 176


def alive() -> dict[str, int]:
    """How many of each there are, by debugfs; nothing without the module."""
    return {entry.name: int(entry.read_text()) for entry in DEBUGFS.iterdir()} if DEBUGFS.is_dir() else {}


def unload() -> int:
    """delete_module(2) of fencedev: 0 or -errno."""
    result = libc.syscall(ctypes.c_long(SYS_DELETE_MODULE), b"fencedev", ctypes.c_uint(os.O_NONBLOCK))
    return -ctypes.get_errno() if result == -1 else int(result)


def load() -> None:
    """Load the module that the guest had loaded."""
    subprocess.run(["insmod", os.environ["LINUXSYNC_FENCEDEV"]], check=True)
