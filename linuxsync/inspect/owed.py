"""owed: who is to signal a fence.

The kernel tells a sw_sync timeline's name only through a fence of it, so the timelines are asked for one: at 0, where a
timeline begins, so that it has signaled already (one that has gone past 2**31 forgets it when it is closed). Neither
their values nor anybody who waits notices.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import sw_sync
from ..drm import devices
from ..errors import OURS
from ..sync_file import FenceInfo, SyncFileInfo
from .fences import ask, files_among
from .processes import Descriptor, Kind, Scan

__all__ = ["Owed", "named_timelines", "owed_by", "owners"]

SW_SYNC, FENCEDEV, FENCEDEV_NODE = "sw_sync", "fencedev", "/dev/fencedev"
# Drivers whose fences a process signals; with others the process only asked for the work.
SIGNALED_BY_PROCESSES = {SW_SYNC, "vgem"}
SCHEDULER = "drm_sched"  # the driver of fences of many GPUs, which says not whose


@dataclass(frozen=True, slots=True)
class Owed:
    """A fence that is missing, and who is to signal it.

    Attributes:
        driver_name: the driver.
        obj_name: the timeline.
        owners: of sw_sync the descriptors through which the timeline is advanced; of another driver those of its
            devices, through one of which the work came. Empty if none was found.
        sure: whether there is no doubt about them: one timeline, or one process that has such a device.
    """

    driver_name: str
    obj_name: str
    owners: tuple[Descriptor, ...]
    sure: bool

    @property
    def by_process(self) -> bool:
        """Whether a process is to signal it, rather than a device for it."""
        return self.driver_name in SIGNALED_BY_PROCESSES


def named_timelines(look: Scan) -> list[tuple[str, tuple[Descriptor, ...]]]:
    """Return the sw_sync timelines of a scan: the name of each, and its descriptors.

    A timeline is asked for its name by having it make a fence that has signaled already, which changes nothing in it.
    What can't be asked is added to ``look.unseen``.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors SW_SYNC_IOC_CREATE_FENCE and SYNC_IOC_FILE_INFO.
    """
    return [(info.fences[0].obj_name, holders) for info, holders in ask_timelines(look)]


def owed_by(look: Scan, info: SyncFileInfo) -> list[Owed]:
    """Return what is missing of a sync_file, and who is to signal it: each timeline once.

    Args:
        look: what ``scan()`` returned, of all processes; its sw_sync timelines are asked for their names.
        info: what the sync_file said.
    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors SW_SYNC_IOC_CREATE_FENCE, as ``named_timelines``, and the device files in /proc/PID/fd.
    """
    active = [fence for fence in info.fences if fence.status == 0]
    owner_of = owners(look)
    return list(dict.fromkeys(owner_of(fence, info) for fence in active))


def owners(look: Scan) -> Callable[[FenceInfo, SyncFileInfo], Owed]:
    """What tells of an active fence who is to signal it."""
    timelines = list(ask_timelines(look)) if look.of(Kind.SW_SYNC) else []
    nodes = driver_of_nodes() if look.of(Kind.DRM) or look.of(Kind.FENCEDEV) else {}
    drivers = [(one, driver) for one in look.descriptors if (driver := driver_of(one, nodes))]
    complete = not any(what in ("processes", "sw_syncs") for what, _ in look.missed)

    def advances(fence: FenceInfo, info: SyncFileInfo) -> tuple[tuple[Descriptor, ...], bool]:
        context = context_of(info)
        alike = [(known, holders) for known, holders in timelines if known.fences[0].obj_name == fence.obj_name]
        # The one of the same context comes first. Not for certain: whoever merges fences names the file as they like.
        alike.sort(key=lambda one: (context is not None and context_of(one[0]) != context, one[1][0].process.pid))
        return tuple(holder for _, holders in alike for holder in holders), complete and len(alike) == 1

    def submits(driver: str) -> tuple[tuple[Descriptor, ...], bool]:
        through = tuple(one for one, its in drivers if its == driver or (driver == SCHEDULER and one.kind is Kind.DRM))
        return through, complete and len({one.process.pid for one in through}) == 1

    def owed(fence: FenceInfo, info: SyncFileInfo) -> Owed:
        found = advances(fence, info) if fence.driver_name == SW_SYNC else submits(fence.driver_name)
        return Owed(fence.driver_name, fence.obj_name, *found)

    return owed


def ask_timelines(look: Scan) -> Iterator[tuple[SyncFileInfo, tuple[Descriptor, ...]]]:
    """What a fence of each open sw_sync timeline says of itself, and who holds the timeline."""
    try:
        place = Path(sw_sync.find()).stat()
    except OSError as error:
        if error.errno in OURS:
            raise
        look.missed["sw_syncs", f"their names: {error.strerror}"] += len(look.of(Kind.SW_SYNC))
        return
    for group in files_among(list(ask(look, Kind.SW_SYNC, lambda process, fd: process.timeline(fd, place)))):
        yield group[0][1], tuple(descriptor for descriptor, _ in group)


def context_of(info: SyncFileInfo) -> int | None:
    """The context of a timeline, which no other has: a fence's, where the kernel named the sync_file after it."""
    if len(info.fences) != 1 or len(info.name.encode("utf-8", "surrogateescape")) >= 31:  # it may have been cut
        return None
    beginning = f"{info.fences[0].driver_name}-{info.fences[0].obj_name}"
    found = re.fullmatch(r"(\d+)-\d+", info.name.removeprefix(beginning))
    return int(found[1]) if found else None


def driver_of(descriptor: Descriptor, nodes: dict[int, str]) -> str | None:
    """The driver of the device behind a descriptor: by its number, for any file may have a device's name."""
    if descriptor.kind not in (Kind.DRM, Kind.FENCEDEV):
        return None
    try:
        there = Path("/proc", str(descriptor.process.pid), "fd", str(descriptor.fd)).stat()
    except OSError as error:
        if error.errno in OURS:
            raise
        return None
    return nodes.get(there.st_rdev) if stat.S_ISCHR(there.st_mode) else None


def driver_of_nodes() -> dict[int, str]:
    """The driver of each device, by its number."""
    paths = [(path, node.driver) for node in devices() if node.driver for path in (node.primary, node.render) if path]
    found = {}
    for path, driver in [*paths, (FENCEDEV_NODE, FENCEDEV)]:
        try:
            found[Path(path).stat().st_rdev] = driver
        except OSError as error:
            if error.errno in OURS:
                raise  # any other: unplugged meanwhile
    return found
