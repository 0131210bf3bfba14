# SPDX-License-Identifier: LGPL-2.1-or-later
"""GEM handles and PRIME (drivers/gpu/drm/drm_gem.c, drm_prime.c, drm_dumb_buffers.c).

The kernel counts no users of a handle: a dma-buf that is imported again, or was exported here, comes back as the handle
that it already has (``drm_gem_prime_fd_to_handle``), and one GEM_CLOSE ends it for all. So they are counted here.
"""

from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.errno cimport EACCES, EINVAL, EIO, ENODEV, ENOMEM, ENOSYS
from libc.stdint cimport uint32_t
from libc.string cimport memset
from posix.fcntl cimport O_CLOEXEC, O_RDWR
from posix.unistd cimport getpid

from linuxsync._native.drm cimport DrmDevice, OpenFile, any_fd, file_of_device, give_back
from linuxsync._native.fd cimport OwnedFd, as_unsigned, blank, born, fd_of
from uapi cimport (
    LS_IOCTL_GEM_CLOSE,
    LS_IOCTL_MODE_CREATE_DUMB,
    LS_IOCTL_PRIME_FD_TO_HANDLE,
    LS_IOCTL_PRIME_HANDLE_TO_FD,
    ls_gem_close,
    ls_mode_create_dumb,
    ls_prime_handle,
)
from xioctl cimport refusal, try_blocking_ioctl

from os import register_at_fork
from threading import RLock
from warnings import warn

cdef tuple no_arguments = ()

# Taken around every request that gives or takes a handle: between the kernel's answer and our counting it, nobody else
# may close that handle. One for all devices, so that a fork can wait for it; reentrant, for handlers of signals. It is
# C all the way: no Python code runs between an answer and its being counted.
gate = RLock()
cdef object enter = gate.acquire, leave = gate.release
register_at_fork(before=enter, after_in_parent=leave, after_in_child=leave)


cdef class GemBuffer:
    """What linuxsync.GemBuffer does through the kernel; that class adds memory mappings."""

    def __cinit__(self):
        self.ended = True

    @classmethod
    def create_dumb(cls, DrmDevice device not None, width, height, bpp):
        """Return a new dumb buffer of ``device``; see DrmDevice.create_dumb.

        Args:
            device: the open DrmDevice.
            width, height, bpp: as there.
        Raises:
            ValueError, TypeError, OSError: as DrmDevice.create_dumb, which one calls.

        Mirrors DRM_IOCTL_MODE_CREATE_DUMB.
        """
        cdef ls_mode_create_dumb data
        cdef GemBuffer made = made_past_init(cls, device)
        cdef int result
        memset(&data, 0, sizeof(data))
        data.width = at_least_one(width, "width")
        data.height = at_least_one(height, "height")
        data.bpp = at_least_one(bpp, "bpp")
        result = ask(made, LS_IOCTL_MODE_CREATE_DUMB, &data, &data.handle)
        if result < 0:
            why = ""
            if result == -EACCES:
                why = ": a render node makes none, open the primary node"
            elif result == -ENOSYS:
                why = ": its driver has none"
            raise refusal(-result, f"DRM_IOCTL_MODE_CREATE_DUMB {width}x{height}x{bpp} on {device!r}{why}")
        made.size, made.pitch = data.size, data.pitch
        return made

    @classmethod
    def import_dma_buf(cls, DrmDevice device not None, OwnedFd dmabuf not None, unsigned long long size):
        """Return the memory of ``dmabuf`` as a buffer of ``device``; see DrmDevice.import_dma_buf.

        Args:
            device: the open DrmDevice.
            dmabuf: the DmaBuf, which stays the caller's.
            size: its bytes.
        Raises:
            ValueError, TypeError, OSError: as DrmDevice.import_dma_buf, which one calls.

        Mirrors DRM_IOCTL_PRIME_FD_TO_HANDLE.
        """
        cdef ls_prime_handle data
        cdef GemBuffer made = made_past_init(cls, device)
        cdef int result
        memset(&data, 0, sizeof(data))
        data.fd = fd_of(dmabuf)
        result = ask(made, LS_IOCTL_PRIME_FD_TO_HANDLE, &data, &data.handle)
        if result < 0:
            why = ""
            if result == -ENODEV:
                why = ": its driver takes no buffers of other devices"
            elif result == -EIO or result == -ENOMEM:
                why = ": it can't be mapped for the device"
            raise refusal(-result, f"DRM_IOCTL_PRIME_FD_TO_HANDLE of {dmabuf!r} on {device!r}{why}")
        made.size = size
        return made

    @property
    def closed(self):
        """Whether it, or its device, has been closed."""
        return self.ended or any_fd(self.device.opened) < 0

    def _fileno(self):
        """A descriptor of its device; ValueError once either is closed."""
        return file_of(self)

    def _export(self, type kind not None):
        cdef ls_prime_handle data
        cdef OwnedFd made = blank(kind)
        cdef int fd = file_of(self), result
        memset(&data, 0, sizeof(data))
        data.handle = self.handle
        data.flags = O_CLOEXEC | O_RDWR  # as DRM_CLOEXEC and DRM_RDWR are defined
        result = try_blocking_ioctl(fd, LS_IOCTL_PRIME_HANDLE_TO_FD, &data)
        if result < 0:
            raise refusal(-result, f"DRM_IOCTL_PRIME_HANDLE_TO_FD of {self.handle} on {self.device!r}")
        made.number = data.fd
        return made

    def close(self):
        """Give the handle back; a second call, one after the device's close, and one in a forked child do nothing.

        Raises:
            OSError: EINVAL, somebody else closed the handle. After any other it is still open, and can be closed.

        Mirrors DRM_IOCTL_GEM_CLOSE. The memory lives on in mappings and DmaBufs.
        """
        cdef int result = use_no_more(self)
        if result < 0:
            raise refusal(-result, f"DRM_IOCTL_GEM_CLOSE of {self.handle} on {self.device!r}")

    def __enter__(self):
        file_of(self)
        return self

    def __exit__(self, kind, value, traceback):
        self.close()

    def __del__(self):
        if not self.ended and self.process == getpid() and any_fd(self.device.opened) >= 0:
            try:
                warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()

    def __repr__(self):
        state = "closed " if self.closed else ""
        return f"<{state}{type(self).__name__} {self.handle} of {self.device!r}, {self.size} bytes>"

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}: export() it, and use socket.send_fds")


