from linuxsync._native.fd cimport OwnedFd

cdef class FenceInfo:
    cdef readonly str driver_name
    cdef readonly str obj_name
    cdef readonly int status
    cdef readonly unsigned int flags
    cdef readonly unsigned long long timestamp_ns


cdef class SyncFileInfo:
    cdef readonly str name
    cdef readonly int status
    cdef readonly unsigned int flags
    cdef readonly tuple fences


cdef class SyncFile(OwnedFd):
    pass


cdef snapshot(int fd)
