"""DRM devices: which there are, what they can, dumb buffers and PRIME (drivers/gpu/drm/drm_ioctl.c, drm_prime.c)."""

from __future__ import annotations

import errno
import os
import stat
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from . import _uapi
from ._gem import GemBuffer
from ._native import drm as _native
from ._udev import DrmEvent, Watch, asked, minors, watch
from .dma_buf import DmaBuf

if TYPE_CHECKING:
    from .syncobj import Syncobj

__all__ = ["Cap", "DrmDevice", "DrmEvent", "DrmNode", "DrmVersion", "GemBuffer", "Watch", "devices", "watch"]

Device = TypeVar("Device", bound="DrmDevice")

DRM_MAJOR = 226  # include/drm/drm_file.h, Documentation/admin-guide/devices.txt

# What a driver's absence can be cured with; the devices that need no hardware.
CURES = {
    "vgem": "modprobe vgem (CONFIG_DRM_VGEM)",
    "vkms": "modprobe vkms (CONFIG_DRM_VKMS)",
    "virtio_gpu": "a virtual machine with a virtio-gpu device, and CONFIG_DRM_VIRTIO_GPU in its kernel",
}


class Cap(IntEnum):
    """What DRM_IOCTL_GET_CAP can be asked for (``DRM_CAP_*`` of include/uapi/drm/drm.h)."""

    DUMB_BUFFER = 0x1
    VBLANK_HIGH_CRTC = 0x2
    DUMB_PREFERRED_DEPTH = 0x3
    DUMB_PREFER_SHADOW = 0x4
    PRIME = 0x5
    TIMESTAMP_MONOTONIC = 0x6
    ASYNC_PAGE_FLIP = 0x7
    CURSOR_WIDTH = 0x8
    CURSOR_HEIGHT = 0x9
    ADDFB2_MODIFIERS = 0x10
    PAGE_FLIP_TARGET = 0x11
    CRTC_IN_VBLANK_EVENT = 0x12
    SYNCOBJ = 0x13
    SYNCOBJ_TIMELINE = 0x14
    ATOMIC_ASYNC_PAGE_FLIP = 0x15


@dataclass(frozen=True, slots=True)
class DrmVersion:
    """What a driver says of itself (``struct drm_version``).

    Attributes:
        name: the driver: ``vgem``, ``vkms``, ``virtio_gpu``, ``i915``.
        major, minor, patch: its version (``int``).
        date: of that version; ``"0"`` or nothing since drivers stopped keeping it.
        desc: one line about it.
    """

    name: str
    major: int
    minor: int
    patch: int
    date: str
    desc: str


@dataclass(frozen=True, slots=True)
class DrmNode:
    """One DRM device of this machine, with the nodes through which it can be opened.

    Attributes:
        driver: as DRM_IOCTL_VERSION says; None where this user may open neither node.
        primary: ``/dev/dri/cardN``; None for a device that only renders.
        render: ``/dev/dri/renderDN``; None for one without (vkms).
        syspath: of the primary node, else of the render node, under /sys/devices.
        bus: the subsystem of the device behind it: ``pci``, ``platform``; None if there is none.
        seat: what logind says the device belongs to; ``seat0`` unless somebody attached it elsewhere.
        tags: udev's tags, sorted: ``master-of-seat``, ``seat``, ``uaccess``.
    """

    driver: str | None
    primary: str | None
    render: str | None
    syspath: str
    bus: str | None
    seat: str
    tags: tuple[str, ...]


def devices() -> list[DrmNode]:
    """Return the DRM devices of this machine, in the order of their numbers.

    Each is opened for a moment to ask for its driver: by the render node if there is one, because whoever opens a
    primary node that nobody else has open is its master for as long.

    Raises:
        OSError: EMFILE; ENFILE; ENOMEM.

    Mirrors /sys/class/drm, as udev has it, and DRM_IOCTL_VERSION.
    """
    return [_describe(nodes.get("card"), nodes.get("renderD")) for nodes in minors()]


def _path(node: Any) -> str:
    # As drm_devnode() has it; without memory for that the kernel says /dev/card0 in "uevent", where udev reads it.
    return f"/dev/dri/{node.sys_name}"


