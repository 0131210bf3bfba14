"""A trace instance of one's own in tracefs, with probes of one's own, which is gone when its owner is.

The global trace buffer and the instances of others are left as they are. Events are read in the kernel's binary form,
in which no process's name can pass for an event.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ._mounts import mounts
from ._native import tracefs as native
from ._proc import start_time
from ._ring_buffer import Format, PageFormat, records

__all__ = ["INITIAL_PID_NAMESPACE", "Instance", "Record", "pid_namespace", "private_instance", "remove_stale"]

# Whose it is: pid, start time, pid namespace; and which of theirs. The name has to do for a group of events too.
NAME = re.compile(r"linuxsync_(\d+)_(\d+)_(\d+)_\d+")
MOST_PAGES = 1024  # of one CPU in one read(), so that it ends even if events come faster than they are read
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO
numbers = count()


class Record(NamedTuple):
    """An event as the ring buffer has it.

    Attributes:
        cpu: where it happened.
        timestamp: when, by the instance's trace_clock.
        data: its fields, see ``Format``.
    """

    cpu: int
    timestamp: int
    data: bytes


class Instance:
    """A trace instance. Made by ``private_instance()``.

    Attributes:
        name: its own, and that of the group of its probes.
        path: its folder in tracefs.
        root: where tracefs is mounted.
        pages: the form of the pages of its buffer.
        lost: how many events were overwritten before they were read, as far as the kernel says (at least).

    Threads: of one only.
    """

    def __init__(self, root: Path, name: str, holding: native.Holding) -> None:
        self.name = name
        self.path = root / "instances" / name
        self.lost = 0
        self.root = root
        self.pages = PageFormat.parse((root / "events/header_page").read_text())
        self._holding = holding
        holding.make()
        self._pipes = {
            int(folder.name[3:]): holding.open(os.fsencode(folder / "trace_pipe_raw"))
            for folder in sorted((self.path / "per_cpu").iterdir())
        }

    def set(self, file: str, text: str) -> None:
        """Write to one of its control files.

        Args:
            file: below its folder: "options/stacktrace".
        Raises:
            OSError: what the kernel says; ENOENT, it has no such file.
        """
        write(self.path / file, text)

    def add_probe(self, kind: str, event: str, function: str, arguments: str = "") -> Format:
        """Make an event of each call of a kernel function, not enabled yet: ``events/NAME/EVENT/enable``.

        Args:
            kind: "p" for when it is entered, "r" for when it returns.
            event: how to call it (``[A-Za-z_][A-Za-z0-9_]*``).
            function: a function's name in /proc/kallsyms.
            arguments: what else to record, in the words of Documentation/trace/kprobetrace.rst.
        Raises:
            OSError: ENOENT, this kernel has no kprobe events; EINVAL or ENOENT, it has no such function, or it must not
                be probed; EPERM, EACCES.
        """
        probe = f"{self.name}/{event}"
        self._holding.add_probe(f"{kind}:{probe} {function} {arguments}\n".encode(), f"-:{probe}\n".encode())
        return self.format(probe)

    def format(self, event: str) -> Format:
        """Return where an event's fields are.

        Args:
            event: group and name: "ftrace/user_stack".
        Raises:
            OSError: ENOENT, there is none.
        """
        return Format.parse((self.root / "events" / event / "format").read_text())

    def read(self) -> Iterator[Record]:
        """Return the events since the last call, those of one CPU in their order."""
        for cpu, page in self.read_pages():
            lost, found = records(page, self.pages.commit, self.pages.data)
            self.lost += lost
            for timestamp, data in found:
                yield Record(cpu, timestamp, data)

    def read_pages(self) -> Iterator[tuple[int, bytes]]:
        """Return what was recorded since the last call in the kernel's form: CPU and page, see ``records()``.

        Mirrors ``tracing_buffers_read`` (kernel/trace/trace.c).
        """
        for cpu, pipe in self._pipes.items():
            for _ in range(MOST_PAGES):
                page = self._holding.read(pipe, self.pages.size)
                if not page:
                    break
                yield cpu, page

    def comms(self) -> dict[int, str]:
        """Return the names of threads that the kernel has kept, also of those that have ended.

        A name may have line breaks, so that its rest looks like other lines: of threads that live /proc is to be asked.
        """
        return comms_in((self.root / "saved_cmdlines").read_bytes())


@contextmanager
def private_instance() -> Iterator[Instance]:
    """Make a trace instance, and remove it and its probes when the block ends, unless that is in a forked child.

    It is removed whatever a handler of a signal raises, and where no descriptor is left. A signal that ends the process
    without an exception leaves it, and so does SIGKILL: that is for ``remove_stale()``, which is called here too.

    Raises:
        FileNotFoundError: tracefs is not mounted.
        PermissionError: it is not for this user.
        OSError: EMFILE, ENOMEM; at the end EBUSY, somebody else uses the instance or one of its probes.
    """
    root = find()
    remove_stale(root)
    name = f"linuxsync_{os.getpid()}_{start_time(os.getpid())}_{pid_namespace()}_{next(numbers)}"
    holding = native.Holding(os.fsencode(root / "instances" / name), os.fsencode(root / "kprobe_events"))
    try:
        yield Instance(root, name, holding)
    finally:
        holding.close()  # in C, and first of all, so that no handler runs before


def remove_stale(root: Path | None = None) -> None:
    """Remove the instances and probes of processes of linuxsync that have ended.

    What somebody uses is left, and what belongs to another pid namespace, unless we are in the initial one, from which
    all processes are seen.

    Args:
        root: where tracefs is mounted; None to look for it.
    Raises:
        FileNotFoundError: tracefs is not mounted.
        PermissionError: it is not for this user.
    """
    root = root or find()
    named = {entry.name for entry in (root / "instances").iterdir()} | {group for group, _ in probes(root)}
    for name in sorted(named):
        owner = NAME.fullmatch(name)
        if owner is not None and not lives(*map(int, owner.groups())):
            try:
                remove(root, name)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise


def remove(root: Path, name: str) -> None:
    """Remove an instance, if there is one, and the probes of that name."""
    try:
        (root / "instances" / name).rmdir()
    except FileNotFoundError:
        pass
    for group, event in probes(root):
        if group == name:
            write(root / "kprobe_events", f"-:{group}/{event}\n")


def probes(root: Path) -> list[tuple[str, str]]:
    """Group and name of all kprobe events; none where the kernel has no such thing."""
    try:
        return probes_in((root / "kprobe_events").read_text())
    except FileNotFoundError:
        return []


def probes_in(events: str) -> list[tuple[str, str]]:
    """Group and name of what stands in kprobe_events."""
    return re.findall(r"^[pr]\d*:(\w+)/(\w+) ", events, re.MULTILINE)


def comms_in(saved: bytes) -> dict[int, str]:
    """Names of threads, as saved_cmdlines has them."""
    found = {}
    for line in saved.split(b"\n"):
        number, _, comm = line.partition(b" ")
        if number.isdigit() and len(number) < 10:
            found[int(number)] = os.fsdecode(comm)
    return found


def lives(pid: int, start: int, namespace: int) -> bool:
    """Whether a process is still the one that it was; if we can't see those of its pid namespace, it may be."""
    ours = pid_namespace()
    if namespace == ours:
        return starts_at(pid, start)
    if ours != INITIAL_PID_NAMESPACE:
        return True
    return any(
        pid == number and starts_at(int(entry.name), start)
        for entry in Path("/proc").iterdir()  # not glob(), which in Python 3.13 takes EMFILE for none
        if entry.name.isdigit()
        for number in numbers_in(namespace, entry)
    )


def starts_at(pid: int, start: int) -> bool:
    """Whether a process is there and was started then."""
    try:
        return start_time(pid) == start
    except (FileNotFoundError, ProcessLookupError):
        return False


def numbers_in(namespace: int, entry: Path) -> Iterator[int]:
    """The number that a process has in a pid namespace, if that is where it lives: the last of its NSpid."""
    try:
        if (entry / "ns/pid").stat().st_ino == namespace:
            found = re.search(rb"^NSpid:.*\t(\d+)$", (entry / "status").read_bytes(), re.MULTILINE)
            if found is not None:
                yield int(found[1])
    except (FileNotFoundError, ProcessLookupError):
        return


def pid_namespace() -> int:
    """The number of the pid namespace in which our numbers of processes hold."""
    return Path("/proc/self/ns/pid").stat().st_ino


def find() -> Path:
    """Where tracefs is mounted."""
    for place, _ in mounts("tracefs"):
        if (place / "instances").stat():
            return place
    raise FileNotFoundError(errno.ENOENT, "tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing")


def write(file: Path, text: str) -> None:
    """Write to a control file, in one go as these want it."""
    native.write(os.fsencode(file), text.encode())
