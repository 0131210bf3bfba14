# SPDX-License-Identifier: LGPL-2.1-or-later
"""ioctl(2) for structs that ctypes declares, of objects whose calls are too rare to be worth a module in C."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from xioctl cimport refusal, try_blocking_ioctl


def ioctl(int fd, unsigned long request, data, str name not None):
    """Issue one ioctl; ``data`` is a writable buffer that the kernel reads and fills (a ctypes.Structure).

    Returns:
        What ioctl(2) returned (int >= 0).
    Raises:
        OSError: whatever the kernel answers, with the request's name and the descriptor in the message. EINTR and EAGAIN
            are tried again, after Python's signal handlers; what those raise is let through.

    Threads: lets go of the GIL; the buffer must not be resized meanwhile, which holding it prevents.
    """
    cdef Py_buffer view
    cdef int result
    PyObject_GetBuffer(data, &view, PyBUF_WRITABLE)
    try:
        result = try_blocking_ioctl(fd, request, view.buf)
    finally:
        PyBuffer_Release(&view)
    if result < 0:
        raise refusal(-result, f"{name} on fd {fd}")
    return result


def ask(int fd, unsigned long request, data, str name not None, answer):
    """Issue one ioctl that fills in a number, and return that.

    Args:
        answer: a writable buffer of 4 bytes to which the kernel writes it (an int, as descriptors and ids are), in
            ``data`` as a rule (``c_int32.from_buffer(data, offset)``).
        Otherwise, and Raises: as ``ioctl``.

    Called by ``OwnedFd._take`` there is no moment in which only a local variable knows the number.
    """
    cdef Py_buffer view
    cdef int number
    PyObject_GetBuffer(answer, &view, PyBUF_WRITABLE)
    try:
        if view.len != sizeof(int):
            raise ValueError(f"an answer has {sizeof(int)} bytes, not {view.len}")
        ioctl(fd, request, data, name)
        number = (<int *>view.buf)[0]
    finally:
        PyBuffer_Release(&view)
    return number
