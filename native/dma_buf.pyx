# SPDX-License-Identifier: LGPL-2.1-or-later
"""dma_buf: CPU access and implicit fences of a buffer that devices share (drivers/dma-buf/dma-buf.c)."""

cimport cython
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.errno cimport ENOTTY, errno
from libc.stdint cimport int64_t
from libc.string cimport memset

from linuxsync._native.cpu_access cimport Brackets, Mapping, as_access, events_of, join, map_all, words
from linuxsync._native.fd cimport OwnedFd, blank, drop, fd_of
from linuxsync._native.sync_file cimport SyncFile
from uapi cimport (
    DMA_BUF_IOCTL_EXPORT_SYNC_FILE,
    DMA_BUF_IOCTL_IMPORT_SYNC_FILE,
    DMA_BUF_IOCTL_SYNC,
    DMA_BUF_MAGIC,
    DMA_BUF_SET_NAME_B,
    DMA_BUF_SYNC_END,
    DMA_BUF_SYNC_READ,
    DMA_BUF_SYNC_START,
    DMA_BUF_SYNC_WRITE,
    dma_buf_export_sync_file,
    dma_buf_import_sync_file,
    dma_buf_sync,
)
from linuxsync._native.wait cimport deadline_of, now, wait_one
from xioctl cimport refusal, try_blocking_ioctl, try_ioctl

from os import fstat
from warnings import warn

cdef extern from "<unistd.h>" nogil:
    ctypedef long long off_t
    off_t lseek(int fd, off_t offset, int whence)
    const int SEEK_END

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct statfs_t "statfs":
        long f_type
    int fstatfs(int fd, statfs_t *found)

SYNC = DMA_BUF_IOCTL_SYNC  # its number, for who sees it in others
READ = DMA_BUF_SYNC_READ
WRITE = DMA_BUF_SYNC_WRITE


@cython.final  # no freelist: an object that comes from one is not finalized a second time
@cython.auto_pickle(False)
cdef class CpuAccess:
    """What DmaBuf.cpu_access returns; to be used with ``with``."""
    cdef DmaBuf buffer
    cdef unsigned int access
    cdef Mapping mapping   # while it is open
    cdef Brackets brackets
    cdef object view

    def __enter__(self):
        cdef DmaBuf buffer = self.buffer
        cdef int fd
        cdef Mapping mapping
        if buffer is None:
            raise TypeError("cpu_access() of a DmaBuf makes a CpuAccess")
        fd = fd_of(buffer)
        if self.mapping is not None:
            raise ValueError("this CPU access is open already; cpu_access() makes another")
        buffer.accesses += 1  # from here on close() leaves the descriptor to us
        try:
            self.brackets = buffer.joined()
            mapping = self.mapping = buffer.take(fd, self.access)
            self.brackets.begin(buffer, fd, self.access)
        except BaseException:
            mapping, self.mapping = self.mapping, None
            buffer.leave(mapping)
            raise
        mapping.usable = True
        try:
            self.view = PyMemoryView_FromObject(mapping)
        except BaseException:
            self.finish()
            raise
        return self.view

    cdef int finish(self) except -1:
        """END, after which no view reaches the buffer. 1 if one is still there, 2 if that one reaches it all the same."""
        cdef Mapping mapping = self.mapping
        cdef int fd, result, left
        self.mapping = None
        mapping.usable = False
        if self.view is not None:
            try:
                self.view.release()
            except BufferError:  # numpy and the like have an export of it
                pass
            self.view = None
        left = 0
        if mapping.views:
            left = 1 if mapping.cut_off() else 2
        fd = self.buffer.orphan if self.buffer.orphan >= 0 else self.buffer.number
        result = self.brackets.end(fd, self.access)
        self.buffer.leave(None if left else mapping)
        if result < 0:
            raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(DMA_BUF_SYNC_END | self.access)} on fd {fd}")
        return left

    def __exit__(self, kind, value, traceback):
        cdef int left
        if self.mapping is None:
            raise ValueError("this CPU access is not open")
        left = self.finish()
        if left and kind is None:  # otherwise it is likely the exception that keeps the view
            state = "zeros from now on" if left == 1 else "which could not be taken away from it"
            raise BufferError(
                f"the CPU access to {self.buffer!r} is over, but a slice, an array or another object still uses its memory "
                f"({state}): del or release it inside the with block"
            )

    def __del__(self):
        if self.mapping is None:
            return
        try:
            warn(f"CPU access to {self.buffer!r} was never ended", ResourceWarning, stacklevel=2, source=self)
        finally:
            self.finish()

    def __repr__(self):
        return f"<{'open' if self.mapping is not None else 'closed'} CpuAccess to {self.buffer!r}>"

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle or copy a CpuAccess")


