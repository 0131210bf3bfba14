"""DRM's requests about syncobjs once more, as bytes: for what linuxsync never asks, and to compare with."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kernel_words import answer

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


def ask(fd: int, name: str, *values: int) -> tuple[int, tuple[int, ...]]:
    """What ioctl(2) answered, its result or -errno, and the struct afterwards; fields that are not given are 0."""
    request, form = REQUESTS[name]
    fields = len(struct.unpack(form, bytes(struct.calcsize(form))))
    data = ctypes.create_string_buffer(struct.pack(form, *values, *[0] * (fields - len(values))), struct.calcsize(form))
    return answer(fd, request, ctypes.addressof(data)), struct.unpack(form, data.raw)


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


def driver_of(path: Path) -> str:
    """What DRM_IOCTL_VERSION says."""
    name = ctypes.create_string_buffer(32)
    data = ctypes.create_string_buffer(struct.pack("iiixxxxQQQQQQ", 0, 0, 0, 31, ctypes.addressof(name), 0, 0, 0, 0))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        assert answer(fd, 0xC0406400, ctypes.addressof(data)) == 0
    finally:
        os.close(fd)
    return name.value.decode()


def open_device(driver: str = "virtio_gpu") -> DrmDevice:
    """The device of that driver, whatever its number."""
    for path in sorted(Path("/dev/dri").iterdir(), reverse=True):
        if path.is_char_device() and driver_of(path) == driver:
            return DrmDevice(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    raise FileNotFoundError(driver)


@contextmanager
def syncobj_device() -> Iterator[DrmDevice]:
    """A device with syncobjs, on which nothing is left when the block ends.

    No driver that runs without hardware has them before Linux 6.6: there the test is expected to fail.
    """
    with open_device() as device:
        if refusal(device.fileno(), "DESTROY") == "EOPNOTSUPP":
            pytest.xfail("virtio_gpu has syncobjs since Linux 6.6")
        yield device
        assert next_handle(device.fileno()) == 1, "a handle was left behind"


def status_at(syncobj, point: int = 0) -> int:  # type: ignore[no-untyped-def]
    """The status of the fence that is there now."""
    fence: SyncFile
    with syncobj.export_sync_file(point) as fence:
        return fence.status
