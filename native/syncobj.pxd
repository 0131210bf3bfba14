# What the kernel is asked about syncobjs, one function a request (include/uapi/drm/drm.h): 0 or -errno.

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.errno cimport EFAULT, EINVAL, ENOENT, EOPNOTSUPP, ETIME
from libc.limits cimport ULLONG_MAX
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from linuxsync._native.drm cimport DrmDevice, file_of_device
from linuxsync._native.fd cimport as_unsigned
from linuxsync._native.wait cimport now
from uapi cimport (
    LS_IOCTL_SYNCOBJ_CREATE,
    LS_IOCTL_SYNCOBJ_DESTROY,
    LS_IOCTL_SYNCOBJ_EVENTFD,
    LS_IOCTL_SYNCOBJ_FD_TO_HANDLE,
    LS_IOCTL_SYNCOBJ_HANDLE_TO_FD,
    LS_IOCTL_SYNCOBJ_QUERY,
    LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL,
    LS_IOCTL_SYNCOBJ_TIMELINE_WAIT,
    LS_IOCTL_SYNCOBJ_TRANSFER,
    LS_IOCTL_SYNCOBJ_WAIT,
    LS_ONE_WAY,
    LS_SYNCOBJ_CREATE_SIGNALED,
    LS_SYNCOBJ_QUERY_LAST_SUBMITTED,
    LS_SYNCOBJ_WAIT_ALL,
    LS_SYNCOBJ_WAIT_AVAILABLE,
    LS_SYNCOBJ_WAIT_DEADLINE,
    LS_SYNCOBJ_WAIT_FOR_SUBMIT,
    ls_syncobj_array,
    ls_syncobj_create,
    ls_syncobj_destroy,
    ls_syncobj_eventfd,
    ls_syncobj_handle,
    ls_syncobj_timeline_array,
    ls_syncobj_timeline_wait,
    ls_syncobj_transfer,
    ls_syncobj_wait,
)
from xioctl cimport refusal, try_blocking_ioctl, try_ioctl

cdef extern from "<Python.h>":
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)  # borrowed
    PyTypeObject *Py_TYPE(PyObject *item)
    unsigned long long PyLong_AsUnsignedLongLong(object number) noexcept  # which we ask PyErr_Occurred() about

cdef enum:
    ON_STACK = 64  # objects for which a call needs no memory of its own


cdef struct Arrays:
    # What a call about many objects points to: in the struct itself if it fits, else in memory that release() frees.
    uint32_t *handles
    uint64_t *points
    void *memory
    uint32_t few_handles[ON_STACK]
    uint64_t few_points[ON_STACK]


cdef inline int reserve(Arrays *arrays, Py_ssize_t count) except -1:
    arrays.memory = NULL
    arrays.handles = arrays.few_handles
    arrays.points = arrays.few_points
    if count > ON_STACK:
        arrays.memory = PyMem_Malloc(count * (sizeof(uint64_t) + sizeof(uint32_t)))
        if arrays.memory is NULL:
            raise MemoryError
        arrays.points = <uint64_t *>arrays.memory
        arrays.handles = <uint32_t *>(arrays.points + count)
    return 0


cdef inline void release(Arrays *arrays) noexcept:
    PyMem_Free(arrays.memory)


cdef inline uint64_t as_point(object value) except? 0:
    cdef unsigned long long number
    if PyLong_CheckExact(value):
        number = PyLong_AsUnsignedLongLong(value)
        if number != ULLONG_MAX or not PyErr_Occurred():
            return number
        PyErr_Clear()
    return as_unsigned(value, 64, "a point")


cdef inline int fill_points(uint64_t *points, object given, Py_ssize_t count) except -1:
    cdef list wanted = given if type(given) is list else list(given)
    cdef Py_ssize_t i
    if len(wanted) != count:
        raise ValueError(f"{count} syncobjs need {count} points, not {len(wanted)}")
    for i in range(count):
        points[i] = as_point(wanted[i])
    return 0


