# SPDX-License-Identifier: LGPL-2.1-or-later
"""tracefs: what a recording has made there, and its removal.

Python runs the handlers of signals between its instructions, of signals to other threads too, and what they raise would
end a removal halfway. In here none runs. What the removal takes is opened and put down when it begins to be owed, so that
it needs no descriptor and no memory of this process.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EFAULT, EINTR, ENOENT, ENOMEM, errno
from posix.fcntl cimport O_APPEND, O_NONBLOCK, O_RDONLY, O_WRONLY, open
from posix.stat cimport mkdir
from posix.types cimport pid_t
from posix.unistd cimport getpid, rmdir
from posix.unistd cimport read as c_read
from posix.unistd cimport write as c_write

from linuxsync._native.fd cimport drop

from os import fsdecode, strerror

cdef extern from "<fcntl.h>" nogil:
    const int O_CLOEXEC

cdef enum:
    MOST_TRIES = 100


cdef object refused(int error, bytes path):
    return OSError(error, strerror(error), fsdecode(path))


cdef bint passes(int error) noexcept nogil:
    """Whether it may be another answer the next time."""
    return error == ENOMEM or error == EFAULT or error == EINTR


cdef int say(int fd, const char *line, size_t length) noexcept nogil:
    """write(2): 0 or errno."""
    return errno if c_write(fd, line, length) == -1 else 0


cdef int remove_folder(const char *path) noexcept nogil:
    """rmdir(2) of what may be gone: 0 or errno."""
    cdef int error = 0
    for _ in range(MOST_TRIES):
        error = errno if rmdir(path) == -1 else 0
        if not passes(error):
            break
    return 0 if error == ENOENT else error


cdef int remove_probe(int fd, const char *line, size_t length) noexcept nogil:
    """The same for a probe."""
    cdef int error = 0
    for _ in range(MOST_TRIES):
        error = say(fd, line, length)
        if not passes(error):
            break
    return 0 if error == ENOENT else error


def write(bytes path not None, bytes text not None):
    """Write to a control file, in one go as these want it, and neither make nor truncate it.

    To truncate kprobe_events would remove the probes of everybody.

    Raises:
        OSError: what the kernel says; EINTR is tried again, after Python's signal handlers; what those raise is let
            through.

    Threads: any; lets go of the GIL.
    """
    cdef const char *c_path = path
    cdef const char *c_text = text
    cdef size_t length = len(text)
    cdef int error
    cdef int fd = open(c_path, O_WRONLY | O_APPEND | O_CLOEXEC)
    if fd == -1:
        raise refused(errno, path)
    try:
        while True:
            with nogil:
                error = say(fd, c_text, length)
            if error != EINTR:
                break
            PyErr_CheckSignals()
    finally:
        drop(fd)
    if error:
        raise refused(error, path)


cdef class Holding:
    """A trace instance, what is open of its buffer, and probes; and the duty to remove all that.

    An object that is forgotten does so too. A forked child only closes what it has inherited.

    Args:
        path: of the instance, which ``make`` makes.
        control: of kprobe_events, if there is one.
    Raises:
        OSError: what the kernel says.

    Threads: any may read while another closes.
    """
    cdef bytes path
    cdef bytes control
    cdef list pipes  # descriptors
    cdef list undo   # lines for kprobe_events
    cdef int events  # kprobe_events; -1, the kernel has none
    cdef pid_t owner
    cdef bint there  # the instance
    cdef bint over

    def __cinit__(self):
        self.pipes = []
        self.undo = []
        self.events = -1

    def __init__(self, bytes path not None, bytes control not None):
        if self.path is not None:
            raise ValueError("it has a path already")
        self.path, self.control, self.owner = path, control, getpid()
        self.events = open(<const char *>control, O_WRONLY | O_APPEND | O_CLOEXEC)
        if self.events == -1 and errno != ENOENT:
            raise refused(errno, control)

    def make(self):
        """Make the instance."""
        cdef const char *c_path
        cdef int error
        if self.over or self.there or self.path is None:
            raise ValueError("an instance is made once")
        c_path = self.path
        with nogil:
            error = errno if mkdir(c_path, 0o777) == -1 else 0
            self.there = error == 0
        if error:
            raise refused(error, self.path)

    def add_probe(self, bytes line not None, bytes undo not None):
        """Write a line to kprobe_events, and one that undoes it in the end."""
        cdef const char *c_line = line
        cdef size_t length = len(line)
        cdef int error
        self.ask_open()
        if self.events == -1:
            raise refused(ENOENT, self.control)
        self.undo.append(undo)  # before it is owed: what is not there need not be removed
        with nogil:
            error = say(self.events, c_line, length)
        if error:
            raise refused(error, self.control)

    def open(self, bytes path not None):
        """Open a file of the buffer, trace_pipe_raw, and return its number for ``read``."""
        cdef int fd
        self.ask_open()
        fd = open(<const char *>path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        if fd == -1:
            raise refused(errno, path)
        try:
            self.pipes.append(fd)
        except BaseException:
            drop(fd)
            raise
        return len(self.pipes) - 1

    def read(self, Py_ssize_t number, Py_ssize_t size):
        """Return what one of these files has now, at most ``size`` bytes; b"" if there is nothing.

        It keeps the GIL, so that nobody closes the file meanwhile: it waits for nothing.
        """
        cdef bytes page
        cdef Py_ssize_t got
        self.ask_open()
        if size < 0:
            raise ValueError(f"no page has {size} bytes")
        page = PyBytes_FromStringAndSize(NULL, size)
        got = c_read(self.pipes[number], PyBytes_AS_STRING(page), size)
        if got == -1 and errno != EAGAIN:
            raise refused(errno, self.path)
        return page if got == size else page[:max(got, 0)]

    cdef int ask_open(self) except -1:
        if self.over or not self.there:
            raise ValueError("there is no instance")
        return 0

    def close(self):
        """Remove all of it, as far as the kernel allows; a second call does nothing.

        Raises:
            OSError: EBUSY, somebody else uses the instance or a probe; the rest is gone. Of several the first.
        """
        cdef const char *c_path
        cdef const char *c_line
        cdef bytes line
        cdef bytes failed = None
        cdef size_t length
        cdef int error, first = 0
        if self.over:
            return
        self.over = True
        for fd in self.pipes:  # an instance of which one is open stays
            drop(fd)
        self.pipes.clear()
        if getpid() == self.owner:
            if self.there:
                c_path = self.path
                with nogil:
                    first = remove_folder(c_path)
                failed = self.path
            for line in self.undo:
                c_line = line
                length = len(line)
                with nogil:
                    error = remove_probe(self.events, c_line, length)
                if error and not first:
                    first, failed = error, self.control
        if self.events >= 0:
            drop(self.events)
            self.events = -1
        if first:
            raise refused(first, failed)

    def __del__(self):
        self.close()
