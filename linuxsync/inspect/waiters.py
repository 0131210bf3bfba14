"""waiters: threads that wait for a descriptor right now, and for which, by /proc/PID/task/TID/syscall.

A thread that sleeps in poll(2) has the list of its descriptors in its own memory, which /proc/PID/mem shows; one in
epoll_wait(2) has it in the fdinfo of the epoll descriptor; an ioctl(2) names its descriptor. Nothing is stopped for it,
so what a thread does may have changed by the time it is read; and what stands in its memory is whatever it likes.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from select import EPOLLIN, EPOLLOUT, POLLIN, POLLOUT

from ..dma_buf import SYNC, Access
from ..syncobj import TIMELINE_WAIT, WAIT
from .pidfd import is_in_epoll
from .processes import GONE, Process, Scan

__all__ = ["Waiter", "waiters"]

# System calls that wait for descriptors, by machine. 32-bit programs have other numbers and are not looked at.
RESTART = "restart_syscall"  # poll(2), say, after a SIGSTOP and SIGCONT; the registers still have what it was given
CALLS = {
    "x86_64": {7: "poll", 271: "ppoll", 23: "select", 270: "pselect6", 232: "epoll_wait", 281: "epoll_pwait"}
    | {441: "epoll_pwait2", 16: "ioctl", 219: RESTART},
    "aarch64": {73: "ppoll", 72: "pselect6", 22: "epoll_pwait", 441: "epoll_pwait2", 29: "ioctl", 128: RESTART},
}.get(platform.machine(), {})
MOST = 4096  # descriptors of one call that are looked at
DEEPEST = 5  # epolls in epolls, as the kernel has it (EP_MAX_NESTS)
POLLFD = struct.Struct("=ihh")
# How struct drm_syncobj_wait and drm_syncobj_timeline_wait begin: where the arrays are, the time limit, their length.
WAIT_BEGINS = struct.Struct("=QqI")
TIMELINE_WAIT_BEGINS = struct.Struct("=QQqI")
FOR_EVER = 2**63 - 1
TARGET = re.compile(rb"^tfd: *(\d{1,10}) events: *([0-9a-f]{1,8}) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A thread that waits.

    Attributes:
        process: whose it is.
        tid: the thread's number (int > 0).
        comm: the thread's name, whatever bytes (os.fsdecode).
        call: the system call: poll, ppoll, select, pselect6, epoll_wait, epoll_pwait, epoll_pwait2 or ioctl.
        fds: the descriptors that it waits for, whichever comes first: of an ioctl the one that it was issued on.
        exclusive: those of them for which it waits as one who writes: of a dma-buf the fences of readers too (POLLOUT,
            DMA_BUF_SYNC_WRITE).
        limited: whether it was given a time limit.
        syncobjs: the DRM syncobjs that an ioctl on that descriptor waits for: (handle, point) each, 0 for a binary one.
        wchan: the function of the kernel in which an ioctl sleeps, ``dma_fence_default_wait`` say; None for other
            calls, and where /proc/PID/wchan does not tell.
    """

    process: Process
    tid: int
    comm: str
    call: str
    fds: tuple[int, ...]
    exclusive: tuple[int, ...] = ()
    limited: bool = False
    syncobjs: tuple[tuple[int, int], ...] = ()
    wchan: str | None = None

    @property
    def wait(self) -> tuple[object, ...]:
        """What tells whether two looks have found one wait; names may change meanwhile."""
        return (self.process.pid, self.tid, self.call, self.fds, self.syncobjs, self.wchan)


