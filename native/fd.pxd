cdef class OwnedFd:
    cdef int number  # -1 once closed
    cdef object __weakref__


cdef inline int fd_of(OwnedFd owner) except -1:
    if owner.number < 0:
        raise ValueError(f"I/O operation on closed {type(owner).__name__}")
    return owner.number


cdef object adopt(type cls, int fd)
cdef void drop(int fd) noexcept nogil
cdef int as_int(object value, str what) except? -1
