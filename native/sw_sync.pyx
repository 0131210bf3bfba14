# SPDX-License-Identifier: LGPL-2.1-or-later
"""sw_sync: a timeline that userspace advances, made for tests (drivers/dma-buf/sw_sync.c)."""

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memset

from linuxsync._native.fd cimport OwnedFd, as_unsigned, begin_ownership, blank, fd_of
from linuxsync._native.sync_file cimport SyncFile
from uapi cimport (
    SW_SYNC_GET_DEADLINE,
    SW_SYNC_IOC_CREATE_FENCE,
    SW_SYNC_IOC_INC,
    sw_sync_create_fence_data,
    sw_sync_get_deadline,
)
from xioctl cimport refusal, try_ioctl, xioctl

from os import fsdecode, strerror

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
    const int O_CLOEXEC
    const int O_RDWR

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, ...)
    const int PR_GET_NAME
    const int PR_SET_NAME


cdef class _Value:
    """What a timeline stands at, shared by the duplicates of one descriptor in this process."""
    cdef int32_t value


cdef class Timeline(OwnedFd):
    """What linuxsync.Timeline does through the kernel; that class finds sw_sync and speaks about names."""
    cdef _Value known  # None for a descriptor that came from elsewhere

    def __cinit__(self):
        self.quick_to_close = True

    def _open(self, bytes path not None, bytes name):
        """Open ``path`` while the calling thread bears ``name`` (None: its own).

        The kernel names a timeline after the thread that opens it (``sw_sync_debugfs_open``). The GIL is held and no
        Python code runs in between, so nothing in this process can meet the thread under its other name.
        """
        cdef char before[16]
        cdef const char *c_path = path
        cdef const char *c_name = NULL
        cdef int fd, error
        begin_ownership(self)
        if name is not None:
            c_name = name
            if prctl(PR_GET_NAME, before) == -1 or prctl(PR_SET_NAME, c_name) == -1:
                raise refusal(errno, "prctl of the thread's name")
        fd = c_open(c_path, O_RDWR | O_CLOEXEC)
        error = errno
        # Nothing but a copy of 16 bytes can fail here, and that once.
        if name is not None and prctl(PR_SET_NAME, before) == -1:
            prctl(PR_SET_NAME, before)
        if fd == -1:
            raise OSError(error, strerror(error), fsdecode(path))
        self.number = fd
        self.used = True
        try:
            self._check()
        except BaseException:
            self.close()
            raise
        self.known = _Value()

    def _check(self):
        # Advancing by 0 signals nothing, and only a sw_sync timeline knows the number.
        cdef uint32_t nothing = 0
        cdef int result = try_ioctl(self.number, SW_SYNC_IOC_INC, &nothing)
        if result < 0:
            raise refusal(-result, f"fd {self.number} is not a sw_sync timeline (SW_SYNC_IOC_INC)")

    def dup(self):
        """Return a second object on the same timeline, which knows and advances the same ``value``; see OwnedFd.dup.

        Raises:
            ValueError, OSError: as OwnedFd.dup.

        Mirrors fcntl(2) F_DUPFD_CLOEXEC.
        """
        cdef Timeline made = OwnedFd.dup(self)
        made.known = self.known
        return made

    @property
    def value(self):
        """What the timeline stands at (int, ``__s32``), as far as this process knows.

        It counts what went through this object and its ``dup()``s; another process that holds the timeline may have
        advanced it further. None for an object made by ``from_fd``: the kernel does not tell.
        """
        return None if self.known is None else self.known.value

    def _create_fence(self, value, type kind not None):
        cdef sw_sync_create_fence_data data
        cdef OwnedFd made = blank(kind)
        memset(&data, 0, sizeof(data))
        data.value = <uint32_t>as_unsigned(value, 32, "a fence's value")
        xioctl(fd_of(self), SW_SYNC_IOC_CREATE_FENCE, &data, "SW_SYNC_IOC_CREATE_FENCE")
        made.number = data.fence
        return made

    def inc(self, count=1):
        """Advance the timeline by ``count`` and signal the fences that it passes, in ascending order.

        Args:
            count: 0 <= count < 2**32 (``__u32``). The kernel goes in steps of at most 2**31 - 1, so that no fence in
                between is jumped over; the value itself wraps as a signed 32-bit number does.
        Raises:
            ValueError: closed; ``count`` is no u32.

        Mirrors SW_SYNC_IOC_INC (``sw_sync_ioctl_inc``). Threads: may be called from many.
        """
        cdef uint32_t step = <uint32_t>as_unsigned(count, 32, "count")
        xioctl(fd_of(self), SW_SYNC_IOC_INC, &step, "SW_SYNC_IOC_INC")
        if self.known is not None:
            self.known.value = <int32_t>(<uint32_t>self.known.value + step)

    def deadline_ns(self, SyncFile fence not None):
        """Return the earliest deadline that anybody has set on ``fence`` (int, CLOCK_MONOTONIC ns, ``__u64``).

        Args:
            fence: one sw_sync fence, of this timeline or another.
        Raises:
            ValueError: closed.
            OSError: ENOENT, nobody has set one, or only after it had signaled; EINVAL, it is not one plain sw_sync
                fence but a merged one or another driver's; ENOTTY, the kernel has no deadlines (before 6.8).

        Mirrors SW_SYNC_GET_DEADLINE (``sw_sync_ioctl_get_deadline``).
        """
        cdef sw_sync_get_deadline data
        cdef int result
        memset(&data, 0, sizeof(data))
        data.fence_fd = fd_of(fence)
        result = try_ioctl(fd_of(self), SW_SYNC_GET_DEADLINE, &data)
        if result < 0:
            raise refusal(-result, f"SW_SYNC_GET_DEADLINE on fd {self.number} of fence fd {data.fence_fd}")
        return data.deadline_ns
