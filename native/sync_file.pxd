from linuxsync._native.fd cimport OwnedFd

cdef class SyncFile(OwnedFd):
    pass


cdef snapshot(int fd)
