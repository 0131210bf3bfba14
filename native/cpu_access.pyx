# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an access of the CPU to a dma-buf is made of: a mapping that can be taken away, and START and END.

Nothing here owns a descriptor; dma_buf.pyx does.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongAndOverflow
from libc.errno cimport EAGAIN, EINTR, errno

from linuxsync._native.fd cimport OwnedFd, as_unsigned
from linuxsync._native.wait cimport deadline_of, wait_one
from uapi cimport (
    DMA_BUF_IOCTL_SYNC,
    DMA_BUF_SYNC_END,
    DMA_BUF_SYNC_READ,
    DMA_BUF_SYNC_START,
    DMA_BUF_SYNC_WRITE,
    dma_buf_sync,
)
from xioctl cimport ioctl, refusal

from os import register_at_fork
from threading import Condition

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long long offset)
    int munmap(void *address, size_t length)
    const int MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
    void *MAP_FAILED

cdef dict shared = {}  # inode number -> Brackets: one for each buffer that has been accessed, whatever its descriptors
cdef int process = 0   # how many forks ago the first ancestor of this process imported the module


def _after_fork():
    # The parent's brackets are its threads', of which only one is left here; what is opened from now on starts anew.
    global process
    process += 1
    shared.clear()


register_at_fork(after_in_child=_after_fork)


cdef unsigned int as_access(object access) except 0:
    cdef int too_large = 0
    cdef long value
    if isinstance(access, int):
        value = PyLong_AsLongAndOverflow(access, &too_large)
    else:
        value = <long>as_unsigned(access, 32, "access")
    if too_large or value <= 0 or value > (DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE):
        raise ValueError(f"access must be Access.READ, WRITE or RW, not {access!r}")
    return <unsigned int>value


cdef int sync(int fd, unsigned int flags) noexcept nogil:
    """DMA_BUF_IOCTL_SYNC, asked once: 0 or -errno."""
    cdef dma_buf_sync data
    data.flags = flags
    return -errno if ioctl(fd, DMA_BUF_IOCTL_SYNC, &data) == -1 else 0


cdef str words(unsigned int flags):
    return ("END|" if flags & DMA_BUF_SYNC_END else "START|") + (None, "READ", "WRITE", "RW")[flags & 3]


@cython.final
cdef class Mapping:
    """A whole buffer in this process's memory. It stays mapped for as long as anybody has a view of it."""
    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.usable:
            raise BufferError("the CPU access is over")
        if flags & PyBUF_WRITABLE and not self.writable():
            raise BufferError("the CPU access is for reading only")
        # Not PyBuffer_FillInfo, which would overwrite the None that Cython has put into view.obj and never give it back.
        view.obj = self
        view.buf = self.address
        view.len = self.length
        view.itemsize = 1
        view.readonly = not self.writable()
        view.format = <char *>b"B" if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = &view.len if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    cdef bint writable(self) noexcept:
        return self.protection & PROT_WRITE != 0

    cdef bint cut_off(self) noexcept:
        """Put private zero pages where the buffer was: whoever still has a view neither reaches it nor dies of a fault.

        False if it was refused (strict overcommit): then the buffer stays.
        """
        cdef int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        cdef void *there
        with nogil:
            there = mmap(self.address, self.length, self.protection, flags, -1, 0)  # at no moment without memory
        return there != MAP_FAILED

    def __dealloc__(self):
        if self.address is not NULL:
            with nogil:
                munmap(self.address, self.length)


cdef Mapping map_all(int fd, size_t length, unsigned int access):
    cdef Mapping made = Mapping.__new__(Mapping)
    cdef int protection = PROT_READ | PROT_WRITE if access & DMA_BUF_SYNC_WRITE else PROT_READ
    cdef void *address
    cdef int error
    with nogil:
        address = mmap(NULL, length, protection, MAP_SHARED, fd, 0)
        error = errno
    if address == MAP_FAILED:
        raise refusal(error, f"mmap of dma-buf fd {fd}, {length} bytes")
    made.address, made.length, made.protection = address, length, protection
    return made


@cython.final
cdef class Brackets:
    """The CPU accesses that are open on one buffer, so that one START does not undo what another access has written.

    Where caches do not keep themselves coherent (and under swiotlb), START|READ throws away what the CPU wrote since
    the last END|WRITE. So no START is issued while somebody may write, and nobody gets to write while a START is under
    way. The numbers change under the GIL only.
    """
    cdef bint stale(self) noexcept:
        """Whether it is the parent's, from before a fork."""
        return self.process != process

    cdef void part(self) noexcept:
        """Undo join()."""
        self.users -= 1
        if self.users == 0 and not self.stale():
            shared.pop(self.inode, None)

    cdef int begin(self, OwnedFd buffer, int fd, unsigned int access) except -1:
        """Open an access: wait for the fences, then START, unless a writer's START covers it.

        START waits too, but the exporter fetches what devices wrote before that (``dma_buf_begin_cpu_access``): what is
        written in the meantime would be missed. And others wait for a START that is under way, though not for a fence.
        Who writes reads too, as far as START goes: a reader that joins him could not have what devices wrote fetched.
        """
        cdef unsigned int flags = DMA_BUF_SYNC_START | access
        cdef int result
        if access & DMA_BUF_SYNC_WRITE:
            flags |= DMA_BUF_SYNC_READ
        wait_one(buffer, events_of(access), deadline_of(None))
        while not self.writers:
            self.starting += 1
            with nogil:
                result = sync(fd, flags)
            self.starting -= 1
            if self.waiting:
                self.tell()
            if result == 0:
                break
            if result != -EINTR and result != -EAGAIN:
                raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(flags)} on fd {fd}")
            PyErr_CheckSignals()  # outside of `starting`: a handler may open an access of its own
        if access & DMA_BUF_SYNC_WRITE:
            self.writers += 1
            if self.starting:
                try:
                    self.drain()
                except BaseException:
                    self.end(fd, access)
                    raise
        return 0

    cdef int tell(self) except -1:
        """Wake those in drain(), whatever the handler of a signal raises."""
        try:
            with self.changed:
                self.changed.notify_all()
        except BaseException:
            with self.changed:
                self.changed.notify_all()
            raise
        return 0

    cdef int drain(self) except -1:
        """Wait until no START is under way. Whoever issued one after ours had waited for the fences before."""
        self.waiting += 1
        try:
            with self.changed:
                while self.starting:
                    self.changed.wait()
        finally:
            self.waiting -= 1
        return 0

    cdef int end(self, int fd, unsigned int access) noexcept:
        """Close an access that is open: END in the direction of its START. 0 or -errno; it is closed in any case."""
        cdef unsigned int flags = access
        cdef int result = -EINTR
        if self.writers and not access & DMA_BUF_SYNC_WRITE:
            self.owed |= access  # END|READ may drop cache lines that a writer has not published
            return 0
        if self.writers <= 1:
            flags |= self.owed
            self.owed = 0
        with nogil:
            while result == -EINTR or result == -EAGAIN:  # END waits for nothing; a handler runs after it
                result = sync(fd, DMA_BUF_SYNC_END | flags)
        # Not before the END: until then a START would undo what was written.
        if access & DMA_BUF_SYNC_WRITE:
            self.writers -= 1
        return result


cdef Brackets join(object inode):
    """The one Brackets of the buffer of that inode number in this process; to be given back with part()."""
    cdef Brackets made = Brackets.__new__(Brackets)
    made.changed = Condition()
    made.process = process
    made.inode = inode
    # From here on no Python code runs, so no other thread comes in between.
    made = shared.setdefault(inode, made)
    made.users += 1
    return made
