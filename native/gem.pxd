from libc.stdint cimport uint32_t

from linuxsync._native.drm cimport DrmDevice


cdef class GemBuffer:
    cdef readonly DrmDevice device
    cdef readonly uint32_t handle
    cdef readonly unsigned long long size
    cdef readonly object pitch
    cdef bint ended     # closed, or never there
    cdef int process    # which made it
    cdef object __weakref__


cdef int file_of(GemBuffer gem) except -1
