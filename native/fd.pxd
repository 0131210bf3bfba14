cdef class OwnedFd:
    cdef int number  # -1 once closed
    cdef bint used           # it has had a descriptor, and gets no second one
    cdef bint quick_to_close # set by a class whose close(2) waits for nothing and frees little: it keeps the GIL
    cdef object __weakref__


cdef inline int fd_of(OwnedFd owner) except -1:
    if owner.number < 0:
        raise ValueError(f"I/O operation on closed {type(owner).__name__}")
    return owner.number


cdef int born(object made) except -1
cdef OwnedFd blank(type cls)
cdef int begin_ownership(OwnedFd owner) except -1
cdef int duplicate(int fd) except -1
cdef void drop(int fd) noexcept nogil
cdef unsigned long long as_unsigned(object value, int bits, str what) except? 0
