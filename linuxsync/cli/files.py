"""files: how many descriptors a command may hold, and how it writes files and bytes for stdout."""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click

from .failures import EXPECTED, WRITING
from .text import plain

__all__ = ["Unmade", "hold_many", "put", "write_all"]


class Unmade(click.ClickException):
    """The output can't be made; the same exit status as of all commands that can't tell."""

    exit_code = 2


def hold_many() -> None:
    """Raise our own limit of descriptors as far as it goes, for what holds one for each fence."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # that is for root
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write_all(stream: BinaryIO, content: bytes) -> None:
    """Write all of it: stdout is not buffered where PYTHONUNBUFFERED is set, and may take a part only."""
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]


def put(path: str, content: bytes) -> None:
    """Write a file, or stdout; a file that was there is replaced when all is written, or else is as it was."""
    if path == "-":
        sys.stdout.flush()
        write_all(sys.stdout.buffer, content)
        return
    try:
        mode = Path(path).stat().st_mode if Path(path).exists() else None
        if mode is not None and not stat.S_ISREG(mode):  # /dev/stdout, a pipe: it has no place, as "pipe:[7]" is none
            Path(path).write_bytes(content)
            return
        place = Path(path).resolve()
        beside = place.with_name(f".{place.name[:200]}.{os.urandom(4).hex()}")
        try:
            with open(beside, "xb") as file:
                file.write(content)
            if mode is not None:
                beside.chmod(stat.S_IMODE(mode))
            beside.rename(place)
        except BaseException:
            with suppress(FileNotFoundError):
                beside.unlink()
            raise
    except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError before Python 3.13
        if isinstance(error, OSError) and (error.errno in EXPECTED.keys() - WRITING or error.errno == errno.EPIPE):
            raise  # nothing that the file is to blame for
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Unmade(f"can't write {plain(path)}: {reason}") from None
