# SPDX-License-Identifier: LGPL-2.1-or-later
"""sync_file: SYNC_IOC_MERGE, SYNC_IOC_FILE_INFO, SYNC_IOC_SET_DEADLINE and poll(2) (drivers/dma-buf/sync_file.c)."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memcpy, memset

from linuxsync._native.fd cimport OwnedFd, as_unsigned, blank, drop, fd_of
from uapi cimport (
    SYNC_IOC_FILE_INFO,
    SYNC_IOC_MERGE,
    SYNC_IOC_SET_DEADLINE,
    sync_fence_info,
    sync_file_info,
    sync_merge_data,
    sync_set_deadline,
)
from linuxsync._native.wait cimport POLLIN, deadline_of, wait_one
from xioctl cimport refusal, try_ioctl, xioctl

import errno

from linuxsync.errors import FenceError

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t limit)

cdef enum:
    ON_STACK = 16  # fences that one FILE_INFO has room for; more cost two further calls


@cython.final
@cython.freelist(64)
@cython.dataclasses.dataclass(frozen=True)
cdef class FenceInfo:
    """One fence of a sync_file, as it was at the moment of the call (``struct sync_fence_info``).

    Attributes:
        driver_name: the driver that made the fence, ``sw_sync`` or ``i915`` say (``char[32]``).
        obj_name: the timeline it is a point of (``char[32]``). From Linux 6.17 on a signaled fence reads
            ``detached-driver`` and ``signaled-timeline``. Bytes that are no UTF-8 come as surrogates (os.fsdecode).
        status: FenceStatus.ACTIVE (0), FenceStatus.SIGNALED (1), or a negative errno for a fence that failed.
        flags: always 0 so far (``__u32``).
        timestamp_ns: CLOCK_MONOTONIC nanoseconds at which it signaled or failed; 0 while active.
    """
    driver_name: str
    obj_name: str
    status: cython.int
    flags: cython.uint
    timestamp_ns: cython.ulonglong


@cython.final
@cython.freelist(8)
@cython.dataclasses.dataclass(frozen=True)
cdef class SyncFileInfo:
    """One snapshot of a sync_file, from one SYNC_IOC_FILE_INFO (``struct sync_file_info``).

    Attributes:
        name: given at merge, or made up by the kernel as ``DRIVER-TIMELINECONTEXT-SEQNO`` (``char[32]``).
        status: FenceStatus.SIGNALED (1) when all fences have, else the first status that is 0 or negative, in the
            order of ``fences``. A failed fence behind an active one thus shows in ``fences`` first.
        flags: always 0 so far (``__u32``).
        fences: tuple of FenceInfo, one per fence; at least one.
    """
    name: str
    status: cython.int
    flags: cython.uint
    fences: tuple


cdef inline str text(const char *field):
    return PyUnicode_DecodeUTF8(field, strnlen(field, 32), "surrogateescape")


cdef sync_fence_info *file_info(int fd, sync_file_info *info, sync_fence_info *stack) except NULL:
    """A full FILE_INFO into `info`; returns the fences, in `stack` if they fit and else in memory that you free.

    The count-only form of the call (num_fences 0) is never asked for a status: it reports the container's, which hides
    errors of the fences in it. A fence set never changes, so the count that the second call gives is right for the third.
    """
    cdef sync_fence_info *fences = stack
    memset(info, 0, sizeof(info[0]))
    info.num_fences = ON_STACK
    info.sync_fence_info = <size_t>stack  # not zeroed: the kernel only writes to it
    if try_ioctl(fd, SYNC_IOC_FILE_INFO, info) == 0:
        return stack
    memset(info, 0, sizeof(info[0]))
    xioctl(fd, SYNC_IOC_FILE_INFO, info, "SYNC_IOC_FILE_INFO")
    if info.num_fences > ON_STACK:
        fences = <sync_fence_info *>PyMem_Malloc(info.num_fences * sizeof(sync_fence_info))
        if fences is NULL:
            raise MemoryError
    info.sync_fence_info = <size_t>fences
    try:
        xioctl(fd, SYNC_IOC_FILE_INFO, info, "SYNC_IOC_FILE_INFO")
    except BaseException:
        if fences is not stack:
            PyMem_Free(fences)
        raise
    return fences


cdef snapshot(int fd):
    """One FILE_INFO, as Python has it."""
    cdef sync_fence_info stack[ON_STACK]
    cdef sync_file_info info
    cdef sync_fence_info *fences = file_info(fd, &info, stack)
    cdef SyncFileInfo made
    cdef FenceInfo fence
    cdef tuple found
    cdef str driver = ""
    cdef unsigned int i
    try:
        found = PyTuple_New(info.num_fences)
        for i in range(info.num_fences):
            fence = FenceInfo.__new__(FenceInfo)
            # Most of them come from one driver, whose name need not be decoded again for each.
            if i == 0 or memcmp(fences[i].driver_name, fences[i - 1].driver_name, 32) != 0:
                driver = text(fences[i].driver_name)
            fence.driver_name = driver
            fence.obj_name = text(fences[i].obj_name)
            fence.status = fences[i].status
            fence.flags = fences[i].flags
            fence.timestamp_ns = fences[i].timestamp_ns
            Py_INCREF(fence)  # SET_ITEM takes it
            PyTuple_SET_ITEM(found, i, fence)
        made = SyncFileInfo.__new__(SyncFileInfo)
        made.name = text(info.name)
        made.status = info.status
        made.flags = info.flags
        made.fences = found
        return made
    finally:
        if fences is not stack:
            PyMem_Free(fences)


cdef int merge_fds(int fd, int fd2, const char *name) except -1:
    """SYNC_IOC_MERGE; `name` is 32 bytes or NULL. Returns the new descriptor, close-on-exec."""
    cdef sync_merge_data merged
    cdef int result
    memset(&merged, 0, sizeof(merged))
    if name is not NULL:
        memcpy(merged.name, name, 32)
    merged.fd2 = fd2
    result = try_ioctl(fd, SYNC_IOC_MERGE, &merged)
    if result < 0:
        raise refusal(-result, f"SYNC_IOC_MERGE of fd {fd} with fd {fd2}")
    return merged.fence


cdef const char *as_name(str name, char *field) except? NULL:
    """`name` as the kernel's char[32], written to `field`; NULL for "", with which the kernel makes one up."""
    cdef bytes encoded
    if not name:
        return NULL
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > 31:
        raise ValueError(f"a fence's name has at most 31 bytes of UTF-8, {name!r} has {len(encoded)}")
    if b"\0" in encoded:
        raise ValueError(f"a fence's name has no NUL in it: {name!r}")
    memset(field, 0, 32)
    memcpy(field, <const char *>encoded, len(encoded))
    return field


