from linuxsync._native.fd cimport OwnedFd, fd_of


cdef class OpenFile:
    cdef list devices   # weak references to the DrmDevices that have had a descriptor of it
    cdef dict users     # GEM handle to the number of GemBuffers that use it; gem.pyx
    cdef int process    # which opened it


cdef class DrmDevice(OwnedFd):
    cdef OpenFile opened


cdef int any_fd(OpenFile opened) except -2
cdef int give_back(DrmDevice device, unsigned long request, void *data) except -65536


cdef inline int file_of_device(DrmDevice device) except -1:
    """The device's descriptor, or once that is closed a duplicate's; ValueError without one."""
    cdef int fd = device.number
    if fd < 0:
        fd = any_fd(device.opened)
    return fd if fd >= 0 else fd_of(device)  # which says that it is closed
