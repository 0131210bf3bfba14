# SPDX-License-Identifier: LGPL-2.1-or-later
# cython: nonecheck=True
"""pidfd: another process's descriptors, looked at and left as they are (pidfd_getfd(2), kcmp(2))."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EBADF, EINTR, ENOTTY, ESRCH, errno
from libc.string cimport memcmp, memset

from linuxsync._native.fd cimport OwnedFd, drop, fd_of
from linuxsync._native.processes cimport Descriptor, HeldSyncFile, held
from linuxsync._native.sync_file cimport snapshot
from linuxsync._native.wait cimport now
from uapi cimport SW_SYNC_IOC_CREATE_FENCE, SYS_pidfd_getfd, SYS_pidfd_open, sw_sync_create_fence_data
from xioctl cimport refusal, try_ioctl

from os import fstat
from os.path import samestat

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_kcmp

cdef extern from "<linux/kcmp.h>" nogil:
    const int KCMP_EPOLL_TFD, KCMP_FILE
    struct kcmp_epoll_slot:
        unsigned int efd, tfd, toff

cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags)
    const int O_CLOEXEC, O_NOFOLLOW, O_PATH

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    Py_ssize_t readlinkat(int folder, const char *name, char *target, size_t size)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *pattern, ...)


cdef class PidFd(OwnedFd):
    """What linuxsync.inspect.PidFd does through the kernel."""

    def _getfd(self, int fd):
        return take(fd_of(self), fd)

    def timeline(self, int fd, place):
        """Return what a fence of a sw_sync timeline of the process says (SyncFileInfo), which names the timeline.

        The kernel has no request that asks a timeline who it is, but to have it make a fence. This one is at 0, where a
        timeline begins, so it has signaled already; it is closed again, and neither value nor waiters notice.

        Args:
            fd: its number there.
            place: os.stat_result of the file through which timelines are opened; the same request may mean anything to
                another file.
        Raises:
            ValueError: closed.
            OSError: EBADF, the process has no such descriptor (any more); EPERM, see ``get``; ESRCH, it has ended;
                ENOTTY, it is no sw_sync file; EMFILE; ENOMEM.

        Mirrors pidfd_getfd(2), SW_SYNC_IOC_CREATE_FENCE and SYNC_IOC_FILE_INFO.
        """
        cdef int ours = take(fd_of(self), fd)
        cdef sw_sync_create_fence_data data
        cdef int result
        memset(&data, 0, sizeof(data))
        try:
            if not samestat(fstat(ours), place):
                raise refusal(ENOTTY, f"fd {fd} is not of sw_sync")
            result = try_ioctl(ours, SW_SYNC_IOC_CREATE_FENCE, &data)
            if result < 0:
                raise refusal(-result, f"SW_SYNC_IOC_CREATE_FENCE on fd {fd}")
            try:
                return snapshot(data.fence)
            finally:
                drop(data.fence)
        finally:
            drop(ours)

    def fences(self, list descriptors not None):
        """Return a HeldSyncFile for each Descriptor of the process that is one of a sync_file, still.

        One is left out if it was closed, if its number was given to something else, or if the process has ended. Each is
        asked through a duplicate that is closed again; no more than one is open at a time.

        Raises:
            ValueError: closed.
            OSError: EPERM, see ``get``; EMFILE; ENOMEM; ENOSYS.

        Mirrors pidfd_getfd(2) and SYNC_IOC_FILE_INFO, which enables no signaling.
        """
        cdef int pidfd = fd_of(self)
        cdef int ours
        cdef Descriptor one
        cdef HeldSyncFile made
        cdef OurFds own = OurFds()
        cdef list found = []
        cdef long long looked_ns
        for one in descriptors:
            PyErr_CheckSignals()  # there may be 100,000 of them
            ours = try_take(pidfd, one.fd)
            if ours == -EBADF or ours == -ESRCH:
                continue
            if ours < 0:
                raise no_duplicate(-ours, one.fd)
            try:
                if own.is_sync_file(ours):
                    found.append(held(snapshot(ours), one))
            finally:
                drop(ours)
        looked_ns = now()  # after the last one was asked, so that none has signaled later
        for made in found:
            made.looked_ns = looked_ns
        return found


@cython.internal
cdef class OurFds:
    """/proc/self/fd, to be asked what a duplicate is.

    The number of a descriptor may have come to mean something else, and not every driver refuses requests that are not
    for it; so each is looked at before it is asked. Mostly they all get one number here, whose link is kept open:
    finding it takes longer than reading it.
    """
    cdef int link, number

    def __cinit__(self):
        self.link = self.number = -1

    def __dealloc__(self):
        self.forget()

    cdef void forget(self) noexcept:
        if self.link != -1:
            drop(self.link)
            self.link = -1

    cdef bint is_sync_file(self, int fd) except -1:
        """By its link, which nothing else has."""
        cdef char text[32]
        cdef Py_ssize_t length
        if fd != self.number:
            self.forget()
            snprintf(text, sizeof(text), b"/proc/self/fd/%d", fd)
            self.link = open(text, O_PATH | O_NOFOLLOW | O_CLOEXEC)
            if self.link == -1:
                raise refusal(errno, text.decode())
            self.number = fd
        length = readlinkat(self.link, b"", text, sizeof(text))
        if length == -1:
            raise refusal(errno, f"readlink of /proc/self/fd/{fd}")
        return length == 20 and memcmp(text, b"anon_inode:sync_file", 20) == 0


def open_pid(int pid):
    """pidfd_open(2): the descriptor (int) is the caller's."""
    cdef long result = syscall(SYS_pidfd_open, pid, 0)
    if result == -1:
        raise refusal(errno, f"pidfd_open({pid})")
    return result