cdef class SyncFile(OwnedFd):
    """What linuxsync.SyncFile does through the kernel; that class adds asyncio."""

    def __cinit__(self):
        self.quick_to_close = True

    def _check(self):
        # Count-only: it changes nothing, and only a sync_file knows the number.
        cdef sync_file_info info
        cdef int result
        memset(&info, 0, sizeof(info))
        result = try_ioctl(self.number, SYNC_IOC_FILE_INFO, &info)
        if result < 0:
            raise refusal(-result, f"fd {self.number} is not a sync_file (SYNC_IOC_FILE_INFO)")

    def info(self):
        """Return one snapshot (SyncFileInfo) of the name, the status and every fence.

        Raises:
            ValueError: closed.
            OSError: ENOMEM.

        Mirrors SYNC_IOC_FILE_INFO (``sync_file_ioctl_fence_info``). It does not enable signaling: with a hardware
        driver a fence that nobody has polled or waited for may read active for ever.
        """
        return snapshot(fd_of(self))

    @property
    def status(self):
        """0 (FenceStatus.ACTIVE), 1 (FenceStatus.SIGNALED) or a negative errno; see SyncFileInfo.status."""
        cdef sync_fence_info stack[ON_STACK]
        cdef sync_file_info info
        cdef sync_fence_info *fences = file_info(fd_of(self), &info, stack)
        if fences is not stack:
            PyMem_Free(fences)
        return info.status

    def poll(self, timeout=0.0):
        """Return whether all fences have signaled, waiting up to ``timeout`` for it. A failed fence has signaled.

        Args:
            timeout: seconds (float >= 0), 0 to ask once, None for ever.
        Raises:
            ValueError: closed; a timeout that is negative or not a number.
            OSError: EBADF, somebody else closed the descriptor.

        Mirrors poll(2) for POLLIN (``sync_file_poll``). The first poll enables signaling; a merged fence then keeps what
        it is made of until all of that has signaled, also after ``close()``. Threads: releases the GIL while it waits;
        any number of threads may wait for one fence.
        """
        return wait_one(self, POLLIN, deadline_of(timeout)) != 0

    def wait(self, timeout=None):
        """Return once all fences have signaled; a failed fence has, so ask ``error`` or ``raise_for_status`` next.

        Args:
            timeout: seconds (float >= 0), None for ever.
        Raises:
            TimeoutError: errno ETIME, not all of them had when the time was over.
            ValueError, OSError: as ``poll``.

        Mirrors poll(2), and sync_wait of libsync. Threads: as ``poll``. A signal does not lengthen the time.
        """
        if not wait_one(self, POLLIN, deadline_of(timeout)):
            raise TimeoutError(errno.ETIME, f"{self!r} had not signaled after {timeout} s")

    def merge(self, SyncFile other not None, *others, str name not None="", bint strict=False):
        """Return a new sync_file that signals once every fence of all inputs has signaled.

        The inputs stay open and unchanged. Of several fences on one timeline only the latest is kept, and fences that
        have signaled are left out: **with them goes their error**. Merging two failed fences gives one that reads
        signaled, 1. Where that matters ask for ``strict``, or look at the inputs.

        Args:
            other, others: SyncFile; the same one twice is fine.
            name: at most 31 bytes of UTF-8 without NUL (``char name[32]``); "" lets the kernel make one up.
            strict: raise, instead of forgetting, when an input has a failed fence by the time of the merge.
        Raises:
            FenceError: ``strict`` only; errno is the fence's.
            ValueError: the name is too long or has a NUL, or an input is closed.
            TypeError: an input is not a SyncFile.
            OSError: EMFILE or ENFILE, no free descriptor; ENOMEM; ENOENT, somebody else closed an input.

        Mirrors SYNC_IOC_MERGE (``sync_file_merge``, ``dma_fence_unwrap_merge``). Nothing is left open if it raises.
        """
        cdef char field[32]
        cdef OwnedFd made
        if others or strict:
            return merge([self, other, *others], name, strict)
        made = blank(type(self))
        made.number = merge_fds(fd_of(self), fd_of(other), as_name(name, field))
        return made

    def set_deadline(self, deadline_ns):
        """Tell the producers by when somebody needs the fences, so that they may run faster.

        Args:
            deadline_ns: CLOCK_MONOTONIC nanoseconds (int, ``__u64``). The kernel reads it signed: 2**63 and more are
                before all others. The earliest deadline that anybody sets stays.
        Raises:
            ValueError: closed; ``deadline_ns`` is no u64.
            OSError: ENOTTY, the kernel has no deadlines (before 6.8).

        Mirrors SYNC_IOC_SET_DEADLINE (``dma_fence_set_deadline``). A hint: signaled fences and drivers without
        deadlines ignore it.
        """
        cdef sync_set_deadline deadline
        memset(&deadline, 0, sizeof(deadline))
        deadline.deadline_ns = as_unsigned(deadline_ns, 64, "deadline_ns")
        xioctl(fd_of(self), SYNC_IOC_SET_DEADLINE, &deadline, "SYNC_IOC_SET_DEADLINE")


