"""GEM buffers: memory of a DRM device that a handle stands for (drivers/gpu/drm/drm_gem.c, drm_prime.c)."""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING, cast

from . import _uapi
from ._native import gem as _native
from .dma_buf import Access, DmaBuf

if TYPE_CHECKING:
    from .drm import DrmDevice

__all__ = ["GemBuffer"]


class GemBuffer(_native.GemBuffer):
    """A buffer of a DRM device, held by a GEM handle; ``create_dumb`` and ``import_dma_buf`` of DrmDevice make them.

    Closing it gives the handle back once no other GemBuffer of the device has the same, and does nothing once the
    device is closed, which ends all its handles. The device object lives at least as long as its buffers.

    Attributes:
        handle: the GEM handle (int > 0, ``__u32``), a number that means something to that device's open file only.
        size: bytes (int, ``__u64``).
        pitch: bytes from one line to the next (int, ``__u32``), as the driver chose it; None for an imported buffer.

    Threads: every method may be called from many threads as long as none closes the object; different objects may be
    closed at once. A forked child may use it, and leaves the handle, which is the parent's.
    """

    __slots__ = ()

    @property
    def device(self) -> DrmDevice:
        """The device it belongs to."""
        return cast("DrmDevice", super().device)

    def export(self) -> DmaBuf:
        """Return a DmaBuf of the same memory, readable and writable, for other devices and processes.

        Raises:
            ValueError: closed, or the device is.
            OSError: EMFILE; ENOMEM; ENOENT, somebody else closed the handle; ENOSYS, the driver can't.

        Mirrors DRM_IOCTL_PRIME_HANDLE_TO_FD (``drm_gem_prime_handle_to_fd``). Exported twice it is the same dma-buf,
        whose access mode is that of its first export, whoever made that.
        """
        return self._export(DmaBuf)

    def map(self) -> mmap.mmap:
        """Return the whole buffer as shared memory that can be read and written; close it, or let go of it.

        It outlives ``close()`` of the buffer and of the device. Like every mmap.mmap it holds a duplicate of the
        descriptor, so a device that is closed first keeps its handles until the mapping goes too.

        Raises:
            ValueError: closed, or the device is.
            OSError: EINVAL, an imported buffer (map its DmaBuf instead); EACCES, a render node; ENOSYS, the driver has
                no dumb buffers; ENOENT, somebody else closed the handle; ENOMEM; EMFILE.

        Mirrors DRM_IOCTL_MODE_MAP_DUMB and mmap(2).
        """
        fd = self._fileno()
        data = _uapi.DrmModeMapDumb(handle=self.handle)
        try:
            _uapi.ioctl(fd, _uapi.DRM_IOCTL_MODE_MAP_DUMB, data, f"DRM_IOCTL_MODE_MAP_DUMB of {self.handle}")
        except OSError as error:
            if self.pitch is None or error.errno == errno.EACCES:  # the message knows neither
                why = "a render node maps none" if error.errno == errno.EACCES else "it was imported, map its DmaBuf"
                raise OSError(error.errno, f"{error.strerror}: {why}") from None
            raise
        try:
            return mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=data.offset)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: mmap of GEM handle {self.handle} on fd {fd}") from None

    def _pending(self) -> str:
        """What an implicit fence on it that has not signaled is for: ``write`` or ``read``; nothing without one.

        Not by poll(2), which keeps the memory until that fence signals.
        """
        with self.export() as dmabuf:
            for access, what in ((Access.READ, "write"), (Access.WRITE, "read")):
                with dmabuf.export_sync_file(access) as fence:
                    if fence.status == 0:
                        return what
        return ""
