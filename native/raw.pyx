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