cdef GemBuffer made_past_init(type cls, DrmDevice device):
    """An instance of `cls` without a handle: made before the request that hands one out, after which nothing can fail."""
    made = (<PyTypeObject *>cls).tp_new(cls, <PyObject *>no_arguments, NULL)
    (<GemBuffer?>made).device = device
    born(made)
    (<GemBuffer>made).process = getpid()
    return <GemBuffer>made


cdef uint32_t at_least_one(object value, str what) except 0:
    cdef uint32_t number = <uint32_t>as_unsigned(value, 32, f"{what} of a dumb buffer")
    if number == 0:
        raise ValueError(f"{what} of a dumb buffer must be at least 1, not 0")
    return number


cdef int file_of(GemBuffer gem) except -1:
    """A descriptor of its device; ValueError once either is closed."""
    if gem.ended:
        raise ValueError(f"operation on closed {type(gem).__name__}")
    return file_of_device(gem.device)


cdef int close_handle(DrmDevice device, uint32_t handle) except -65536:
    cdef ls_gem_close data
    data.handle = handle
    data.pad = 0
    return give_back(device, LS_IOCTL_GEM_CLOSE, &data)


cdef int ask(GemBuffer made, unsigned long request, void *data, uint32_t *handle) except -65536:
    """A request that is answered with a handle, which from then on is used once more, by `made`: 0 or -errno."""
    cdef OpenFile opened = made.device.opened
    cdef int fd, result
    enter()
    try:
        fd = fd_of(made.device)
        if opened.process != made.process:
            raise ValueError(f"{made.device!r} was opened before a fork: open the device again for buffers of its own")
        result = try_blocking_ioctl(fd, request, data)
        if result < 0:
            return result
        made.handle = handle[0]
        try:
            opened.users[made.handle] = opened.users.get(made.handle, 0) + 1
        except MemoryError:
            if made.handle not in opened.users:
                close_handle(made.device, made.handle)
            raise
        made.ended = False
        return 0
    finally:
        leave()


cdef int use_no_more(GemBuffer gem) except -65536:
    """Use the handle once less, and close it if that was the last time: 0 or -errno."""
    cdef OpenFile opened
    cdef int result
    enter()
    try:
        if gem.ended:
            return 0
        if gem.process != getpid():
            gem.ended = True
            return 0
        opened = gem.device.opened
        if opened.users[gem.handle] > 1:
            gem.ended = True
            opened.users[gem.handle] -= 1
            return 0
        result = close_handle(gem.device, gem.handle)
        # Otherwise the kernel has refused before it looked for the handle, which is still ours to close.
        if result == 0 or result == -EINVAL:
            gem.ended = True
            del opened.users[gem.handle]
        return result
    finally:
        leave()
