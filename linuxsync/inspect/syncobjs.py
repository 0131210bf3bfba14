"""syncobjs: those that processes hold as descriptors, how far they have come and what they owe."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .._fd import OwnedFd
from ..drm import DrmDevice
from ..errors import OURS
from ..sync_file import FenceInfo, SyncFile
from ..syncobj import Syncobj
from .fences import ask, files_among
from .pidfd import PidFd
from .processes import Descriptor, Kind, Scan

__all__ = ["HeldSyncobj", "syncobj_files"]

NODES = Path("/dev/dri")


@dataclass(frozen=True, slots=True)
class State:
    """What a syncobj answered."""

    signaled: int | None
    submitted: int | None
    fences: tuple[FenceInfo, ...] | None


@dataclass(frozen=True, slots=True)
class HeldSyncobj:
    """A syncobj's open file and who holds it. Several files may be of one syncobj: the kernel does not tell.

    Attributes:
        signaled: the last point up to which its timeline has signaled; 0 for a binary one; None if it could not be
            asked.
        submitted: the last point that its timeline has; likewise.
        fences: those that it holds now, of a timeline all that have not been forgotten; empty for an empty one; None if
            it could not be asked.
        holders: its descriptors, at least one.
    """

    signaled: int | None
    submitted: int | None
    fences: tuple[FenceInfo, ...] | None
    holders: tuple[Descriptor, ...]

    @property
    def is_timeline(self) -> bool | None:
        """Whether points were added to it; None if it could not be asked."""
        return None if self.submitted is None else self.submitted > 0

    @property
    def status(self) -> int | None:
        """0 while one of its fences is active, else 1, or an error; None if it is empty or could not be asked."""
        states = [fence.status for fence in self.fences or ()]
        return None if not states else 0 if 0 in states else min(states)


def syncobj_files(look: Scan) -> list[HeldSyncobj]:
    """Return every syncobj that a process of a scan holds as a descriptor, in the order of the first who holds it.

    A syncobj is asked through a handle, and a handle belongs to the open file of a device. So a device is opened anew:
    the handles of an inspected process, whose file a duplicate would share, stay as they are. The syncobj may be of
    another device. What can't be looked at is added to ``look.unseen``, as are the device files in which processes may
    have more of them as handles alone.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE and DRM_IOCTL_SYNCOBJ_QUERY, through pidfd_getfd(2).
    """
    note_devices(look)
    descriptors = look.of(Kind.SYNCOBJ_FILE)
    answers: dict[Descriptor, State | None] = {}
    if descriptors:
        with device_with_syncobjs(look) as device:
            if device is not None:
                answers.update(ask(look, Kind.SYNCOBJ_FILE, lambda process, fd: state_of(device, process, fd)))
    known = [(one, answers.get(one)) for one in descriptors if one in answers or is_there(one)]
    found = []
    for group in files_among(known):
        state = next((state for _, state in group if state is not None), State(None, None, None))
        holders = tuple(descriptor for descriptor, _ in group)
        found.append(HeldSyncobj(state.signaled, state.submitted, state.fences, holders))
    return sorted(found, key=lambda held: (held.holders[0].process.pid, held.holders[0].fd))


def is_there(descriptor: Descriptor) -> bool:
    """Whether a descriptor that gave no answer is one still."""
    try:
        link = Path("/proc", str(descriptor.process.pid), "fd", str(descriptor.fd)).readlink()
    except OSError as error:
        if error.errno in OURS:
            raise
        return False
    return str(link) == descriptor.link


@contextmanager
def imported(device: DrmDevice, process: PidFd, fd: int) -> Iterator[Syncobj | None]:
    """A descriptor's syncobj as a handle of our own; None if the number is another file's by now."""
    with process.get(OwnedFd, fd) as duplicate:
        try:
            syncobj = Syncobj.from_fd(device, duplicate)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            yield None
            return
    with syncobj:
        yield syncobj


def fence_in(syncobj: Syncobj, point: int = 0) -> SyncFile | None:
    """What it holds now, of a timeline all that it has not forgotten, or what is at a point; None if nothing is."""
    for _ in range(2):
        try:
            return syncobj.export_sync_file(point)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # Which the kernel also says where it has no memory for the file.
        if not holds_fence(syncobj, point):
            return None
    raise OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)}: no file for the fence of {syncobj!r}")


def holds_fence(syncobj: Syncobj, point: int) -> bool:
    """Whether there is a fence to wait for."""
    try:
        syncobj.wait(0, point or None)
    except TimeoutError:
        return True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def state_of(device: DrmDevice, process: PidFd, fd: int) -> State | None:
    """What the syncobj of a descriptor says; None if the number is another file's by now."""
    with imported(device, process, fd) as syncobj:
        if syncobj is None:
            return None
        signaled: int | None
        submitted: int | None
        try:
            signaled, submitted = syncobj.query(), syncobj.query_last_submitted()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            signaled = submitted = None  # this device has no timelines
        fence = fence_in(syncobj)
        if fence is None:
            return State(signaled, submitted, ())
        with fence:
            return State(signaled, submitted, fence.info().fences)


@contextmanager
def device_with_syncobjs(look: Scan) -> Iterator[DrmDevice | None]:
    """A render node opened anew, with timelines if there is one: whoever opens a primary node may become its master."""
    refused, plain = False, None
    for path in device_nodes("renderD"):
        try:
            device = DrmDevice.open(path=path)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise
            refused = refused or error.errno in (errno.EACCES, errno.EPERM)
            continue
        with device:
            if device.has_timeline_syncobj:
                yield device
                return
            plain = plain or (path if device.has_syncobj else None)
    if plain is not None:
        with DrmDevice.open(path=plain) as device:
            yield device
        return
    why = "they are not for this user: join the group render, or try as root" if refused else "none has syncobjs"
    look.missed["syncobjs' points", f"it takes a render node, and {why}"] += len(look.of(Kind.SYNCOBJ_FILE))
    yield None


def device_nodes(kind: str) -> list[Path]:
    """The nodes that begin with "card" or "renderD", sorted; Path.glob() of Python 3.13 takes EMFILE for none."""
    try:
        names = os.listdir(NODES)  # noqa: PTH208
    except (FileNotFoundError, PermissionError):
        return []
    return sorted(NODES / name for name in names if re.fullmatch(rf"{kind}\d+", name))


def note_devices(look: Scan) -> None:
    """Count the open device files in which there may be syncobjs that have no descriptor."""
    asked = [one for one in ask(look, Kind.DRM, may_have_syncobjs) if one[1]]
    for _ in files_among(asked):
        look.miss("DRM files' handles", "a syncobj that has no descriptor is known to its own process alone")


def may_have_syncobjs(process: PidFd, fd: int) -> bool:
    """Whether a descriptor's device may have any: a question that changes nothing in the file, which is the other's."""
    try:
        with process.get(DrmDevice, fd) as duplicate:
            return duplicate.has_syncobj
    except PermissionError:
        return True
