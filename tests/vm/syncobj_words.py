"""DRM's requests about syncobjs once more, as bytes: for what linuxsync never asks, and to compare with."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from drm_words import exchange, node_of

from linuxsync import DrmDevice, SyncFile

# include/uapi/drm/drm.h: request number and the struct's format, as of Linux 6.12 (6.16 for the AT ones).
REQUESTS = {
    "CREATE": (0xC00864BF, "II"),
    "DESTROY": (0xC00864C0, "II"),
    "HANDLE_TO_FD": (0xC01064C1, "IIiI"),
    "FD_TO_HANDLE": (0xC01064C2, "IIiI"),
    "HANDLE_TO_FD_AT": (0xC01864C1, "IIiIQ"),
    "FD_TO_HANDLE_AT": (0xC01864C2, "IIiIQ"),
    "WAIT": (0xC02864C3, "QqIIIIQ"),
    "WAIT_BEFORE_6_8": (0xC02064C3, "QqIIII"),
    "RESET": (0xC01064C4, "QII"),
    "SIGNAL": (0xC01064C5, "QII"),
    "TIMELINE_WAIT": (0xC03064CA, "QQqIIIIQ"),
    "TIMELINE_WAIT_BEFORE_6_8": (0xC02864CA, "QQqIIII"),
    "QUERY": (0xC01864CB, "QQII"),
    "TRANSFER": (0xC02064CC, "IIQQII"),
    "TIMELINE_SIGNAL": (0xC01864CD, "QQII"),
    "EVENTFD": (0xC01864CF, "IIQiI"),
}
ALL, FOR_SUBMIT, AVAILABLE, DEADLINE = 1, 2, 4, 8
FOREVER = 2**63 - 1
GONE = 0xDEADBEEF  # no handle, flag or padding that means anything


def ask(fd: int, name: str, *values: int) -> tuple[int, tuple[Any, ...]]:
    """One of REQUESTS: what ioctl(2) answered, and the struct afterwards."""
    return exchange(fd, *REQUESTS[name], *values)


def refusal(fd: int, name: str, *values: int) -> str:
    """The name of the errno with which the kernel answers, "0" for none."""
    result, _ = ask(fd, name, *values)
    # Linux has one number for two names, and errorcode knows it by the other.
    return errno.errorcode[-result].replace("ENOTSUP", "EOPNOTSUPP") if result < 0 else str(result)


class Array:
    """Numbers that the kernel reads or writes; keep it alive as long as its address is in use."""

    def __init__(self, kind: type[ctypes.c_uint32 | ctypes.c_uint64], *values: int) -> None:
        self.values = (kind * max(len(values), 1))(*values)
        self.at = ctypes.addressof(self.values)


def handles(*values: int) -> Array:
    """An array of handles."""
    return Array(ctypes.c_uint32, *values)


def points(*values: int) -> Array:
    """An array of points."""
    return Array(ctypes.c_uint64, *values)


def next_handle(fd: int) -> int:
    """The lowest handle that is free: 1 on a device file on which nobody holds one."""
    result, (handle, _) = ask(fd, "CREATE")
    assert result == 0
    assert ask(fd, "DESTROY", handle)[0] == 0
    return handle


def open_device(driver: str = "virtio_gpu") -> DrmDevice:
    """The device of that driver, whatever its number."""
    return DrmDevice(os.open(node_of(driver), os.O_RDWR | os.O_CLOEXEC))


@cache
def there_are_syncobjs() -> bool:
    """Whether virtio_gpu has syncobjs (Linux 6.6). Of the drivers that run without hardware no other has any."""
    with open_device() as device:
        said = refusal(device.fileno(), "DESTROY")
    assert said in ("EINVAL", "EOPNOTSUPP")
    return said == "EINVAL"


def without_syncobjs() -> list[str]:
    """The drivers that have none: before Linux 6.6 all that run without hardware."""
    return ["vgem", "vkms"] if there_are_syncobjs() else ["vgem", "vkms", "virtio_gpu"]


@contextmanager
def syncobj_device() -> Iterator[DrmDevice]:
    """A device with syncobjs, on which nothing is left when the block ends."""
    with open_device() as device:
        yield device
        assert device.closed or next_handle(device.fileno()) == 1, "a handle was left behind"


def status_at(syncobj, point: int = 0) -> int:  # type: ignore[no-untyped-def]
    """The status of the fence that is there now."""
    fence: SyncFile
    with syncobj.export_sync_file(point) as fence:
        return fence.status