def _describe(primary: Any, render: Any) -> DrmNode:
    driver = None
    for node in (render, primary):
        if node is None:
            continue
        try:
            with DrmDevice.open(path=_path(node)) as device:
                driver = device.driver
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise
            continue  # not for this user, or unplugged since
    first = render if primary is None else primary
    parent = asked(lambda: first.parent)
    # Before the tags, which are read with it, and of which libudev does not say that it could not read them.
    seat = asked(lambda: first.properties.get("ID_SEAT"))
    return DrmNode(
        driver,
        None if primary is None else _path(primary),
        None if render is None else _path(render),
        first.sys_path,
        None if parent is None else asked(lambda: parent.subsystem),
        seat or "seat0",
        tuple(sorted(first.tags)),
    )


def _find(driver: str | None, render: bool) -> str:
    """The path of the first device of that driver; FileNotFoundError says what would give one."""
    nodes = devices()
    matching = [node for node in nodes if driver is None or node.driver == driver]
    for node in matching:
        path = node.render if render else node.primary
        if path is not None:
            return path
    what = "DRM device" if driver is None else f"DRM device of driver {driver!r}"
    if matching:
        lack = f"{what} has no {'render' if render else 'primary'} node"
    else:
        cure = CURES.get(driver or "vgem")
        lack = f"no {what} here" + (f"; it takes {cure}" if cure else "")
    seen = ", ".join(f"{node.primary or node.render}: {node.driver or 'not for this user'}" for node in nodes)
    raise FileNotFoundError(errno.ENOENT, f"{lack} (devices: {seen or 'none'})")


