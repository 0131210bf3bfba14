from linuxsync._native.sync_file cimport SyncFileInfo


cdef class Process:
    cdef readonly int pid
    cdef readonly str comm
    cdef readonly unsigned int uid


cdef class Descriptor:
    cdef readonly Process process
    cdef readonly int fd
    cdef readonly object kind
    cdef readonly str link


cdef class HeldSyncFile:
    cdef readonly SyncFileInfo info
    cdef readonly tuple holders
    cdef readonly long long looked_ns


cdef HeldSyncFile held(SyncFileInfo info, Descriptor holder)
