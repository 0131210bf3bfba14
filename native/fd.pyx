# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ownership of one file descriptor; the only close(2) and the only dup in the project."""

from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.errno cimport EINTR, errno

from xioctl cimport refusal

from operator import index
from warnings import warn

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int faccessat(int directory, const char *path, int mode, int flags)

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int cmd, ...)
    const int F_DUPFD_CLOEXEC
    const int F_GETFD
    const int AT_FDCWD
    const int AT_EACCESS

cdef tuple no_arguments = ()
cdef object watcher_of_births = None


def watch_births(watcher):
    """Have a function told of each object that is about to own a descriptor, or a handle; return the one before.

    For those who look for leaks: it can note which line makes the object. It is called in that line's thread, before
    the kernel gives anything out, so that nothing is lost when it raises. Only one is called.

    Args:
        watcher: takes the object, which has nothing yet; None ends it.
    """
    global watcher_of_births
    before, watcher_of_births = watcher_of_births, watcher
    return before


def check_access(path, int mode):
    """Ask whether this process may open a file: faccessat(2), by the effective ids.

    Args:
        path: as os.fsencode takes it.
        mode: os.R_OK, os.W_OK, os.X_OK, or several.
    Raises:
        OSError: whatever the answer is, which os.access() makes a plain no of.
    """
    from os import fsencode, strerror
    cdef bytes name = fsencode(path)
    if faccessat(AT_FDCWD, name, mode, AT_EACCESS) < 0:
        error = errno
        raise OSError(error, strerror(error), path)


cdef int born(object made) except -1:
    """Tell who watches."""
    if watcher_of_births is not None:
        watcher_of_births(made)
    return 0


cdef OwnedFd blank(type cls):
    """An instance of `cls` without a descriptor, made past __init__.

    Made before the call that hands out a descriptor, so that once there is one nothing can fail any more.
    """
    made = (<PyTypeObject *>cls).tp_new(cls, <PyObject *>no_arguments, NULL)
    # A subclass may have a __new__ of its own, which makes something else or finds something that is in use.
    if not isinstance(made, OwnedFd) or (<OwnedFd>made).number >= 0:
        raise TypeError(f"{cls.__name__}.__new__ did not make a new {cls.__name__}")
    born(made)
    (<OwnedFd>made).used = True
    return <OwnedFd>made


cdef void drop(int fd) noexcept nogil:
    """Close a descriptor that no object owns yet."""
    c_close(fd)


cdef int shut(int fd, bint quick) noexcept:
    """close(2): 0 or errno. The last reference may have much to free, or wait: of a screen, for the flip under way."""
    cdef int error = 0
    if not quick:
        with nogil:
            if c_close(fd) == -1:
                error = errno
    elif c_close(fd) == -1:
        error = errno
    return error


cdef unsigned long long as_unsigned(object value, int bits, str what) except? 0:
    """An int of so many bits (at most 64); ValueError for one that does not fit, TypeError for what is none."""
    number = index(value)  # left to itself, Cython takes 1.5 for 1
    if not 0 <= number < (<object>1) << bits:
        raise ValueError(f"{what} must be between 0 and 2**{bits} - 1, not {number}")
    return number


