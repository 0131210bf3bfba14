from linuxsync._native.fd cimport OwnedFd
from uapi cimport DMA_BUF_SYNC_WRITE
from linuxsync._native.wait cimport POLLIN, POLLOUT


cdef class Mapping:
    cdef void *address
    cdef size_t length
    cdef int protection
    cdef bint usable         # from START to END
    cdef Py_ssize_t views
    cdef bint writable(self) noexcept
    cdef bint cut_off(self) noexcept


cdef class Brackets:
    cdef object inode
    cdef object changed      # told when `starting` gets smaller
    cdef int process
    cdef int users           # DmaBufs that have joined it
    cdef int writers         # open accesses that may write
    cdef int starting        # STARTs in the kernel
    cdef int waiting         # threads in drain()
    cdef unsigned int owed   # the ENDs that readers left to the writers
    cdef bint stale(self) noexcept
    cdef void part(self) noexcept
    cdef int begin(self, OwnedFd buffer, int fd, unsigned int access) except -1
    cdef int tell(self) except -1
    cdef int drain(self) except -1
    cdef int end(self, int fd, unsigned int access) noexcept


cdef unsigned int as_access(object access) except 0
cdef int sync(int fd, unsigned int flags) noexcept nogil
cdef str words(unsigned int flags)
cdef Mapping map_all(int fd, size_t length, unsigned int access)
cdef Brackets join(object inode)


cdef inline short events_of(unsigned int access) noexcept nogil:
    """What poll(2) is to wait for: writers wait for readers too (dma_buf_poll)."""
    return POLLOUT if access & DMA_BUF_SYNC_WRITE else POLLIN
