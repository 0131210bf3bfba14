"""The kernel's words for what is asked rarely: structs and request numbers, declared once with ctypes and ioctl-opt."""

from __future__ import annotations

from ctypes import (
    Structure,
    c_char,
    c_int,
    c_int32,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from operator import index

from ioctl_opt import IOC, IOC_READ, IOW, IOWR  # type: ignore[import-untyped]

from ._native.raw import ask, ioctl

__all__ = ["ask", "ioctl"]


# --- DRM: include/uapi/drm/drm.h and drm_mode.h, as of Linux 6.12 -----------------------------------------------------


class DrmVersion(Structure):
    """``struct drm_version``."""

    _fields_ = (
        ("version_major", c_int),
        ("version_minor", c_int),
        ("version_patchlevel", c_int),
        ("name_len", c_size_t),
        ("name", c_void_p),
        ("date_len", c_size_t),
        ("date", c_void_p),
        ("desc_len", c_size_t),
        ("desc", c_void_p),
    )


class DrmCap(Structure):
    """``struct drm_get_cap`` and ``struct drm_set_client_cap``."""

    _fields_ = (("capability", c_uint64), ("value", c_uint64))


class DrmModeMapDumb(Structure):
    """``struct drm_mode_map_dumb``."""

    _fields_ = (("handle", c_uint32), ("pad", c_uint32), ("offset", c_uint64))


class DrmModeCardRes(Structure):
    """``struct drm_mode_card_res``."""

    _fields_ = (
        ("fb_id_ptr", c_uint64),
        ("crtc_id_ptr", c_uint64),
        ("connector_id_ptr", c_uint64),
        ("encoder_id_ptr", c_uint64),
        ("count_fbs", c_uint32),
        ("count_crtcs", c_uint32),
        ("count_connectors", c_uint32),
        ("count_encoders", c_uint32),
        ("min_width", c_uint32),
        ("max_width", c_uint32),
        ("min_height", c_uint32),
        ("max_height", c_uint32),
    )


class DrmModeModeinfo(Structure):
    """``struct drm_mode_modeinfo``: the timings of one mode."""

    _fields_ = (
        ("clock", c_uint32),
        ("hdisplay", c_uint16),
        ("hsync_start", c_uint16),
        ("hsync_end", c_uint16),
        ("htotal", c_uint16),
        ("hskew", c_uint16),
        ("vdisplay", c_uint16),
        ("vsync_start", c_uint16),
        ("vsync_end", c_uint16),
        ("vtotal", c_uint16),
        ("vscan", c_uint16),
        ("vrefresh", c_uint32),
        ("flags", c_uint32),
        ("type", c_uint32),
        ("name", c_char * 32),
    )


class DrmModeGetEncoder(Structure):
    """``struct drm_mode_get_encoder``."""

    _fields_ = (
        ("encoder_id", c_uint32),
        ("encoder_type", c_uint32),
        ("crtc_id", c_uint32),
        ("possible_crtcs", c_uint32),
        ("possible_clones", c_uint32),
    )


class DrmModeGetConnector(Structure):
    """``struct drm_mode_get_connector``."""

    _fields_ = (
        ("encoders_ptr", c_uint64),
        ("modes_ptr", c_uint64),
        ("props_ptr", c_uint64),
        ("prop_values_ptr", c_uint64),
        ("count_modes", c_uint32),
        ("count_props", c_uint32),
        ("count_encoders", c_uint32),
        ("encoder_id", c_uint32),
        ("connector_id", c_uint32),
        ("connector_type", c_uint32),
        ("connector_type_id", c_uint32),
        ("connection", c_uint32),
        ("mm_width", c_uint32),
        ("mm_height", c_uint32),
        ("subpixel", c_uint32),
        ("pad", c_uint32),
    )


class DrmModeGetProperty(Structure):
    """``struct drm_mode_get_property``."""

    _fields_ = (
        ("values_ptr", c_uint64),
        ("enum_blob_ptr", c_uint64),
        ("prop_id", c_uint32),
        ("flags", c_uint32),
        ("name", c_char * 32),
        ("count_values", c_uint32),
        ("count_enum_blobs", c_uint32),
    )


class DrmModeGetPlaneRes(Structure):
    """``struct drm_mode_get_plane_res``."""

    _fields_ = (("plane_id_ptr", c_uint64), ("count_planes", c_uint32))


class DrmModeGetPlane(Structure):
    """``struct drm_mode_get_plane``."""

    _fields_ = (
        ("plane_id", c_uint32),
        ("crtc_id", c_uint32),
        ("fb_id", c_uint32),
        ("possible_crtcs", c_uint32),
        ("gamma_size", c_uint32),
        ("count_format_types", c_uint32),
        ("format_type_ptr", c_uint64),
    )


class DrmModeObjGetProperties(Structure):
    """``struct drm_mode_obj_get_properties``."""

    _fields_ = (
        ("props_ptr", c_uint64),
        ("prop_values_ptr", c_uint64),
        ("count_props", c_uint32),
        ("obj_id", c_uint32),
        ("obj_type", c_uint32),
    )


class DrmModeAtomic(Structure):
    """``struct drm_mode_atomic``."""

    _fields_ = (
        ("flags", c_uint32),
        ("count_objs", c_uint32),
        ("objs_ptr", c_uint64),
        ("count_props_ptr", c_uint64),
        ("props_ptr", c_uint64),
        ("prop_values_ptr", c_uint64),
        ("reserved", c_uint64),
        ("user_data", c_uint64),
    )


def as_u32(value: int, what: str) -> int:
    """An int that fits ``__u32``, because ctypes would cut off the rest of one that does not; else ValueError."""
    if not 0 <= index(value) < 2**32:
        raise ValueError(f"{what} must be between 0 and 2**32 - 1, not {value}")
    return value


DRM_CLIENT_CAP_UNIVERSAL_PLANES = 2
DRM_CLIENT_CAP_ATOMIC = 3
DRM_MODE_CONNECTED = 1
DRM_MODE_OBJECT_CRTC = 0xCCCCCCCC
DRM_MODE_OBJECT_CONNECTOR = 0xC0C0C0C0
DRM_MODE_OBJECT_PLANE = 0xEEEEEEEE
DRM_MODE_ATOMIC_TEST_ONLY = 0x0100
DRM_MODE_ATOMIC_NONBLOCK = 0x0200
DRM_MODE_ATOMIC_ALLOW_MODESET = 0x0400

DRM_IOCTL_VERSION = IOWR(ord("d"), 0x00, DrmVersion)
DRM_IOCTL_GET_CAP = IOWR(ord("d"), 0x0C, DrmCap)
DRM_IOCTL_SET_CLIENT_CAP = IOW(ord("d"), 0x0D, DrmCap)
DRM_IOCTL_MODE_GETRESOURCES = IOWR(ord("d"), 0xA0, DrmModeCardRes)
DRM_IOCTL_MODE_GETENCODER = IOWR(ord("d"), 0xA6, DrmModeGetEncoder)
DRM_IOCTL_MODE_GETCONNECTOR = IOWR(ord("d"), 0xA7, DrmModeGetConnector)
DRM_IOCTL_MODE_GETPROPERTY = IOWR(ord("d"), 0xAA, DrmModeGetProperty)
DRM_IOCTL_MODE_MAP_DUMB = IOWR(ord("d"), 0xB3, DrmModeMapDumb)
DRM_IOCTL_MODE_GETPLANERESOURCES = IOWR(ord("d"), 0xB5, DrmModeGetPlaneRes)
DRM_IOCTL_MODE_GETPLANE = IOWR(ord("d"), 0xB6, DrmModeGetPlane)
DRM_IOCTL_MODE_OBJ_GETPROPERTIES = IOWR(ord("d"), 0xB9, DrmModeObjGetProperties)
DRM_IOCTL_MODE_ATOMIC = IOWR(ord("d"), 0xBC, DrmModeAtomic)


def one_way(request: int) -> int:
    """The same DRM request without the struct's way back, which drm_ioctl() then leaves out."""
    return int(request & ~IOC(IOC_READ, 0, 0, 0))


# --- DRM ends ---------------------------------------------------------------------------------------------------------


# --- Buffers: include/uapi/linux/dma-heap.h, udmabuf.h and fcntl.h ----------------------------------------------------


class DmaHeapAllocationData(Structure):
    """``struct dma_heap_allocation_data``."""

    _fields_ = (("len", c_uint64), ("fd", c_uint32), ("fd_flags", c_uint32), ("heap_flags", c_uint64))


class UdmabufCreate(Structure):
    """``struct udmabuf_create``."""

    _fields_ = (("memfd", c_uint32), ("flags", c_uint32), ("offset", c_uint64), ("size", c_uint64))


UDMABUF_FLAGS_CLOEXEC = 0x01
F_SEAL_FUTURE_WRITE = 0x0010  # fcntl has it from Python 3.13 on

DMA_HEAP_IOCTL_ALLOC = IOWR(ord("H"), 0x0, DmaHeapAllocationData)
UDMABUF_CREATE = IOW(ord("u"), 0x42, UdmabufCreate)

# --- Buffers end ------------------------------------------------------------------------------------------------------


# --- fencedev: native/fencedev/fencedev.h -----------------------------------------------------------------------------

FENCEDEV_NAME_SIZE = 32
FENCEDEV_MAX_IN_FENCES = 16
FENCEDEV_MAX_DURATION_NS = 3_600_000_000_000
FENCEDEV_FEATURE_DEADLINE = 0x1
FENCEDEV_SUBMIT_IMPLICIT = 0x1
FENCEDEV_SUBMIT_HANG = 0x2
FENCEDEV_SUBMIT_IGNORE_ERRORS = 0x4
FENCEDEV_OP_NONE = 0
FENCEDEV_OP_FILL = 1
FENCEDEV_OP_COPY = 2
FENCEDEV_OP_CHECKSUM = 3
FENCEDEV_OP_SCALE_ADD = 4


class FencedevVersion(Structure):
    """``struct fencedev_version``."""

    _fields_ = (("version", c_uint32), ("features", c_uint32))


class FencedevQueueCreate(Structure):
    """``struct fencedev_queue_create``."""

    _fields_ = (("name", c_char * FENCEDEV_NAME_SIZE), ("queue", c_uint32), ("pad", c_uint32))


class FencedevId(Structure):
    """``struct fencedev_id``."""

    _fields_ = (("id", c_uint32), ("pad", c_uint32))


class FencedevReset(Structure):
    """``struct fencedev_reset``."""

    _fields_ = (("queue", c_uint32), ("pad", c_uint32), ("seqno", c_uint64))


class FencedevAttach(Structure):
    """``struct fencedev_attach``."""

    _fields_ = (("fd", c_int32), ("access", c_uint32), ("size", c_uint64), ("attachment", c_uint32), ("pad", c_uint32))


class FencedevTransfer(Structure):
    """``struct fencedev_transfer``."""

    _fields_ = (
        ("attachment", c_uint32),
        ("pad", c_uint32),
        ("offset", c_uint64),
        ("length", c_uint64),
        ("data", c_uint64),
    )


class FencedevSubmit(Structure):
    """``struct fencedev_submit``."""

    _fields_ = (
        ("queue", c_uint32),
        ("flags", c_uint32),
        ("op", c_uint32),
        ("value", c_uint32),
        ("dst", c_uint32),
        ("src", c_uint32),
        ("dst_offset", c_uint64),
        ("src_offset", c_uint64),
        ("length", c_uint64),
        ("duration_ns", c_uint64),
        ("error", c_uint32),
        ("in_fence_count", c_uint32),
        ("in_fences", c_int32 * FENCEDEV_MAX_IN_FENCES),
        ("out_fence", c_int32),
        ("pad", c_uint32),
        ("seqno", c_uint64),
    )


class FencedevQuery(Structure):
    """``struct fencedev_query``."""

    _fields_ = (
        ("fence", c_int32),
        ("state", c_uint32),
        ("status", c_int32),
        ("signaling", c_uint32),
        ("seqno", c_uint64),
        ("checksum", c_uint64),
        ("deadline_ns", c_uint64),
        ("submitted_ns", c_uint64),
        ("started_ns", c_uint64),
        ("ended_ns", c_uint64),
    )


FENCEDEV_IOC_VERSION = IOWR(0xF5, 0x00, FencedevVersion)
FENCEDEV_IOC_QUEUE_CREATE = IOWR(0xF5, 0x01, FencedevQueueCreate)
FENCEDEV_IOC_QUEUE_DESTROY = IOWR(0xF5, 0x02, FencedevId)
FENCEDEV_IOC_RESET = IOWR(0xF5, 0x03, FencedevReset)
FENCEDEV_IOC_SUBMIT = IOWR(0xF5, 0x04, FencedevSubmit)
FENCEDEV_IOC_QUERY = IOWR(0xF5, 0x05, FencedevQuery)
FENCEDEV_IOC_ATTACH = IOWR(0xF5, 0x06, FencedevAttach)
FENCEDEV_IOC_DETACH = IOWR(0xF5, 0x07, FencedevId)
FENCEDEV_IOC_MAP = IOWR(0xF5, 0x08, FencedevId)
FENCEDEV_IOC_UNMAP = IOWR(0xF5, 0x09, FencedevId)
FENCEDEV_IOC_PEEK = IOWR(0xF5, 0x0A, FencedevTransfer)
FENCEDEV_IOC_POKE = IOWR(0xF5, 0x0B, FencedevTransfer)

# --- fencedev ends ----------------------------------------------------------------------------------------------------
