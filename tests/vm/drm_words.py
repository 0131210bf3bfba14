"""DRM's interface once more, told by nobody else: requests as bytes, and what the kernel keeps, read from debugfs."""

from __future__ import annotations

import ctypes
import errno
import gc
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pyudev
from buffer_words import bufinfo, sysfs_buffers
from fencedev_words import alive
from kernel_words import answer

DEBUGFS = Path("/sys/kernel/debug")
CONTEXT = pyudev.Context()

# include/uapi/drm/drm.h, drm_mode.h and vgem_drm.h: request number and the struct's format.
REQUESTS = {
    "VERSION": (0xC0406400, "iiixxxxQQQQQQ"),
    "SET_VERSION": (0xC0106407, "iiii"),
    "GEM_CLOSE": (0x40086409, "II"),
    "GET_CAP": (0xC010640C, "QQ"),
    "SET_CLIENT_CAP": (0x4010640D, "QQ"),
    "PRIME_HANDLE_TO_FD": (0xC00C642D, "IIi"),
    "PRIME_FD_TO_HANDLE": (0xC00C642E, "IIi"),
    "CREATE_DUMB": (0xC02064B2, "IIIIIIQ"),
    "MAP_DUMB": (0xC01064B3, "IIQ"),
    "DESTROY_DUMB": (0xC00464B4, "I"),
    "ATOMIC": (0xC03864BC, "IIQQQQQQ"),
    "OBJ_GETPROPERTIES": (0xC02064B9, "QQIII"),
    "GETPROPERTY": (0xC04064AA, "QQII32sII"),
    "RMFB": (0xC00464AF, "I"),
    "GETPROPBLOB": (0xC01064AC, "IIQ"),
    "DESTROYPROPBLOB": (0xC00464BE, "I"),
    "GETRESOURCES": (0xC04064A0, "QQQQIIIIIIII"),
    "FENCE_ATTACH": (0xC0106441, "IIII"),
    "FENCE_SIGNAL": (0x40086442, "II"),
}


