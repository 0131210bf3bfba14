"""GEM buffers, and how long a handle lives that several of them may share (drivers/gpu/drm/drm_gem.c, drm_prime.c)."""

from __future__ import annotations

import mmap
import os
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

from . import _uapi
from ._fd import OwnedFd
from .dma_buf import Access, DmaBuf

if TYPE_CHECKING:
    from .drm import DrmDevice

__all__ = ["GemBuffer", "Handles"]

# Taken around every call that gives or takes a handle: between the kernel's answer and our counting it, nobody else may
# close that handle. For all devices at once, so that a fork can wait for it; reentrant, because the garbage collector
# may drop a buffer in the middle.
_gate = threading.RLock()
os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_gate.release)


class Handles:
    """The GEM handles of one open file of a DRM device, and how many GemBuffers use each.

    The kernel counts no users: a dma-buf that is imported again, or was exported here, comes back as the handle that it
    already has (``drm_gem_prime_fd_to_handle``), and one GEM_CLOSE ends it for all.
    """

    __slots__ = ("_idle", "_taking", "_users", "files")

    def __init__(self) -> None:
        self.files: WeakSet[DrmDevice] = WeakSet()  # the objects that own a descriptor of this open file
        self._users: dict[int, int] = {}
        self._idle: list[int] = []
        self._taking = 0

    def take(self, ask: Callable[[], int]) -> int:
        """Return the handle that ``ask`` gets from the kernel, used once more than before."""
        with _gate:
            self._taking += 1
            try:
                handle = ask()
                self._users[handle] = self._users.get(handle, 0) + 1
            finally:
                self._taking -= 1
                self._sweep()
        return handle

    def drop(self, handle: int) -> None:
        """Use ``handle`` once less than before, and close it if that was the last."""
        with _gate:
            self._users[handle] -= 1
            self._idle.append(handle)
            self._sweep()

    def _sweep(self) -> None:
        """Close what nobody uses; not when the garbage collector calls while the kernel may be handing it out again."""
        while self._idle and not self._taking:
            handle = self._idle.pop()
            if self._users.get(handle) == 0:
                del self._users[handle]
                for file in self.files:
                    if not file.closed:
                        request = _uapi.DrmGemClose(handle=handle)
                        _uapi.ioctl(
                            file.fileno(), _uapi.DRM_IOCTL_GEM_CLOSE, request, f"DRM_IOCTL_GEM_CLOSE of {handle}"
                        )
                        break


class GemBuffer:
    """A buffer of a DRM device, held by a GEM handle; ``create_dumb`` and ``import_dma_buf`` of DrmDevice make them.

    Closing it gives the handle back once no other GemBuffer of the device has the same, and does nothing once the
    device is closed, which ends all its handles. The device object lives at least as long as its buffers.

    Attributes:
        device: the DrmDevice it belongs to.
        handle: the GEM handle (int > 0, ``__u32``), a number that means something to that device's open file only.
        size: bytes (int, ``__u64``).
        pitch: bytes from one line to the next (int, ``__u32``), as the driver chose it; None for an imported buffer.

    Threads: every method may be called from many threads as long as none closes the object; different objects may be
    closed at once. After a fork the handles stay the parent's: an inherited object that the child closes leaves them.
    """

    __slots__ = ("__weakref__", "_closed", "_handles", "_pid", "device", "handle", "pitch", "size")

    def __init__(self, device: DrmDevice, handles: Handles, handle: int, size: int, pitch: int | None) -> None:
        self._closed = False
        self._pid = os.getpid()
        self._handles = handles
        self.device = device
        self.handle = handle
        self.size = size
        self.pitch = pitch

    @property
    def closed(self) -> bool:
        """Whether it, or its device, has been closed."""
        return self._closed or all(file.closed for file in self._handles.files)

    def _fileno(self) -> int:
        if self._closed:
            raise ValueError("operation on closed GemBuffer")
        return self.device.fileno()

    def export(self) -> DmaBuf:
        """Return a DmaBuf of the same memory, readable and writable, for other devices and processes.

        Raises:
            ValueError: closed, or the device is.
            OSError: EMFILE; ENOMEM; ENOENT, somebody else closed the handle; ENOSYS, the driver can't.

        Mirrors DRM_IOCTL_PRIME_HANDLE_TO_FD (``drm_gem_prime_handle_to_fd``). Exported twice it is the same dma-buf,
        whose access mode is that of its first export, whoever made that.
        """
        data = _uapi.DrmPrimeHandle(handle=self.handle, flags=_uapi.DRM_CLOEXEC | _uapi.DRM_RDWR, fd=-1)
        name = f"DRM_IOCTL_PRIME_HANDLE_TO_FD of {self.handle}"
        _uapi.ioctl(self._fileno(), _uapi.DRM_IOCTL_PRIME_HANDLE_TO_FD, data, name)
        try:
            return DmaBuf(data.fd)
        except BaseException:
            OwnedFd(data.fd).close()
            raise

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
        _uapi.ioctl(fd, _uapi.DRM_IOCTL_MODE_MAP_DUMB, data, f"DRM_IOCTL_MODE_MAP_DUMB of {self.handle}")
        try:
            return mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=data.offset)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: mmap of GEM handle {self.handle} on fd {fd}") from None

    def close(self) -> None:
        """Give the handle back; a second call does nothing.

        Raises:
            OSError: EINVAL, somebody else closed the handle.

        Mirrors DRM_IOCTL_GEM_CLOSE. The memory lives on in mappings and DmaBufs.
        """
        with _gate:
            if self._closed:
                return
            self._closed = True
            if self._pid == os.getpid():
                self._handles.drop(self.handle)

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

    def __enter__(self) -> GemBuffer:
        self._fileno()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed and self._pid == os.getpid():
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}GemBuffer {self.handle} of {self.device!r}, {self.size} bytes>"
