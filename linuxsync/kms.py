"""KMS with explicit fences: enough of atomic modesetting to light one plane (drivers/gpu/drm/drm_atomic_uapi.c)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ctypes import addressof, c_int32, c_uint32, c_uint64
from typing import Literal, overload

from . import _uapi
from ._modes import CONNECTOR, CRTC, PLANE, Mode, Pipeline, find_pipeline, property_id
from ._native import kms as _native
from .drm import DrmDevice, GemBuffer
from .sync_file import SyncFile

__all__ = ["Framebuffer", "Mode", "Pipeline", "add_framebuffer", "commit", "disable", "find_pipeline", "modeset"]

XRGB8888 = int.from_bytes(b"XR24", "little")  # DRM_FORMAT_XRGB8888: bytes B, G, R and one unused


class Framebuffer(_native.Framebuffer):
    """A GEM buffer that planes can show; ``add_framebuffer`` makes it.

    Closing it removes it from the device, which turns off a plane that shows it. The GemBuffer may be closed first: the
    kernel holds the memory. After the device's close, which removes it too, it does nothing. One that is forgotten is
    removed, and warns (ResourceWarning).

    Attributes:
        id: KMS object id (int > 0, ``__u32``), 0 once it is closed.
        gem: the GemBuffer.
        width, height: pixels.

    Threads: may be used from many as long as none closes it. A forked child may use it, and leaves it to the parent.
    """

    __slots__ = ()


def _atomic(
    device: DrmDevice,
    flags: int,
    what: str,
    *objects: tuple[int, int, Mapping[str, int]],
    out_fence: c_int32 | None = None,
) -> SyncFile | None:
    """DRM_IOCTL_MODE_ATOMIC; each of ``objects`` is its type, its id and what is to become of its properties.

    Returns the fence whose descriptor the kernel has written to ``out_fence``, if that is given.
    """
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
    # With an answer, of which there is nothing to be known, EFAULT could come after all was done.
    request = device.fileno(), _uapi.one_way(_uapi.DRM_IOCTL_MODE_ATOMIC), data, f"DRM_IOCTL_MODE_ATOMIC of {what}"
    try:
        if out_fence is not None:
            return SyncFile._given(_uapi.ask, *request, out_fence)
        _uapi.ioctl(*request)
    except OSError as error:
        if error.errno == errno.EACCES:
            why = f"{device!r} is not master of its screen, another open file is; or it is a render node"
        elif error.errno == errno.EINVAL and not flags & _uapi.DRM_MODE_ATOMIC_ALLOW_MODESET:
            why = "if the CRTC is off, modeset() turns it on"
        else:
            raise
        raise OSError(error.errno, f"{error.strerror}: {why}") from None
    return None


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
        ValueError: closed; no pitch; a number that is 0 (but ``offset``) or no u32.
        TypeError: ``gem`` is no GemBuffer.
        OSError: EINVAL, the device can't show that, or the buffer is too small; ENOENT, somebody else closed the
            handle; EOPNOTSUPP, a driver without modesetting (vgem); EACCES, a render node; ENOMEM.

    Mirrors DRM_IOCTL_MODE_ADDFB2 (``drm_mode_addfb2``).
    """
    if not isinstance(gem, GemBuffer):
        raise TypeError(f"add_framebuffer takes a GemBuffer, not a {type(gem).__name__}")
    pitch = gem.pitch if pitch is None else pitch
    if pitch is None:
        raise ValueError(f"{gem!r} was imported: whoever made it knows its pitch")
    return Framebuffer(gem, width, height, pitch, offset, format)


