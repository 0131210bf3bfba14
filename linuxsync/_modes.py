"""What a KMS device has: connectors, CRTCs, planes, their properties (drivers/gpu/drm/drm_mode_object.c)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ctypes import addressof, c_uint32, c_uint64
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from . import _uapi
from .drm import DrmDevice

__all__ = ["CONNECTOR", "CRTC", "PLANE", "Mode", "Pipeline", "find_pipeline", "property_id"]

PRIMARY = 1  # DRM_PLANE_TYPE_PRIMARY, the value of a plane's property "type"

CRTC, CONNECTOR, PLANE = _uapi.DRM_MODE_OBJECT_CRTC, _uapi.DRM_MODE_OBJECT_CONNECTOR, _uapi.DRM_MODE_OBJECT_PLANE
KINDS = {CRTC: "CRTC", CONNECTOR: "connector", PLANE: "plane"}

# Of each open file: (object's type, object's id) to the ids of its properties. They never change.
_properties: WeakKeyDictionary[DrmDevice, dict[tuple[int, int], dict[str, int]]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode of a connector (``struct drm_mode_modeinfo``).

    Attributes:
        name: ``1024x768``.
        width, height: pixels shown (``hdisplay``, ``vdisplay``).
        refresh: frames a second, rounded (``vrefresh``).
        modeinfo: the whole struct, for a MODE_ID blob.
    """

    name: str
    width: int
    height: int
    refresh: int
    modeinfo: bytes


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What one picture takes to a screen: the ids of a connector, a CRTC and a primary plane that fit together.

    Attributes:
        connector, crtc, plane: KMS object ids (int > 0, ``__u32``).
        modes: what the connector can show, the preferred one first as a rule.
    """

    connector: int
    crtc: int
    plane: int
    modes: tuple[Mode, ...]


def _fetch(
    device: DrmDevice, request: int, name: str, kind: Any, key: Mapping[str, int], *arrays: tuple[str, str, Any]
) -> Any:
    """Fill a struct that has arrays: asked for their lengths first, then again with room for so many.

    Args:
        key: the fields that say what is asked for.
        arrays: the field that counts it, the field that points to it, and the type of its items.
    Returns:
        the struct, and a list for each of ``arrays``.
    """
    data = kind(**key)
    device._ioctl(request, data, name)
    while True:
        rooms = [(item * getattr(data, count))() for count, _, item in arrays]
        data = kind(**key)
        for (count, pointer, _), room in zip(arrays, rooms, strict=True):
            setattr(data, count, len(room))
            setattr(data, pointer, addressof(room))
        device._ioctl(request, data, name)
        counts = [getattr(data, count) for count, _, _ in arrays]
        if all(count <= len(room) for count, room in zip(counts, rooms, strict=True)):
            return data, *(room[:count] for count, room in zip(counts, rooms, strict=True))


def _known(device: DrmDevice) -> dict[tuple[int, int], dict[str, int]]:
    """What is known of the properties of a device, which has been told that we speak atomic."""
    if device not in _properties:
        data = _uapi.DrmCap(capability=_uapi.DRM_CLIENT_CAP_ATOMIC, value=1)
        try:
            device._ioctl(_uapi.DRM_IOCTL_SET_CLIENT_CAP, data, "DRM_IOCTL_SET_CLIENT_CAP of DRM_CLIENT_CAP_ATOMIC")
        except OSError as error:
            why = {
                errno.EOPNOTSUPP: "its driver has no atomic modesetting; vkms has, without a screen: modprobe vkms",
                errno.EACCES: "a render node has no modesetting, open the primary node",
            }.get(error.errno or 0)
            if why is None:
                raise
            raise OSError(error.errno, f"{error.strerror}: {why}") from None
    return _properties.setdefault(device, {})


def _read(device: DrmDevice, kind: int, number: int) -> dict[str, int]:
    """The properties of an object, name to value; their ids are remembered."""
    known = _known(device)
    _, ids, values = _fetch(
        device,
        _uapi.DRM_IOCTL_MODE_OBJ_GETPROPERTIES,
        f"DRM_IOCTL_MODE_OBJ_GETPROPERTIES of {KINDS[kind]} {number}",
        _uapi.DrmModeObjGetProperties,
        {"obj_id": number, "obj_type": kind},
        ("count_props", "props_ptr", c_uint32),
        ("count_props", "prop_values_ptr", c_uint64),
    )
    names = []
    for property_id in ids:
        data = _uapi.DrmModeGetProperty(prop_id=property_id)
        device._ioctl(_uapi.DRM_IOCTL_MODE_GETPROPERTY, data, f"DRM_IOCTL_MODE_GETPROPERTY of {property_id}")
        names.append(data.name.decode())
    known[kind, number] = dict(zip(names, ids, strict=True))
    return dict(zip(names, values, strict=True))


def property_id(device: DrmDevice, kind: int, number: int, name: str) -> int:
    """The id of a property of an object; FileNotFoundError where there is none."""
    known = _known(device)
    if (kind, number) not in known:
        _read(device, kind, number)
    try:
        return known[kind, number][name]
    except KeyError:
        what = f"{KINDS[kind]} {number} of {device!r} has no property {name}"
        raise FileNotFoundError(errno.ENOENT, f"{what} (explicit fences came with Linux 4.10)") from None


def find_pipeline(device: DrmDevice) -> Pipeline:
    """Return the first connector that has a screen, with a CRTC and a primary plane that can feed it.

    Raises:
        FileNotFoundError: nothing is connected, or nothing can feed what is.
        ValueError: closed.
        OSError: EOPNOTSUPP, a driver without atomic modesetting (vgem); EACCES, a render node.

    Mirrors DRM_IOCTL_MODE_GETRESOURCES, GETCONNECTOR, GETENCODER, GETPLANERESOURCES and GETPLANE. On hardware it asks
    the screen for its modes, which takes its time.
    """
    _known(device)
    _, crtcs, connectors = _fetch(
        device,
        _uapi.DRM_IOCTL_MODE_GETRESOURCES,
        "DRM_IOCTL_MODE_GETRESOURCES",
        _uapi.DrmModeCardRes,
        {},
        ("count_crtcs", "crtc_id_ptr", c_uint32),
        ("count_connectors", "connector_id_ptr", c_uint32),
    )
    planes = _primary_planes(device)
    for connector in connectors:
        data, modes, encoders = _fetch(
            device,
            _uapi.DRM_IOCTL_MODE_GETCONNECTOR,
            f"DRM_IOCTL_MODE_GETCONNECTOR of {connector}",
            _uapi.DrmModeGetConnector,
            {"connector_id": connector},
            ("count_modes", "modes_ptr", _uapi.DrmModeModeinfo),
            ("count_encoders", "encoders_ptr", c_uint32),
        )
        if data.connection != _uapi.DRM_MODE_CONNECTED or not modes:
            continue
        for encoder in encoders:
            # Bit n of possible_crtcs stands for the nth CRTC in the list.
            reach = _uapi.DrmModeGetEncoder(encoder_id=encoder)
            device._ioctl(_uapi.DRM_IOCTL_MODE_GETENCODER, reach, f"DRM_IOCTL_MODE_GETENCODER of {encoder}")
            for number, crtc in enumerate(crtcs):
                for plane, possible in planes:
                    if reach.possible_crtcs & possible & 1 << number:
                        found = (
                            Mode(mode.name.decode(), mode.hdisplay, mode.vdisplay, mode.vrefresh, bytes(mode))
                            for mode in modes
                        )
                        return Pipeline(connector, crtc, plane, tuple(found))
    raise FileNotFoundError(errno.ENOENT, f"no connector of {device!r} has a screen that a CRTC and a plane can feed")


def _primary_planes(device: DrmDevice) -> list[tuple[int, int]]:
    """Each primary plane's id and the CRTCs that it can be on."""
    _, planes = _fetch(
        device,
        _uapi.DRM_IOCTL_MODE_GETPLANERESOURCES,
        "DRM_IOCTL_MODE_GETPLANERESOURCES",
        _uapi.DrmModeGetPlaneRes,
        {},
        ("count_planes", "plane_id_ptr", c_uint32),
    )
    found = []
    for plane in planes:
        if _read(device, PLANE, plane).get("type") == PRIMARY:
            data = _uapi.DrmModeGetPlane(plane_id=plane)
            device._ioctl(_uapi.DRM_IOCTL_MODE_GETPLANE, data, f"DRM_IOCTL_MODE_GETPLANE of {plane}")
            found.append((plane, data.possible_crtcs))
    return found
