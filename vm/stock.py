"""The kernels in the cache: which there are, and which nobody boots any more."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .kernel import KernelError, cache_home, in_cache, lock_file, recipe
from .runner import locked


@dataclass(frozen=True)
class Stored:
    """One kernel that was built.

    Attributes:
        folder: where it is; ``--kernel FOLDER`` boots it, too.
        series: what ``--kernel`` calls it: "6.12", "debug".
        version: as uname -r says it.
        bytes: how much of the disk it takes.
        built: when, in seconds since 1970.
        current: whether ``--kernel SERIES`` boots it; None where the package with its source is not installed, and so
            nothing can be compared.
    """

    folder: Path
    series: str
    version: str
    bytes: int
    built: float
    current: bool | None


def stored() -> list[Stored]:
    """What is in the cache, the newest version first."""
    found = []
    for folder in (cache_home() / "kernels").glob("*-*"):
        kernel = in_cache(folder)
        if kernel is None:
            continue
        series = folder.name.rpartition("-")[0]
        current = None
        # Without its source or a compiler it can't be told from what would be built.
        with contextlib.suppress(KernelError):
            if (ours := recipe(series)).name == series:
                current = folder.name == ours.key
        total = sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
        built = kernel.image.stat().st_mtime
        found.append(Stored(folder, series, kernel.version, total, built, current))
    return sorted(found, key=lambda one: (numbers(one.version), one.built), reverse=True)


def numbers(version: str) -> list[int]:
    """A version as numbers, by which versions are in order."""
    return [int(number) for number in re.findall(r"\d+", version)]


def remove(kernel: Stored) -> bool:
    """Remove one; False where somebody builds it at this moment.

    Raises:
        KernelError: a guest runs, and it may be this one's.
        OSError: it can't be removed.
    """
    runs = cache_home() / "runs"
    for run in runs.iterdir() if runs.is_dir() else ():
        try:
            with locked(run):
                pass
        except BlockingIOError:
            raise KernelError("a guest is running; nothing is removed before it has ended") from None
        except FileNotFoundError:
            pass  # it has just ended
    with open(lock_file(kernel.folder.name), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # First out of sight: one that is half there must not be booted.
        gone = cache_home() / "build" / f"{kernel.folder.name}.removed"
        gone.parent.mkdir(exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        kernel.folder.rename(gone)
        shutil.rmtree(gone)
    return True