def waiters(scan: Scan, processes: Iterable[Process] | None = None) -> list[Waiter]:
    """Return the threads that wait for descriptors, of some processes or of all in which the scan found descriptors.

    What this user may not see is added to ``scan.unseen``. Threads of a 32-bit program are not seen.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors /proc/PID/task/TID/syscall, and what the arguments there point to (/proc/PID/mem).
    """
    found = []
    if processes is None:
        processes = {descriptor.process.pid: descriptor.process for descriptor in scan.descriptors}.values()
    numbers: dict[int, list[int]] = {}
    for descriptor in scan.descriptors:
        numbers.setdefault(descriptor.process.pid, []).append(descriptor.fd)
    for process in processes:
        try:
            for folder in sorted(Path(f"/proc/{process.pid}/task").iterdir(), key=lambda entry: int(entry.name)):
                waiter = look_at(process, folder, numbers.get(process.pid, []))
                if waiter is not None and waiter.fds:
                    found.append(waiter)
        except PermissionError:
            scan.miss("processes' threads", "not to be traced by this user (ptrace(2)): try as root")
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def look_at(process: Process, folder: Path, numbers: Sequence[int]) -> Waiter | None:
    """A thread, if it sleeps in one of CALLS; these are the descriptors of its process that matter."""
    try:
        words = (folder / "syscall").read_text().split()
        call = CALLS.get(int(words[0])) if words and words[0].isdigit() else None  # "running", or -1 outside of any
        if call is None:
            return None
        arguments = [int(word, 16) for word in words[1:7]]
        wchan = (folder / "wchan").read_text() if call in ("ioctl", RESTART) else ""
        if call == RESTART:
            if "poll" not in wchan:
                return None  # nanosleep(2) and futex(2) are restarted likewise
            call, wchan = "poll", ""
        comm = (folder / "comm").read_bytes().removesuffix(b"\n").decode("utf-8", "surrogateescape")
        with memory_of(folder) as read:
            if call == "ioctl":
                fds = {arguments[0] & 0x7FFFFFFF: is_for_writing(arguments, read)}
                syncobjs, limited = syncobjs_of(arguments, read)
            else:
                fds = descriptors_of(call, arguments, read, folder, numbers)
                syncobjs, limited = (), has_limit(call, arguments)
    except (OSError, struct.error) as error:
        # The memory that a call was given need not be there, or not all of it.
        if not isinstance(error, OSError) or error.errno in GONE | {errno.EIO, errno.EFAULT}:
            return None
        raise
    exclusive = tuple(sorted(fd for fd, writes in fds.items() if writes))
    sleeps_in = wchan if wchan not in ("", "0") else None
    return Waiter(process, int(folder.name), comm, call, tuple(sorted(fds)), exclusive, limited, syncobjs, sleeps_in)


@contextmanager
def memory_of(folder: Path) -> Iterator[Callable[[int, int], bytes]]:
    """What reads some of a thread's memory: from an address on, so many bytes."""
    with (folder / "mem").open("rb", buffering=0) as memory:

        def read(address: int, size: int) -> bytes:
            if size and address > FOR_EVER:  # no user's memory, and no offset in a file
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            memory.seek(address if size else 0)
            return memory.read(size)

        yield read


def descriptors_of(
    call: str, arguments: list[int], read: Callable[[int, int], bytes], folder: Path, numbers: Sequence[int]
) -> dict[int, bool]:
    """What a call waits for, from its arguments and the memory that they point to; and whether as one who writes."""
    first, second = arguments[:2]
    if call.startswith("epoll"):
        return in_epoll(int(folder.parent.parent.name), first & 0x7FFFFFFF, numbers)
    if "poll" in call:
        return polled(read, first, second & 0xFFFFFFFF)
    return selected(read, first & 0xFFFFFFFF, arguments[1:4])


def has_limit(call: str, arguments: list[int]) -> bool:
    """Whether a call was given a time limit: in milliseconds, where less than 0 is none, or by a pointer."""
    if call in ("poll", "epoll_wait", "epoll_pwait"):
        return arguments[2 if call == "poll" else 3] & 0x80000000 == 0
    return arguments[{"ppoll": 2, "epoll_pwait2": 3}.get(call, 4)] != 0


