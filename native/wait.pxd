from libc.stdint cimport int64_t

from linuxsync._native.fd cimport OwnedFd

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    const short POLLOUT
    const short POLLNVAL

# Deadlines are CLOCK_MONOTONIC nanoseconds; NEVER waits for ever, and anything in the past asks once.
cdef int64_t now() noexcept nogil
cdef int64_t deadline_of(object timeout) except -1
cdef bint ready(int fd, short events) noexcept nogil
cdef int wait_one(OwnedFd owner, short events, int64_t deadline) except -1
