"""The kernel's interface once more, told by nobody else: what linuxsync says is compared with what this says.

Structs and request numbers as in include/uapi/linux/sync_file.h and drivers/dma-buf/sw_sync.c, and the text of debugfs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from ioctl_opt import IOW, IOWR

from linuxsync import sw_sync

libc = ctypes.CDLL(None, use_errno=True)


class MergeData(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 32),
        ("fd2", ctypes.c_int32),
        ("fence", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class FenceData(ctypes.Structure):
    _fields_ = [
        ("obj_name", ctypes.c_char * 32),
        ("driver_name", ctypes.c_char * 32),
        ("status", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("timestamp_ns", ctypes.c_uint64),
    ]


class FileInfo(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 32),
        ("status", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("num_fences", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("sync_fence_info", ctypes.c_uint64),
    ]


class SetDeadline(ctypes.Structure):
    _fields_ = [("deadline_ns", ctypes.c_uint64), ("pad", ctypes.c_uint64)]


class CreateFence(ctypes.Structure):
    _fields_ = [("value", ctypes.c_uint32), ("name", ctypes.c_char * 32), ("fence", ctypes.c_int32)]


class GetDeadline(ctypes.Structure):
    _fields_ = [("deadline_ns", ctypes.c_uint64), ("pad", ctypes.c_uint32), ("fence_fd", ctypes.c_int32)]


MERGE = IOWR(ord(">"), 3, MergeData)
FILE_INFO = IOWR(ord(">"), 4, FileInfo)
SET_DEADLINE = IOW(ord(">"), 5, SetDeadline)
CREATE_FENCE = IOWR(ord("W"), 0, CreateFence)
INC = IOW(ord("W"), 1, ctypes.c_uint32)
GET_DEADLINE = IOWR(ord("W"), 2, GetDeadline)

# Not mapped in any process: the kernel answers EFAULT.
NOWHERE = 8


def answer(fd: int, request: int, argument: ctypes.Structure | ctypes.c_uint32 | int | None) -> int:
    """What ioctl(2) said: its result or -errno. fcntl.ioctl would refuse fd -1 and hide what was written on errors."""
    pointer = ctypes.c_void_p(argument) if argument is None or isinstance(argument, int) else ctypes.byref(argument)
    result = libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), pointer)
    return -ctypes.get_errno() if result == -1 else int(result)


def raw_merge(fd: int, fd2: int, name: bytes = b"") -> int:
    """SYNC_IOC_MERGE: the new descriptor or -errno."""
    data = MergeData(name=name, fd2=fd2)
    result = answer(fd, MERGE, data)
    return data.fence if result == 0 else result


def raw_count_only(fd: int) -> FileInfo:
    """SYNC_IOC_FILE_INFO with room for no fence."""
    info = FileInfo()
    assert answer(fd, FILE_INFO, info) == 0
    return info


def raw_info(fd: int) -> tuple[FileInfo, list[FenceData]]:
    """SYNC_IOC_FILE_INFO the way libsync asks: the count first, then everything."""
    count = raw_count_only(fd).num_fences
    fences = (FenceData * count)()
    info = FileInfo(num_fences=count, sync_fence_info=ctypes.addressof(fences))
    assert answer(fd, FILE_INFO, info) == 0
    assert info.num_fences == count
    return info, list(fences)


def raw_fence(fd: int, value: int) -> int:
    """SW_SYNC_IOC_CREATE_FENCE: the new descriptor or -errno."""
    data = CreateFence(value=value)
    result = answer(fd, CREATE_FENCE, data)
    return data.fence if result == 0 else result


def has_deadlines(fence_fd: int) -> bool:
    """Whether the kernel knows SYNC_IOC_SET_DEADLINE (added by 70e67aaec2f4): a bad pad gets past an unknown number."""
    refusal = answer(fence_fd, SET_DEADLINE, SetDeadline(pad=1))
    assert refusal in (-errno.EINVAL, -errno.ENOTTY)
    return refusal == -errno.EINVAL


@dataclass(frozen=True)
class Listed:
    """A timeline as debugfs sync/info shows it: the fences are those still ahead, as (status, value)."""

    name: str
    value: int
    fences: tuple[tuple[str, int], ...]


@cache
def _info() -> Path:
    """Found once: it does not move, and the list of what is mounted is long."""
    return Path(sw_sync.find()).parent / "info"


def debugfs_timelines() -> list[Listed]:
    """The first half of debugfs sync/info, read as drivers/dma-buf/sync_debug.c writes it."""
    text = _info().read_text(errors="surrogateescape")
    objects, _, fences = text.removeprefix("objs:\n--------------\n").partition("fences:\n--------------\n")
    assert fences.strip() == ""
    found: list[Listed] = []
    for line in objects.splitlines():
        if fence := re.fullmatch(r"  fence (\w+)(?:@[\d.]+)?: (\d+) / -?\d+", line):
            last = found.pop()
            found.append(Listed(last.name, last.value, (*last.fences, (fence[1], int(fence[2])))))
        elif line:
            name, _, value = line.rpartition(": ")
            found.append(Listed(name, int(value), ()))
    return found


def debugfs_timeline(name: str) -> Listed:
    """The one timeline of that name."""
    (found,) = (listed for listed in debugfs_timelines() if listed.name == name)
    return found


@contextmanager
def refused(number: int, kind: type[OSError] = OSError) -> Iterator[pytest.ExceptionInfo[OSError]]:
    """The block must raise an OSError with exactly this errno."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.errno == number, f"{errno.errorcode[number]} was expected, not {caught.value!r}"


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Let this process open `count` more descriptors and not one beyond them."""
    taken = [os.dup(0) for _ in range(count + 1)]
    for fd in taken:
        os.close(fd)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
