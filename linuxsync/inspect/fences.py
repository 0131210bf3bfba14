"""fences: every sync_file that processes hold, each open file once."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cmp_to_key
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

from .pidfd import PidFd, order
from .processes import GONE, Descriptor, HeldSyncFile, Kind, Scan

__all__ = ["HeldSyncFile", "open_files", "sync_files"]

Answer = TypeVar("Answer")
REFUSED = "of processes that this user may not trace (ptrace(2), kernel.yama.ptrace_scope): try as root"


def sync_files(scan: Scan) -> list[HeldSyncFile]:
    """Return every sync_file of a scan, once each, in the order of the first who holds it.

    A fence is asked with FILE_INFO and not polled: it may be "active" for ever with a driver that signals only when
    somebody waits. What can't be asked is added to ``scan.unseen``.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors SYNC_IOC_FILE_INFO through pidfd_getfd(2), and kcmp(2).
    """
    asked = ask_fences(scan)
    # Only what has one name can be one file, and most names are of one file.
    if len({held.name for held in asked}) == len(asked):
        return asked
    named = Counter([held.name for held in asked])
    found: list[HeldSyncFile] = []
    alike: dict[str, list[HeldSyncFile]] = {}
    for held in asked:
        (found if named[held.name] == 1 else alike.setdefault(held.name, [])).append(held)
    for candidates in alike.values():
        for group in files_among([(held.holders[0], held) for held in candidates]):
            first = group[0][1]
            found.append(HeldSyncFile(first.info, tuple([holder for holder, _ in group]), first.looked_ns))
    return sorted(found, key=lambda held: (held.holders[0].process.pid, held.holders[0].fd))


def ask_fences(scan: Scan) -> list[HeldSyncFile]:
    """Each descriptor of a sync_file, as if it were the only one of its file; asked process by process."""
    found: list[HeldSyncFile] = []
    for pid, group in groupby(scan.of(Kind.SYNC_FILE), attrgetter("process.pid")):
        descriptors = list(group)
        try:
            with PidFd.open(pid) as held:
                found += held.fences(descriptors)
        except PermissionError:
            scan.missed["sync_files", REFUSED] += len(descriptors)
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def ask(scan: Scan, kind: Kind, question: Callable[[PidFd, int], Answer]) -> Iterator[tuple[Descriptor, Answer]]:
    """Put a question to each descriptor of a kind, with one pidfd a process."""
    with ExitStack() as stack:
        pid, process = 0, None
        for descriptor in scan.of(kind):
            try:
                if descriptor.process.pid != pid:
                    stack.close()
                    pid, process = descriptor.process.pid, None
                    process = stack.enter_context(PidFd.open(pid))
                if process is not None:
                    yield descriptor, question(process, descriptor.fd)
            except PermissionError:
                scan.miss(f"{kind.value}s", REFUSED)
            except OSError as error:
                # ENOTTY: closed, and the number given to something else.
                if error.errno not in GONE | {errno.ENOTTY}:
                    raise


def files_among(candidates: list[tuple[Descriptor, Answer]]) -> list[list[tuple[Descriptor, Answer]]]:
    """Put together what is one open file, by kcmp(2): sorted, so that n descriptors take n log n comparisons."""
    if len(candidates) == 1:
        return [candidates]

    def compare(one: tuple[Descriptor, Answer], other: tuple[Descriptor, Answer]) -> int:
        a, b = one[0], other[0]
        try:
            return (0, -1, 1, 1)[order(a.process.pid, a.fd, b.process.pid, b.fd)]
        except OSError:  # gone by now, or kcmp is not to be had: then each is one of its own
            return -1 if (a.process.pid, a.fd) < (b.process.pid, b.fd) else 1

    groups: list[list[tuple[Descriptor, Answer]]] = []
    for candidate in sorted(candidates, key=cmp_to_key(compare)):
        if groups and compare(groups[-1][0], candidate) == 0:
            groups[-1].append(candidate)
        else:
            groups.append([candidate])
    for group in groups:
        group.sort(key=lambda one: (one[0].process.pid, one[0].fd))
    return groups


def open_files(descriptors: Iterable[Descriptor]) -> list[tuple[Descriptor, ...]]:
    """Return which of these descriptors are one open file, in the order of their first holders, as kcmp(2) tells.

    Where it can't tell, each is one of its own.
    """
    groups = files_among([(one, None) for one in descriptors])
    files = [tuple(descriptor for descriptor, _ in group) for group in groups]
    return sorted(files, key=lambda holders: (holders[0].process.pid, holders[0].fd))
