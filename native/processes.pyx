# SPDX-License-Identifier: LGPL-2.1-or-later
# cython: nonecheck=True
"""processes: what /proc/PID/fd tells, an object for each descriptor: a machine may have 100,000 of them."""

cimport cython
from libc cimport errno as c_errno
from libc.errno cimport EFAULT, ENOENT, ENOMEM, errno
from libc.string cimport memcmp, strlen

from linuxsync._native.fd cimport drop
from linuxsync._native.sync_file cimport FenceInfo, SyncFileInfo
from xioctl cimport refusal

from enum import Enum

cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags)
    const int O_CLOEXEC, O_DIRECTORY, O_RDONLY

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t read(int fd, void *buffer, size_t size)
    Py_ssize_t readlinkat(int folder, const char *name, char *target, size_t size)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR
    struct dirent:
        char d_name[256]
    DIR *fdopendir(int fd)
    dirent *readdir(DIR *folder)
    int closedir(DIR *folder)

cdef extern from "<sys/stat.h>" nogil:
    struct c_stat "stat":
        unsigned int st_uid
    int stat(const char *path, c_stat *about)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *pattern, ...)

cdef extern from "<stdlib.h>" nogil:
    long strtol(const char *text, char **end, int base)

cdef extern from "Python.h":
    str PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)

cdef enum:
    LONGEST = 4096  # bytes of a link that are looked at


class Kind(Enum):
    """What a descriptor is, by its link in /proc/PID/fd."""

    SYNC_FILE = "sync_file"
    SYNCOBJ_FILE = "syncobj_file"
    DMA_BUF = "dma_buf"
    DRM = "drm"
    SW_SYNC = "sw_sync"
    FENCEDEV = "fencedev"

    # They are singletons, and what counts them should not have to hash their names.
    __hash__ = object.__hash__


@cython.final
@cython.dataclasses.dataclass(frozen=True)
cdef class Process:
    """A process.

    Attributes:
        pid: its number in our pid namespace (int > 0).
        comm: its name, at most 15 bytes, which it may have chosen itself: whatever bytes (os.fsdecode).
        uid: its user (int >= 0), or 0 for one that may not be dumped.
    """
    pid: cython.int
    comm: str
    uid: cython.uint


@cython.final
@cython.no_gc  # nothing in it can hold one
@cython.freelist(64)
@cython.dataclasses.dataclass(frozen=True)
cdef class Descriptor:
    """A descriptor of a process.

    Attributes:
        process: whose it is.
        fd: its number there (int >= 0).
        kind: what it is.
        link: what /proc/PID/fd says; names in it are whatever bytes (os.fsdecode).
    """
    process: Process
    fd: cython.int
    kind: object
    link: str


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.dataclasses.dataclass(frozen=True)
cdef class HeldSyncFile:
    """A sync_file and who holds it.

    Attributes:
        info: what it says (SyncFileInfo).
        holders: its descriptors, at least one; one file that several processes hold has several.
        looked_ns: when it was asked, CLOCK_MONOTONIC nanoseconds (int).
    """
    info: SyncFileInfo
    holders: tuple
    looked_ns: cython.longlong

    @property
    def name(self):
        """SyncFileInfo.name."""
        return self.info.name

    @property
    def status(self):
        """SyncFileInfo.status."""
        return self.info.status

    @property
    def num_fences(self):
        """How many fences there are in it."""
        return len(self.info.fences)

    @property
    def driver_names(self):
        """Who made each of the fences."""
        return [(<FenceInfo?>fence).driver_name for fence in self.info.fences]

    @property
    def obj_names(self):
        """What each of the fences is a point of."""
        return [(<FenceInfo?>fence).obj_name for fence in self.info.fences]

    @property
    def seqno(self):
        """The fence's number on its timeline, where the kernel named the file after it and the name was not cut."""
        # DRIVER-TIMELINECONTEXT-SEQNO, cut to 31 bytes.
        cdef str name = self.info.name
        cdef Py_ssize_t dash = name.rfind("-")
        if dash < 2 or not name[dash - 1].isdecimal() or name.find("-", 1, dash) == -1:
            return None
        number = name[dash + 1 :]
        size = len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape"))
        return int(number) if number.isdecimal() and size < 31 else None

    @property
    def age_ns(self):
        """Nanoseconds since it signaled or failed; None while it is active: the kernel keeps no time of birth."""
        cdef unsigned long long latest = 0
        for fence in self.info.fences:
            if (<FenceInfo?>fence).timestamp_ns == 0:
                return None
            latest = max(latest, (<FenceInfo?>fence).timestamp_ns)
        return self.looked_ns - <long long>latest


