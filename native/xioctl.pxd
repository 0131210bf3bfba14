# The one place where an ioctl is issued: retried on EINTR and EAGAIN, and errno becomes OSError.
#
# What can wait, for a fence or for a buffer's lock, lets go of the GIL. What is asked of a sync_file, a timeline or a
# syncobj does not wait for anything, and handing the GIL over twice would cost half as much again as the call.

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)



cdef inline int try_ioctl(int fd, unsigned long request, void *arg) except -65536:  # below every -errno
    """What ioctl(2) answered: its result or -errno. Raises only what a signal handler raises."""
    cdef int result, error
    while True:
        result = ioctl(fd, request, arg)
        error = errno
        if result != -1:
            return result
        if error != EINTR and error != EAGAIN:
            return -error
        PyErr_CheckSignals()


cdef inline int try_blocking_ioctl(int fd, unsigned long request, void *arg) except -65536:
    """The same for a request that may wait for a fence: it lets go of the GIL, and a signal runs Python's handlers."""
    cdef int result, error
    while True:
        with nogil:
            result = ioctl(fd, request, arg)
            error = errno
        if result != -1:
            return result
        if error != EINTR and error != EAGAIN:
            return -error
        PyErr_CheckSignals()


cdef inline object refusal(int error, str what):
    """The OSError subclass that CPython picks for `error`; the message says what was tried, on what."""
    from os import strerror
    return OSError(error, f"{strerror(error)}: {what}")


cdef inline int xioctl(int fd, unsigned long request, void *arg, str name) except -1:
    """ioctl(2) that succeeds or raises OSError naming the request and the fd."""
    cdef int result = try_ioctl(fd, request, arg)
    if result < 0:
        raise refusal(-result, f"{name} on fd {fd}")
    return result
