"""A trace instance of one's own in tracefs, with probes of one's own, which is gone when its owner is.

The global trace buffer and the instances of others are left as they are. Events are read in the kernel's binary form,
in which no process's name can pass for an event.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ._mounts import mounts
from ._proc import start_time

__all__ = ["Format", "Instance", "Record", "private_instance", "remove_stale"]

# Whose it is: pid, start time, pid namespace; and which of theirs. The name has to do for a group of events too.
NAME = re.compile(r"linuxsync_(\d+)_(\d+)_(\d+)_\d+")
FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\w*\])?;\s*offset:(\d+);\s*size:(\d+);\s*signed:([01]);")
MOST_PAGES = 1024  # of one CPU in one read(), so that it ends even if events come faster than they are read
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
DELTA_BITS = 27
MISSED, MISSED_STORED = 1 << 31, 1 << 30
LONG = struct.Struct("=Q" if sys.maxsize > 2**32 else "=I")
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


@dataclass(frozen=True, slots=True)
class Format:
    """Where the fields of an event are.

    Attributes:
        number: the event's, which is in the field common_type.
        fields: offset, size in bytes and signedness, by name.
    """

    number: int
    fields: dict[str, tuple[int, int, bool]]

    def get(self, data: bytes, name: str) -> int:
        """Return the value of a field that is one number."""
        offset, size, signed = self.fields[name]
        return int.from_bytes(data[offset : offset + size], sys.byteorder, signed=signed)

    def addresses(self, data: bytes, name: str, most: int) -> tuple[int, ...]:
        """Return the values of a field that is an array of ``unsigned long``, as many as there are, at most `most`."""
        offset = self.fields[name][0]
        whole = min((len(data) - offset) // LONG.size, most) * LONG.size
        return tuple(value for (value,) in LONG.iter_unpack(data[offset : offset + whole]))


class Instance:
    """A trace instance. Made by ``private_instance()``.

    Attributes:
        name: its own, and that of the group of its probes.
        path: its folder in tracefs.
        lost: how many events were overwritten before they were read, as far as the kernel says (at least).

    Threads: of one only.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.path = root / "instances" / name
        self.lost = 0
        self._root = root
        self._pipes: dict[int, FileIO] = {}
        self._files = ExitStack()
        header = fields(root / "events/header_page")
        self._commit, (self._data, size, _) = header["commit"][:2], header["data"]
        self._page = self._data + size

    def set(self, file: str, text: str) -> None:
        """Write to one of its control files.

        Args:
            file: below its folder: "options/stacktrace".
        Raises:
            OSError: what the kernel says; ENOENT, it has no such file.
        """
        write(self.path / file, text)

    def add_kretprobe(self, event: str, function: str, arguments: str = "") -> Format:
        """Make an event of each return from a kernel function, not enabled yet: ``events/NAME/EVENT/enable``.

        Args:
            event: how to call it (``[A-Za-z_][A-Za-z0-9_]*``).
            function: a function's name in /proc/kallsyms.
            arguments: what else to record, in the words of Documentation/trace/kprobetrace.rst.
        Raises:
            OSError: ENOENT, this kernel has no kprobe events; EINVAL or ENOENT, it has no such function, or it must not
                be probed; EPERM, EACCES.
        """
        write(self._root / "kprobe_events", f"r:{self.name}/{event} {function} {arguments}\n")
        return self.format(f"{self.name}/{event}")

    def format(self, event: str) -> Format:
        """Return where an event's fields are.

        Args:
            event: group and name: "ftrace/user_stack".
        Raises:
            OSError: ENOENT, there is none.
        """
        file = self._root / "events" / event / "format"
        found = re.search(r"^ID: (\d+)$", file.read_text(), re.MULTILINE)
        assert found is not None
        return Format(int(found[1]), fields(file))

    def read(self) -> Iterator[Record]:
        """Return the events since the last call, those of one CPU in their order.

        Mirrors ``tracing_buffers_read`` (kernel/trace/trace.c).
        """
        nonblocking = flagged(os.O_RDONLY | os.O_NONBLOCK)
        if not self._pipes:
            for file in sorted(self.path.glob("per_cpu/cpu*/trace_pipe_raw")):
                self._pipes[int(file.parent.name[3:])] = self._files.enter_context(
                    open(file, "rb", buffering=0, opener=nonblocking)  # noqa: SIM115, the stack closes it
                )
        for cpu, pipe in self._pipes.items():
            for _ in range(MOST_PAGES):
                page = pipe.read(self._page)
                if not page:
                    break
                yield from self._events(cpu, page)

    def _events(self, cpu: int, page: bytes) -> Iterator[Record]:
        """The events in a page, as include/linux/ring_buffer.h describes them."""
        timestamp = int.from_bytes(page[:8], sys.byteorder)
        offset, size = self._commit
        commit = int.from_bytes(page[offset : offset + size], sys.byteorder)
        at, end = self._data, self._data + (commit & (MISSED_STORED - 1))
        if commit & MISSED:
            self.lost += LONG.unpack_from(page, end)[0] if commit & MISSED_STORED else 1
        while at + 4 <= end:
            (word,) = struct.unpack_from("=I", page, at)
            # Bit fields start at the other end where bytes do.
            kind, delta = (
                (word & 31, word >> 5)
                if sys.byteorder == "little"
                else (word >> DELTA_BITS, word & (1 << DELTA_BITS) - 1)
            )
            at += 4
            if kind in (TIME_EXTEND, TIME_STAMP):
                delta |= struct.unpack_from("=I", page, at)[0] << DELTA_BITS
                # A stamp has 59 bits, those above are as they were.
                timestamp = timestamp + delta if kind == TIME_EXTEND else timestamp >> 59 << 59 | delta
                at += 4
                continue
            if kind == PADDING and delta == 0:
                return
            timestamp += delta
            start = at
            if kind in (0, PADDING):  # the length comes first, and counts itself
                start = at + 4
                at += struct.unpack_from("=I", page, at)[0]
            else:
                at += 4 * kind
            if kind != PADDING:
                yield Record(cpu, timestamp, page[start:at])

    def _close(self) -> None:
        self._pipes.clear()
        self._files.close()