cdef HeldSyncFile held(SyncFileInfo info, Descriptor holder):
    """One whose only holder so far is this one; when it was asked is still to be filled in."""
    cdef HeldSyncFile made = HeldSyncFile.__new__(HeldSyncFile)
    made.info = info
    made.holders = (holder,)
    return made


cdef object sync_file = Kind.SYNC_FILE  # what most are: not looked up each time
cdef str sync_file_link = "anon_inode:sync_file"


def process(int pid):
    """Return the Process of a number in our pid namespace.

    Raises:
        OSError: ENOENT or ESRCH, there is none (any more); EMFILE; ENOMEM.

    Mirrors read(2) of /proc/PID/comm and stat(2) of /proc/PID.
    """
    cdef char comm[64]
    cdef char path[32]
    cdef c_stat about
    cdef Py_ssize_t size
    cdef int error
    cdef int fd
    snprintf(path, sizeof(path), b"/proc/%d/comm", pid)
    fd = open(path, O_RDONLY | O_CLOEXEC)
    if fd == -1:
        raise refusal(errno, path.decode())
    size = read(fd, comm, sizeof(comm))
    error = errno
    drop(fd)
    if size == -1:
        raise refusal(error, path.decode())
    snprintf(path, sizeof(path), b"/proc/%d", pid)
    if stat(path, &about) == -1:
        raise refusal(errno, path.decode())
    if size and comm[size - 1] == c"\n":
        size -= 1
    return Process(pid, PyUnicode_DecodeFSDefaultAndSize(comm, size), about.st_uid)


def descriptors(Process process not None):
    """Return the descriptors of a process that are about fences or buffers: a list of Descriptor, by number.

    One that is closed meanwhile is left out.

    Raises:
        OSError: EACCES, it is not ours to look at; ENOENT, there is no such process (any more); EMFILE; ENOMEM.

    Mirrors readdir(3) and readlink(2) of /proc/PID/fd. Threads: keeps the GIL, it waits for nothing.
    """
    cdef bytes path = b"/proc/%d/fd" % process.pid
    cdef char target[LONGEST]
    cdef Py_ssize_t length
    cdef Descriptor one
    cdef dirent *entry
    cdef DIR *folder = NULL
    cdef char *end
    cdef long number
    cdef long last = -1
    cdef bint sorted = True
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
            c_errno.errno = 0
            entry = readdir(folder)
            if entry is NULL:
                if errno != 0 and errno != ENOENT:
                    raise refusal(errno, path.decode())
                break
            number = strtol(entry.d_name, &end, 10)
            if end[0] != 0 or end == entry.d_name:
                continue
            length = readlinkat(fd, entry.d_name, target, LONGEST)
            if length == -1 and (errno == ENOMEM or errno == EFAULT):  # of our own; otherwise it has been closed
                raise refusal(errno, path.decode())
            kind = kind_of(target, length)
            if kind is None:
                continue
            one = Descriptor.__new__(Descriptor)
            one.process = process
            one.fd = <int>number
            one.kind = kind
            one.link = sync_file_link if kind is sync_file else PyUnicode_DecodeFSDefaultAndSize(target, length)
            found.append(one)
            sorted = sorted and number > last
            last = number
    finally:
        closedir(folder)
    if not sorted:  # it has always been, but nobody has promised it
        found.sort(key=lambda one: one.fd)
    return found


cdef object kind_of(const char *link, Py_ssize_t length):
    """What a link stands for; None where that is of no interest, or where there is none (length -1)."""
    if is_link(link, length, b"anon_inode:sync_file"):
        return sync_file
    if is_link(link, length, b"anon_inode:syncobj_file"):
        return Kind.SYNCOBJ_FILE
    if begins(link, length, b"/dmabuf:"):
        return Kind.DMA_BUF
    if begins(link, length, b"/dev/dri/"):
        return Kind.DRM
    if is_link(link, length, b"/dev/fencedev"):
        return Kind.FENCEDEV
    # Its folder is where debugfs is mounted.
    return Kind.SW_SYNC if ends(link, length, b"/sync/sw_sync") else None


cdef bint is_link(const char *link, Py_ssize_t length, const char *word) noexcept:
    return length == <Py_ssize_t>strlen(word) and memcmp(link, word, length) == 0


cdef bint begins(const char *link, Py_ssize_t length, const char *word) noexcept:
    cdef Py_ssize_t size = strlen(word)
    return length >= size and memcmp(link, word, size) == 0


cdef bint ends(const char *link, Py_ssize_t length, const char *word) noexcept:
    cdef Py_ssize_t size = strlen(word)
    return length >= size and memcmp(link + length - size, word, size) == 0