cdef inline int wait_for(int fd, uint32_t *handles, uint64_t *points, uint32_t count, uint32_t flags,
                         uint64_t deadline_ns, int64_t until, uint32_t *first) except -65536:
    """WAIT, or TIMELINE_WAIT where there are points; 0 or -errno.

    The kernel takes the moment at which to give up, not a time span, so a wait that a signal has interrupted is asked
    again as it was and becomes no longer.
    """
    cdef ls_syncobj_wait binary
    cdef ls_syncobj_timeline_wait timeline
    cdef unsigned long request
    cdef void *argument
    cdef long long *timeout
    cdef uint32_t *answer
    cdef int result
    if points is NULL:
        memset(&binary, 0, sizeof(binary))
        binary.handles = <size_t>handles
        binary.count_handles = count
        binary.flags = flags
        binary.deadline_nsec = deadline_ns
        request, argument = LS_IOCTL_SYNCOBJ_WAIT, &binary
        timeout, answer = &binary.timeout_nsec, &binary.first_signaled
    else:
        memset(&timeline, 0, sizeof(timeline))
        timeline.handles = <size_t>handles
        timeline.points = <size_t>points
        timeline.count_handles = count
        timeline.flags = flags
        timeline.deadline_nsec = deadline_ns
        request, argument = LS_IOCTL_SYNCOBJ_TIMELINE_WAIT, &timeline
        timeout, answer = &timeline.timeout_nsec, &timeline.first_signaled
    # Asking once can't block, so the GIL stays; for what has signaled by now, the usual case, nobody lets go of it.
    result = try_ioctl(fd, request, argument)
    # A signal that comes within a tick of the end makes the kernel take it for the end: then there is time left.
    while result == -ETIME and until != 0 and (timeout[0] == 0 or now() < until):
        timeout[0] = until
        result = try_blocking_ioctl(fd, request, argument)
    first[0] = answer[0]
    return result


cdef inline int query_points(int fd, uint32_t *handles, uint64_t *points, uint32_t count,
                             bint last_submitted) except -65536:
    cdef ls_syncobj_timeline_array request
    memset(&request, 0, sizeof(request))
    request.handles = <size_t>handles
    request.points = <size_t>points
    request.count_handles = count
    request.flags = LS_SYNCOBJ_QUERY_LAST_SUBMITTED if last_submitted else 0
    return try_ioctl(fd, LS_IOCTL_SYNCOBJ_QUERY, &request)


cdef inline int create_handle(int fd, bint signaled, uint32_t *handle) except -65536:
    cdef ls_syncobj_create request
    cdef int result
    memset(&request, 0, sizeof(request))
    request.flags = LS_SYNCOBJ_CREATE_SIGNALED if signaled else 0
    result = try_ioctl(fd, LS_IOCTL_SYNCOBJ_CREATE, &request)
    handle[0] = request.handle
    return result


cdef inline int destroy_handle(int fd, uint32_t handle) except -65536:
    cdef ls_syncobj_destroy request
    cdef int result
    memset(&request, 0, sizeof(request))
    request.handle = handle
    result = try_ioctl(fd, LS_ONE_WAY(LS_IOCTL_SYNCOBJ_DESTROY), &request)
    if result == -EFAULT:  # nothing has happened, and who has it destroyed on the way out would not try again
        result = try_ioctl(fd, LS_ONE_WAY(LS_IOCTL_SYNCOBJ_DESTROY), &request)
    return result


cdef inline int handle_to_fd(int fd, uint32_t handle, uint32_t flags, uint64_t point, int *result_fd) except -65536:
    cdef ls_syncobj_handle request
    cdef int result
    memset(&request, 0, sizeof(request))
    request.handle = handle
    request.flags = flags
    request.point = point
    request.fd = -1
    result = try_ioctl(fd, LS_IOCTL_SYNCOBJ_HANDLE_TO_FD, &request)
    result_fd[0] = request.fd
    return result


cdef inline int fd_to_handle(int fd, int source, uint32_t flags, uint64_t point, uint32_t *handle) except -65536:
    cdef ls_syncobj_handle request
    cdef int result
    memset(&request, 0, sizeof(request))
    request.handle = handle[0]
    request.flags = flags
    request.point = point
    request.fd = source
    result = try_ioctl(fd, LS_IOCTL_SYNCOBJ_FD_TO_HANDLE, &request)
    handle[0] = request.handle
    return result


cdef inline int transfer_point(int fd, uint32_t source, uint64_t src_point, uint32_t target, uint64_t dst_point,
                               bint wait_for_submit) except -65536:
    cdef ls_syncobj_transfer request
    memset(&request, 0, sizeof(request))
    request.src_handle = source
    request.dst_handle = target
    request.src_point = src_point
    request.dst_point = dst_point
    request.flags = LS_SYNCOBJ_WAIT_FOR_SUBMIT if wait_for_submit else 0
    if wait_for_submit:
        return try_blocking_ioctl(fd, LS_IOCTL_SYNCOBJ_TRANSFER, &request)
    return try_ioctl(fd, LS_IOCTL_SYNCOBJ_TRANSFER, &request)


cdef inline int replace_fences(int fd, unsigned long request_number, uint32_t *handles, uint32_t count) except -65536:
    """SIGNAL or RESET."""
    cdef ls_syncobj_array request
    memset(&request, 0, sizeof(request))
    request.handles = <size_t>handles
    request.count_handles = count
    return try_ioctl(fd, request_number, &request)


cdef inline int signal_points(int fd, uint32_t *handles, uint64_t *points, uint32_t count) except -65536:
    cdef ls_syncobj_timeline_array request
    memset(&request, 0, sizeof(request))
    request.handles = <size_t>handles
    request.points = <size_t>points
    request.count_handles = count
    return try_ioctl(fd, LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &request)


