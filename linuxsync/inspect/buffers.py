"""buffers: every dma-buf, by its inode: who holds it, which devices are attached, which fences are in it."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..dma_buf import Access, DmaBuf
from ..sync_file import FenceInfo
from . import debugfs
from .debugfs import ListedBuffer
from .fences import REFUSED
from .pidfd import PidFd
from .processes import GONE, Descriptor, Kind, Process, Scan, scan

__all__ = ["BufferFence", "BufferHolder", "HeldBuffer", "ProcessBuffers", "by_process", "dma_bufs"]

SYSFS = Path("/sys/kernel/dmabuf/buffers")
# The name comes last and may have line breaks of its own.
FDINFO = re.compile(
    rb"(?:[^\n]*\n)*?ino:\t(\d{1,20})\n(?:lock:[^\n]*\n)*size:\t(\d{1,20})\ncount:\t\d{1,20}\nexp_name:\t([^\n]*)\n"
    rb"(?:name:\t(.*)\n)?\Z",
    re.DOTALL,
)
MAPPING = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S{4} [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) (\d{1,20}) +/dmabuf:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BufferFence:
    """An implicit fence: whoever uses the buffer is to wait for it.

    Attributes:
        usage: "write" if the buffer is written until it signals, "read" if it is only read, "kernel" if it is moved;
            without debugfs that too says "write".
        driver_name: who made it.
        obj_name: the timeline it is a point of.
        seqno: the point; None without debugfs.
        status: 0 active, 1 signaled, or the error (negative), which debugfs does not tell from 1.
    """

    usage: str
    driver_name: str
    obj_name: str
    seqno: int | None
    status: int


@dataclass(frozen=True, slots=True)
class BufferHolder:
    """A process that holds a buffer.

    Attributes:
        process: which.
        fds: its descriptors of it, in order; none if it is only mapped.
        mappings: how many mappings it has of it, or of parts.
    """

    process: Process
    fds: tuple[int, ...]
    mappings: int


@dataclass(frozen=True, slots=True)
class HeldBuffer:
    """A dma-buf and who holds it.

    Attributes:
        ino: its inode number, which no other has.
        size: bytes; None where only a mapping told of it.
        exporter: who made it, "system" for that heap, "drm" for many GEM buffers; None likewise.
        name: what it was named (os.fsdecode); None if nobody has named it, or likewise.
        holders: processes, by pid; none if only the kernel, a device or a message on its way has it, or somebody whom
            this user may not see.
        devices: those that are attached; None if debugfs was not to be had.
        fences: its implicit fences, of which debugfs has also the signaled ones; None if they could not be looked at.
    """

    ino: int
    size: int | None
    exporter: str | None
    name: str | None
    holders: tuple[BufferHolder, ...]
    devices: tuple[str, ...] | None
    fences: tuple[BufferFence, ...] | None

    @property
    def share(self) -> int | None:
        """Bytes for each process that holds it, so that the sum over processes is the memory there is."""
        return self.size // len(self.holders) if self.size is not None and self.holders else None


@dataclass(frozen=True, slots=True)
class ProcessBuffers:
    """The buffers of one process.

    Attributes:
        process: which.
        buffers: how many it holds.
        fds: how many descriptors of them.
        mappings: how many mappings.
        size: bytes of all of them.
        share: bytes, each buffer divided by the number of its holders, as PSS is.
        private: bytes of those that no other process holds.
    """

    process: Process
    buffers: int
    fds: int
    mappings: int
    size: int
    share: int
    private: int


@dataclass(slots=True)
class Found:
    """A buffer while it is being put together."""

    size: int | None = None
    exporter: str | None = None
    name: str | None = None
    descriptors: list[Descriptor] = field(default_factory=list)
    mappings: Counter[Process] = field(default_factory=Counter)

    def holders(self) -> tuple[BufferHolder, ...]:
        """By process."""
        fds: dict[Process, list[int]] = {process: [] for process in self.mappings}
        for descriptor in self.descriptors:
            fds.setdefault(descriptor.process, []).append(descriptor.fd)
        return tuple(
            BufferHolder(process, tuple(sorted(fds[process])), self.mappings[process])
            for process in sorted(fds, key=lambda process: process.pid)
        )


def dma_bufs(look: Scan) -> list[HeldBuffer]:
    """Return every dma-buf that a process of a scan holds or that the kernel lists, by inode number.

    Its fences come from debugfs or, without, through a duplicate of a descriptor, which does not change the buffer.
    What can't be looked at is added to ``look.unseen``.

    Args:
        look: what ``scan()`` returned, of all processes: the share of each counts them.
    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors dma_buf/bufinfo of debugfs, /proc/PID/fdinfo, /proc/PID/maps and DMA_BUF_IOCTL_EXPORT_SYNC_FILE.
    """
    found = held_by(look)
    listed = list_debugfs(look)
    in_kernel = kernel_buffers(listed)
    if not in_kernel.keys() <= found.keys():
        # No process has held it, or only since the scan. If it's there before and after another one, that one knows.
        for ino, later in held_by(scan()).items():
            if ino not in found:
                found[ino] = later
        for ino in in_kernel.keys() & alive() - found.keys():
            found[ino] = Found(*in_kernel[ino])
    return [
        HeldBuffer(
            ino,
            *described(one, in_kernel.get(ino)),
            one.holders(),
            listed[ino].devices if listed is not None and ino in listed else None,
            listed_fences(listed[ino]) if listed is not None and ino in listed else implicit_fences(look, ino, one),
        )
        for ino, one in sorted(found.items())
    ]


def by_process(held: Iterable[HeldBuffer]) -> list[ProcessBuffers]:
    """Return the sums for each process that holds any, by pid."""
    of: dict[Process, list[tuple[HeldBuffer, BufferHolder]]] = {}
    for buffer in held:
        for holder in buffer.holders:
            of.setdefault(holder.process, []).append((buffer, holder))
    return [
        ProcessBuffers(
            process,
            len(its),
            sum(len(holder.fds) for _, holder in its),
            sum(holder.mappings for _, holder in its),
            sum(buffer.size or 0 for buffer, _ in its),
            sum(buffer.share or 0 for buffer, _ in its),
            sum(buffer.size or 0 for buffer, _ in its if len(buffer.holders) == 1),
        )
        for process, its in sorted(of.items(), key=lambda item: item[0].pid)
    ]


def held_by(look: Scan, mappings: bool = True) -> dict[int, Found]:
    """The buffers that processes of a scan hold, by inode number; those that they have but mapped too, if asked for."""
    found: dict[int, Found] = {}
    devices: set[bytes] = set()
    for descriptor in look.of(Kind.DMA_BUF):
        folder = Path("/proc", str(descriptor.process.pid))
        try:
            known = FDINFO.match((folder / "fdinfo" / str(descriptor.fd)).read_bytes())
            if known is None:
                continue  # a file of that name in somebody's root folder, or the number is another file's by now
            if not devices:
                devices.add(device_of((folder / "fd" / str(descriptor.fd)).stat().st_dev))
        except PermissionError:
            look.miss("dma_bufs", REFUSED)
            continue
        except OSError as error:
            if error.errno not in GONE:
                raise
            continue
        one = found.setdefault(int(known[1]), Found())
        one.size, one.exporter = int(known[2]), os.fsdecode(known[3])
        one.name = None if known[4] is None else os.fsdecode(known[4])
        one.descriptors.append(descriptor)
    for process in look.processes.values() if mappings else ():
        for device, ino in mappings_of(process.pid):
            # The same link can be had with a file of one's own, but not on that file system.
            if device in devices or not devices:
                found.setdefault(ino, Found()).mappings[process] += 1
    return found


def mappings_of(pid: int) -> list[tuple[bytes, int]]:
    """Device and inode number of each mapping of a dma-buf; none where they are not ours to see, as scan() has said."""
    try:
        text = Path("/proc", str(pid), "maps").read_bytes()
    except PermissionError:
        return []
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []
    return mappings_in(text)


def mappings_in(text: bytes) -> list[tuple[bytes, int]]:
    """The same, of what /proc/PID/maps says."""
    return [(device, int(ino)) for device, ino in MAPPING.findall(text)] if b" /dmabuf:" in text else []


def device_of(number: int) -> bytes:
    """A device number as /proc/PID/maps has it."""
    return b"%02x:%02x" % (os.major(number), os.minor(number))


def described(one: Found, in_kernel: tuple[int, str, str | None] | None) -> tuple[int | None, str | None, str | None]:
    """Size, exporter and name, from the kernel's list where only a mapping told of it."""
    if one.size is None and in_kernel is not None:
        return in_kernel
    return one.size, one.exporter, one.name


