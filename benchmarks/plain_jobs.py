"""What a Python program without linuxsync would write about the fence device: fcntl.ioctl, ctypes, ioctl-opt."""

from __future__ import annotations

import ctypes
import fcntl
from collections.abc import Sequence

from ioctl_opt import IOWR


class Submit(ctypes.Structure):
    """``struct fencedev_submit``."""

    _fields_ = (
        ("queue", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("op", ctypes.c_uint32),
        ("value", ctypes.c_uint32),
        ("dst", ctypes.c_uint32),
        ("src", ctypes.c_uint32),
        ("dst_offset", ctypes.c_uint64),
        ("src_offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("duration_ns", ctypes.c_uint64),
        ("error", ctypes.c_uint32),
        ("in_fence_count", ctypes.c_uint32),
        ("in_fences", ctypes.c_int32 * 16),
        ("out_fence", ctypes.c_int32),
        ("pad", ctypes.c_uint32),
        ("seqno", ctypes.c_uint64),
    )


FENCEDEV_IOC_SUBMIT = IOWR(0xF5, 0x04, Submit)


def submit(device: int, queue: int, in_fences: Sequence[int] = ()) -> int:
    """Return the descriptor of a new job's fence."""
    data = Submit(queue=queue, in_fence_count=len(in_fences))
    data.in_fences[: len(in_fences)] = in_fences
    fcntl.ioctl(device, FENCEDEV_IOC_SUBMIT, data)
    return data.out_fence