def modeset(device: DrmDevice, pipeline: Pipeline, fb: Framebuffer, mode: Mode | None = None) -> None:
    """Light the screen: ``fb`` on the whole of it. Waits until it is done; what ``commit`` changes comes after this.

    Args:
        mode: one of ``pipeline.modes``, None for the first; ``fb`` must be at least as large.
    Raises:
        ValueError: closed, or ``fb`` is; ``fb`` is of another device.
        TypeError: ``fb`` is no Framebuffer.
        OSError: EACCES, the device has another master; ENOSPC, ``fb`` is smaller than the mode; EINVAL; EBUSY; ENOMEM.

    Mirrors DRM_IOCTL_MODE_ATOMIC with ALLOW_MODESET (``drm_mode_atomic_ioctl``).
    """
    mode = pipeline.modes[0] if mode is None else mode
    number = _id(device, fb)
    blob = _native.PropertyBlob(device, mode.modeinfo)
    try:
        whole = {"SRC_X": 0, "SRC_Y": 0, "SRC_W": mode.width << 16, "SRC_H": mode.height << 16}  # 16.16 fixed point
        place = {"CRTC_X": 0, "CRTC_Y": 0, "CRTC_W": mode.width, "CRTC_H": mode.height}
        _atomic(
            device,
            _uapi.DRM_MODE_ATOMIC_ALLOW_MODESET,
            f"mode {mode.name}, fb {number} to plane {pipeline.plane}, CRTC {pipeline.crtc}",
            (CONNECTOR, pipeline.connector, {"CRTC_ID": pipeline.crtc}),
            (CRTC, pipeline.crtc, {"MODE_ID": blob.id, "ACTIVE": 1}),
            (PLANE, pipeline.plane, {"FB_ID": number, "CRTC_ID": pipeline.crtc, **whole, **place}),
        )
    finally:
        blob.close()


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


def _id(device: DrmDevice, fb: Framebuffer) -> int:
    if not isinstance(fb, Framebuffer):
        raise TypeError(f"expected a Framebuffer, not a {type(fb).__name__}")
    if not fb.id:
        raise ValueError("operation on closed Framebuffer")
    if not device._same_file(fb.gem.device):
        raise ValueError(f"{fb!r} is of another device than {device!r}")
    return fb.id


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
        ValueError: closed, or ``fb`` or ``in_fence`` is; ``fb`` is of another device; an id that is no u32; an
            ``in_fence`` without an ``fb``.
        TypeError: ``in_fence`` is no SyncFile; ``fb`` is neither a Framebuffer nor an int.
        OSError: EBUSY, ``nonblock`` and the flip before is still waiting; EACCES, the device has another master, or a
            render node; EINVAL, the CRTC is off (``modeset`` turns it on), or a bad ``fb``; ENOENT, no such object;
            EOPNOTSUPP, a driver without atomic modesetting (vgem); EMFILE; ENOMEM. No descriptor is left open.

    Mirrors DRM_IOCTL_MODE_ATOMIC with IN_FENCE_FD and OUT_FENCE_PTR (``drm_mode_atomic_ioctl``). Threads: releases the
    GIL; a commit that blocks is interrupted by signals, whose handlers run, and then tried again.
    """
    number = _uapi.as_u32(fb or 0, "fb") if fb is None or isinstance(fb, int) else _id(device, fb)
    crtc, plane = _uapi.as_u32(crtc, "crtc"), _uapi.as_u32(plane, "plane")
    change = {"FB_ID": number, "CRTC_ID": crtc if number else 0}
    if in_fence is not None:
        if not isinstance(in_fence, SyncFile):
            raise TypeError(f"in_fence must be a SyncFile, not a {type(in_fence).__name__}")
        if number == 0:
            # The kernel would wait for it, and warn of a driver's bug (drm_atomic_helper_wait_for_fences).
            raise ValueError("an in_fence needs an fb whose flip is to wait for it")
        change["IN_FENCE_FD"] = in_fence.fileno()
    flags = _uapi.DRM_MODE_ATOMIC_NONBLOCK if nonblock else 0
    flags |= _uapi.DRM_MODE_ATOMIC_TEST_ONLY if test_only else 0
    out = c_int32(-1)
    return _atomic(
        device,
        flags,
        f"fb {number} to plane {plane}, CRTC {crtc}",
        (PLANE, plane, change),
        (CRTC, crtc, {"OUT_FENCE_PTR": addressof(out)}),
        out_fence=None if test_only else out,
    )
