# SPDX-License-Identifier: LGPL-2.1-or-later
"""pidfd: another process's descriptors, looked at and left as they are (pidfd_getfd(2), kcmp(2), /proc/PID/fd)."""

from libc.errno cimport EINTR, ENOTTY, errno
from libc.string cimport memcmp, memset, strlen

from linuxsync._native.fd cimport OwnedFd, drop, fd_of
from linuxsync._native.sync_file cimport snapshot
from uapi cimport SW_SYNC_IOC_CREATE_FENCE, sw_sync_create_fence_data
from xioctl cimport refusal, try_ioctl

from os import fstat
from os.path import samestat

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_kcmp, SYS_pidfd_getfd, SYS_pidfd_open

cdef extern from "<linux/kcmp.h>" nogil:
    const int KCMP_FILE

cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags)
    const int O_CLOEXEC, O_DIRECTORY, O_RDONLY

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    Py_ssize_t readlinkat(int folder, const char *name, char *target, size_t size)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR
    struct dirent:
        char d_name[256]
    DIR *fdopendir(int fd)
    dirent *readdir(DIR *folder)
    int closedir(DIR *folder)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *pattern, ...)

cdef extern from "<stdlib.h>" nogil:
    long strtol(const char *text, char **end, int base)

cdef enum:
    LONGEST = 4096  # bytes of a link that are looked at

# Beginnings of the links that are about fences or buffers. sw_sync's is where debugfs is mounted, so it is known by its end.
cdef const char **BEGINNINGS = [b"anon_inode:sync", b"/dmabuf:", b"/dev/dri/", b"/dev/fencedev"]
cdef const char *SW_SYNC = b"/sync/sw_sync"


cdef class PidFd(OwnedFd):
    """What linuxsync.inspect.PidFd does through the kernel."""

    def _getfd(self, int fd):
        return take(fd_of(self), fd)

    def fence(self, int fd):
        """Return what a sync_file of the process says (SyncFileInfo), through a duplicate that is closed again.

        Raises:
            ValueError: closed.
            OSError: EBADF, the process has no such descriptor (any more); EPERM, see ``get``; ESRCH, it has ended;
                ENOTTY, it is no sync_file; EMFILE.

        Mirrors pidfd_getfd(2) and SYNC_IOC_FILE_INFO, which enables no signaling.
        """
        cdef int ours = take(fd_of(self), fd)
        try:
            # The number may have come to mean something else. Not every driver refuses requests that are not for it.
            if not is_sync_file(ours):
                raise refusal(ENOTTY, f"fd {fd} is not a sync_file")
            return snapshot(ours)
        finally:
            drop(ours)

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


def open_pid(int pid):
    """pidfd_open(2): the descriptor (int) is the caller's."""
    cdef long result = syscall(SYS_pidfd_open, pid, 0)
    if result == -1:
        raise refusal(errno, f"pidfd_open({pid})")
    return result


cdef int take(int pidfd, int fd) except -1:
    cdef long result = -1
    while result == -1:
        result = syscall(SYS_pidfd_getfd, pidfd, fd, 0)
        if result == -1 and errno != EINTR:
            raise refusal(errno, f"pidfd_getfd of fd {fd}")
    return <int>result


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


def descriptors(int pid):
    """Return the descriptors of a process that are about fences or buffers: a list of (int, bytes), number and link.

    One that is closed meanwhile is left out.

    Raises:
        OSError: EACCES, it is not ours to look at; ENOENT, there is no such process (any more); EMFILE; ENOMEM.

    Mirrors readdir(3) and readlink(2) of /proc/PID/fd. Threads: keeps the GIL, it waits for nothing.
    """
    cdef bytes path = b"/proc/%d/fd" % pid
    cdef char target[LONGEST]
    cdef Py_ssize_t length
    cdef dirent *entry
    cdef DIR *folder = NULL
    cdef char *end
    cdef long number
    cdef int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    cdef list found = []
    if fd != -1:
        folder = fdopendir(fd)
        if folder is NULL:
            drop(fd)
    if folder is NULL:
        raise refusal(errno, path.decode())
    try:
        while True:
            entry = readdir(folder)
            if entry is NULL:
                return found
            number = strtol(entry.d_name, &end, 10)
            if end[0] != 0 or end == entry.d_name:
                continue
            length = readlinkat(fd, entry.d_name, target, LONGEST)
            if length > 0 and matters(target, length):
                found.append((number, target[:length]))
    finally:
        closedir(folder)


cdef bint is_sync_file(int fd) noexcept:
    """By its link, which nothing else has."""
    cdef char path[32]
    cdef char target[32]
    snprintf(path, sizeof(path), b"/proc/self/fd/%d", fd)
    return readlinkat(-1, path, target, sizeof(target)) == 20 and memcmp(target, b"anon_inode:sync_file", 20) == 0


cdef bint matters(const char *target, Py_ssize_t length) noexcept:
    cdef Py_ssize_t size
    for beginning in BEGINNINGS[:4]:
        size = strlen(beginning)
        if length >= size and memcmp(target, beginning, size) == 0:
            return True
    size = strlen(SW_SYNC)
    return length >= size and memcmp(target + length - size, SW_SYNC, size) == 0
