# SPDX-License-Identifier: LGPL-2.1-or-later
"""vgem: fences that userspace hangs on a buffer and signals itself (drivers/gpu/drm/vgem/vgem_fence.c)."""

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport uint32_t
from libc.string cimport memset

from linuxsync._native.drm cimport DrmDevice, file_of_device
from linuxsync._native.fd cimport as_unsigned, fd_of
from uapi cimport (
    LS_IOCTL_VGEM_FENCE_ATTACH,
    LS_IOCTL_VGEM_FENCE_SIGNAL,
    LS_VGEM_FENCE_WRITE,
    ls_vgem_fence_attach,
    ls_vgem_fence_signal,
)
from xioctl cimport refusal, try_blocking_ioctl, try_ioctl


def attach(DrmDevice device not None, handle, bint write):
    """Hang a new fence on a buffer of ``device``.

    Args:
        handle: a GEM handle of that open file (int, ``__u32``).
        write: a write fence, for which readers wait too.
    Returns:
        The fence's id (int > 0, ``__u32``), which means something to that open file only.
    Raises:
        ValueError: closed; ``handle`` is no u32.
        OSError: EBUSY, a fence on the buffer conflicts; ENOENT, no such handle; EINVAL, not vgem; ENOMEM.

    Mirrors DRM_IOCTL_VGEM_FENCE_ATTACH (``vgem_fence_attach_ioctl``). Threads: may be called from many.
    """
    cdef ls_vgem_fence_attach data
    cdef int result
    memset(&data, 0, sizeof(data))
    data.handle = <uint32_t>as_unsigned(handle, 32, "a GEM handle")
    data.flags = LS_VGEM_FENCE_WRITE if write else 0
    # Not with the GIL: a driver may hold the buffer's lock.
    result = try_blocking_ioctl(fd_of(device), LS_IOCTL_VGEM_FENCE_ATTACH, &data)
    if result < 0:
        kind = "write" if write else "read"
        raise refusal(-result, f"DRM_IOCTL_VGEM_FENCE_ATTACH of a {kind} fence to {data.handle} on fd {device.number}")
    return data.out_fence


def signal(DrmDevice device not None, fence):
    """Signal a fence and forget its id.

    Args:
        fence: the id that ``attach`` returned (int, ``__u32``).
    Returns:
        True if it was this call that signaled it; False if the kernel had, because 10 s were over (ETIMEDOUT, which
        CPython would take for a timeout of the call).
    Raises:
        ValueError: closed; ``fence`` is no u32.
        OSError: ENOENT, no such id, or signaled before; EINVAL, not vgem.

    Mirrors DRM_IOCTL_VGEM_FENCE_SIGNAL (``vgem_fence_signal_ioctl``). Threads: may be called from many.
    """
    cdef ls_vgem_fence_signal data
    cdef int result
    memset(&data, 0, sizeof(data))
    data.fence = <uint32_t>as_unsigned(fence, 32, "a fence's id")
    result = try_ioctl(file_of_device(device), LS_IOCTL_VGEM_FENCE_SIGNAL, &data)
    if result == -ETIMEDOUT:
        return False
    if result < 0:
        raise refusal(-result, f"DRM_IOCTL_VGEM_FENCE_SIGNAL of fence {data.fence} on {device!r}")
    return True
