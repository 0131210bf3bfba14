# SPDX-License-Identifier: LGPL-2.1-or-later
"""drm: the open file of a DRM device, to which handles belong, whichever of its descriptors they came through."""

from posix.unistd cimport getpid

from linuxsync._native.fd cimport OwnedFd, drop, duplicate
from xioctl cimport try_blocking_ioctl

from weakref import ref


cdef class OpenFile:
    """One open(2) of a device (``struct drm_file``): what several DrmDevices have in common, one the ``dup()`` of another.

    All that the kernel hands out by number is valid for it, and goes with its last descriptor.
    """

    def __cinit__(self):
        self.devices = []
        self.users = {}
        self.process = getpid()


cdef class DrmDevice(OwnedFd):
    """What linuxsync.DrmDevice is to those that have handles of it."""

    def __cinit__(self):
        join(self, OpenFile())

    @classmethod
    def from_fd(cls, fd):
        """Return an object that owns a duplicate of ``fd``; see OwnedFd.from_fd.

        Of a DrmDevice it is, as ``dup()``, a second object on the same open file, with the same handles. The number of
        a descriptor does not tell: two objects made of it know nothing of each other's GEM handles, and either may
        close one that the other still uses.

        Raises:
            TypeError, ValueError, OSError: as OwnedFd.from_fd.

        Mirrors fcntl(2) F_DUPFD_CLOEXEC.
        """
        cdef DrmDevice made = super(DrmDevice, cls).from_fd(fd)
        if isinstance(fd, DrmDevice):
            join(made, (<DrmDevice>fd).opened)
        return made

    def dup(self):
        """Return a second object on the same open file, with the same handles; see OwnedFd.dup.

        Raises:
            ValueError, OSError: as OwnedFd.dup.

        Mirrors fcntl(2) F_DUPFD_CLOEXEC.
        """
        cdef DrmDevice made = OwnedFd.dup(self)
        join(made, self.opened)
        return made

    def _any_fd(self):
        """A descriptor of its open file, its own or a duplicate's; -1 when all are closed."""
        return any_fd(self.opened)

    def _same_file(self, DrmDevice other not None):
        """Whether a handle of one is one of the other."""
        return self.opened is other.opened


cdef int join(DrmDevice device, OpenFile opened) except -1:
    # No Python code runs here, nor in any_fd: the GIL keeps the list whole.
    opened.devices = [known for known in opened.devices if known() is not None]
    opened.devices.append(ref(device))
    device.opened = opened
    return 0


cdef int any_fd(OpenFile opened) except -2:
    """A descriptor of that open file, -1 when all are closed."""
    for known in opened.devices:
        device = known()
        if device is not None and (<DrmDevice>device).number >= 0:
            return (<DrmDevice>device).number
    return -1


cdef int give_back(DrmDevice device, unsigned long request, void *data) except -65536:
    """A request that ends something of the device's, through whichever descriptor there is: 0 or -errno, 0 without one."""
    cdef int fd = device.number, own, result
    if fd >= 0:
        return try_blocking_ioctl(fd, request, data)
    fd = any_fd(device.opened)
    if fd < 0:
        return 0
    own = duplicate(fd)  # the one that it belongs to may be closed meanwhile, in another thread
    try:
        result = try_blocking_ioctl(own, request, data)
    finally:
        with nogil:
            drop(own)
    return result
