"""processes: one look at the descriptors of all processes that are about fences or buffers."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .._native.processes import Descriptor, HeldSyncFile, Kind, Process, descriptors
from .._native.processes import process as look_at

__all__ = ["Descriptor", "HeldSyncFile", "Kind", "Process", "Scan", "Unseen", "scan"]

# What a process that ends while we look at it may answer.
GONE = {errno.ENOENT, errno.ESRCH, errno.EBADF}


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

    Threads: one at a time, for those who look add to ``missed``.
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
            found.descriptors += descriptors(process)
        except PermissionError:
            found.miss("processes", "of another user, or not to be traced: try as root")
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def all_pids() -> list[int]:
    """What /proc shows; with hidepid that is not all there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (a Path each takes longer)
