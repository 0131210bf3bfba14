"""KMS with explicit fences: enough of atomic modesetting to light one plane (drivers/gpu/drm/drm_atomic_uapi.c)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ctypes import addressof, c_int32, c_uint32, c_uint64, create_string_buffer
from types import TracebackType
from typing import Literal, overload

from . import _uapi
from ._fd import OwnedFd
from ._modes import CONNECTOR, CRTC, PLANE, Mode, Pipeline, find_pipeline, property_id
from .drm import DrmDevice, GemBuffer
from .sync_file import SyncFile

__all__ = ["Framebuffer", "Mode", "Pipeline", "add_framebuffer", "commit", "disable", "find_pipeline", "modeset"]

XRGB8888 = int.from_bytes(b"XR24", "little")  # DRM_FORMAT_XRGB8888: bytes B, G, R and one unused


class Framebuffer:
    """A GEM buffer that planes can show; ``add_framebuffer`` makes it.

    Closing it removes it from the device, which turns off a plane that shows it. The GemBuffer may be closed first: the
    kernel holds the memory. After the device's close, which removes it too, it does nothing.

    Attributes:
        id: KMS object id (int > 0, ``__u32``).
        gem: the GemBuffer.
        width, height: pixels.

    Threads: may be used from many as long as none closes it.
    """

    __slots__ = ("_pid", "gem", "height", "id", "width")

    def __init__(self, gem: GemBuffer, id: int, width: int, height: int) -> None:
        self._pid = os.getpid()
        self.gem = gem
        self.id = id
        self.width = width
        self.height = height

    def close(self) -> None:
        """Remove it from the device; a second call does nothing.

        Raises:
            OSError: ENOENT, somebody else removed it.

        Mirrors DRM_IOCTL_MODE_RMFB (``drm_mode_rmfb``). Waits for the flip that takes it off its plane.
        """
        number, self.id = self.id, 0
        device = self.gem.device
        if number and not device.closed and self._pid == os.getpid():  # after a fork it is the parent's
            device._ioctl(_uapi.DRM_IOCTL_MODE_RMFB, c_uint32(number), f"DRM_IOCTL_MODE_RMFB of {number}")

    def __enter__(self) -> Framebuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Framebuffer {self.id} of {self.gem!r}>" if self.id else "<closed Framebuffer>"


def _atomic(device: DrmDevice, flags: int, what: str, *objects: tuple[int, int, Mapping[str, int]]) -> None:
    """DRM_IOCTL_MODE_ATOMIC; each of ``objects`` is its type, its id and what is to become of its properties."""
    wanted = [
        (property_id(device, kind, number, name), value)
        for kind, number, changes in objects
        for name, value in changes.items()
    ]
    ids = (c_uint32 * len(objects))(*(number for _, number, _ in objects))
    counts = (c_uint32 * len(objects))(*(len(changes) for _, _, changes in objects))
    properties = (c_uint32 * len(wanted))(*(number for number, _ in wanted))
    values = (c_uint64 * len(wanted))(*(value for _, value in wanted))
    data = _uapi.DrmModeAtomic(
        flags=flags,
        count_objs=len(objects),
        objs_ptr=addressof(ids),
        count_props_ptr=addressof(counts),
        props_ptr=addressof(properties),
        prop_values_ptr=addressof(values),
    )
    device._ioctl(_uapi.DRM_IOCTL_MODE_ATOMIC, data, f"DRM_IOCTL_MODE_ATOMIC of {what}")


def add_framebuffer(
    gem: GemBuffer, width: int, height: int, *, pitch: int | None = None, offset: int = 0, format: int = XRGB8888
) -> Framebuffer:
    """Return a Framebuffer of a buffer, dumb or imported.

    Args:
        width, height: pixels (int > 0, ``__u32``).
        pitch: bytes from line to line (``__u32``); None takes the GemBuffer's, which an imported one does not have.
        offset: bytes to the first line (``__u32``).
        format: a fourcc of include/uapi/drm/drm_fourcc.h.
    Raises:
        ValueError: closed; no pitch; a number that is no u32.
        OSError: EINVAL, the device can't show that, or the buffer is too small; ENOENT, somebody else closed the
            handle; EOPNOTSUPP, a driver without modesetting (vgem); EACCES, a render node; ENOMEM.

    Mirrors DRM_IOCTL_MODE_ADDFB2 (``drm_mode_addfb2``).
    """
    pitch = gem.pitch if pitch is None else pitch
    if pitch is None:
        raise ValueError(f"{gem!r} was imported: whoever made it knows its pitch")
    gem._fileno()
    data = _uapi.DrmModeFbCmd2(
        width=_uapi.as_u32(width, "width"),
        height=_uapi.as_u32(height, "height"),
        pixel_format=_uapi.as_u32(format, "format"),
    )
    data.handles[0] = gem.handle
    data.pitches[0] = _uapi.as_u32(pitch, "pitch")
    data.offsets[0] = _uapi.as_u32(offset, "offset")
    what = f"DRM_IOCTL_MODE_ADDFB2 of handle {gem.handle}, {width}x{height}, pitch {pitch}"
    gem.device._ioctl(_uapi.DRM_IOCTL_MODE_ADDFB2, data, what)
    return Framebuffer(gem, data.fb_id, width, height)


def modeset(device: DrmDevice, pipeline: Pipeline, fb: Framebuffer, mode: Mode | None = None) -> None:
    """Light the screen: ``fb`` on the whole of it. Waits until it is done; what ``commit`` changes comes after this.

    Args:
        mode: one of ``pipeline.modes``, None for the first; ``fb`` must be at least as large.
    Raises:
        ValueError: closed, or ``fb`` is.
        OSError: EACCES, the device has another master; ENOSPC, ``fb`` is smaller than the mode; EINVAL; EBUSY; ENOMEM.

    Mirrors DRM_IOCTL_MODE_ATOMIC with ALLOW_MODESET (``drm_mode_atomic_ioctl``).
    """
    mode = pipeline.modes[0] if mode is None else mode
    number = _id(fb)
    info = create_string_buffer(mode.modeinfo, len(mode.modeinfo))
    blob = _uapi.DrmModeCreateBlob(data=addressof(info), length=len(mode.modeinfo))
    device._ioctl(_uapi.DRM_IOCTL_MODE_CREATEPROPBLOB, blob, "DRM_IOCTL_MODE_CREATEPROPBLOB of a mode")
    try:
        whole = {"SRC_X": 0, "SRC_Y": 0, "SRC_W": mode.width << 16, "SRC_H": mode.height << 16}  # 16.16 fixed point
        place = {"CRTC_X": 0, "CRTC_Y": 0, "CRTC_W": mode.width, "CRTC_H": mode.height}
        _atomic(
            device,
            _uapi.DRM_MODE_ATOMIC_ALLOW_MODESET,
            f"mode {mode.name}, fb {number} to plane {pipeline.plane}, CRTC {pipeline.crtc}",
            (CONNECTOR, pipeline.connector, {"CRTC_ID": pipeline.crtc}),
            (CRTC, pipeline.crtc, {"MODE_ID": blob.blob_id, "ACTIVE": 1}),
            (PLANE, pipeline.plane, {"FB_ID": number, "CRTC_ID": pipeline.crtc, **whole, **place}),
        )
    finally:
        gone = c_uint32(blob.blob_id)  # the mode that is set keeps a reference
        device._ioctl(_uapi.DRM_IOCTL_MODE_DESTROYPROPBLOB, gone, f"DRM_IOCTL_MODE_DESTROYPROPBLOB of {gone.value}")


def disable(device: DrmDevice, pipeline: Pipeline) -> None:
    """Turn off what ``modeset`` has lit, and wait until it is.

    Raises:
        ValueError: closed.
        OSError: EACCES, the device has another master; EBUSY.

    Mirrors DRM_IOCTL_MODE_ATOMIC with ALLOW_MODESET (``drm_mode_atomic_ioctl``).
    """
    _atomic(
        device,
        _uapi.DRM_MODE_ATOMIC_ALLOW_MODESET,
        f"nothing to CRTC {pipeline.crtc}",
        (PLANE, pipeline.plane, {"FB_ID": 0, "CRTC_ID": 0}),
        (CONNECTOR, pipeline.connector, {"CRTC_ID": 0}),
        (CRTC, pipeline.crtc, {"MODE_ID": 0, "ACTIVE": 0}),
    )


def _id(fb: Framebuffer | int | None) -> int:
    if isinstance(fb, Framebuffer) and not fb.id:
        raise ValueError("operation on closed Framebuffer")
    return fb.id if isinstance(fb, Framebuffer) else _uapi.as_u32(0 if fb is None else fb, "fb")


@overload
def commit(
    device: DrmDevice,
    *,
    crtc: int,
    plane: int,
    fb: Framebuffer | int | None,
    in_fence: SyncFile | None = None,
    nonblock: bool = True,
    test_only: Literal[False] = False,
) -> SyncFile: ...


@overload
def commit(
    device: DrmDevice,
    *,
    crtc: int,
    plane: int,
    fb: Framebuffer | int | None,
    in_fence: SyncFile | None = None,
    nonblock: bool = True,
    test_only: bool,
) -> SyncFile | None: ...


def commit(
    device: DrmDevice,
    *,
    crtc: int,
    plane: int,
    fb: Framebuffer | int | None,
    in_fence: SyncFile | None = None,
    nonblock: bool = True,
    test_only: bool = False,
) -> SyncFile | None:
    """Flip a plane that ``modeset`` has lit to another framebuffer once a fence has signaled.

    Args:
        crtc, plane: KMS object ids (int, ``__u32``).
        fb: what to show, a Framebuffer or its id; None or 0 turns the plane off.
        in_fence: what to wait for before the flip; it stays open and the caller's. A failed fence has signaled. None
            leaves it to the buffer's implicit write fences, which count no longer where there is an in-fence.
        nonblock: return at once; otherwise when the flip is done.
        test_only: ask whether the kernel would do it, and change nothing.
    Returns:
        the out-fence, which signals at the vblank from which on ``fb`` is shown and what was there before may be reused
        (its timestamp is the vblank's); None if ``test_only``.
    Raises:
        ValueError: closed, or ``fb`` or ``in_fence`` is; an id that is no u32.
        TypeError: ``in_fence`` is no SyncFile.
        OSError: EBUSY, ``nonblock`` and the flip before is still waiting; EACCES, the device has another master, or a
            render node; EINVAL, the CRTC is off, or a bad ``fb``; ENOENT, no such object; EOPNOTSUPP, a driver without
            atomic modesetting (vgem); EMFILE; ENOMEM. No descriptor is left open.

    Mirrors DRM_IOCTL_MODE_ATOMIC with IN_FENCE_FD and OUT_FENCE_PTR (``drm_mode_atomic_ioctl``). Threads: releases the
    GIL; a commit that blocks is interrupted by signals, whose handlers run, and then tried again.
    """
    number = _id(fb)
    crtc, plane = _uapi.as_u32(crtc, "crtc"), _uapi.as_u32(plane, "plane")
    change = {"FB_ID": number, "CRTC_ID": crtc if number else 0}
    if in_fence is not None:
        if not isinstance(in_fence, SyncFile):
            raise TypeError(f"in_fence must be a SyncFile, not a {type(in_fence).__name__}")
        change["IN_FENCE_FD"] = in_fence.fileno()
    flags = _uapi.DRM_MODE_ATOMIC_NONBLOCK if nonblock else 0
    flags |= _uapi.DRM_MODE_ATOMIC_TEST_ONLY if test_only else 0
    out = c_int32(-1)
    fence = None
    try:
        _atomic(
            device,
            flags,
            f"fb {number} to plane {plane}, CRTC {crtc}",
            (PLANE, plane, change),
            (CRTC, crtc, {"OUT_FENCE_PTR": addressof(out)}),
        )
        if not test_only:
            fence = SyncFile(out.value)
    finally:
        if fence is None and out.value >= 0:  # a signal handler raised in between
            OwnedFd(out.value).close()
    return fence
