"""timelines: what the fences of this machine are points of, and the sw_sync timelines that debugfs tells of."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .. import sw_sync
from ..errors import OURS
from . import debugfs
from .debugfs import ListedTimeline
from .fences import HeldSyncFile, open_files
from .processes import Descriptor, Kind, Scan

__all__ = ["HeldTimeline", "fence_timelines"]

DRIVER = "sw_sync"


@dataclass(frozen=True, slots=True)
class HeldTimeline:
    """All timelines of one driver that have one name: a name does not tell them apart.

    Attributes:
        driver_name: the driver; from Linux 6.17 on fences that have signaled come as ``detached-driver``.
        obj_name: the timeline (os.fsdecode); likewise ``signaled-timeline``.
        active: fences in sync_files that have not signaled; one that is in several counts in each.
        signaled: those that have.
        failed: those that have, with an error.
        holders: the descriptors of those sync_files, by pid and number.
        sw_sync: what debugfs says of the sw_sync timelines of this name; none of other drivers', or if it could not be
            read.
        descriptors: those of the timelines themselves, through which they are advanced.
        sure: whether the kernel leaves no doubt about ``descriptors``. A timeline is named after the thread that opened
            it, so otherwise they are the one open file that processes of this name hold.
    """

    driver_name: str
    obj_name: str
    active: int
    signaled: int
    failed: int
    holders: tuple[Descriptor, ...]
    sw_sync: tuple[ListedTimeline, ...]
    descriptors: tuple[Descriptor, ...]
    sure: bool


@dataclass(slots=True)
class Found:
    """A timeline while it is being put together."""

    active: int = 0
    signaled: int = 0
    failed: int = 0
    holders: set[Descriptor] = field(default_factory=set)
    listed: list[ListedTimeline] = field(default_factory=list)


def fence_timelines(look: Scan, fences: Iterable[HeldSyncFile]) -> list[HeldTimeline]:
    """Return the timelines of all fences in sync_files and all sw_sync timelines, by driver and name.

    Args:
        look: what ``scan()`` returned; what can't be looked at is added to its ``unseen``.
        fences: what ``sync_files(look)`` returned.
    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors sync/info of debugfs.
    """
    found: dict[tuple[str, str], Found] = {}
    for held in fences:
        for fence in held.info.fences:
            one = found.setdefault((fence.driver_name, fence.obj_name), Found())
            one.active += fence.status == 0
            one.signaled += fence.status > 0
            one.failed += fence.status < 0
            one.holders.update(held.holders)
    listed = list_debugfs(look)
    for timeline in listed:
        found.setdefault((DRIVER, timeline.name), Found()).listed.append(timeline)
    owners = who_advances(look, listed)
    return [
        HeldTimeline(
            driver,
            name,
            one.active,
            one.signaled,
            one.failed,
            tuple(sorted(one.holders, key=lambda holder: (holder.process.pid, holder.fd))),
            tuple(one.listed),
            *(owners.get(name, ((), False)) if driver == DRIVER else ((), False)),
        )
        for (driver, name), one in sorted(found.items())
    ]


def list_debugfs(look: Scan) -> list[ListedTimeline]:
    """What sync/info says; nothing if it was not to be had, which is noted."""
    lacking = "sync/info, which has the values of sw_sync timelines"
    try:
        listed, lost = debugfs.parse_sync_info(debugfs.read("sync/info"))
    except PermissionError:
        look.miss("debugfs file", f"{lacking}: only root may enter debugfs")
    except OSError as error:
        if not isinstance(error, TimeoutError) and error.errno not in (errno.ENOENT, errno.EIO):
            raise
        look.miss("debugfs file", f"{lacking}: {error.strerror}")
    else:
        if lost:
            look.missed["timelines in sync/info", "not as kernels known here print them"] += lost
        return listed
    return []


def who_advances(look: Scan, listed: list[ListedTimeline]) -> dict[str, tuple[tuple[Descriptor, ...], bool]]:
    """The descriptors of sw_sync timelines by name, and whether that is sure.

    There is nothing that one could ask such a descriptor without changing its timeline. One open file and one timeline
    belong together; so do one open file and the one timeline with fences to come, for those fail when it is closed.
    """
    descriptors = [one for one in look.of(Kind.SW_SYNC) if listed and is_sw_sync(one)]
    if not descriptors:
        return {}
    files = open_files(descriptors)
    ahead = [timeline for timeline in listed if any(point.state == "active" for point in timeline.points)]
    complete = not any(what == "processes" for what, _ in look.missed)
    if complete and len(files) == 1 and (len(listed) == 1 or len(ahead) == 1):
        (only,) = listed if len(listed) == 1 else ahead
        return {only.name: (files[0], True)}
    names = [timeline.name for timeline in listed]
    found = {}
    for name in names:
        likely = [file for file in files if any(descriptor.process.comm == name for descriptor in file)]
        if names.count(name) == 1 and len(likely) == 1:
            found[name] = (likely[0], False)
    return found


def is_sw_sync(descriptor: Descriptor) -> bool:
    """Whether it is what its link looks like: a file of anybody's may end in those words."""
    try:
        there = Path("/proc", str(descriptor.process.pid), "fd", str(descriptor.fd)).stat()
        return os.path.samestat(there, Path(sw_sync.find()).stat())
    except OSError as error:
        if error.errno in OURS:
            raise
        return False
