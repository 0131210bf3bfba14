# SPDX-License-Identifier: LGPL-2.1-or-later
"""DRM syncobjs: containers for a fence, or for a timeline of fences, behind handles (drivers/gpu/drm/drm_syncobj.c)."""

from cpython.array cimport array, clone
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.errno cimport EINVAL, EMFILE, ENFILE, ENOENT, ETIME
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport getpid

from linuxsync._native.drm cimport DrmDevice, any_fd, file_of_device
from linuxsync._native.fd cimport OwnedFd, as_unsigned, blank, born, fd_of
from linuxsync._native.sync_file cimport SyncFile
from uapi cimport (
    LS_IOCTL_SYNCOBJ_RESET,
    LS_IOCTL_SYNCOBJ_SIGNAL,
    LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL,
    LS_IOCTL_SYNCOBJ_TIMELINE_WAIT,
    LS_IOCTL_SYNCOBJ_WAIT,
    LS_SYNCOBJ_FD_TO_HANDLE_IMPORT_SYNC_FILE,
    LS_SYNCOBJ_FD_TO_HANDLE_TIMELINE,
    LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE,
    LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE,
    LS_SYNCOBJ_WAIT_AVAILABLE,
    LS_SYNCOBJ_WAIT_FOR_SUBMIT,
)
from linuxsync._native.wait cimport deadline_of

from warnings import warn

cdef tuple no_arguments = ()
cdef array no_points = array("Q")
cdef int points_in_sync_files = -1  # what takes_points found out; -1: not asked yet


def takes_points(DrmDevice device not None):
    """Whether sync_files go to and from a point of a timeline in one call (c2d3a7300695, Linux 6.16)."""
    global points_in_sync_files
    cdef uint32_t flags = LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE | LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE
    cdef int made, result
    if points_in_sync_files < 0:
        # A kernel that lacks the flag refuses it before it looks for the handle, of which there is no 0.
        result = handle_to_fd(file_of_device(device), 0, flags, 1, &made)
        if result != -ENOENT and result != -EINVAL:
            return result == -EMFILE or result == -ENFILE  # the flag got past, and there is no descriptor to go on with
        points_in_sync_files = result == -ENOENT
    return points_in_sync_files == 1


WAIT, TIMELINE_WAIT = LS_IOCTL_SYNCOBJ_WAIT & 0xFFFF, LS_IOCTL_SYNCOBJ_TIMELINE_WAIT & 0xFFFF  # but for their sizes


def container_of(DrmDevice device not None, handle):
    """Return a descriptor (int, the caller's) of the syncobj behind a handle that stays whose it is.

    Raises:
        ValueError: closed; ``handle`` is no u32.
        OSError: ENOENT, there is no such handle; EMFILE; ENFILE; ENOMEM.

    Mirrors DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD.
    """
    cdef int made, result
    result = handle_to_fd(file_of_device(device), <uint32_t>as_unsigned(handle, 32, "handle"), 0, 0, &made)
    if result < 0:
        raise refusal(-result, f"DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD of handle {handle} on {device!r}")
    return made


cdef Syncobj made_past_init(type cls, DrmDevice device):
    """An instance of `cls` without a handle: made before the call that hands one out, after which nothing can fail."""
    made = (<PyTypeObject *>cls).tp_new(cls, <PyObject *>no_arguments, NULL)
    if not isinstance(made, Syncobj):  # a subclass may have a __new__ of its own
        raise TypeError(f"{cls.__name__}.__new__ made a {type(made).__name__}")
    born(made)
    (<Syncobj>made).parent = device
    (<Syncobj>made).owner_pid = getpid()
    return <Syncobj>made


