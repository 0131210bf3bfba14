# SPDX-License-Identifier: LGPL-2.1-or-later
"""poll(2) under one absolute deadline. Nothing else in the project blocks on a descriptor.

poll, not select: a descriptor above 1023 is as good as any other. ppoll, for its nanoseconds. A signal runs Python's
handlers and the wait goes on until the same deadline; what a handler raises is let through.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.math cimport INFINITY, isinf, isnan
from libc.stdint cimport INT64_MAX, int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from linuxsync._native.fd cimport OwnedFd, fd_of
from xioctl cimport refusal

cdef extern from "<Python.h>":
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)  # borrowed
    PyTypeObject *Py_TYPE(PyObject *item)
    bint PyType_IsSubtype(PyTypeObject *kind, PyTypeObject *of)

cdef extern from "<poll.h>" nogil:
    ctypedef unsigned long nfds_t
    int c_poll "poll"(pollfd *fds, nfds_t count, int timeout_ms)
    int ppoll(pollfd *fds, nfds_t count, const timespec *timeout, const void *mask)

cdef enum:
    NS = 1000000000

cdef int64_t NEVER = INT64_MAX


cdef int64_t now() noexcept nogil:
    cdef timespec at
    # A system call where the clock is none that the vDSO can read (hpet, say), and its answer may not get here for want of
    # memory: at a moment made up of what lay on the stack a wait would never end.
    while clock_gettime(CLOCK_MONOTONIC, &at) != 0:
        pass
    return <int64_t>at.tv_sec * NS + at.tv_nsec


cpdef double seconds_of(object timeout) except -1:
    """A timeout as seconds: infinite for None and for more than a century. ValueError for a negative one or a NaN."""
    cdef double seconds
    if timeout is None:
        return INFINITY
    seconds = timeout
    if isnan(seconds) or seconds < 0:
        raise ValueError(f"timeout must be None or at least 0 seconds, not {timeout!r}")
    return seconds if seconds <= 4e9 else INFINITY


cdef int64_t deadline_of(object timeout) except -1:
    """The moment at which `timeout` seconds are over: 0 for "ask once", NEVER for None."""
    cdef double seconds = seconds_of(timeout)
    if seconds == 0:
        return 0
    return NEVER if isinf(seconds) else now() + <int64_t>(seconds * NS)


cdef int wait(pollfd *polled, nfds_t count, int64_t deadline) except -1:
    """How many of `polled` have news, 0 when the deadline came first."""
    cdef timespec left
    cdef timespec *limit = NULL
    cdef int64_t left_ns = deadline  # which is right for 0 and NEVER
    cdef int result, error
    while True:
        if deadline == 0:  # it can't block, so it needs neither a clock nor to let go of the GIL
            result = c_poll(polled, count, 0)
            error = errno
        else:
            if deadline != NEVER:
                left_ns = max(deadline - now(), 0)
                left.tv_sec = left_ns // NS
                left.tv_nsec = left_ns % NS
                limit = &left
            with nogil:
                result = ppoll(polled, count, limit, NULL)
                error = errno
        if result >= 0:
            return result
        if error != EINTR and error != EAGAIN:
            raise refusal(error, f"poll of {count} file descriptors")
        PyErr_CheckSignals()
        # The kernel looks for news first and for signals then: there was no news, and time is over. To ask once more
        # would be to go on for as long as signals come faster than poll(2) ends.
        if left_ns == 0:
            return 0


cdef bint ready(int fd, short events) noexcept nogil:
    """Whether one of `events` is there, or the descriptor is bad, asked once; not so if a signal came in between."""
    cdef pollfd polled
    polled.fd = fd
    polled.events = events
    polled.revents = 0
    return c_poll(&polled, 1, 0) > 0


cdef int bad(int fd) except -1:
    raise refusal(EBADF, f"poll of fd {fd}, which somebody else has closed")


cdef int wait_one(OwnedFd owner, short events, int64_t deadline) except -1:
    """1 once one of `events` is there on `owner`, 0 when the deadline came first."""
    cdef pollfd polled
    polled.fd = fd_of(owner)
    polled.events = events
    polled.revents = 0
    if wait(&polled, 1, deadline) == 0:
        return 0
    if polled.revents & POLLNVAL:
        bad(polled.fd)
    return 1


cdef pollfd *gather(list owners, type kind) except NULL:
    """poll(2)'s array for the reading end of `owners`, each of which must be a `kind`; the caller frees it."""
    cdef Py_ssize_t i
    cdef PyObject *owner
    cdef PyTypeObject *checked = NULL  # they are usually all of one type, and walking its bases costs more than the rest
    cdef pollfd *polled = <pollfd *>PyMem_Malloc(len(owners) * sizeof(pollfd))
    if polled is NULL:
        raise MemoryError
    try:
        for i in range(len(owners)):
            owner = PyList_GET_ITEM(owners, i)
            if Py_TYPE(owner) is not checked:
                # Not isinstance(), which may run Python code, and that may shorten the list.
                if not PyType_IsSubtype(Py_TYPE(owner), <PyTypeObject *>kind):
                    raise TypeError(f"can't wait for a {type(<object>owner).__name__}")
                checked = Py_TYPE(owner)
            polled[i].fd = (<OwnedFd>owner).number
            polled[i].events = POLLIN
            polled[i].revents = 0
            if polled[i].fd < 0:
                fd_of(<OwnedFd>owner)
    except BaseException:
        PyMem_Free(polled)
        raise
    return polled