cdef class DmaBuf(OwnedFd):
    """What linuxsync.DmaBuf does through the kernel; that class adds what /proc tells."""
    cdef off_t length      # 0 until asked for
    cdef int accesses      # CpuAccesses that are open
    cdef int orphan        # the descriptor, after close(), while accesses still need it for their END
    cdef Mapping idle      # kept for the next access: mapping and faulting in costs more than everything else
    cdef Brackets brackets

    def __cinit__(self):
        self.orphan = -1

    def _check(self):
        # Not by an ioctl: other drivers say EINVAL to numbers that they do not know, and DMA_BUF_IOCTL_SYNC is, but for its
        # letter, which they do not look at, the dma-heaps' request to allocate. The file system is nobody else's (5.3).
        cdef statfs_t found
        if fstatfs(self.number, &found) == -1:
            raise refusal(errno, f"fstatfs of fd {self.number}")
        if found.f_type != DMA_BUF_MAGIC:
            raise refusal(ENOTTY, f"fd {self.number} is not a dma-buf")
        if self.orphan >= 0:
            raise ValueError("a CPU access to the closed buffer is still open")

    @property
    def size(self):
        """Bytes (int), whole pages. It never changes. Mirrors lseek(2) to SEEK_END (``dma_buf_llseek``)."""
        cdef int fd = fd_of(self)
        if self.length == 0:
            self.length = lseek(fd, 0, SEEK_END)
            if self.length < 0:
                error, self.length = errno, 0
                raise refusal(error, f"lseek of dma-buf fd {fd}")
        return self.length

    def close(self):
        """Close the descriptor; a second call does nothing.

        The memory lives on as long as anything has it: a device, another descriptor, a mapping, a fence that somebody
        polled for. While a ``cpu_access`` is open the object counts as closed, and the descriptor goes with its END.

        Raises:
            OSError: EIO, ENOSPC or EDQUOT from close(2); the descriptor is gone all the same.

        Threads: lets go of the GIL, because the last reference to a large buffer takes a while to free.
        """
        self.idle = None
        if self.accesses and self.number >= 0:
            self.orphan = self.number
            self.number = -1
            return
        OwnedFd.close(self)

    def detach(self):
        """Give the descriptor (int) to the caller, who closes it; the object is closed from here on.

        Raises:
            ValueError: closed.
            OSError: EMFILE: a ``cpu_access`` is open and needs a descriptor of its own for its END.
        """
        cdef int fd = fd_of(self)
        if self.accesses:
            self.orphan = OwnedFd.detach(self.dup())
        self.idle = None
        return OwnedFd.detach(self)

    def __del__(self):
        try:
            if self.accesses and self.number >= 0:
                # Garbage in a cycle with an access, which is finalized after this and needs the descriptor for its END.
                self.orphan, self.number = self.number, -1
                warn(f"unclosed {type(self).__name__}({self.orphan})", ResourceWarning, stacklevel=2, source=self)
            else:
                OwnedFd.__del__(self)
        finally:
            if self.brackets is not None:
                self.brackets.part()
                self.brackets = None

    def __dealloc__(self):
        if self.orphan >= 0:
            with nogil:
                drop(self.orphan)

    cdef Brackets joined(self):
        """What all descriptors of this buffer in this process share."""
        cdef Brackets joined
        if self.brackets is None or self.brackets.stale():
            joined = join(fstat(fd_of(self)).st_ino)
            if self.brackets is None or self.brackets.stale():
                self.brackets = joined
            else:  # another thread came first
                joined.part()
        return self.brackets

    cdef Mapping take(self, int fd, unsigned int access):
        """The idle mapping, if it is of the right kind, or a new one."""
        cdef Mapping mapping = self.idle
        if mapping is not None and mapping.writable() == (access & DMA_BUF_SYNC_WRITE != 0):
            self.idle = None
            return mapping
        return map_all(fd, self.size, access)

    cdef int leave(self, Mapping mapping) except -1:
        """An access is over; `mapping` is free for the next one, unless it is None."""
        cdef int fd = self.orphan
        self.accesses -= 1
        if self.number >= 0:
            if mapping is not None:
                self.idle = mapping
        elif self.accesses == 0 and fd >= 0:
            self.orphan = -1
            with nogil:
                drop(fd)
        return 0

    def begin_cpu_access(self, access):
        """Make what devices wrote visible to mappings of the buffer, and wait for its implicit fences.

        In this order, as the kernel does: exporters that do not wait by themselves (the heaps) miss what was written
        while it waited, where caches are not coherent. ``poll`` first.

        READ waits for those who write, WRITE and RW for those who read too. ``cpu_access`` is safer: this is the bare
        call, to which nobody pairs the END, and it discards what an open ``cpu_access`` has not published yet.

        Args:
            access: Access.READ, WRITE or RW; what the CPU will do (``__u64 flags``).
        Raises:
            ValueError: closed; ``access`` is none of them.
            OSError: what the exporter answers, ENOMEM or EIO say.

        Mirrors DMA_BUF_IOCTL_SYNC with START (``dma_buf_begin_cpu_access``). Threads: lets go of the GIL. There is no
        time limit; ``poll`` has one. A signal runs Python's handlers; what they raise ends the wait, and then access has
        not begun and needs no END.
        """
        bare_sync(self, DMA_BUF_SYNC_START | as_access(access))

    def end_cpu_access(self, access):
        """Make what the CPU wrote visible to devices.

        Args:
            access: the one that ``begin_cpu_access`` was given.
        Raises:
            ValueError: closed; ``access`` is none.
            OSError: what the exporter answers; EINVAL from udmabuf: access never began.

        Mirrors DMA_BUF_IOCTL_SYNC with END (``dma_buf_end_cpu_access``). Threads: lets go of the GIL; waits for no fence.
        """
        bare_sync(self, DMA_BUF_SYNC_END | as_access(access))

    def cpu_access(self, access=DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE):
        """Return a context manager that gives a memoryview of the whole buffer: ``with buf.cpu_access() as view:``.

        Entering maps the buffer, waits for its implicit fences and issues START; leaving, by an exception too, releases
        the view and issues END. numpy takes the view without a copy:
        ``numpy.frombuffer(view, numpy.uint32)``.

        After END the memory can't be reached. Slices and arrays made of the view should be gone by then (``del``). Where
        one is not, END is issued all the same, it reads zeros from then on and what it writes is lost; and BufferError
        says so, unless the block raised something itself.

        Accesses may be nested and open in many threads: a START that would discard what another open access has written
        is left out, for that one's START has fetched what devices wrote.

        Args:
            access: Access.READ (the view is read-only), WRITE or RW. WRITE differs in its END alone, which need not
                prepare the memory for devices to write to; its START is that of RW.
        Raises:
            ValueError: closed; ``access`` is none.
            OSError: on entering, EACCES, the descriptor is not open for that; EINVAL, the exporter can't be mapped;
                ENOMEM; EMFILE. On leaving, what the exporter answers to END: the access is over, but devices may not
                see what was written.
            BufferError: on leaving, a slice, an array or such is left.

        Mirrors mmap(2) and DMA_BUF_IOCTL_SYNC. Threads: as ``begin_cpu_access``, also for the signals. The buffer may be
        closed meanwhile: its descriptor then stays open until END. One mapping is kept until close() for the next access.
        """
        cdef CpuAccess made = CpuAccess.__new__(CpuAccess)
        made.access = as_access(access)
        fd_of(self)
        made.buffer = self
        return made

    def poll(self, access, timeout=0.0):
        """Return whether the buffer's implicit fences let the CPU (or whoever) access it, waiting for it.

        A failed fence is done too. While one is pending the kernel keeps the buffer alive for having been asked.
        In a coroutine: ``await buf.export_sync_file(access)``.

        Args:
            access: READ asks for those who write, WRITE and RW for those who read too.
            timeout: seconds (float >= 0), 0 to ask once, None for ever.
        Raises:
            ValueError: closed; ``access`` is none; a timeout that is negative or not a number.
            OSError: EBADF, somebody else closed the descriptor.

        Mirrors poll(2) for POLLIN or POLLOUT (``dma_buf_poll``). Threads: releases the GIL while it waits.
        """
        cdef short events = events_of(as_access(access))
        cdef int64_t deadline = deadline_of(timeout)
        if deadline == 0:
            deadline = now()  # asks once too, but without the GIL: the kernel takes the buffer's lock (dma_buf_poll)
        return wait_one(self, events, deadline) != 0

    def _export_sync_file(self, access, type kind not None):
        cdef dma_buf_export_sync_file data
        cdef int fd, result
        cdef OwnedFd made = blank(kind)
        memset(&data, 0, sizeof(data))
        data.flags = as_access(access)
        fd = fd_of(self)
        result = try_ioctl(fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &data)
        if result < 0:
            raise refused(-result, f"DMA_BUF_IOCTL_EXPORT_SYNC_FILE on fd {fd}")
        made.number = data.fd
        return made

    def import_sync_file(self, SyncFile fence not None, access):
        """Attach the fences of ``fence`` to the buffer as implicit ones: everybody who respects those waits for them.

        ``fence`` stays open and the caller's. Fences that have signaled change nothing; of one timeline the later point
        replaces the earlier; none can be taken off again.

        Args:
            access: what the work behind ``fence`` does. READ: writers wait for it. WRITE or RW: readers too.
        Raises:
            ValueError: closed, either; ``access`` is none.
            OSError: ENOMEM; ENOTTY, the kernel lacks it (before 6.0, or without CONFIG_SYNC_FILE); EINVAL, somebody
                else closed ``fence``.

        Mirrors DMA_BUF_IOCTL_IMPORT_SYNC_FILE (``dma_buf_import_sync_file``). Threads: lets go of the GIL, because a
        driver may hold the buffer's lock.
        """
        cdef dma_buf_import_sync_file data
        cdef int fd, result
        memset(&data, 0, sizeof(data))
        data.flags = as_access(access)
        data.fd = fd_of(fence)
        fd = fd_of(self)
        result = try_blocking_ioctl(fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &data)
        if result < 0:
            raise refused(-result, f"DMA_BUF_IOCTL_IMPORT_SYNC_FILE of fence fd {data.fd} on fd {fd}")

    def set_name(self, str name not None):
        """Name the buffer, for debugfs, fdinfo and the link in /proc/PID/fd; a new name replaces the old.

        Args:
            name: at most 31 bytes of UTF-8 without NUL (``char[DMA_BUF_NAME_LEN]``); "" is a name too.
        Raises:
            ValueError: closed; the name is longer or has a NUL.
            OSError: ENOMEM; ENOTTY, the kernel is older than 5.8.

        Mirrors DMA_BUF_SET_NAME_B (``dma_buf_set_name``).
        """
        cdef bytes encoded = name.encode("utf-8", "surrogateescape")
        cdef int fd, result
        if len(encoded) > 31 or b"\0" in encoded:
            raise ValueError(f"a buffer's name has at most 31 bytes of UTF-8 and no NUL, not {name!r}")
        fd = fd_of(self)
        result = try_ioctl(fd, DMA_BUF_SET_NAME_B, <char *>encoded)
        if result < 0:
            raise refusal(-result, f"DMA_BUF_SET_NAME on fd {fd}")


cdef object refused(int error, str what):
    if error == ENOTTY:
        what += ": it takes Linux 6.0 with CONFIG_SYNC_FILE"
    return refusal(error, what)


cdef int bare_sync(DmaBuf buffer, unsigned int flags) except -1:
    cdef dma_buf_sync data
    cdef int fd = fd_of(buffer)
    cdef int result
    data.flags = flags
    result = try_blocking_ioctl(fd, DMA_BUF_IOCTL_SYNC, &data)
    if result < 0:
        raise refusal(-result, f"DMA_BUF_IOCTL_SYNC {words(flags)} on fd {fd}")
    return 0
