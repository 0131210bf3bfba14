# SPDX-License-Identifier: LGPL-2.1-or-later
"""ddi: DMA_BUF_IOCTL_SYNC in the words of ddi_dma_sync(9F); linuxsync.ddi has the table."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.errno cimport EAGAIN, EINTR, EINVAL

from linuxsync._native.cpu_access cimport Mapping, as_access, events_of, map_all, sync, words
from linuxsync._native.fd cimport OwnedFd, fd_of
from uapi cimport DMA_BUF_SYNC_END, DMA_BUF_SYNC_START
from linuxsync._native.wait cimport deadline_of, ready, wait_one
from xioctl cimport refusal

from operator import index

from linuxsync.errors import RangeError

cdef enum:
    FORDEV, FORCPU, FORKERNEL


cdef dict watches = {}  # what ddi.strict() remembers; as long as there is nothing, syncs need not ask


def share(dict found not None):
    """Have syncs tell their handle about themselves while there is something in `found`."""
    global watches
    watches = found


@cython.auto_pickle(False)
cdef class DmaHandle:
    """What linuxsync.ddi.DmaHandle asks the kernel; that class decides what may be bound, and owns it."""
    cdef readonly OwnedFd _buf  # None while nothing is bound
    cdef readonly long long length
    cdef unsigned int access
    cdef Mapping mapping

    def _publish_and_hold(self, OwnedFd buffer not None, access, long long length):
        """Bind: END, after which the device sees what the CPU has written."""
        self.access = as_access(access)
        publish(buffer, self.access)
        self._buf, self.length = buffer, length

    def _fetch(self):
        """START, after which the CPU sees what the device has written."""
        fetch(self.bound(), self.access)

    def _map(self, access, size_t size):
        """A memoryview of the whole buffer, until _drop."""
        cdef Mapping mapping = map_all(fd_of(self.bound()), size, as_access(access))
        mapping.usable = True
        self.mapping = mapping
        return memoryview(mapping)

    def _drop(self):
        """Unbound. 0 if nobody has a view of the memory; 1 if they see zeros from now on; 2 if it could not be undone."""
        cdef Mapping mapping = self.mapping
        self._buf, self.length, self.mapping = None, 0, None
        if mapping is None:
            return 0
        mapping.usable = False
        return 0 if not mapping.views else 1 if mapping.cut_off() else 2

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}")

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
            CoherenceError: under ``strict()``, it would throw away what the other side has written, or FORCPU comes
                before the device has ended; nothing was synced.

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
        if watches:
            self._before(kind, start, count)
        if kind == FORDEV:
            publish(buffer, self.access)
        else:
            fetch(buffer, self.access)
        if watches:
            self._after(kind)


cdef long long number(object value) except? -2:
    """An int as C has it; -1 for one that is not within 0 and 2**63, which nothing here is."""
    cdef int too_large = 0
    cdef long long result
    if not isinstance(value, int):
        value = index(value)
    result = PyLong_AsLongLongAndOverflow(value, &too_large)
    return -1 if too_large or result < 0 else result


cdef int publish(OwnedFd buffer, unsigned int access) except -1:
    cdef int result = end(fd_of(buffer), access)
    if result == -EINVAL:  # a udmabuf has no END before its first START, which waits (end_cpu_udmabuf)
        fetch(buffer, access)
        result = end(fd_of(buffer), access)
    if result < 0:
        raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(DMA_BUF_SYNC_END | access)} on fd {fd_of(buffer)}")
    return 0


cdef int end(int fd, unsigned int access) noexcept:
    """END, which waits for nothing, so that a signal's handler runs after it."""
    cdef int result = -EINTR
    with nogil:
        while result == -EINTR or result == -EAGAIN:
            result = sync(fd, DMA_BUF_SYNC_END | access)
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