def wait_all(list owners not None, type kind not None, timeout=None):
    """Wait until each of ``owners`` (list of OwnedFd) is readable.

    Args:
        kind: what every owner must be. A file that is no fence may always be readable, and waiting for it a lie.
        timeout: seconds (float >= 0) for all of them together, None for ever, 0 to ask once.
    Returns:
        None once all are, else the descriptor (int) of the first that was not when the time was over.
    Raises:
        ValueError: an owner is closed; a negative timeout.
        TypeError: an owner is no ``kind``.
        OSError: EBADF, somebody else closed one; EINVAL, more than RLIMIT_NOFILE of them.

    Mirrors poll(2). Threads: releases the GIL while it waits.
    """
    cdef int64_t deadline = deadline_of(timeout)
    cdef Py_ssize_t i, count = len(owners)
    cdef pollfd *polled
    cdef short seen = 0
    if not owners:
        return None
    if not issubclass(kind, OwnedFd):
        raise TypeError(f"{kind.__name__} is no OwnedFd")
    polled = gather(owners, kind)
    try:
        # One call for all that are ready already, then one by one: all must come, so their order does not matter, and
        # n waits cost n calls where asking for all pending ones each time would cost n squared.
        if wait(polled, count, 0) == count:
            for i in range(count):
                seen |= polled[i].revents
            if seen == POLLIN:
                return None
        for i in range(count):
            if polled[i].revents == 0 and wait(&polled[i], 1, deadline) == 0:
                return polled[i].fd
            if polled[i].revents & POLLNVAL:
                bad(polled[i].fd)
    finally:
        PyMem_Free(polled)
    return None


def wait_any(list owners not None, type kind not None, timeout=None):
    """Wait until one of ``owners`` (list of OwnedFd) is readable; return the first such, or None when time is over.

    Args, Raises, Threads: as ``wait_all``; the list must not change meanwhile. No owners: None at once.
    """
    cdef int64_t deadline = deadline_of(timeout)
    cdef Py_ssize_t i
    cdef pollfd *polled
    if not owners:
        return None
    if not issubclass(kind, OwnedFd):
        raise TypeError(f"{kind.__name__} is no OwnedFd")
    polled = gather(owners, kind)
    try:
        if wait(polled, len(owners), deadline):
            for i in range(len(owners)):
                if polled[i].revents & POLLNVAL:
                    bad(polled[i].fd)
                if polled[i].revents:
                    return owners[i]
    finally:
        PyMem_Free(polled)
    return None