cdef class Syncobj:
    """What linuxsync.Syncobj does through the kernel; that class adds asyncio."""

    def __init__(self, DrmDevice device not None, handle):
        cdef uint32_t number = <uint32_t>as_unsigned(handle, 32, "a handle"), first
        cdef int result
        if self.parent is not None:
            raise ValueError(f"{self!r} already owns a handle" if self.number else f"{self!r} can't be opened again")
        # Whether there is a fence does not matter: only the handle and the device can be wrong.
        result = wait_for(fd_of(device), &number, NULL, 1, LS_SYNCOBJ_WAIT_FOR_SUBMIT, 0, 0, &first)
        if result < 0 and result != -ETIME:
            raise refused(-result, "WAIT", device, f"it has no syncobj {number}" if result == -ENOENT else "")
        self.parent = device
        self.number = number
        self.owner_pid = getpid()

    @classmethod
    def create(cls, DrmDevice device not None, bint signaled=False):
        """Return a new syncobj of ``device``.

        Args:
            device: an open DRM device, which the syncobj keeps a reference to.
            signaled: have it hold a signaled fence instead of none.
        Raises:
            ValueError: the device is closed.
            OSError: EOPNOTSUPP, its driver has no syncobjs; ENOTTY, it is no DRM device; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_CREATE (``drm_syncobj_create_ioctl``).
        """
        cdef Syncobj made = made_past_init(cls, device)
        cdef int result = create_handle(fd_of(device), signaled, &made.number)
        if result < 0:
            made.number = 0
            raise refused(-result, "CREATE", device)
        return made

    @classmethod
    def from_fd(cls, DrmDevice device not None, fd):
        """Return the syncobj that came as a descriptor, perhaps from another process or device: the same container.

        Args:
            device: an open DRM device.
            fd: what ``to_fd`` gave (int >= 0 or an object with ``fileno()``). It stays the caller's.
        Raises:
            ValueError: the device is closed; ``fd`` is no descriptor number.
            OSError: EINVAL, ``fd`` is not open or no syncobj (a sync_file goes through ``import_sync_file``);
                EOPNOTSUPP, the driver has no syncobjs; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE. Every call makes a handle of its own.
        """
        cdef int source = <int>as_unsigned(fd.fileno() if hasattr(fd, "fileno") else fd, 31, "a file descriptor")
        cdef Syncobj made = made_past_init(cls, device)
        cdef int result = fd_to_handle(fd_of(device), source, 0, 0, &made.number)
        if result < 0:
            made.number = 0
            why = f"fd {source} is no syncobj" if result == -EINVAL else ""
            raise refused(-result, "FD_TO_HANDLE", device, why)
        return made

    @property
    def device(self):
        """The device that it belongs to, which stays open at least as long as nobody closes it."""
        return self.parent

    @property
    def handle(self):
        """The handle (int, ``__u32``), which stays the object's. ValueError once it is closed."""
        return handle_of(self)

    @property
    def closed(self):
        """Whether the handle has been given back, or has gone with the device."""
        return self.number == 0 or any_fd(self.parent.opened) < 0

    def close(self):
        """Destroy the handle; a second call, one after the device's close, and one in a forked child do nothing.

        The container lives on where somebody else has a handle or a descriptor of it. What waits through ``eventfd``
        for a point that was not yet submitted is forgotten with the last of them.

        Raises:
            OSError: EINVAL, somebody else destroyed the handle. After any other it is still there, and can be closed.

        Mirrors DRM_IOCTL_SYNCOBJ_DESTROY.
        """
        cdef uint32_t number = self.number
        cdef int fd, result
        self.number = 0
        if number and self.owner_pid == getpid():
            fd = any_fd(self.parent.opened)
            if fd >= 0:
                result = destroy_handle(fd, number)
                if result < 0:
                    if result != -EINVAL:
                        self.number = number
                    raise refused(-result, "DESTROY", self.parent, f"handle {number}")

    def __enter__(self):
        handle_of(self)
        return self

    def __exit__(self, kind, value, traceback):
        self.close()

    def __del__(self):
        if self.number and self.owner_pid == getpid() and any_fd(self.parent.opened) >= 0:
            try:
                warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()

    def __repr__(self):
        if self.number == 0:
            return f"<closed {type(self).__name__}>"
        return f"{type(self).__name__}({self.parent!r}, {self.number})"

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}: send to_fd() with socket.send_fds")

    def to_fd(self):
        """Return a descriptor (int, close-on-exec) of the container itself, for another process or device; close it.

        It is no fence: poll(2) says nothing about it. ``export_sync_file`` gives one that can be waited for.

        Raises:
            ValueError: closed.
            OSError: EMFILE; ENFILE; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD.
        """
        cdef int made, result = handle_to_fd(device_of(self), self.number, 0, 0, &made)
        if result < 0:
            raise refused(-result, "HANDLE_TO_FD", self)
        return made

    def _spare(self):
        """An empty syncobj of the same open file, through which a fence goes to or from a point."""
        cdef Syncobj made = made_past_init(type(self), self.parent)
        cdef int result = create_handle(device_of(self), False, &made.number)
        if result < 0:
            made.number = 0
            raise refused(-result, "CREATE", self.parent)
        return made

    def _export_sync_file(self, point, type kind not None):
        cdef uint64_t at = as_point(point)
        cdef uint32_t flags = LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE | (LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE if at else 0)
        cdef OwnedFd fence = blank(kind)
        cdef int made
        cdef int result = handle_to_fd(device_of(self), self.number, flags, at, &made)
        if result < 0:
            raise refused(-result, "HANDLE_TO_FD", self, no_fence(at) if result == -EINVAL else "")
        fence.number = made
        return fence

    def _import_sync_file(self, SyncFile fence not None, point):
        cdef uint64_t at = as_point(point)
        cdef uint32_t flags = LS_SYNCOBJ_FD_TO_HANDLE_IMPORT_SYNC_FILE | (LS_SYNCOBJ_FD_TO_HANDLE_TIMELINE if at else 0)
        cdef uint32_t handle = handle_of(self)
        cdef int result = fd_to_handle(device_of(self), fd_of(fence), flags, at, &handle)
        if result < 0:
            raise refused(-result, "FD_TO_HANDLE", self, f"{fence!r} is no sync_file" if result == -EINVAL else "")

    def signal(self, point=None):
        """Signal it from here.

        Args:
            point: None puts a signaled fence in place of whatever it holds, a timeline included; a number (``__u64``)
                adds a signaled point to its timeline.
        Raises:
            ValueError: closed; ``point`` is no u64.
            OSError: EOPNOTSUPP, a point and a driver without timelines; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_SIGNAL and DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL. A fence that was there before stays as
        it is for those who have hold of it: signaling a syncobj is not signaling its fence.
        """
        cdef int fd = device_of(self), result
        cdef uint64_t at
        if point is None:
            result = replace_fences(fd, LS_IOCTL_SYNCOBJ_SIGNAL, &self.number, 1)
        else:
            at = as_point(point)
            result = signal_points(fd, &self.number, &at, 1)
        if result < 0:
            raise refused(-result, "SIGNAL" if point is None else "TIMELINE_SIGNAL", self)

    def reset(self):
        """Empty it: no fence, no points. Waits that have seen the fence go on waiting for that.

        Raises:
            ValueError: closed.

        Mirrors DRM_IOCTL_SYNCOBJ_RESET.
        """
        cdef int result = replace_fences(device_of(self), LS_IOCTL_SYNCOBJ_RESET, &self.number, 1)
        if result < 0:
            raise refused(-result, "RESET", self)

    def query(self):
        """Return the last point (int, ``__u64``) up to which the timeline has signaled; 0 for a binary syncobj.

        Raises:
            ValueError: closed.
            OSError: EOPNOTSUPP, a driver without timelines.

        Mirrors DRM_IOCTL_SYNCOBJ_QUERY. It goes back to 0 for a while where points were not added in ascending order.
        """
        return query_one(self, False)

    def query_last_submitted(self):
        """Return the last point (int, ``__u64``) that the timeline has, signaled or not; otherwise as ``query``.

        Raises:
            ValueError, OSError: as ``query``.

        Mirrors DRM_IOCTL_SYNCOBJ_QUERY with LAST_SUBMITTED.
        """
        return query_one(self, True)

    def wait(self, timeout=None, point=None, bint wait_for_submit=False, bint wait_available=False, deadline_ns=None):
        """Return once its fence has signaled; a fence that failed has, and ``export_sync_file().error`` tells.

        Args:
            timeout: seconds (float >= 0), None for ever, 0 to ask once. A signal does not lengthen it.
            point: None for the fence of a binary syncobj; a number (``__u64``) for a point of a timeline, where 0 is
                the fence that is there. A point between two others is reached with the upper one.
            wait_for_submit: wait for a fence to arrive too, if there is none yet.
            wait_available: wait for the fence to arrive only, not for it to signal. Needs a point.
            deadline_ns: by when the fence is needed (int, CLOCK_MONOTONIC ns), a hint to its producers.
        Raises:
            TimeoutError: errno ETIME, it had not when the time was over.
            ValueError: closed; a negative timeout; a point or a deadline that is no u64.
            OSError: EINVAL, there is no fence yet and ``wait_for_submit`` was not asked for, or the kernel lacks
                deadlines for waits (before 6.8); EOPNOTSUPP, a point and a driver without timelines; ENOMEM.

        Mirrors DRM_IOCTL_SYNCOBJ_WAIT and DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT. Threads: releases the GIL while it waits;
        any number of threads may wait for one syncobj.
        """
        cdef uint32_t flags = wait_flags(False, wait_for_submit, wait_available, deadline_ns)
        cdef uint32_t first
        cdef uint64_t at = 0 if point is None else as_point(point)
        cdef uint64_t deadline = 0 if deadline_ns is None else as_unsigned(deadline_ns, 64, "deadline_ns")
        cdef int fd = device_of(self)
        cdef int result = wait_for(
            fd, &self.number, NULL if point is None else &at, 1, flags, deadline, deadline_of(timeout), &first
        )
        if result < 0:
            what = repr(self) if point is None else f"point {point} of {self!r}"
            raise wait_refused(fd, -result, what, point is not None, flags, timeout)

    @staticmethod
    def wait_many(
        objs, points=None, timeout=None, bint all=True, bint wait_for_submit=False, bint wait_available=False,
        deadline_ns=None,
    ):
        """Wait for all of many syncobjs, or for any of them, in one call.

        Args:
            objs: at least one Syncobj, all of one device (one device object).
            points: None for their binary fences; else as many points (int, ``__u64``) as ``objs``.
            timeout, wait_for_submit, wait_available, deadline_ns: as ``wait``; one time for all together.
            all: False returns with the first that signals.
        Returns:
            None if ``all``; else the index of one that has signaled, the first in order if several have.
        Raises:
            ValueError: no objects; objects of different devices; another number of points; otherwise as ``wait``.
            TypeError: something that is no Syncobj.
            TimeoutError, OSError: as ``wait``. EINVAL if any of them has no fence yet, also when another has signaled.

        Mirrors DRM_IOCTL_SYNCOBJ_WAIT and DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT. Threads: as ``wait``.
        """
        cdef list wanted = objs if type(objs) is list else list(objs)
        cdef uint32_t flags = wait_flags(all, wait_for_submit, wait_available, deadline_ns)
        cdef uint64_t deadline = 0 if deadline_ns is None else as_unsigned(deadline_ns, 64, "deadline_ns")
        cdef int64_t until = deadline_of(timeout)
        cdef Py_ssize_t count = len(wanted)
        cdef Arrays arrays
        cdef uint32_t first
        cdef int fd, result
        if not wanted:
            raise ValueError("wait_many needs at least one syncobj")
        one = wanted[0]  # the list is the caller's, who may empty it meanwhile
        reserve(&arrays, count)
        try:
            fd = fill_handles(arrays.handles, wanted, count)
            if points is None:
                arrays.points = NULL
            else:
                fill_points(arrays.points, points, count)
            result = wait_for(fd, arrays.handles, arrays.points, <uint32_t>count, flags, deadline, until, &first)
        finally:
            release(&arrays)
        if result < 0:
            what = f"{'all' if all else 'any'} of {count} syncobjs, {one!r} first,"
            raise wait_refused(fd, -result, what, points is not None, flags, timeout)
        return None if all else first

    @staticmethod
    def query_many(objs, bint last_submitted=False):
        """Return ``query()`` of many syncobjs of one device, or ``query_last_submitted()``, in one call.

        Returns:
            An array.array of typecode "Q", one point for each of ``objs``; the kernel writes right into it, and numpy
            takes it without a copy.
        Raises:
            ValueError: no objects; objects of different devices; a closed one.
            TypeError, OSError: as ``wait_many`` and ``query``.

        Mirrors DRM_IOCTL_SYNCOBJ_QUERY.
        """
        cdef list wanted = objs if type(objs) is list else list(objs)
        cdef Py_ssize_t count = len(wanted)
        cdef array found
        cdef Arrays arrays
        cdef int fd, result
        if not wanted:
            raise ValueError("query_many needs at least one syncobj")
        one = wanted[0]  # the list is the caller's, who may empty it meanwhile
        found = clone(no_points, count, False)
        reserve(&arrays, count)
        try:
            fd = fill_handles(arrays.handles, wanted, count)
            result = query_points(
                fd, arrays.handles, <uint64_t *>found.data.as_ulonglongs, <uint32_t>count, last_submitted
            )
        finally:
            release(&arrays)
        if result < 0:
            raise refused(-result, "QUERY", one)
        return found

    @staticmethod
    def signal_many(objs, points=None):
        """Signal many syncobjs of one device in one call: all of them, or none.

        Args:
            points: None as for ``signal()``; else as many points (int, ``__u64``) as ``objs``.
        Raises:
            ValueError: no objects; objects of different devices; a closed one; another number of points.
            TypeError, OSError: as ``wait_many`` and ``signal``; ENOENT, somebody else destroyed a handle.

        Mirrors DRM_IOCTL_SYNCOBJ_SIGNAL and DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL.
        """
        request = LS_IOCTL_SYNCOBJ_SIGNAL if points is None else LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL
        apply_to_many(objs, points, request, "SIGNAL" if points is None else "TIMELINE_SIGNAL")

    @staticmethod
    def reset_many(objs):
        """Empty many syncobjs of one device in one call: all of them, or none.

        Raises: as ``signal_many``. Mirrors DRM_IOCTL_SYNCOBJ_RESET.
        """
        apply_to_many(objs, None, LS_IOCTL_SYNCOBJ_RESET, "RESET")

    def _transfer(self, Syncobj src not None, src_point, dst_point, bint wait_for_submit):
        cdef uint64_t at = as_point(src_point), to = as_point(dst_point)
        cdef int fd = device_of(src), result = device_of(self)
        if src.parent.opened is not self.parent.opened:
            raise ValueError(f"{src!r} is of another device than {self!r}")
        result = transfer_point(fd, src.number, at, self.number, to, wait_for_submit)
        if result == -ETIME:
            raise TimeoutError(ETIME, f"{no_fence(at)} of {src!r}, and the kernel has waited for 5 s")
        if result < 0:
            raise refused(-result, "TRANSFER", self, f"{no_fence(at)} of {src!r}" if result == -EINVAL else "")

    def _check_fence(self, point):
        cdef uint64_t at = as_point(point)
        cdef uint32_t first
        cdef int fd = device_of(self)
        cdef int result = wait_for(fd, &self.number, &at, 1, 0, 0, 0, &first)
        if result < 0 and result != -ETIME:  # which says that there is one, and that it has not signaled
            raise wait_refused(fd, -result, repr(self), True, 0, 0)

    def _eventfd(self, point, fd, bint wait_available):
        cdef uint64_t at = 0 if point is None else as_point(point)
        cdef int device = device_of(self)
        cdef int event = <int>as_unsigned(fd.fileno() if hasattr(fd, "fileno") else fd, 31, "a file descriptor")
        cdef uint32_t flags = LS_SYNCOBJ_WAIT_AVAILABLE if wait_available else 0
        cdef int result = register_eventfd(device, self.number, at, event, flags)
        if result == -EINVAL and register_eventfd(device, 0, 0, -1, 0) == -EINVAL:
            # One that knows the request looks for the handle first, of which there is no 0.
            raise refused(EINVAL, "EVENTFD", self, "this kernel does not know the request, Linux 6.6 brought it")
        if result < 0:
            raise refused(-result, "EVENTFD", self, f"fd {event} is no eventfd" if result == -EINVAL else "")


cdef int apply_to_many(object objs, object points, unsigned long request, str name) except -1:
    """SIGNAL, RESET or TIMELINE_SIGNAL of all of `objs`."""
    cdef list wanted = objs if type(objs) is list else list(objs)
    cdef Py_ssize_t count = len(wanted)
    cdef Arrays arrays
    cdef int fd, result
    if not wanted:
        raise ValueError("at least one syncobj is needed")
    one = wanted[0]
    reserve(&arrays, count)
    try:
        if points is not None:
            fill_points(arrays.points, points, count)
        fd = fill_handles(arrays.handles, wanted, count)
        if points is None:
            result = replace_fences(fd, request, arrays.handles, <uint32_t>count)
        else:
            result = signal_points(fd, arrays.handles, arrays.points, <uint32_t>count)
    finally:
        release(&arrays)
    if result < 0:
        raise refused(-result, name, one, f"the first of {count}")
    return 0


cdef uint64_t query_one(Syncobj which, bint last_submitted) except? 0:
    cdef uint64_t point = 0
    cdef int result = query_points(device_of(which), &which.number, &point, 1, last_submitted)
    if result < 0:
        raise refused(-result, "QUERY", which)
    return point