cdef inline int register_eventfd(int fd, uint32_t handle, uint64_t point, int event, uint32_t flags) except -65536:
    cdef ls_syncobj_eventfd request
    memset(&request, 0, sizeof(request))
    request.handle = handle
    request.flags = flags
    request.point = point
    request.fd = event
    return try_ioctl(fd, LS_IOCTL_SYNCOBJ_EVENTFD, &request)


cdef class Syncobj:
    cdef DrmDevice parent
    cdef uint32_t number  # 0 once closed
    cdef int owner_pid
    cdef object __weakref__


cdef inline uint32_t handle_of(Syncobj which) except 0:
    if which.number == 0:
        raise ValueError(f"operation on closed {type(which).__name__}")
    return which.number


cdef inline int device_of(Syncobj which) except -1:
    handle_of(which)  # first: one without a handle may have no device either
    return file_of_device(which.parent)


cdef inline int fill_handles(uint32_t *handles, list objects, Py_ssize_t count) except -1:
    """The handles of `objects`, which must all be of one open file; returns a descriptor of it."""
    cdef Py_ssize_t i
    cdef PyObject *item
    cdef PyTypeObject *checked = NULL  # usually all are of one type, and walking its bases costs more than the rest
    cdef DrmDevice device = None
    if len(objects) != count:  # the list is the caller's, whose code may have run since it was counted, in a collector
        raise ValueError("the list of syncobjs has changed meanwhile")
    for i in range(count):
        item = PyList_GET_ITEM(objects, i)
        if Py_TYPE(item) is not checked:
            if not isinstance(<object>item, Syncobj):
                raise TypeError(f"expected a Syncobj, not a {type(<object>item).__name__}")
            checked = Py_TYPE(item)
        handles[i] = (<Syncobj>item).number
        if handles[i] == 0:
            handle_of(<Syncobj>item)
        if (<Syncobj>item).parent is not device:
            if i and (<Syncobj>item).parent.opened is not device.opened:
                raise ValueError(f"{<object>item!r} is of another device than {objects[0]!r}")
            device = (<Syncobj>item).parent
    return file_of_device(device)


cdef inline object refused(int error, str request, object what, str why=""):
    """`error` as OSError; a driver without syncobjs, or without timelines, is named as what it is."""
    if error == EOPNOTSUPP and not why:
        if isinstance(what, Syncobj):
            why = "its driver has binary syncobjs only, and this asks for a timeline"
        else:
            why = "its driver has no syncobjs: virtio_gpu has them since Linux 6.6, vgem and vkms never"
    return refusal(error, f"DRM_IOCTL_SYNCOBJ_{request} on {what!r}{': ' + why if why else ''}")


cdef inline object wait_refused(int fd, int error, object what, bint timeline, uint32_t flags, object timeout):
    """What to raise for a wait that the kernel has ended with `error`."""
    cdef uint32_t handle = 0, first
    if error == ETIME:
        state = "been submitted" if flags & LS_SYNCOBJ_WAIT_AVAILABLE else "signaled"
        return TimeoutError(ETIME, f"{what} had not {state} after {timeout} s")
    why = ""
    if error == EINVAL:
        # A handle that does not exist is looked at after the flags.
        if flags & LS_SYNCOBJ_WAIT_DEADLINE and -EINVAL == wait_for(
            fd, &handle, NULL, 1, LS_SYNCOBJ_WAIT_DEADLINE, 0, 0, &first
        ):
            why = "this kernel has no deadlines for waits, Linux 6.8 brought them"
        elif flags & LS_SYNCOBJ_WAIT_AVAILABLE and not timeline:
            why = "wait_available needs a point, 0 for the fence that is there"
        else:
            why = "there is no fence yet, and wait_for_submit was not asked for"
    elif error == EOPNOTSUPP:
        why = "its driver has binary syncobjs only, and this asks for a timeline"
    request = "TIMELINE_WAIT" if timeline else "WAIT"
    return refusal(error, f"DRM_IOCTL_SYNCOBJ_{request} on {what}{': ' + why if why else ''}")


cdef inline uint32_t wait_flags(bint all_of_them, bint for_submit, bint available, object deadline_ns) noexcept:
    return (
        (LS_SYNCOBJ_WAIT_ALL if all_of_them else 0)
        | (LS_SYNCOBJ_WAIT_FOR_SUBMIT if for_submit else 0)
        | (LS_SYNCOBJ_WAIT_AVAILABLE if available else 0)
        | (LS_SYNCOBJ_WAIT_DEADLINE if deadline_ns is not None else 0)
    )


cdef inline str no_fence(uint64_t point):
    return f"there is no fence at point {point} yet" if point else "there is no fence yet"