def list_debugfs(look: Scan) -> dict[int, ListedBuffer] | None:
    """What bufinfo says, by inode number; None if it was not to be had, which is noted."""
    what = "debugfs file"
    lacking = "dma_buf/bufinfo, which has the attached devices"
    try:
        listed, lost = debugfs.parse_bufinfo(debugfs.read("dma_buf/bufinfo"))
    except PermissionError:
        look.miss(what, f"{lacking}: only root may enter debugfs")
    except TimeoutError as error:
        look.miss(what, f"{lacking}: {error.strerror}")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):
            raise
        look.miss(what, f"{lacking}: {error.strerror}")
    else:
        if lost:
            look.missed["rows of dma_buf/bufinfo", "not as kernels known here print them"] += lost
        return {one.ino: one for one in listed}
    return None


def kernel_buffers(listed: dict[int, ListedBuffer] | None) -> dict[int, tuple[int, str, str | None]]:
    """Size, exporter and name of all buffers, by inode number, from debugfs or sysfs; none without either."""
    if listed is not None:
        return {ino: (one.size, one.exporter, one.name) for ino, one in listed.items()}
    found: dict[int, tuple[int, str, str | None]] = {}
    try:
        for entry in SYSFS.iterdir():
            try:
                size = int((entry / "size").read_text())
                found[int(entry.name)] = (size, (entry / "exporter_name").read_text().removesuffix("\n"), None)
            except FileNotFoundError:
                pass  # gone meanwhile
    except (FileNotFoundError, PermissionError):
        pass
    return found


