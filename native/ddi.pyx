# SPDX-License-Identifier: LGPL-2.1-or-later
"""ddi: DMA_BUF_IOCTL_SYNC in the words of ddi_dma_sync(9F); linuxsync.ddi has the table."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.errno cimport EAGAIN, EINTR, EINVAL

from linuxsync._native.cpu_access cimport as_access, events_of, sync, words
from linuxsync._native.fd cimport OwnedFd, fd_of
from uapi cimport DMA_BUF_SYNC_END, DMA_BUF_SYNC_START
from linuxsync._native.wait cimport deadline_of, ready, wait_one
from xioctl cimport refusal

from operator import index

from linuxsync.errors import RangeError

cdef enum:
    FORDEV, FORCPU, FORKERNEL


cdef class DmaHandle:
    """What linuxsync.ddi.DmaHandle asks the kernel; that class decides what may be bound, and owns it."""
    cdef readonly OwnedFd _buf  # None while nothing is bound
    cdef readonly long long length
    cdef unsigned int access
    cdef public object _watch   # under ddi.strict(), once there is something to remember

    def _publish_and_hold(self, OwnedFd buffer not None, access, long long length):
        """Bind: END, after which the device sees what the CPU has written."""
        self.access = as_access(access)
        publish(fd_of(buffer), self.access)
        self._buf, self.length = buffer, length

    def _fetch(self):
        """START, after which the CPU sees what the device has written."""
        fetch(self.bound(), self.access)

    def _drop(self):
        self._buf, self.length = None, 0

    cdef OwnedFd bound(self):
        if self._buf is None:
            raise ValueError(f"nothing is bound to {self!r}")
        return self._buf

    def sync(self, type, offset=0, length=0):
        """Have the device (FORDEV) or the CPU (FORCPU, FORKERNEL) see what the other has written.

        Args:
            type: whose view is to catch up.
            offset: bytes into what is bound (int >= 0).
            length: bytes; 0 for all from ``offset`` on. More than the range is synced, see ``granularity``.
        Raises:
            RangeError: the range is not within what is bound; nothing was synced.
            ValueError: nothing is bound; ``type`` is none.
            OSError: what the exporter answers.
            CoherenceError: under ``strict()``, FORCPU would throw away what the CPU has written, or comes before the
                device has ended; nothing was synced.

        Mirrors ddi_dma_sync(9F) and DMA_BUF_IOCTL_SYNC. FORCPU waits for the buffer's implicit fences, without a limit;
        what the handler of a signal raises ends that. Threads: lets go of the GIL.
        """
        cdef OwnedFd buffer = self.bound()
        cdef long long kind = number(type)
        cdef long long start = number(offset)
        cdef long long count = number(length)
        if kind < FORDEV or kind > FORKERNEL:
            raise ValueError(f"type must be SyncType.FORDEV, FORCPU or FORKERNEL, not {type!r}")
        if start < 0 or start >= self.length or count < 0 or count > self.length - start:
            raise RangeError(f"{length} bytes from {offset} on are not within the {self.length} that are bound")
        if kind == FORDEV:
            publish(fd_of(buffer), self.access)
            if self._watch is not None:
                self._watch.published()
            return
        if self._watch is not None:
            wait_one(buffer, events_of(self.access), deadline_of(None))
            self._watch.fetching()
        fetch(buffer, self.access)
        if self._watch is not None:
            self._watch.fetched()


cdef long long number(object value) except? -2:
    """An int as C has it; -1 for one that is not within 0 and 2**63, which nothing here is."""
    cdef int too_large = 0
    cdef long long result
    if not isinstance(value, int):
        value = index(value)
    result = PyLong_AsLongLongAndOverflow(value, &too_large)
    return -1 if too_large or result < 0 else result


cdef int publish(int fd, unsigned int access) except -1:
    """END, which waits for nothing, so that a signal's handler runs after it."""
    cdef int result
    with nogil:
        result = sync_until(fd, DMA_BUF_SYNC_END | access)
        if result == -EINVAL:  # a udmabuf has no END before its first START (end_cpu_udmabuf)
            result = sync_until(fd, DMA_BUF_SYNC_START | access)
            if result == 0:
                result = sync_until(fd, DMA_BUF_SYNC_END | access)
    if result < 0:
        raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(DMA_BUF_SYNC_END | access)} on fd {fd}")
    return 0


cdef int sync_until(int fd, unsigned int flags) noexcept nogil:
    cdef int result = -EINTR
    while result == -EINTR or result == -EAGAIN:
        result = sync(fd, flags)
    return result


cdef int fetch(OwnedFd buffer, unsigned int access) except -1:
    """START, once the fences have signaled: the kernel fetches first and waits then (dma_buf_begin_cpu_access)."""
    cdef unsigned int flags = DMA_BUF_SYNC_START | access
    cdef short events = events_of(access)
    cdef int fd, result
    cdef bint came
    while True:
        fd = fd_of(buffer)
        with nogil:
            came = ready(fd, events)
            result = sync(fd, flags) if came else 0
        if not came:
            wait_one(buffer, events, deadline_of(None))
        elif result == 0:
            return 0
        elif result != -EINTR and result != -EAGAIN:
            raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(flags)} on fd {fd}")
        else:
            PyErr_CheckSignals()