cdef int first_error(SyncFile fence) except 1:
    """The errno (negative) of the first fence in it that has failed, 0 if none has."""
    cdef sync_fence_info stack[ON_STACK]
    cdef sync_file_info info
    cdef sync_fence_info *fences = file_info(fd_of(fence), &info, stack)
    cdef unsigned int i
    cdef int error = 0
    for i in range(info.num_fences):
        if fences[i].status < 0:
            error = fences[i].status
            break
    if fences is not stack:
        PyMem_Free(fences)
    return error


cdef object refuse_errors(list fences):
    cdef int error
    for fence in fences:
        error = first_error(<SyncFile>fence)
        if error:
            raise FenceError.of(fence.info(), f"merging {fence!r} would forget it")


def merge(list fences not None, str name not None="", bint strict=False):
    """SyncFile.merge for a list of any length but 0: balanced, so that n fences cost O(n log n) and not n squared.

    A merge copies the fences of both inputs. Added one by one to a growing result, each is copied n times; merged like
    the digits of a binary counter, log n times, with at most log n intermediate descriptors open.
    """
    cdef int held[64]      # descriptors waiting for a partner
    cdef int rank[64]      # how often each has been merged; 0 is an input, which is not ours to close
    cdef int depth = 0
    cdef char field[32]
    cdef const char *named = as_name(name, field)
    cdef OwnedFd made
    if not fences:
        raise ValueError("merge needs at least one fence")
    for fence in fences:
        if not isinstance(fence, SyncFile):
            raise TypeError(f"can't merge a {type(fence).__name__}")
        fd_of(<SyncFile>fence)
    made = blank(type(fences[0]))
    try:
        for fence in fences:
            while depth >= 2 and rank[depth - 1] == rank[depth - 2]:
                depth = join(held, rank, depth)
            held[depth] = fd_of(<SyncFile>fence)
            rank[depth] = 0
            depth += 1
        while depth > 2:
            depth = join(held, rank, depth)
        # One fence alone is merged with itself: that is how a fence gets a name.
        made.number = merge_fds(held[0], held[depth - 1], named)
    finally:
        while depth:
            depth -= 1
            if rank[depth]:
                drop(held[depth])
    if strict:
        # After the merge, because a fence that fails until then may have been left out of it too.
        try:
            refuse_errors(fences)
        except BaseException:
            made.close()
            raise
    return made


cdef int join(int *held, int *rank, int depth) except -1:
    """Merge the two descriptors on top into one; returns the new depth."""
    cdef int merged = merge_fds(held[depth - 2], held[depth - 1], NULL)
    cdef int i
    for i in range(depth - 2, depth):
        if rank[i]:
            drop(held[i])
    held[depth - 2] = merged
    rank[depth - 2] += 1
    return depth - 1
