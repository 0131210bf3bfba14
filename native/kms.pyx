# SPDX-License-Identifier: LGPL-2.1-or-later
"""kms: what has ids that must be given back (drivers/gpu/drm/drm_framebuffer.c and drm_property.c)."""

from libc.errno cimport EFAULT, EINVAL, ENOENT, EOPNOTSUPP
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset
from posix.unistd cimport getpid

from linuxsync._native.drm cimport DrmDevice, any_fd, give_back
from linuxsync._native.fd cimport as_unsigned, fd_of
from linuxsync._native.gem cimport GemBuffer, file_of
from uapi cimport (
    LS_IOCTL_MODE_ADDFB2,
    LS_IOCTL_MODE_CREATEPROPBLOB,
    LS_IOCTL_MODE_DESTROYPROPBLOB,
    LS_IOCTL_MODE_RMFB,
    LS_ONE_WAY,
    ls_mode_create_blob,
    ls_mode_fb_cmd2,
)
from xioctl cimport refusal, try_blocking_ioctl, try_ioctl

from warnings import warn


cdef class Framebuffer:
    """What linuxsync.kms.Framebuffer is to the kernel."""
    cdef readonly uint32_t id
    cdef readonly GemBuffer gem
    cdef readonly uint32_t width
    cdef readonly uint32_t height
    cdef int process  # which made it
    cdef object __weakref__

    def __init__(self, GemBuffer gem not None, width, height, pitch, offset, format):
        cdef ls_mode_fb_cmd2 data
        cdef int fd, result
        if self.gem is not None:
            raise ValueError(f"{self!r} can't be added again: make another")
        memset(&data, 0, sizeof(data))
        data.width = at_least_one(width, "width")
        data.height = at_least_one(height, "height")
        data.pitches[0] = at_least_one(pitch, "pitch")
        data.offsets[0] = <uint32_t>as_unsigned(offset, 32, "offset")
        data.pixel_format = <uint32_t>as_unsigned(format, 32, "format")
        fd = file_of(gem)
        data.handles[0] = gem.handle
        self.process = getpid()
        result = try_blocking_ioctl(fd, LS_IOCTL_MODE_ADDFB2, &data)
        if result < 0:
            why = ""
            if result == -EOPNOTSUPP:
                why = ": its driver has no screens"
            elif result == -EINVAL:
                why = ": it can't show that, or the buffer is too small"
            what = f"handle {gem.handle}, {width}x{height}, pitch {pitch}, on {gem.device!r}"
            raise refusal(-result, f"DRM_IOCTL_MODE_ADDFB2 of {what}{why}")
        self.gem, self.width, self.height, self.id = gem, data.width, data.height, data.fb_id

    def close(self):
        """Remove it from the device; a second call, one after the device's close, and one in a forked child do nothing.

        Raises:
            OSError: ENOENT, somebody else removed it. After any other it is still there, and can be closed.

        Mirrors DRM_IOCTL_MODE_RMFB (``drm_mode_rmfb``). Waits for the flip that takes it off its plane.
        """
        cdef uint32_t number = self.id
        cdef int result
        if number == 0 or self.process != getpid():
            return
        result = give_back(self.gem.device, LS_ONE_WAY(LS_IOCTL_MODE_RMFB), &number)
        if result == 0 or result == -ENOENT:
            self.id = 0
        if result < 0:
            raise refusal(-result, f"DRM_IOCTL_MODE_RMFB of {number} on {self.gem.device!r}")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.close()

    def __del__(self):
        if self.id and self.process == getpid() and any_fd(self.gem.device.opened) >= 0:
            try:
                warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()

    def __repr__(self):
        name = type(self).__name__
        return f"<{name} {self.id} of {self.gem!r}>" if self.id else f"<closed {name}>"

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}: make one in each process, of its GemBuffer")


cdef class PropertyBlob:
    """Bytes that a property can be set to, such as a mode. The kernel keeps what it was set to; this ends with close().

    Also when a signal's handler raises on the way there.
    """
    cdef readonly uint32_t id
    cdef DrmDevice device
    cdef int process  # which made it

    def __init__(self, DrmDevice device not None, bytes content not None):
        cdef ls_mode_create_blob data
        cdef int result
        memset(&data, 0, sizeof(data))
        data.data = <uint64_t><uintptr_t><const char *>content
        data.length = <uint32_t>len(content)
        self.device, self.process = device, getpid()
        result = try_ioctl(fd_of(device), LS_IOCTL_MODE_CREATEPROPBLOB, &data)
        if result < 0:
            raise refusal(-result, f"DRM_IOCTL_MODE_CREATEPROPBLOB of {len(content)} bytes on {device!r}")
        self.id = data.blob_id

    def close(self):
        """Give it back. What goes wrong with that is nobody's business: with the device's file it goes too."""
        cdef uint32_t number = self.id
        self.id = 0
        if number and self.process == getpid():
            if give_back(self.device, LS_ONE_WAY(LS_IOCTL_MODE_DESTROYPROPBLOB), &number) == -EFAULT:
                give_back(self.device, LS_ONE_WAY(LS_IOCTL_MODE_DESTROYPROPBLOB), &number)

    def __del__(self):
        self.close()


cdef uint32_t at_least_one(object value, str what) except 0:
    cdef uint32_t number = <uint32_t>as_unsigned(value, 32, what)
    if number == 0:
        raise ValueError(f"{what} must be at least 1, not 0")
    return number