def alive() -> set[int]:
    """The inode numbers of all buffers that there are now."""
    try:
        return {int(entry.name) for entry in SYSFS.iterdir()}
    except FileNotFoundError:
        return set(list_debugfs(Scan()) or ())


def listed_fences(listed: ListedBuffer) -> tuple[BufferFence, ...]:
    """The fences, by debugfs."""
    return tuple(
        BufferFence(one.usage, one.driver_name, one.obj_name, one.seqno, int(one.signaled)) for one in listed.fences
    )


def implicit_fences(look: Scan, ino: int, found: Found) -> tuple[BufferFence, ...] | None:
    """The fences, through whichever of its descriptors may be duplicated."""
    refused = ""
    for descriptor in found.descriptors:
        try:
            with PidFd.open(descriptor.process.pid) as process, process.get(DmaBuf, descriptor.fd) as buffer:
                if buffer.ino == ino:
                    return exported_fences(buffer)
        except PermissionError:
            refused = REFUSED
        except OSError as error:
            # ENOTTY: another file by now, or a kernel before 6.0.
            if error.errno not in GONE | {errno.ENOTTY}:
                raise
    if refused:
        look.miss("buffers' fences", refused)
    return None


def exported_fences(buffer: DmaBuf) -> tuple[BufferFence, ...]:
    """What EXPORT_SYNC_FILE gives: for READ the fences of those who write, for WRITE those of everybody."""
    writers, everybody = (pending(buffer, access) for access in (Access.READ, Access.WRITE))
    # They can't be told apart but by their names, of which there may be several; a reader's is one too many.
    left = Counter((fence.driver_name, fence.obj_name) for fence in writers)
    found = [BufferFence("write", fence.driver_name, fence.obj_name, None, fence.status) for fence in writers]
    for fence in everybody:
        name = (fence.driver_name, fence.obj_name)
        if left[name]:
            left[name] -= 1
        else:
            found.append(BufferFence("read", *name, None, fence.status))
    return tuple(found)


def pending(buffer: DmaBuf, access: Access) -> list[FenceInfo]:
    """The fences that one has to wait for."""
    with buffer.export_sync_file(access) as fence:
        # The one of an idle buffer is the kernel's stub, nobody's.
        return [one for one in fence.info().fences if one.driver_name != "stub"]