class DrmDevice(_native.DrmDevice):
    """One open file of a DRM device; GEM handles, syncobj handles and KMS objects mean something to it alone.

    Args:
        fd: an open node of a DRM device, which the object owns from here on (see OwnedFd). Handles that came through
            that file before are not counted here: leave them to who made them.
    Raises:
        TypeError, ValueError: ``fd`` is no descriptor number.
        OSError: EBADF, not open; ENOTTY, not a DRM device.

    What it gave out, buffers, framebuffers, syncobjs, it takes back when it is closed, or when the last ``dup()`` of it
    is. Closing a screen's device waits for the flip under way, and so for its in-fence.

    Threads: every method may be called from many threads at once as long as none closes the object. Fork: a child
    shares the open file. It may use what it inherits, and only the process that made a thing gives it back; for buffers
    of its own (ValueError) it opens the device again.
    """

    __slots__ = ()

    @classmethod
    def open(
        cls: type[Device], driver: str | None = None, path: str | os.PathLike[str] | None = None, render: bool = False
    ) -> Device:
        """Open a device by its driver or by its path; with neither, the first one.

        Args:
            driver: ``vgem``, ``vkms``, ``virtio_gpu``: card numbers change from boot to boot, drivers do not.
            path: ``/dev/dri/card0``; together with ``driver`` it must be of that driver.
            render: open the render node, which every member of group render may, and which can neither make dumb
                buffers nor light a screen; ignored with ``path``.
        Raises:
            FileNotFoundError: no such device, or it has no such node; the message says what would give one.
            PermissionError: EACCES, the node is not for this user.
            ValueError: ``path`` is of another driver.
            OSError: EMFILE; ENOTTY, ``path`` is no DRM device; ENODEV, it was unplugged.

        Mirrors open(2) (``drm_open``). The first to open a primary node is its master until it closes it.
        """
        where = _find(driver, render) if path is None else os.fspath(path)
        device = cls._taking(os.open, where, os.O_RDWR | os.O_CLOEXEC)
        if driver is not None and device.driver != driver:
            with device:
                raise ValueError(f"{where} is a device of {device.driver!r}, not of {driver!r}")
        return device

    def _check(self) -> None:
        # Not by an ioctl: DRM_IOCTL_VERSION is, but for its letter, which they do not look at, the dma-heaps' request
        # to allocate. The major number is nobody else's.
        status = os.fstat(self.fileno())
        if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) != DRM_MAJOR:
            raise OSError(errno.ENOTTY, f"{os.strerror(errno.ENOTTY)}: fd {self.fileno()} is not a DRM device")

    def _ioctl(self, request: int, data: Any, name: str) -> int:
        """One cold-path ioctl of this device; OSError names it."""
        return _uapi.ioctl(self.fileno(), request, data, name)

    @property
    def version(self) -> DrmVersion:
        """Name, version and description of the driver, from DRM_IOCTL_VERSION (``drm_version``)."""
        data = _uapi.DrmVersion()
        self._ioctl(_uapi.DRM_IOCTL_VERSION, data, "DRM_IOCTL_VERSION")
        # The kernel ends no string with a NUL; one byte more does.
        texts = [create_string_buffer(length + 1) for length in (data.name_len, data.date_len, data.desc_len)]
        data.name, data.date, data.desc = (addressof(text) for text in texts)
        self._ioctl(_uapi.DRM_IOCTL_VERSION, data, "DRM_IOCTL_VERSION")
        name, date, desc = (text.value.decode("utf-8", "surrogateescape") for text in texts)
        return DrmVersion(name, data.version_major, data.version_minor, data.version_patchlevel, date, desc)

    @property
    def driver(self) -> str:
        """The driver's name: ``vgem``, ``vkms``, ``virtio_gpu``."""
        return self.version.name

    def _cap(self, cap: Cap) -> int | None:
        data = _uapi.DrmCap(capability=cap)
        try:
            self._ioctl(_uapi.DRM_IOCTL_GET_CAP, data, f"DRM_IOCTL_GET_CAP of {cap.name}")
        except OSError as error:
            # The kernel does not know it, or it is about modes and the driver has none: an answer too.
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return None
            raise
        return int(data.value)

    @property
    def caps(self) -> dict[Cap, int]:
        """The capabilities that kernel and driver answer for, from DRM_IOCTL_GET_CAP (``__u64``)."""
        answers = {cap: self._cap(cap) for cap in Cap}
        return {cap: value for cap, value in answers.items() if value is not None}

    @property
    def has_syncobj(self) -> bool:
        """Whether the device has syncobjs (``DRM_CAP_SYNCOBJ``)."""
        return bool(self._cap(Cap.SYNCOBJ))

    @property
    def has_timeline_syncobj(self) -> bool:
        """Whether its syncobjs can be timelines (``DRM_CAP_SYNCOBJ_TIMELINE``)."""
        return bool(self._cap(Cap.SYNCOBJ_TIMELINE))

    def create_dumb(self, width: int, height: int, bpp: int) -> GemBuffer:
        """Return a new buffer for an image, in memory that every CPU can read and write.

        Args:
            width, height: pixels, 0 < n < 2**32 (``__u32``).
            bpp: bits per pixel, the same; 32 for XRGB8888.
        Raises:
            ValueError: an argument is 0, negative or no u32; closed; in a forked child.
            TypeError: an argument is no int.
            OSError: EINVAL, the size overflows, or the driver makes none of that ``bpp`` (virtio-gpu: 32 alone);
                EACCES, a render node; ENOSYS, the driver has no dumb buffers; ENOMEM.

        Mirrors DRM_IOCTL_MODE_CREATE_DUMB (``drm_mode_create_dumb``). The memory is zero and taken when it is touched.
        """
        return GemBuffer.create_dumb(self, width, height, bpp)

    def import_dma_buf(self, dmabuf: DmaBuf) -> GemBuffer:
        """Return a GemBuffer of a dma-buf's memory; the DmaBuf stays open and the caller's.

        Imported again it has the same handle, as has a buffer of this device that comes home. Each GemBuffer is closed
        for itself, and the handle goes with the last.

        Raises:
            ValueError: closed; in a forked child.
            TypeError: ``dmabuf`` is no DmaBuf.
            OSError: ENODEV, the driver takes no buffers of other devices (virtio-gpu without blobs); EIO or ENOMEM, it
                can't be mapped for the device.

        Mirrors DRM_IOCTL_PRIME_FD_TO_HANDLE (``drm_gem_prime_fd_to_handle``).
        """
        if not isinstance(dmabuf, DmaBuf):
            raise TypeError(f"import_dma_buf takes a DmaBuf, not a {type(dmabuf).__name__}")
        return GemBuffer.import_dma_buf(self, dmabuf, dmabuf.size)

    def create_syncobj(self, signaled: bool = False) -> Syncobj:
        """Return a new Syncobj of this device; see there.

        Args:
            signaled: whether it starts with a fence that has signaled, or with none.
        Raises:
            ValueError: closed.
            OSError: EOPNOTSUPP, the device has none (``has_syncobj``); ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_CREATE (``drm_syncobj_create_ioctl``).
        """
        from .syncobj import Syncobj  # which knows this module; the other way round only here, for convenience

        return Syncobj.create(self, signaled)