def exchange(fd: int, request: int, form: str, *values: int) -> tuple[int, tuple[Any, ...]]:
    """What ioctl(2) answered, its result or -errno, and the struct afterwards; fields that are not given are 0."""
    # C pads at the end, struct does not.
    size = -(-struct.calcsize(form) // 8) * 8 if "Q" in form else struct.calcsize(form)
    blank = struct.unpack(form, bytes(struct.calcsize(form)))
    data = ctypes.create_string_buffer(struct.pack(form, *values, *blank[len(values) :]), size)
    pointer = ctypes.cast(data, ctypes.c_void_p).value
    assert pointer is not None
    return answer(fd, request, pointer), struct.unpack_from(form, data.raw)


def ask(fd: int, name: str, *values: int) -> tuple[int, tuple[Any, ...]]:
    """The same for one of REQUESTS."""
    return exchange(fd, *REQUESTS[name], *values)


def refusal(fd: int, name: str, *values: int) -> int:
    """The errno of a request that the kernel must refuse."""
    result, _ = ask(fd, name, *values)
    assert result < 0, f"{name}{values} was answered {result}"
    return -result


@cache
def node_of(driver: str, kind: str = "card") -> str:
    """The node of a device, found by what debugfs and udev say; modules that tests reload get their number back."""
    for device in CONTEXT.list_devices(subsystem="drm", DEVTYPE="drm_minor"):
        if device.sys_name.startswith(kind):
            folder = DEBUGFS / "dri" / device.sys_number
            if (folder / "name").read_text().split()[0] == driver:
                return str(device.device_node)
    raise FileNotFoundError(driver)


def framebuffers(driver: str) -> list[int]:
    """The ids of a device's framebuffers, from debugfs."""
    number = re.sub(r"\D", "", Path(node_of(driver)).name)
    return [int(found) for found in re.findall(r"^framebuffer\[(\d+)\]", _debug(number, "framebuffer"), re.MULTILINE)]


def clients(driver: str) -> int:
    """How many files of a device are open, whoever has them."""
    number = re.sub(r"\D", "", Path(node_of(driver)).name)
    return len(_debug(number, "clients").splitlines()) - 1


def _debug(number: str, name: str) -> str:
    return (DEBUGFS / "dri" / number / name).read_text()


def handles(fd: int, most: int = 512) -> list[int]:
    """The GEM handles of an open primary node: MAP_DUMB knows every one, although it maps no imported buffer."""
    return [handle for handle in range(1, most) if ask(fd, "MAP_DUMB", handle)[0] != -errno.ENOENT]


def atomic(fd: int, flags: int, *changes: tuple[int, int, int], reserved: int = 0, user_data: int = 0) -> int:
    """DRM_IOCTL_MODE_ATOMIC of (object, property, value), each object by itself: 0 or -errno."""
    count = len(changes)
    objects = (ctypes.c_uint32 * count)(*(number for number, _, _ in changes))
    counts = (ctypes.c_uint32 * count)(*[1] * count)
    properties = (ctypes.c_uint32 * count)(*(number for _, number, _ in changes))
    values = (ctypes.c_uint64 * count)(*(value % 2**64 for _, _, value in changes))
    arrays = [ctypes.addressof(array) for array in (objects, counts, properties, values)]
    return ask(fd, "ATOMIC", flags, count, *arrays, reserved, user_data)[0]


def properties(fd: int, number: int, kind: int) -> dict[str, tuple[int, int]]:
    """Name to id and value of the properties of a KMS object, by requests of our own."""
    result, said = ask(fd, "OBJ_GETPROPERTIES", 0, 0, 0, number, kind)
    assert result == 0
    ids, values = (ctypes.c_uint32 * said[2])(), (ctypes.c_uint64 * said[2])()
    wanted = (ctypes.addressof(ids), ctypes.addressof(values), said[2], number, kind)
    assert ask(fd, "OBJ_GETPROPERTIES", *wanted)[0] == 0
    found = {}
    for identity, value in zip(ids, values, strict=True):
        _, (_, _, _, _, name, *_) = ask(fd, "GETPROPERTY", 0, 0, identity)
        found[name.rstrip(b"\0").decode()] = (identity, value)
    return found


def blobs(fd: int) -> set[int]:
    """The property blobs of a device, those of modes that are set too."""
    return {number for number in range(1, 500) if ask(fd, "GETPROPBLOB", number)[0] == 0}


def shown(driver: str) -> dict[str, int]:
    """debugfs on the planes and CRTCs of a device: name to the framebuffer that is shown, or to whether it is on."""
    number = re.sub(r"\D", "", Path(node_of(driver)).name)
    found = {}
    for name, block in re.findall(
        r"^(?:plane|crtc)\[\d+\]: (\S+)\n((?:\t.*\n)*)", _debug(number, "state"), re.MULTILINE
    ):
        match = re.search(r"^\t(?:fb|active)=(\d+)", block, re.MULTILINE)
        assert match is not None
        found[name] = int(match[1])
    return found


def left_open() -> dict[str, object]:
    """What tests could leave behind: dma-bufs, open DRM files with all handles that are theirs, framebuffers."""
    return {
        "dma-bufs": {ino: (listed.size, listed.exporter) for ino, listed in bufinfo().items()},
        "dma-bufs in /sys": sysfs_buffers(),
        "open files": {driver: clients(driver) for driver in ("vgem", "vkms", "virtio_gpu")},
        "framebuffers": framebuffers("vkms"),
        "of the fence device": alive(),
    }


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """After the block the kernel must keep what it kept before; it may take a moment to let go."""
    before = left_open()
    yield
    if left_open() != before:
        gc.collect()
    deadline = time.monotonic() + 120
    while (after := left_open()) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert after == before
