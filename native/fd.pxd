cdef class OwnedFd:
    cdef int number  # -1 once closed
    cdef bint slow_to_close  # set by a class whose close(2) may free much: it lets go of the GIL
    cdef object __weakref__


cdef inline int fd_of(OwnedFd owner) except -1:
    if owner.number < 0:
        raise ValueError(f"I/O operation on closed {type(owner).__name__}")
    return owner.number


cdef OwnedFd blank(type cls)
cdef void drop(int fd) noexcept nogil
cdef unsigned long long as_unsigned(object value, int bits, str what) except? 0
