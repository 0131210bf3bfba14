"""waiters: threads that wait for a descriptor right now, and for which, by /proc/PID/task/TID/syscall.

A thread that sleeps in poll(2) has the list of its descriptors in its own memory, which /proc/PID/mem shows; one in
epoll_wait(2) has it in the fdinfo of the epoll descriptor; an ioctl(2) names its descriptor. Nothing is stopped for it,
so what a thread does may have changed by the time it is read.
"""

from __future__ import annotations

import errno
import platform
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..syncobj import TIMELINE_WAIT, WAIT
from .processes import GONE, Process, Scan

__all__ = ["Waiter", "waiters"]

# System calls that wait for descriptors, by machine. 32-bit programs have other numbers and are not looked at.
CALLS = {
    "x86_64": {7: "poll", 271: "ppoll", 23: "select", 270: "pselect6", 232: "epoll_wait", 281: "epoll_pwait"}
    | {441: "epoll_pwait2", 16: "ioctl"},
    "aarch64": {73: "ppoll", 72: "pselect6", 22: "epoll_pwait", 441: "epoll_pwait2", 29: "ioctl"},
}.get(platform.machine(), {})
MOST = 4096  # descriptors of one call that are looked at
POLLFD = struct.Struct("=ihh")
# How struct drm_syncobj_wait and drm_syncobj_timeline_wait begin: where the arrays are, the time limit, their length.
WAIT_BEGINS = struct.Struct("=QqI")
TIMELINE_WAIT_BEGINS = struct.Struct("=QQqI")


@dataclass(frozen=True, slots=True)
class Waiter:
    """A thread that waits.

    Attributes:
        process: whose it is.
        tid: the thread's number (int > 0).
        comm: the thread's name, whatever bytes (os.fsdecode).
        call: the system call: poll, ppoll, select, pselect6, epoll_wait, epoll_pwait, epoll_pwait2 or ioctl.
        fds: the descriptors that it waits for: of an ioctl the one that it was issued on.
        syncobjs: the DRM syncobjs that an ioctl on that descriptor waits for: (handle, point) each, 0 for a binary one.
        wchan: the function of the kernel in which an ioctl sleeps, ``dma_fence_default_wait`` say; None for other
            calls, and where /proc/PID/wchan does not tell.
    """

    process: Process
    tid: int
    comm: str
    call: str
    fds: tuple[int, ...]
    syncobjs: tuple[tuple[int, int], ...] = ()
    wchan: str | None = None


def waiters(scan: Scan, processes: Iterable[Process] | None = None) -> list[Waiter]:
    """Return the threads that wait for descriptors, of some processes or of all in which the scan found descriptors.

    What this user may not see is added to ``scan.unseen``. Threads of a 32-bit program are not seen.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.
    """
    found = []
    if processes is None:
        processes = {descriptor.process.pid: descriptor.process for descriptor in scan.descriptors}.values()
    for process in processes:
        try:
            for folder in sorted(Path(f"/proc/{process.pid}/task").iterdir(), key=lambda entry: int(entry.name)):
                waiter = look_at(process, folder)
                if waiter is not None and waiter.fds:
                    found.append(waiter)
        except PermissionError:
            scan.miss("processes' threads", "not to be traced by this user (ptrace(2)): try as root")
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def look_at(process: Process, folder: Path) -> Waiter | None:
    """A thread, if it sleeps in one of CALLS."""
    try:
        words = (folder / "syscall").read_text().split()
        call = CALLS.get(int(words[0])) if words and words[0].isdigit() else None  # "running", or -1 outside of any
        if call is None:
            return None
        arguments = [int(word, 16) for word in words[1:7]]
        comm = (folder / "comm").read_bytes().removesuffix(b"\n").decode("utf-8", "surrogateescape")
        fds = descriptors_of(call, arguments, folder)
        syncobjs = syncobjs_of(arguments, folder) if call == "ioctl" else ()
        wchan = (folder / "wchan").read_text() if call == "ioctl" else ""
    except (OSError, struct.error) as error:
        # The memory that a call was given need not be there, or not all of it.
        if not isinstance(error, OSError) or error.errno in GONE | {errno.EIO, errno.EFAULT}:
            return None
        raise
    return Waiter(process, int(folder.name), comm, call, fds, syncobjs, wchan if wchan not in ("", "0") else None)


def descriptors_of(call: str, arguments: list[int], folder: Path) -> tuple[int, ...]:
    """What a call waits for, from its arguments and the memory that they point to."""
    first, second = arguments[:2]
    if call == "ioctl":
        return (first & 0x7FFFFFFF,)
    if call.startswith("epoll"):
        text = (folder / "fdinfo" / str(first & 0x7FFFFFFF)).read_text()
        return tuple(int(number) for number in re.findall(r"^tfd:\s*(\d+)", text, re.MULTILINE))
    with memory_of(folder) as read:
        return polled(read, first, second) if "poll" in call else selected(read, first, arguments[1:4])


@contextmanager
def memory_of(folder: Path) -> Iterator[Callable[[int, int], bytes]]:
    """What reads some of a thread's memory: from an address on, so many bytes."""
    with (folder / "mem").open("rb", buffering=0) as memory:

        def read(address: int, size: int) -> bytes:
            memory.seek(address)
            return memory.read(size)

        yield read


def syncobjs_of(arguments: list[int], folder: Path) -> tuple[tuple[int, int], ...]:
    """What DRM_IOCTL_SYNCOBJ_WAIT or TIMELINE_WAIT waits for; nothing with any other request."""
    request, address = arguments[1] & 0xFFFF, arguments[2]
    if request not in (WAIT, TIMELINE_WAIT):
        return ()
    with memory_of(folder) as read:
        if request == WAIT:
            handles_at, _, count = WAIT_BEGINS.unpack(read(address, WAIT_BEGINS.size))
            points_at = 0
        else:
            handles_at, points_at, _, count = TIMELINE_WAIT_BEGINS.unpack(read(address, TIMELINE_WAIT_BEGINS.size))
        count = min(count, MOST)
        handles = struct.unpack(f"={count}I", read(handles_at, 4 * count)) if count else ()
        points = struct.unpack(f"={count}Q", read(points_at, 8 * count)) if count and points_at else (0,) * count
        return tuple(zip(handles, points, strict=True))


def polled(read: Callable[[int, int], bytes], address: int, count: int) -> tuple[int, ...]:
    """The descriptors of an array of struct pollfd; negative ones are not waited for."""
    data = read(address, min(count, MOST) * POLLFD.size) if count else b""
    whole = len(data) // POLLFD.size * POLLFD.size
    return tuple(fd for fd, _, _ in POLLFD.iter_unpack(data[:whole]) if fd >= 0)


def selected(read: Callable[[int, int], bytes], count: int, sets: list[int]) -> tuple[int, ...]:
    """The descriptors in up to three fd_sets. The kernel has its own copy, of which this is the original."""
    found: set[int] = set()
    for address in sets:
        if address:
            bits = int.from_bytes(read(address, (min(count, MOST) + 7) // 8), "little")
            found |= {fd for fd in range(min(count, MOST)) if bits >> fd & 1}
    return tuple(sorted(found))
