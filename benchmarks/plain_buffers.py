"""What a Python program without linuxsync would write about buffers and devices: fcntl.ioctl, ctypes, ioctl-opt."""

from __future__ import annotations

import ctypes
import fcntl
import os

from ioctl_opt import IOW, IOWR


class Sync(ctypes.Structure):
    """``struct dma_buf_sync``."""

    _fields_ = (("flags", ctypes.c_uint64),)


class SyncFile(ctypes.Structure):
    """``struct dma_buf_export_sync_file`` and ``struct dma_buf_import_sync_file``."""

    _fields_ = (("flags", ctypes.c_uint32), ("fd", ctypes.c_int32))


class TimelineWait(ctypes.Structure):
    """``struct drm_syncobj_timeline_wait``."""

    _fields_ = (
        ("handles", ctypes.c_uint64),
        ("points", ctypes.c_uint64),
        ("timeout_nsec", ctypes.c_int64),
        ("count_handles", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("first_signaled", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("deadline_nsec", ctypes.c_uint64),
    )


class TimelineArray(ctypes.Structure):
    """``struct drm_syncobj_timeline_array``."""

    _fields_ = (
        ("handles", ctypes.c_uint64),
        ("points", ctypes.c_uint64),
        ("count_handles", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class PrimeHandle(ctypes.Structure):
    """``struct drm_prime_handle``."""

    _fields_ = (("handle", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("fd", ctypes.c_int32))


class GemClose(ctypes.Structure):
    """``struct drm_gem_close``."""

    _fields_ = (("handle", ctypes.c_uint32), ("pad", ctypes.c_uint32))


DMA_BUF_IOCTL_SYNC = IOW(ord("b"), 0, Sync)
DMA_BUF_IOCTL_EXPORT_SYNC_FILE = IOWR(ord("b"), 2, SyncFile)
DMA_BUF_IOCTL_IMPORT_SYNC_FILE = IOW(ord("b"), 3, SyncFile)
DRM_IOCTL_GEM_CLOSE = IOW(ord("d"), 0x09, GemClose)
DRM_IOCTL_PRIME_HANDLE_TO_FD = IOWR(ord("d"), 0x2D, PrimeHandle)
DRM_IOCTL_PRIME_FD_TO_HANDLE = IOWR(ord("d"), 0x2E, PrimeHandle)
DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT = IOWR(ord("d"), 0xCA, TimelineWait)
DRM_IOCTL_SYNCOBJ_QUERY = IOWR(ord("d"), 0xCB, TimelineArray)

READ, WRITE, RW, START, END = 1, 2, 3, 0, 4
WAIT_ALL = 1


def sync(fd: int, flags: int) -> None:
    """Begin or end an access."""
    fcntl.ioctl(fd, DMA_BUF_IOCTL_SYNC, Sync(flags))


def export_sync_file(fd: int, flags: int) -> int:
    """Return the descriptor of a fence."""
    data = SyncFile(flags=flags, fd=-1)
    fcntl.ioctl(fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, data)
    return data.fd


def import_sync_file(fd: int, fence: int, flags: int) -> None:
    """Attach a fence."""
    fcntl.ioctl(fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, SyncFile(flags=flags, fd=fence))


def wait(device: int, handles: list[int], points: list[int], flags: int) -> None:
    """Return if the points have signaled."""
    n = len(handles)
    handle_array = (ctypes.c_uint32 * n)(*handles)
    point_array = (ctypes.c_uint64 * n)(*points)
    data = TimelineWait(
        handles=ctypes.addressof(handle_array), points=ctypes.addressof(point_array), count_handles=n, flags=flags
    )
    fcntl.ioctl(device, DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, data)


def query(device: int, handles: list[int]) -> list[int]:
    """Return where the timelines are."""
    n = len(handles)
    handle_array = (ctypes.c_uint32 * n)(*handles)
    points = (ctypes.c_uint64 * n)()
    data = TimelineArray(handles=ctypes.addressof(handle_array), points=ctypes.addressof(points), count_handles=n)
    fcntl.ioctl(device, DRM_IOCTL_SYNCOBJ_QUERY, data)
    return list(points)


def export(device: int, handle: int) -> int:
    """Return the descriptor of a buffer."""
    data = PrimeHandle(handle=handle, flags=os.O_RDWR | os.O_CLOEXEC, fd=-1)
    fcntl.ioctl(device, DRM_IOCTL_PRIME_HANDLE_TO_FD, data)
    return data.fd


def import_dma_buf(device: int, fd: int) -> int:
    """Return the handle of a buffer."""
    data = PrimeHandle(fd=fd)
    fcntl.ioctl(device, DRM_IOCTL_PRIME_FD_TO_HANDLE, data)
    return data.handle


def gem_close(device: int, handle: int) -> None:
    """Give a handle back."""
    fcntl.ioctl(device, DRM_IOCTL_GEM_CLOSE, GemClose(handle=handle))