@contextmanager
def private_instance() -> Iterator[Instance]:
    """Make a trace instance, and remove it and its probes when the block ends.

    A signal that ends the process without an exception leaves them, and so does SIGKILL: that is for
    ``remove_stale()``, which is called here too.

    Raises:
        FileNotFoundError: tracefs is not mounted.
        PermissionError: it is not for this user.
        OSError: ENOMEM; at the end EBUSY, somebody else uses the instance or one of its probes.
    """
    root = find()
    remove_stale(root)
    name = f"linuxsync_{os.getpid()}_{start_time(os.getpid())}_{pid_namespace()}_{next(numbers)}"
    instance = Instance(root, name)
    try:
        instance.path.mkdir()
        yield instance
    finally:
        instance._close()
        remove(root, name)


def remove_stale(root: Path | None = None) -> None:
    """Remove the instances and probes of processes of linuxsync that have ended.

    What belongs to another pid namespace is left, for it can't be told who lives there, and what somebody uses.

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
        if owner is not None and int(owner[3]) == pid_namespace() and not lives(int(owner[1]), int(owner[2])):
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
        return re.findall(r"^[pr]\d*:(\w+)/(\w+) ", (root / "kprobe_events").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return []


def lives(pid: int, start: int) -> bool:
    """Whether a process is still the one that it was."""
    try:
        return start_time(pid) == start
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_namespace() -> int:
    """The number of the pid namespace in which our numbers of processes hold."""
    return Path("/proc/self/ns/pid").stat().st_ino


def find() -> Path:
    """Where tracefs is mounted."""
    for place, _ in mounts("tracefs"):
        if (place / "instances").stat():
            return place
    raise FileNotFoundError(errno.ENOENT, "tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing")


def fields(file: Path) -> dict[str, tuple[int, int, bool]]:
    """What an event's format, or header_page, says of each field."""
    return {
        name: (int(offset), int(size), signed == "1") for name, offset, size, signed in FIELD.findall(file.read_text())
    }


def flagged(flags: int) -> Callable[[str, int], int]:
    """An opener with flags of ours. Truncating kprobe_events would remove the probes of everybody."""
    return lambda path, _: os.open(path, flags | os.O_CLOEXEC)


def write(file: Path, text: str) -> None:
    """Write to a control file, in one go as these want it."""
    with open(file, "wb", buffering=0, opener=flagged(os.O_WRONLY | os.O_APPEND)) as control:
        control.write(text.encode())