def is_for_writing(arguments: list[int], read: Callable[[int, int], bytes]) -> bool:
    """Whether an ioctl is a DMA_BUF_IOCTL_SYNC that waits for readers too."""
    if arguments[1] & 0xFFFF != SYNC & 0xFFFF:  # whatever its size and direction
        return False
    (flags,) = struct.unpack("=Q", read(arguments[2], 8))
    return bool(flags & Access.WRITE)


def syncobjs_of(arguments: list[int], read: Callable[[int, int], bytes]) -> tuple[tuple[tuple[int, int], ...], bool]:
    """What DRM_IOCTL_SYNCOBJ_WAIT or TIMELINE_WAIT waits for, and whether with a time limit; of others nothing."""
    request, address = arguments[1] & 0xFFFF, arguments[2]
    if request not in (WAIT, TIMELINE_WAIT):
        return (), False
    if request == WAIT:
        handles_at, until, count = WAIT_BEGINS.unpack(read(address, WAIT_BEGINS.size))
        points_at = 0
    else:
        handles_at, points_at, until, count = TIMELINE_WAIT_BEGINS.unpack(read(address, TIMELINE_WAIT_BEGINS.size))
    count = min(count, MOST)
    handles = struct.unpack(f"={count}I", read(handles_at, 4 * count)) if count else ()
    points = struct.unpack(f"={count}Q", read(points_at, 8 * count)) if count and points_at else (0,) * count
    return tuple(zip(handles, points, strict=True)), until != FOR_EVER


def polled(read: Callable[[int, int], bytes], address: int, count: int) -> dict[int, bool]:
    """The descriptors of an array of struct pollfd; negative ones, and those without events, are not waited for."""
    data = read(address, min(count, MOST) * POLLFD.size)
    whole = len(data) // POLLFD.size * POLLFD.size
    each = [
        (fd, events) for fd, events, _ in POLLFD.iter_unpack(data[:whole]) if fd >= 0 and events & (POLLIN | POLLOUT)
    ]
    return {fd: bool(events & POLLOUT) for fd, events in each}


def selected(read: Callable[[int, int], bytes], count: int, sets: list[int]) -> dict[int, bool]:
    """The descriptors in fd_sets to read and to write. The kernel has its own copy, of which this is the original."""
    count = 0 if count > FOR_EVER >> 32 else min(count, MOST)
    found: dict[int, bool] = {}
    for address, writes in zip(sets[:2], (False, True), strict=True):
        if address:
            bits = int.from_bytes(read(address, (count + 7) // 8), "little")
            found |= {fd: writes for fd in range(count) if bits >> fd & 1}
    return found


def in_epoll(pid: int, fd: int, numbers: Sequence[int], depth: int = 0) -> dict[int, bool]:
    """The descriptors that an epoll has, and those of epolls in it.

    It lists numbers as they were when the files were added; which descriptor a file has now, kcmp(2) tells.
    """
    found: dict[int, bool] = {}
    for target, mask in targets_in(Path(f"/proc/{pid}/fdinfo/{fd}").read_bytes()):
        if not mask & (EPOLLIN | EPOLLOUT):
            continue
        for candidate in dict.fromkeys([target, *numbers]):
            try:
                if is_in_epoll(pid, candidate, fd, target):
                    break
            except OSError as error:
                if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                    break  # no kcmp: the number has to do
                if error.errno not in GONE | {errno.EPERM, errno.EINVAL}:
                    raise
        else:
            continue
        if str(Path(f"/proc/{pid}/fd/{candidate}").readlink()) == "anon_inode:[eventpoll]":
            found |= in_epoll(pid, candidate, numbers, depth + 1) if depth < DEEPEST else {}
        else:
            found[candidate] = bool(mask & EPOLLOUT)
    return found


def targets_in(fdinfo: bytes) -> list[tuple[int, int]]:
    """Number and events of each descriptor in the fdinfo of an epoll, or of whatever has taken its number since."""
    return [(int(number), int(events, 16)) for number, events in TARGET.findall(fdinfo)]