cdef class OwnedFd:
    """One open file descriptor and the duty to close it.

    The base of everything here that is a descriptor. Use it with ``with``; an object that is forgotten closes its
    descriptor and warns (ResourceWarning), as files do.

    Args:
        fd: an open descriptor (int >= 0). It belongs to the object from here on; if the constructor raises, it is
            still the caller's. To keep yours, use ``from_fd``.
    Raises:
        TypeError, ValueError: ``fd`` is not an int, is negative or is larger than a C int.
        OSError: EBADF, it is not open; ENOTTY, it is not the kind of file that the class is for.

    Threads: any method may be called from many threads as long as none closes the object. After a fork both
    processes own a descriptor of the same open file. Objects can't be pickled: send the descriptor with
    ``socket.send_fds``, receive it with ``recv_fds(..., flags=socket.MSG_CMSG_CLOEXEC)``, lest programs that you start
    inherit it, and give it to the constructor.
    """

    def __cinit__(self):
        self.number = -1

    def __init__(self, fd):
        cdef int number = <int>as_unsigned(fd, 31, "a file descriptor")
        begin_ownership(self)
        if fcntl(number, F_GETFD) == -1:
            raise refusal(errno, f"{type(self).__name__}({number})")
        self.number = number
        try:
            self._check()
        except BaseException:
            self.number = -1  # it stays the caller's
            raise
        self.used = True

    def _check(self):
        """Ask the kernel whether the file is of this kind; a subclass raises OSError(ENOTTY) where it is not."""

    def _take(self, make, *arguments):
        """Own the descriptor that ``make(*arguments)`` returns, ``make`` being a function in C such as os.open.

        In Python, the handler of a signal can raise between such a call and what is done with its result, and then the
        descriptor is lost. Here it can't.
        """
        begin_ownership(self)
        self.number = make(*arguments)
        self.used = True
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @classmethod
    def _taking(cls, make, *arguments):
        """Return an object that owns what ``make(*arguments)`` returns; see ``_take``."""
        made = (<PyTypeObject *>cls).tp_new(cls, <PyObject *>no_arguments, NULL)
        (<OwnedFd?>made)._take(make, *arguments)
        return made

    @classmethod
    def _given(cls, make, *arguments):
        """Return an object that owns what ``make(*arguments)`` returns, and that is as it must be: the kernel made it.

        For what can't be undone: that a file is asked what it is may fail, when all has been done already.
        """
        made = (<PyTypeObject *>cls).tp_new(cls, <PyObject *>no_arguments, NULL)
        begin_ownership(<OwnedFd?>made)
        (<OwnedFd>made).number = make(*arguments)
        (<OwnedFd>made).used = True
        return made

    @classmethod
    def from_fd(cls, fd):
        """Return an object that owns a duplicate (close-on-exec) of ``fd``, which stays the caller's.

        Args:
            fd: an open descriptor (int >= 0) or an object with ``fileno()``.
        Raises:
            TypeError, ValueError: ``fd`` is no descriptor number.
            OSError: EBADF, it is not open; EMFILE; ENOTTY, it is not the kind of file that the class is for.

        Mirrors fcntl(2) F_DUPFD_CLOEXEC.
        """
        cdef int number = <int>as_unsigned(fd.fileno() if hasattr(fd, "fileno") else fd, 31, "a file descriptor")
        cdef OwnedFd made = blank(cls)
        made.number = duplicate(number)
        try:
            made._check()
        except BaseException:
            made.close()
            raise
        return made

    def fileno(self):
        """Return the descriptor (int >= 0), which stays the object's. ValueError once it is closed."""
        return fd_of(self)

    @property
    def closed(self):
        """Whether the descriptor has been closed or detached."""
        return self.number < 0

    def close(self):
        """Close the descriptor; a second call does nothing.

        Raises:
            OSError: EIO, ENOSPC or EDQUOT; the descriptor is gone all the same.

        Mirrors close(2).
        """
        cdef int number = self.number
        cdef int error
        if number < 0:
            return
        self.number = -1
        error = shut(number, self.quick_to_close)
        # EINTR too means that Linux has closed it, so there is nothing to try again.
        if error and error != EINTR:
            raise refusal(error, f"close({number})")

    def detach(self):
        """Give the descriptor (int) to the caller, who closes it; the object is closed from here on.

        Raises:
            ValueError: closed.
        """
        cdef int number = fd_of(self)
        self.number = -1
        return number

    def dup(self):
        """Return a second object of the same class on the same open file.

        Raises:
            ValueError: closed.
            OSError: EMFILE, this process has no free descriptor.

        Mirrors fcntl(2) F_DUPFD_CLOEXEC.
        """
        cdef OwnedFd made = blank(type(self))
        made.number = duplicate(fd_of(self))
        return made

    def __enter__(self):
        fd_of(self)
        return self

    def __exit__(self, kind, value, traceback):
        self.close()

    def __del__(self):
        cdef int number = self.number
        if number < 0:
            return
        try:
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self.number = -1
            shut(number, self.quick_to_close)

    def __repr__(self):
        return f"<closed {type(self).__name__}>" if self.number < 0 else f"{type(self).__name__}({self.number})"

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}: use dup(), or socket.send_fds to another process")


cdef int begin_ownership(OwnedFd owner) except -1:
    if owner.number >= 0:
        raise ValueError(f"{owner!r} already owns a file descriptor")
    if owner.used:
        raise ValueError(f"{owner!r} can't be opened again: make another")
    return born(owner)


cdef int duplicate(int fd) except -1:
    cdef int number = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if number == -1:
        raise refusal(errno, f"dup of fd {fd}")
    return number
