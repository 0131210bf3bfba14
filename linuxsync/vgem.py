"""vgem: buffers without a GPU, and fences on them that this process signals (drivers/gpu/drm/vgem/)."""

from __future__ import annotations

import errno
import os

from ._native import vgem as _native
from .drm import DrmDevice, GemBuffer

__all__ = ["FenceExpired", "VgemDevice", "VgemFence"]


class FenceExpired(OSError):  # noqa: N818  (it is the name of what happened)
    """A vgem fence was signaled by the kernel, 10 s after it was attached, before its owner came to do it.

    Whoever waited for it has gone on already. It is no TimeoutError, although errno is ETIMEDOUT: nothing that was
    called took too long.
    """


class VgemFence:
    """A fence that was attached to a buffer, and the right to signal it; ``VgemDevice.attach_fence`` makes them.

    The kernel signals it, without an error, 10 s after it was attached or when the device is closed, whichever is
    first. Closing the buffer does not.

    Attributes:
        device: the VgemDevice it was attached through.
        id: its number there (int > 0, ``__u32``), never given twice.
        write: whether readers of the buffer wait for it too.

    Threads: may be used from many; one of them gets to signal it.
    """

    __slots__ = ("device", "id", "write")

    def __init__(self, device: VgemDevice, id: int, write: bool) -> None:
        self.device = device
        self.id = id
        self.write = write

    def signal(self) -> None:
        """Signal the fence.

        Raises:
            FenceExpired: errno ETIMEDOUT, the kernel had done it because 10 s were over; said once.
            ValueError: the device is closed, which has signaled it.
            OSError: ENOENT, it was signaled before.

        Mirrors DRM_IOCTL_VGEM_FENCE_SIGNAL (``vgem_fence_signal_ioctl``).
        """
        try:
            in_time = _native.signal(self.device, self.id)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            raise OSError(errno.ENOENT, f"{error.strerror}: {self!r} was signaled before") from None
        if not in_time:
            reason = os.strerror(errno.ETIMEDOUT)
            raise FenceExpired(
                errno.ETIMEDOUT, f"{reason}: the kernel signaled {self!r} itself, 10 s after it was attached"
            )

    def __repr__(self) -> str:
        return f"VgemFence({self.device!r}, {self.id}, write={self.write})"


class VgemDevice(DrmDevice):
    """An open vgem device: the DRM driver that every machine can have (``modprobe vgem``).

    Args:
        fd: an open node of vgem, which the object owns from here on (see OwnedFd).
    Raises:
        TypeError, ValueError: ``fd`` is no descriptor number.
        OSError: EBADF, not open; ENOTTY, not a vgem device.

    Threads: as DrmDevice.
    """

    __slots__ = ()

    # One driver only, so what DrmDevice.open takes first would have a single value here.
    @classmethod
    def open(  # type: ignore[override]
        cls, render: bool = False, *, path: str | os.PathLike[str] | None = None
    ) -> VgemDevice:
        """Open the vgem device.

        Args:
            render: by the render node, which every member of group render may. Fences can be attached there, to buffers
                that are imported; dumb buffers need the primary node.
            path: a node, where there are several.
        Raises:
            FileNotFoundError: there is none; ``modprobe vgem`` loads it.
            PermissionError: EACCES, the node is not for this user.
            OSError: EMFILE; ENOTTY, ``path`` is no vgem device.

        Mirrors open(2) (``vgem_open``).
        """
        return super().open("vgem" if path is None else None, path, render)

    def _check(self) -> None:
        super()._check()
        if self.driver != "vgem":
            raise OSError(
                errno.ENOTTY,
                f"{os.strerror(errno.ENOTTY)}: fd {self.fileno()} is a device of {self.driver!r}, not of 'vgem'",
            )

    def attach_fence(self, gem: GemBuffer, write: bool = False) -> VgemFence:
        """Hang a new fence on a buffer and return it; it is an implicit fence of the buffer's dma-buf from here on.

        Args:
            gem: a buffer of this device, its own or an imported one: the fence goes to the memory, whoever exported it.
            write: readers and writers of the buffer wait for it; otherwise only writers do.
        Raises:
            ValueError: closed, or the buffer is; a buffer of another device.
            TypeError: ``gem`` is no GemBuffer.
            OSError: EBUSY, a fence that has not signaled is in the way: any, if this is to be a write fence, and a
                write fence otherwise; ENOENT, somebody else closed the handle; ENOMEM.

        Mirrors DRM_IOCTL_VGEM_FENCE_ATTACH (``vgem_fence_attach_ioctl``).
        """
        if not isinstance(gem, GemBuffer):
            raise TypeError(f"attach_fence takes a GemBuffer, not a {type(gem).__name__}")
        if not self._same_file(gem.device):
            raise ValueError(f"{gem!r} is a buffer of another device than {self!r}")
        gem._fileno()
        try:
            number = _native.attach(self, gem.handle, write)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise OSError(errno.EBUSY, f"{error.strerror}: handle {gem.handle} {_conflict(gem)}") from None
        return VgemFence(self, number, write)


def _conflict(gem: GemBuffer) -> str:
    """What the kernel found in its way on a buffer, as far as it is still there."""
    try:
        pending = gem._pending()
    except OSError:
        return "has a fence that has not signaled"
    return f"has a {pending} fence that has not signaled" if pending else "had a fence, which has signaled by now"
