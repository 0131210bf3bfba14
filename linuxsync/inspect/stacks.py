"""stacks: where processes make sync_files and dma-bufs, by the kernel's and their own stack at that moment.

Probes are put on the functions of the kernel that make them, in a trace instance of our own. The kernel follows a
program's frame pointers; of one that has none, and that is most libraries, it knows the innermost frame only. For the
same reason the caller of a function without one is missing, and of ioctl(2) in a C library that is who called it.
"""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, NamedTuple

from .._proc import process_of, start_time, threads
from .._tracefs import Instance, private_instance
from ..errors import OURS
from .elf import Symbols
from .processes import GONE, Kind

__all__ = ["Frame", "Origin", "Stacks", "record_stacks"]

# What returns when one was made: its kind, and which return value says that it was. Not every way to a descriptor of a
# dma-buf goes through dma_buf_fd (PRIME since 6.10 and some heaps do not), so the making of the buffer is seen too.
# Returns and not entries: there the kernel's stack is whole also where a probe is a breakpoint, for want of ftrace.
PROBES = {
    "sync_file_create": (Kind.SYNC_FILE, "ret=$retval:u64", "ret != 0"),
    "sync_file_merge": (Kind.SYNC_FILE, "ret=$retval:u64", "ret != 0"),
    "dma_buf_export": (Kind.DMA_BUF, "ret=$retval:s64", "ret < -4095"),  # a pointer, but none of ERR_PTR
    "dma_buf_fd": (Kind.DMA_BUF, "ret=$retval:s32", "ret >= 0"),
    "drm_gem_prime_handle_to_fd": (Kind.DMA_BUF, "ret=$retval:s32", "ret >= 0"),
}
# As the compiler may have left it: sync_file_merge.constprop.0.
SYMBOL = r"^\w+ [tT] ({}(?:\.(?:constprop|isra|llvm)\.\d+)*)(?:\t|$)"
MOST_FRAMES = 64
MOST_READ = 256 << 20  # bytes of symbol tables, of all files together; some 5 MB are usual for one
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) \S+ \d+ +(/.*)$", re.MULTILINE)
KERNEL_SYMBOL = re.compile(r"^([0-9a-f]+) [tTwW] (\S+)(?:\t(\[\S+\]))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in a program.

    Attributes:
        address: in the process's memory: where the call returns to, of the innermost frame where it is.
        binary: the file that is mapped there, whatever bytes (os.fsdecode); None if none is, or the process was gone.
        offset: in that file, as addr2line(1) and objdump(1) want it; None likewise.
        function: which, by the file's symbol tables; None if they don't tell. C++ names are as the linker has them.
    """

    address: int
    binary: str | None
    offset: int | None
    function: str | None


@dataclass(frozen=True, slots=True)
class Origin:
    """A way on which a process has made sync_files or dma-bufs.

    Attributes:
        pid: the process.
        start: when it was started, in clock ticks since boot; 0 if it was gone before that could be read.
        kind: what it made.
        made_by: the kernel's function that returned it. A buffer can be seen twice: when dma_buf_export has made it,
            and when dma_buf_fd or drm_gem_prime_handle_to_fd has made a descriptor of it.
        count: how often.
        kernel: the functions that called that one, innermost first; addresses where /proc/kallsyms has none to tell.
        user: likewise in the process. One frame means that there are no frame pointers to follow.
    """

    pid: int
    start: int
    kind: Kind
    made_by: str
    count: int
    kernel: tuple[str, ...]
    user: tuple[Frame, ...]


class Stack(NamedTuple):
    """One making of something, in addresses."""

    pid: int
    made_by: str
    kernel: tuple[int, ...]
    user: tuple[int, ...]


@dataclass(slots=True)
class Begun:
    """A stack of which not all records have been read yet."""

    tid: int
    made_by: str
    kernel: tuple[int, ...] = ()


@contextmanager
def record_stacks(pids: Collection[int] | None = None) -> Iterator[Stacks]:
    """Record stacks until the block ends; then the probes are removed.

    Args:
        pids: of these processes, and their threads to come; None for all.
    Raises:
        PermissionError: it takes root.
        FileNotFoundError: tracefs is not mounted, or the kernel has no kprobe events.
        OSError: EINVAL, none of the functions can be probed; at the end EBUSY, somebody else uses our probes.

    Numbers of processes are those of the initial pid namespace, of which the kernel's trace tells.
    """
    with private_instance() as instance:
        yield Stacks(instance, pids)


class Stacks:
    """Stacks that are being recorded. Made by ``record_stacks()``.

    Threads: of one only.
    """

    def __init__(self, instance: Instance, pids: Collection[int] | None) -> None:
        self._instance = instance
        self._pids = pids
        self._found: Counter[tuple[int, int, str, tuple[int, ...], tuple[Frame, ...]]] = Counter()
        self._symbols = SymbolTables()
        self._kernel_stack = instance.format("ftrace/kernel_stack")
        self._user_stack = instance.format("ftrace/user_stack")
        self._probes: dict[int, str] = {}
        self._begun: dict[int, Begun] = {}
        instance.set("options/stacktrace", "1")
        instance.set("options/userstacktrace", "1")
        if pids is not None:
            instance.set("options/event-fork", "1")
            instance.set("set_event_pid", " ".join(str(tid) for pid in pids for tid in threads(pid)))
        self._add_probes()

    def _add_probes(self) -> None:
        if not (self._instance.path.parents[1] / "kprobe_events").exists():
            raise FileNotFoundError(errno.ENOENT, "this kernel has no kprobe events: it takes CONFIG_KPROBE_EVENTS=y")
        text = Path("/proc/kallsyms").read_text()
        for function, (_, arguments, condition) in PROBES.items():
            symbol = re.search(SYMBOL.format(function), text, re.MULTILINE)
            if symbol is None:
                continue
            try:
                made = self._instance.add_probe("r", function, symbol[1], arguments)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # not a place for a probe
                    raise
                continue
            self._probes[made.number] = function
            event = f"events/{self._instance.name}/{function}"
            self._instance.set(f"{event}/filter", condition)
            self._instance.set(f"{event}/enable", "1")
        if not self._probes:
            names = ", ".join(PROBES)
            raise OSError(errno.EINVAL, f"none of {names} can be probed: grep for them in /proc/kallsyms")

    @property
    def lost(self) -> int:
        """How many stacks, at least, came faster than they were collected."""
        return self._instance.lost

    def collect(self) -> None:
        """Take in what was recorded since the last time; of a process that has ended only addresses are known.

        Mirrors per_cpu/cpuN/trace_pipe_raw of the trace instance, and /proc/PID/maps.
        """
        self._add(self._stacks())

    def _add(self, stacks: Iterable[Stack]) -> None:
        wanted = Counter(stack for stack in stacks if self._pids is None or stack.pid in self._pids)
        places = {pid: Places(pid, self._symbols) for pid in {stack.pid for stack in wanted}}
        for (pid, made_by, kernel, user), count in wanted.items():
            frames = tuple(places[pid].frame(address) for address in user)
            self._found[pid, places[pid].start, made_by, kernel, frames] += count

    def _stacks(self) -> Iterator[Stack]:
        """What the records mean: three of one CPU, one after the other, are the event and its two stacks."""
        for cpu, _, data in self._instance.read():
            number, tid = (self._kernel_stack.get(data, name) for name in ("common_type", "common_pid"))
            begun = self._begun.get(cpu)
            if number in self._probes:
                if begun:  # a kernel thread's, or this machine's kernel can't tell
                    yield Stack(process_of(begun.tid) or begun.tid, begun.made_by, begun.kernel, ())
                self._begun[cpu] = Begun(tid, self._probes[number])
            elif begun and begun.tid == tid and number == self._kernel_stack.number:
                size = self._kernel_stack.get(data, "size")
                begun.kernel = self._kernel_stack.addresses(data, "caller", size)
            elif begun and begun.tid == tid and number == self._user_stack.number:
                del self._begun[cpu]
                frames = self._user_stack.addresses(data, "caller", MOST_FRAMES)
                user = tuple(address for address in frames if address)
                yield Stack(self._user_stack.get(data, "tgid"), begun.made_by, begun.kernel, user)

    def origins(self) -> list[Origin]:
        """Return what was collected so far, by process, the most frequent first."""
        left = [Stack(process_of(one.tid) or one.tid, one.made_by, one.kernel, ()) for one in self._begun.values()]
        self._begun.clear()
        self._add(left)
        symbols = KernelSymbols()
        merged: Counter[tuple[int, int, str, tuple[str, ...], tuple[Frame, ...]]] = Counter()
        for (process, start, made_by, kernel, user), count in self._found.items():
            merged[process, start, made_by, tuple(symbols.name(address) for address in kernel), user] += count
        found = [
            Origin(process, start, PROBES[made_by][0], made_by, count, kernel, user)
            for (process, start, made_by, kernel, user), count in merged.items()
        ]
        return sorted(found, key=lambda origin: (origin.pid, origin.start, -origin.count))


class Places:
    """The files that a process has mapped to run."""

    def __init__(self, pid: int, symbols: SymbolTables) -> None:
        self.start = 0
        self._pid = pid
        self._symbols = symbols
        self._frames: dict[int, Frame] = {}
        self._mappings: list[tuple[int, int, int, str]] = []
        try:
            self.start = start_time(pid)
            text = os.fsdecode(Path("/proc", str(pid), "maps").read_bytes())
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        self._mappings = programs_in(text)

    def frame(self, address: int) -> Frame:
        """What is at an address."""
        if address not in self._frames:
            self._frames[address] = self._look_up(address)
        return self._frames[address]

    def _look_up(self, address: int) -> Frame:
        for start, end, offset, path in self._mappings:
            if start <= address < end:
                symbols = self._symbols_of(start, end)
                place = None if symbols is None else symbols.address(address - start + offset)
                if symbols is None or place is None:
                    return Frame(address, path, address - start + offset, None)
                # Where a call returns to may be the next function's first byte, the call itself is before it.
                return Frame(address, path, place, symbols.function(place - 1))
        return Frame(address, None, None, None)

    def _symbols_of(self, start: int, end: int) -> Symbols | None:
        # By the mapping, not by its path, which in another mount namespace is another file, and after an upgrade none.
        path = Path(f"/proc/{self._pid}/map_files/{start:x}-{end:x}")
        try:
            # Anything can be mapped so that it looks like a program, and to open a device may do something to it.
            if not S_ISREG(path.stat().st_mode):
                return None
            with open(path, "rb", opener=without_waiting) as file:
                status = os.fstat(file.fileno())
                return self._symbols.of(file, status) if S_ISREG(status.st_mode) else None
        except OSError as error:
            if error.errno in OURS:
                raise
            return None  # gone, or not for us, or what its file system has to say


def programs_in(maps: str) -> list[tuple[int, int, int, str]]:
    """Start, end, offset and file of what /proc/PID/maps has that can be run."""
    # A line break in a path is written as \012, so that a line stays one.
    return [
        (int(start, 16), int(end, 16), int(offset, 16), path.replace("\\012", "\n"))
        for start, end, offset, path in MAPPING.findall(maps)
    ]


class SymbolTables:
    """The symbols of each file of which somebody has asked for them."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], Symbols] = {}
        self._left = MOST_READ

    def of(self, file: BinaryIO, status: os.stat_result) -> Symbols:
        """Those of a file, as fstat(2) tells which it is."""
        key = (status.st_dev, status.st_ino)
        if key not in self._found:
            self._found[key] = Symbols(file, self._left)
            self._left -= self._found[key].spent
        return self._found[key]


def without_waiting(path: str, flags: int) -> int:
    """Open a file; if it has become something else meanwhile, then at least not wait for that, nor be ruled by it."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


class KernelSymbols:
    """Names of the kernel's functions, as it prints them in a stack: ``sw_sync_ioctl``, ``drm_ioctl [drm]``."""

    def __init__(self) -> None:
        text = Path("/proc/kallsyms").read_text()
        # All addresses are 0 where kernel.kptr_restrict hides them.
        found = sorted(
            (int(address, 16), f"{name} {module}" if module else name)
            for address, name, module in KERNEL_SYMBOL.findall(text)
            if address.strip("0")
        )
        self._starts = [address for address, _ in found]
        self._names = [name for _, name in found]

    def name(self, address: int) -> str:
        """The function at an address, by the symbol before it."""
        at = bisect_right(self._starts, address) - 1
        return self._names[at] if at >= 0 else f"{address:#x}"
