"""processes: one look at the descriptors of all processes that are about fences or buffers."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .pidfd import descriptors

__all__ = ["Descriptor", "Kind", "Process", "Scan", "Unseen", "scan"]

# What a process that ends while we look at it may answer.
GONE = {errno.ENOENT, errno.ESRCH, errno.EBADF}


class Kind(Enum):
    """What a descriptor is, by its link in /proc/PID/fd."""

    SYNC_FILE = "sync_file"
    SYNCOBJ_FILE = "syncobj_file"
    DMA_BUF = "dma_buf"
    DRM = "drm"
    SW_SYNC = "sw_sync"
    FENCEDEV = "fencedev"


@dataclass(frozen=True, slots=True)
class Process:
    """A process.

    Attributes:
        pid: its number in our pid namespace (int > 0).
        comm: its name, at most 15 bytes, which it may have chosen itself: whatever bytes (os.fsdecode).
        uid: its user (int >= 0), or 0 for one that may not be dumped.
    """

    pid: int
    comm: str
    uid: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor of a process.

    Attributes:
        process: whose it is.
        fd: its number there (int >= 0).
        kind: what it is.
        link: what /proc/PID/fd says; names in it are whatever bytes (os.fsdecode).
    """

    process: Process
    fd: int
    kind: Kind
    link: str


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, and why.

    Attributes:
        what: "processes" or "descriptors", say.
        count: how many (int > 0).
        why: the reason, and what helps.
    """

    what: str
    count: int
    why: str


@dataclass(slots=True)
class Scan:
    """One look at the machine.

    Attributes:
        processes: all that there were, by pid; also those without such a descriptor.
        descriptors: what was found, in order of pid and number.
        missed: how many of what could not be looked at, by (what, why).
    """

    processes: dict[int, Process] = field(default_factory=dict)
    descriptors: list[Descriptor] = field(default_factory=list)
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def of(self, kind: Kind) -> list[Descriptor]:
        """Return the descriptors of one kind."""
        return [descriptor for descriptor in self.descriptors if descriptor.kind is kind]

    def miss(self, what: str, why: str) -> None:
        """Count something that could not be looked at."""
        self.missed[what, why] += 1

    @property
    def unseen(self) -> list[Unseen]:
        """What could not be looked at so far."""
        return [Unseen(what, count, why) for (what, why), count in self.missed.items()]


def scan(pids: Iterable[int] | None = None) -> Scan:
    """Look at the descriptors of all processes, or of some.

    Args:
        pids: which; None for all that /proc has. One that does not exist is left out.
    Raises:
        OSError: EMFILE, ENOMEM: of our own. What is not ours to see is no error: ``Scan.unseen``.
    """
    found = Scan()
    for pid in sorted(all_pids() if pids is None else set(pids)):
        try:
            process = found.processes[pid] = look_at(pid)
            for number, link in descriptors(pid):
                kind = kind_of(link)
                if kind is not None:
                    found.descriptors.append(Descriptor(process, number, kind, os.fsdecode(link)))
        except PermissionError:
            found.miss("processes", "of another user, or not to be traced: try as root")
        except OSError as error:
            if error.errno not in GONE:
                raise
    found.descriptors.sort(key=lambda descriptor: (descriptor.process.pid, descriptor.fd))
    return found


def all_pids() -> list[int]:
    """What /proc shows; with hidepid that is not all there are."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def look_at(pid: int) -> Process:
    """The process of a number. ENOENT or ESRCH if there is none."""
    folder = Path("/proc", str(pid))
    comm = (folder / "comm").read_bytes().removesuffix(b"\n")
    return Process(pid, os.fsdecode(comm), folder.stat().st_uid)


def kind_of(link: bytes) -> Kind | None:
    """What a link in /proc/PID/fd stands for."""
    if link == b"anon_inode:sync_file":
        return Kind.SYNC_FILE
    if link == b"anon_inode:syncobj_file":
        return Kind.SYNCOBJ_FILE
    if link.startswith(b"/dmabuf:"):
        return Kind.DMA_BUF
    if link.startswith(b"/dev/dri/"):
        return Kind.DRM
    if link.endswith(b"/sync/sw_sync"):
        return Kind.SW_SYNC
    return Kind.FENCEDEV if link == b"/dev/fencedev" else None
