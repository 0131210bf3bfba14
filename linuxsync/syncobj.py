"""DRM syncobj: a container for a fence, or for a timeline of fences (drivers/gpu/drm/drm_syncobj.c)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, SupportsIndex, cast

from . import _wait
from ._fd import OwnedFd
from ._native import syncobj as _native
from .sync_file import SyncFile

if TYPE_CHECKING:
    from .drm import DrmDevice

__all__ = ["TIMELINE_WAIT", "WAIT", "Syncobj", "container_of"]

# The requests that wait, by number, and syncobjs behind the handles of others: for linuxsync.inspect.
WAIT, TIMELINE_WAIT = _native.WAIT, _native.TIMELINE_WAIT
container_of = _native.container_of


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Event(OwnedFd):
    """An eventfd that a point is to signal; named after it in messages."""

    what = ""

    def __repr__(self) -> str:
        return self.what


class Syncobj(_native.Syncobj):
    """A place for a fence, or for a timeline of them, that drivers and processes share; it is known by a handle.

    A sync_file is a fence that exists; a syncobj may still be empty, and its fence can be replaced. A binary syncobj
    holds one fence. A timeline holds fences at rising points (``__u64``), each of which signals once its own fence and
    all before it have. Any syncobj can be either: what is put into it decides.

    Args:
        device: the open DRM device that the handle belongs to. The syncobj keeps it, and with it its descriptor, until
            both are dropped or somebody closes the device, which destroys the handle.
        handle: of a syncobj of that device (int > 0, ``__u32``), which the object owns from here on. For a new one
            there is ``create``, for one that came as a descriptor ``from_fd``.
    Raises:
        ValueError: ``handle`` is no u32; the device is closed.
        TypeError: ``device`` is no DrmDevice.
        OSError: ENOENT, the device has no such syncobj; EOPNOTSUPP, its driver has none at all: of the drivers without
            hardware virtio_gpu has them (Linux 6.6), vgem and vkms do not.

    Use it with ``with``; one that is forgotten destroys its handle and warns (ResourceWarning).

    Threads: every method may be called from many threads at once as long as none closes the syncobj or its device. A
    forked child shares the device and its handles, and may use them; only the process that made an object destroys its
    handle.
    """

    __slots__ = ()

    @property
    def device(self) -> DrmDevice:
        """The device that it belongs to, which stays open as long as nobody closes it."""
        return cast("DrmDevice", super().device)

    def export_sync_file(self, point: int = 0) -> SyncFile:
        """Return the fence that it holds now as a sync_file, which stays what it is whatever becomes of the syncobj.

        This is also how to see whether the work behind it failed: ``export_sync_file().error``.

        Args:
            point: a point of its timeline (``__u64``); 0 for the fence that is there, of a timeline the last.
        Raises:
            ValueError: closed; ``point`` is no u64.
            OSError: EINVAL, there is no fence, or not at that point yet; EOPNOTSUPP, a point and a driver without
                timelines; EMFILE; ENFILE; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD with EXPORT_SYNC_FILE; before Linux 6.16 a point is reached through a
        second syncobj and DRM_IOCTL_SYNCOBJ_TRANSFER.
        """
        if point and not _native.takes_points(self.device):
            with ExitStack() as made:
                with self._spare() as spare:
                    spare.transfer(self, point, 0)
                    fence = made.enter_context(spare.export_sync_file())
                made.pop_all()  # not if the spare could not be closed
            return fence
        return self._export_sync_file(point, SyncFile)

    def import_sync_file(self, fence: SyncFile, point: int = 0) -> None:
        """Have it hold the fence of a sync_file, which stays open and the caller's.

        Args:
            point: 0 replaces whatever the syncobj holds, a timeline included; any other (``__u64``) is added to its
                timeline and should be above all that are there.
        Raises:
            ValueError: closed, it or the fence; ``point`` is no u64.
            OSError: EINVAL, somebody else closed the sync_file; EOPNOTSUPP, a point and a driver without timelines;
                ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE with IMPORT_SYNC_FILE. Before Linux 6.16 a point is reached through a
        second syncobj and DRM_IOCTL_SYNCOBJ_TRANSFER, which **forgets the error** of a fence that has failed by then.
        """
        if point and not _native.takes_points(self.device):
            with self._spare() as spare:
                spare.import_sync_file(fence)
                self.transfer(spare, 0, point)
                return
        self._import_sync_file(fence, point)

    def transfer(self, src: Syncobj, src_point: int, dst_point: int, wait_for_submit: bool = False) -> None:
        """Take over a fence of another syncobj of the same device, or of this one.

        Args:
            src_point: 0 for the fence that ``src`` holds, else a point of its timeline (``__u64``).
            dst_point: 0 to replace whatever this one holds, else the point to add (``__u64``).
            wait_for_submit: if ``src`` has no fence there yet, wait for one: 5 s, in the kernel, and that anew after
                each signal whose handler returns.
        Raises:
            ValueError: closed; the devices differ; a point is no u64.
            TimeoutError: errno ETIME, with ``wait_for_submit``: 5 s were over.
            OSError: EINVAL, ``src`` has no fence there yet; EOPNOTSUPP, a driver without timelines; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_TRANSFER (``drm_syncobj_transfer_ioctl``). A fence that has failed already arrives at
        a point as one that has merely signaled; in place of the binary fence it keeps its error. Threads: releases the
        GIL with ``wait_for_submit``.
        """
        self._transfer(src, src_point, dst_point, wait_for_submit)

    def eventfd(self, point: int | None, fd: SupportsIndex | _HasFileno, wait_available: bool = False) -> None:
        """Have an eventfd count one up when a point signals, at once if it has; it need not be submitted yet.

        Args:
            point: of its timeline (``__u64``); 0 or None for the fence that is there, or the next that is.
            fd: of eventfd(2), an int or an object with ``fileno()``. It stays the caller's, and may be closed.
            wait_available: when the point is submitted, instead.
        Raises:
            ValueError: closed; ``point`` is no u64; ``fd`` is no descriptor number.
            OSError: EBADF, ``fd`` is not open; EINVAL, it is no eventfd, or the kernel lacks the request (before 6.6);
                EOPNOTSUPP, a driver without timelines; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_EVENTFD (``drm_syncobj_eventfd_ioctl``). It can't be taken back: until the fence
        signals the kernel keeps a little memory for it, and it is never heard of again if the last handle goes before
        the fence arrives. A point of a sw_sync timeline that nothing else holds must be passed before the last
        descriptor of that timeline goes, which hangs the kernel otherwise: see ``Timeline``.
        """
        self._eventfd(point, fd, wait_available)

    async def wait_async(
        self,
        timeout: float | None = None,
        point: int | None = None,
        wait_for_submit: bool = True,
        wait_available: bool = False,
    ) -> None:
        """Return once its fence, or a point of its timeline, has signaled, without blocking the event loop.

        Args:
            timeout: seconds (float >= 0), None for ever.
            point: as for ``wait``; None and 0 are both the fence that is there, or the next that is.
            wait_for_submit: unlike ``wait`` it waits for a fence to arrive by itself; False refuses to.
            wait_available: wait for the fence to arrive only, not for it to signal.
        Raises:
            TimeoutError: errno ETIME, it had not when the time was over.
            ValueError: closed; a negative timeout; ``point`` is no u64.
            OSError: EINVAL, no fence yet and ``wait_for_submit`` is False, or the kernel lacks the request (before
                6.6); EOPNOTSUPP, a driver without timelines; EMFILE: each waiter holds two descriptors while it waits.

        Mirrors DRM_IOCTL_SYNCOBJ_EVENTFD. Cancelling it, and a timeout, give everything back but what ``eventfd`` says
        of the kernel's memory, and of the points of sw_sync timelines. Closing the syncobj leaves it waiting for a
        point that was not submitted yet. Threads: belongs to the event loop that it is awaited in.
        """
        _wait.seconds_of(timeout)  # before the kernel has taken note of anything
        if not (wait_for_submit or wait_available):
            self._check_fence(point or 0)
        with _Event._taking(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) as event:
            event.what = repr(self) if point is None else f"point {point} of {self!r}"
            self._eventfd(point, event, wait_available)
            await _wait.readable(event, timeout, "been submitted" if wait_available else "signaled")