cdef int try_take(int pidfd, int fd) except -65536:  # below every -errno
    """What pidfd_getfd(2) answered: a descriptor of ours, or -errno. Raises only what a signal handler raises."""
    cdef long result
    while True:
        result = syscall(SYS_pidfd_getfd, pidfd, fd, 0)
        if result != -1:
            return <int>result
        if errno != EINTR:
            return -errno
        PyErr_CheckSignals()


cdef int take(int pidfd, int fd) except -1:
    cdef int result = try_take(pidfd, fd)
    if result < 0:
        raise no_duplicate(-result, fd)
    return result


cdef object no_duplicate(int error, int fd):
    return refusal(error, f"pidfd_getfd of fd {fd}")


def compare_to_epoll(int pid, int fd, int epoll, int target):
    """Return 0 if a descriptor is the file that an epoll of the same process has under the number `target`.

    Raises:
        OSError: EBADF, no such descriptor; ENOENT, the epoll has no such number; EINVAL, it is no epoll; EPERM; ESRCH;
            ENOSYS.

    Mirrors kcmp(2) with KCMP_EPOLL_TFD.
    """
    cdef kcmp_epoll_slot slot
    cdef long result
    slot.efd, slot.tfd, slot.toff = epoll, target, 0
    result = syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, <unsigned long>fd, &slot)
    if result == -1:
        raise refusal(errno, f"kcmp of fd {fd} and epoll {epoll} of process {pid}")
    return result


def compare_files(int pid1, int fd1, int pid2, int fd2):
    """Return 0 if two descriptors are one open file, else 1 or 2 for an order among open files that holds until boot.

    Raises:
        OSError: EBADF, no such descriptor; EPERM; ESRCH; ENOSYS, the kernel lacks kcmp (CONFIG_KCMP).

    Mirrors kcmp(2) with KCMP_FILE.
    """
    cdef long result = syscall(SYS_kcmp, pid1, pid2, KCMP_FILE, <unsigned long>fd1, <unsigned long>fd2)
    if result == -1:
        raise refusal(errno, f"kcmp of fd {fd1} of process {pid1} and fd {fd2} of process {pid2}")
    return result
