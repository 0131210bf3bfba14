"""What a Python program without linuxsync would write: fcntl.ioctl, ctypes, ioctl-opt, select.poll, asyncio."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select

from ioctl_opt import IOW, IOWR


class MergeData(ctypes.Structure):
    """``struct sync_merge_data``."""

    _fields_ = (
        ("name", ctypes.c_char * 32),
        ("fd2", ctypes.c_int32),
        ("fence", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class FenceInfo(ctypes.Structure):
    """``struct sync_fence_info``."""

    _fields_ = (
        ("obj_name", ctypes.c_char * 32),
        ("driver_name", ctypes.c_char * 32),
        ("status", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("timestamp_ns", ctypes.c_uint64),
    )


class FileInfo(ctypes.Structure):
    """``struct sync_file_info``."""

    _fields_ = (
        ("name", ctypes.c_char * 32),
        ("status", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("num_fences", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("sync_fence_info", ctypes.c_uint64),
    )


class CreateFence(ctypes.Structure):
    """``struct sw_sync_create_fence_data``."""

    _fields_ = (("value", ctypes.c_uint32), ("name", ctypes.c_char * 32), ("fence", ctypes.c_int32))


SYNC_IOC_MERGE = IOWR(ord(">"), 3, MergeData)
SYNC_IOC_FILE_INFO = IOWR(ord(">"), 4, FileInfo)
SW_SYNC_IOC_CREATE_FENCE = IOWR(ord("W"), 0, CreateFence)
SW_SYNC_IOC_INC = IOW(ord("W"), 1, ctypes.c_uint32)


def create_fence(timeline: int, value: int) -> int:
    """Return a new fence's descriptor."""
    data = CreateFence(value=value)
    fcntl.ioctl(timeline, SW_SYNC_IOC_CREATE_FENCE, data)
    return data.fence


def inc(timeline: int, count: int) -> None:
    """Advance the timeline."""
    fcntl.ioctl(timeline, SW_SYNC_IOC_INC, ctypes.c_uint32(count))


def merge(fd: int, fd2: int) -> int:
    """Return the descriptor of a merged fence."""
    data = MergeData(fd2=fd2)
    fcntl.ioctl(fd, SYNC_IOC_MERGE, data)
    return data.fence


def info(fd: int) -> tuple[str, int, list[tuple[str, str, int, int]]]:
    """Ask how many fences there are, then for all of them, and give them to Python."""
    data = FileInfo()
    fcntl.ioctl(fd, SYNC_IOC_FILE_INFO, data)
    fences = (FenceInfo * data.num_fences)()
    data.sync_fence_info = ctypes.addressof(fences)
    fcntl.ioctl(fd, SYNC_IOC_FILE_INFO, data)
    return (
        data.name.decode(),
        data.status,
        [(f.driver_name.decode(), f.obj_name.decode(), f.status, f.timestamp_ns) for f in fences],
    )


def status(fd: int) -> int:
    """Return the status from one full call."""
    fences = (FenceInfo * 16)()
    data = FileInfo(num_fences=16, sync_fence_info=ctypes.addressof(fences))
    fcntl.ioctl(fd, SYNC_IOC_FILE_INFO, data)
    return data.status


def poll(fd: int, timeout_ms: int | None = 0) -> bool:
    """Whether the fence has signaled."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def wait_all(fds: list[int]) -> None:
    """Wait until all have signaled."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    while fds:
        ready = {fd for fd, _ in poller.poll()}
        for fd in ready:
            poller.unregister(fd)
        fds = [fd for fd in fds if fd not in ready]


def merge_chain(fds: list[int]) -> int:
    """Merge all, one after the other."""
    merged = os.dup(fds[0])
    for fd in fds[1:]:
        longer = merge(merged, fd)
        os.close(merged)
        merged = longer
    return merged


async def readable(fd: int) -> None:
    """Return once the fence has signaled."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_reader(fd, done.set_result, None)
    try:
        await done
    finally:
        loop.remove_reader(fd)
