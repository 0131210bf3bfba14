"""The requests about syncobjs with what linuxsync never sends: each errno, and the order of the kernel's checks."""

import ctypes
import errno
import os
import struct
import time

import pytest
from clock_words import after, alarm, alarms, lasts
from ioctl_opt import IOWR
from kernel_words import NOWHERE, answer
from syncobj_words import (
    ALL,
    AVAILABLE,
    DEADLINE,
    FOR_SUBMIT,
    FOREVER,
    GONE,
    REQUESTS,
    ask,
    handles,
    next_handle,
    open_device,
    points,
    refusal,
    there_are_syncobjs,
    without_syncobjs,
)

from linuxsync import Syncobj


@pytest.fixture
def fd(gpu):
    return gpu.fileno()


@pytest.fixture
def empty(gpu):
    """The handle of a syncobj without a fence."""
    with Syncobj.create(gpu) as syncobj:
        yield syncobj.handle


@pytest.fixture
def done(gpu):
    """The handle of a signaled one."""
    with Syncobj.create(gpu, signaled=True) as syncobj:
        yield syncobj.handle


def test_numbers():
    """The sizes in the request numbers are those of the structs."""
    for name, (number, form) in REQUESTS.items():
        assert (name, number >> 16 & 0x3FFF) == (name, struct.calcsize(form))


def test_every_request_without_syncobjs(keep):
    """EOPNOTSUPP comes before everything else, whatever else is wrong."""
    for driver in without_syncobjs():
        fd = keep(open_device(driver)).fileno()
        for name in REQUESTS:
            # c7a472297169 is of 6.6, as virtio_gpu's syncobjs are; before that DRM does not know the number.
            expected = "EINVAL" if name == "EVENTFD" and not there_are_syncobjs() else "EOPNOTSUPP"
            assert (driver, name, refusal(fd, name)) == (driver, name, expected)
            assert refusal(fd, name, GONE, GONE) == expected


def test_create(fd):
    """Flags but CREATE_SIGNALED are EINVAL; a refused CREATE leaves no handle."""
    for flags in (2, 3, GONE, 2**31):
        assert refusal(fd, "CREATE", 0, flags) == "EINVAL"
    assert next_handle(fd) == 1
    result, (handle, _) = ask(fd, "CREATE", 77, 1)
    assert (result, handle) == (0, 1)
    array = handles(handle)
    assert refusal(fd, "WAIT", array.at, 0, 1, ALL) == "0"
    assert refusal(fd, "DESTROY", handle) == "0"


def test_destroy(fd, empty):
    """An unknown handle and a pad are EINVAL; the pad is looked at first and destroys nothing."""
    for handle in (0, GONE, empty + 1):
        assert refusal(fd, "DESTROY", handle) == "EINVAL"
    assert refusal(fd, "DESTROY", empty, GONE) == "EINVAL"
    assert next_handle(fd) == empty + 1
    result, (handle, _) = ask(fd, "CREATE")
    assert [result, refusal(fd, "DESTROY", handle), refusal(fd, "DESTROY", handle)] == [0, "0", "EINVAL"]


def test_handle_to_fd(fd, empty, open_files):
    """Flags, pads and handles that are none; ENOENT for a handle only where a sync_file is asked for."""
    before = open_files()
    assert refusal(fd, "HANDLE_TO_FD", GONE) == "EINVAL"
    assert refusal(fd, "HANDLE_TO_FD", 0) == "EINVAL"
    assert refusal(fd, "HANDLE_TO_FD", GONE, 1) == "ENOENT"
    assert refusal(fd, "HANDLE_TO_FD", empty, 1) == "EINVAL"
    for flags in (4, GONE):
        assert refusal(fd, "HANDLE_TO_FD", empty, flags) == "EINVAL"
    for flags in (0, 1):
        assert refusal(fd, "HANDLE_TO_FD", empty, flags, 0, GONE) == "EINVAL"
    assert open_files() == before


def test_fd_to_handle(fd, empty, timeline, keep):
    """Flags, pads and files that are none; whether the file is a sync_file is looked at before the handle."""
    fence = keep(timeline.create_fence(1)).fileno()
    for source in (-1, fd, 0, fence):
        assert refusal(fd, "FD_TO_HANDLE", 0, 0, source) == "EINVAL"
    for source in (-1, fd, 0):
        assert refusal(fd, "FD_TO_HANDLE", GONE, 1, source) == "EINVAL"
    for handle in (0, GONE):
        assert refusal(fd, "FD_TO_HANDLE", handle, 1, fence) == "ENOENT"
    _, (_, _, container, _) = ask(fd, "HANDLE_TO_FD", empty)
    for flags in (4, GONE):
        assert refusal(fd, "FD_TO_HANDLE", 0, flags, container) == "EINVAL"
    assert refusal(fd, "FD_TO_HANDLE", 0, 0, container, GONE) == "EINVAL"
    assert refusal(fd, "FD_TO_HANDLE", empty, 1, container) == "EINVAL"
    assert next_handle(fd) == empty + 1
    os.close(container)


def test_the_point_of_newer_kernels(fd, done, fence):
    """Every kernel takes the struct with a point (Linux 6.16); its flag is EINVAL, or gets as far as the handle."""
    known = refusal(fd, "HANDLE_TO_FD_AT", 0, 3, -1, 0, 1)
    assert known in ("EINVAL", "ENOENT")
    assert refusal(fd, "FD_TO_HANDLE_AT", 0, 3, -1, 0, 1) == "EINVAL"
    if known == "EINVAL":
        for flags in (2, 3):
            assert refusal(fd, "HANDLE_TO_FD", done, flags) == "EINVAL"
            assert refusal(fd, "FD_TO_HANDLE", done, flags, fence.fileno()) == "EINVAL"
    result, reply = ask(fd, "HANDLE_TO_FD_AT", done, 1)
    assert result == 0
    assert refusal(fd, "FD_TO_HANDLE_AT", done, 1, reply[2]) == "0"
    os.close(reply[2])


@pytest.mark.parametrize("name", ["WAIT", "TIMELINE_WAIT"])
def test_wait(name, fd, empty, done):
    """Flags, counts, handles and pointers that are none."""
    timeline = name == "TIMELINE_WAIT"

    def said(array, count, flags=ALL, at=0, timeout=0):
        head = (array, at, timeout) if timeline else (array, timeout)
        return refusal(fd, name, *head, count, flags)

    good, bad, mixed = handles(done), handles(GONE), handles(done, 0)
    for flags in (16, GONE, 2**31, *([] if timeline else [AVAILABLE, AVAILABLE | ALL])):
        assert said(good.at, 1, flags) == "EINVAL"
        assert said(NOWHERE, 1, flags) == "EINVAL"
    assert said(good.at, 0) == said(NOWHERE, 0) == said(0, 0) == "0"
    for array in (0, NOWHERE):
        assert said(array, 1) == "EFAULT"
    assert said(bad.at, 1) == said(mixed.at, 2) == "ENOENT"
    assert said(bad.at, 1, DEADLINE) == "ENOENT"  # how linuxsync learns that there are deadlines
    both = handles(done, empty)
    for flags in (0, ALL):
        assert said(both.at, 2, flags) == "EINVAL"
    assert said(both.at, 2, FOR_SUBMIT) == "0"
    assert said(both.at, 2, FOR_SUBMIT | ALL) == "ETIME"
    if timeline:
        wanted = points(0, 7)
        assert said(both.at, 2, ALL, wanted.at) == "EINVAL"
        assert said(good.at, 1, ALL, NOWHERE) == "EFAULT"
        assert said(handles(done).at, 1, ALL, 0) == "0"  # no points: all 0


def test_time_limits(fd, empty):
    """They are moments: 0, the past and negative ones ask once.

    The kernel counts in ticks. A guest that did not run for a while gets several at once, and is early by as many.
    """
    array = handles(empty)
    for timeout in (0, 1, -1, -(2**63), time.monotonic_ns() - 1):
        begin = time.monotonic()
        assert refusal(fd, "WAIT", array.at, timeout, 1, FOR_SUBMIT) == "ETIME"
        assert time.monotonic() - begin < 30
    took = []
    while not took or (max(took) < 0.09 and len(took) < 5):
        begin = time.monotonic()
        assert refusal(fd, "WAIT", array.at, time.monotonic_ns() + 10**8, 1, FOR_SUBMIT) == "ETIME"
        took.append(time.monotonic() - begin)
    assert max(took) >= 0.09


def test_signals(fd, empty, done):
    """EINTR, for a wait without end and for a transfer; with SA_RESTART the kernel waits on by itself."""
    array, ran = handles(empty), []
    # Again and again: the first one may come before the wait has begun.
    with alarms(0.1, lambda *_: ran.append("wait")):
        assert refusal(fd, "WAIT", array.at, FOREVER, 1, FOR_SUBMIT) == "EINTR"
    with alarms(0.1, lambda *_: ran.append("timeline")):
        assert refusal(fd, "TIMELINE_WAIT", array.at, 0, FOREVER, 1, AVAILABLE) == "EINTR"
    with alarms(0.1, lambda *_: ran.append("transfer")):
        assert refusal(fd, "TRANSFER", empty, done, 0, 0, FOR_SUBMIT) == "EINTR"
    with (
        alarm(0.1, lambda: ran.append("restart"), restart=True),
        lasts(1),
        after(1, lambda: ask(fd, "SIGNAL", array.at, 1)),
    ):
        assert refusal(fd, "WAIT", array.at, FOREVER, 1, FOR_SUBMIT) == "0"
    assert list(dict.fromkeys(ran)) == ["wait", "timeline", "transfer", "restart"]


def test_structs_of_older_kernels(fd, empty, done):
    """Before 6.8 the structs had no deadline: a program built then still gets its answers."""
    good, bad = handles(done, empty), handles(GONE)
    for name, head in (("WAIT_BEFORE_6_8", ()), ("TIMELINE_WAIT_BEFORE_6_8", (0,))):
        result, reply = ask(fd, name, good.at, *head, 0, 2, FOR_SUBMIT)
        assert (result, reply[-2]) == (0, 0)
        assert refusal(fd, name, good.at, *head, 0, 2, FOR_SUBMIT | ALL) == "ETIME"
        assert refusal(fd, name, bad.at, *head, 0, 1, 0) == "ENOENT"
        assert refusal(fd, name, good.at, *head, 0, 1, DEADLINE) == "0"


@pytest.mark.parametrize("name", ["RESET", "SIGNAL"])
def test_reset_and_signal(name, fd, empty, done):
    """Pads and counts; one handle that is none, and nothing happens to the others."""
    good = handles(empty, done)
    assert refusal(fd, name, good.at, 2, GONE) == "EINVAL"
    assert refusal(fd, name, good.at, 0) == "EINVAL"
    for array in (0, NOWHERE):
        assert refusal(fd, name, array, 1) == "EFAULT"
    for bad in (0, GONE):
        assert refusal(fd, name, handles(empty, done, bad).at, 3) == "ENOENT"
    assert refusal(fd, "WAIT", handles(empty).at, 0, 1, ALL) == "EINVAL"
    assert refusal(fd, "WAIT", handles(done).at, 0, 1, ALL) == "0"
    assert refusal(fd, name, good.at, 2) == "0"
    assert refusal(fd, "WAIT", good.at, 0, 2, ALL) == ("0" if name == "SIGNAL" else "EINVAL")


def test_timeline_signal(fd, empty, done):
    """Flags and counts; no array of points means all 0."""
    good, wanted = handles(empty), points(4)
    for flags in (1, GONE):
        assert refusal(fd, "TIMELINE_SIGNAL", good.at, wanted.at, 1, flags) == "EINVAL"
    assert refusal(fd, "TIMELINE_SIGNAL", good.at, wanted.at, 0) == "EINVAL"
    assert refusal(fd, "TIMELINE_SIGNAL", NOWHERE, wanted.at, 1) == "EFAULT"
    assert refusal(fd, "TIMELINE_SIGNAL", good.at, NOWHERE, 1) == "EFAULT"
    assert refusal(fd, "TIMELINE_SIGNAL", handles(empty, GONE).at, points(1, 1).at, 2) == "ENOENT"
    assert refusal(fd, "WAIT", good.at, 0, 1, ALL) == "EINVAL"
    assert refusal(fd, "TIMELINE_SIGNAL", good.at, 0, 1) == "0"
    assert refusal(fd, "WAIT", good.at, 0, 1, ALL) == "0"


def test_query(fd, empty, done):
    """Flags and counts; the answers need somewhere to go."""
    both, found = handles(empty, done), points(7, 7)
    for flags in (2, 3, GONE):
        assert refusal(fd, "QUERY", both.at, found.at, 2, flags) == "EINVAL"
    assert refusal(fd, "QUERY", both.at, found.at, 0) == "EINVAL"
    assert refusal(fd, "QUERY", NOWHERE, found.at, 1) == "EFAULT"
    for array in (0, NOWHERE):
        assert refusal(fd, "QUERY", both.at, array, 2) == "EFAULT"
    assert refusal(fd, "QUERY", handles(empty, GONE).at, found.at, 2) == "ENOENT"
    assert list(found.values) == [7, 7]
    for flags in (0, 1):
        assert refusal(fd, "QUERY", both.at, found.at, 2, flags) == "0"
        assert list(found.values) == [0, 0]


def test_transfer(fd, empty, done):
    """Pads, flags and handles on either side; a fence that is not there."""
    for dst_point in (0, 1):
        assert refusal(fd, "TRANSFER", done, empty, 0, dst_point, 0, GONE) == "EINVAL"
        assert refusal(fd, "TRANSFER", GONE, empty, 0, dst_point) == "ENOENT"
        assert refusal(fd, "TRANSFER", done, GONE, 0, dst_point) == "ENOENT"
        assert refusal(fd, "TRANSFER", empty, done, 0, dst_point) == "EINVAL"
        assert refusal(fd, "TRANSFER", done, empty, 5, dst_point) == "EINVAL"
        for flags in (1, 4, 8, GONE):
            assert refusal(fd, "TRANSFER", done, empty, 0, dst_point, flags) == "EINVAL"
    assert refusal(fd, "WAIT", handles(empty).at, 0, 1, ALL) == "EINVAL"


def test_transfer_that_waits_gives_up(fd, empty, done):
    """With WAIT_FOR_SUBMIT the kernel waits for five seconds, its own: linuxsync has one limit for everything."""
    assert refusal(fd, "TRANSFER", done, empty, 0, 0, FOR_SUBMIT) == "0"
    assert refusal(fd, "RESET", handles(empty).at, 1) == "0"
    begin = time.monotonic()
    assert refusal(fd, "TRANSFER", empty, done, 0, 0, FOR_SUBMIT) == "ETIME"
    assert 4 <= time.monotonic() - begin < 60  # in ticks, of which several may come at once; see above


def test_eventfd(fd, done, gpu):
    """Flags, pads, handles and files that are none; the handle is looked at before the file."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        for flags in (1, 2, 8, GONE):
            assert refusal(fd, "EVENTFD", done, flags, 0, event) == "EINVAL"
        assert refusal(fd, "EVENTFD", done, 0, 0, event, GONE) == "EINVAL"
        for handle in (0, GONE):
            assert refusal(fd, "EVENTFD", handle, 0, 0, event) == "ENOENT"
            assert refusal(fd, "EVENTFD", handle, 0, 0, -1) == "ENOENT"
        assert refusal(fd, "EVENTFD", done, 0, 0, -1) == "EBADF"
        assert refusal(fd, "EVENTFD", done, 0, 0, null) == "EINVAL"
        with pytest.raises(BlockingIOError):
            os.eventfd_read(event)
    finally:
        os.close(event)
        os.close(null)


def test_bad_pointers(fd):
    """An argument that points nowhere is EFAULT for every request."""
    for number, _ in REQUESTS.values():
        for address in (None, NOWHERE):
            assert answer(fd, number, address) == -errno.EFAULT


def test_what_makes_a_request(fd, empty):
    """DRM goes by type and number: another type is ENOTTY, a number that means nothing EINVAL, any size is taken."""
    data = ctypes.create_string_buffer(struct.pack("II", GONE, 0), 64)
    at = ctypes.addressof(data)
    assert answer(fd, IOWR(ord("e"), 0xC0, ctypes.c_uint64), at) == -errno.ENOTTY
    assert answer(fd, IOWR(ord("d"), 0xFE, ctypes.c_uint64), at) == -errno.EINVAL
    data[:8] = struct.pack("II", empty, 0)
    large = ctypes.c_char * 64
    assert answer(fd, IOWR(ord("d"), 0xC4, large), at) == -errno.EINVAL  # RESET of 0 handles
    assert answer(fd, IOWR(ord("d"), 0xC0, ctypes.c_uint32), at) == 0  # DESTROY without its pad
    data[:8] = bytes(8)
    assert answer(fd, IOWR(ord("d"), 0xBF, ctypes.c_uint64), at) == 0  # and what the fixture destroys
    assert struct.unpack("II", data[:8])[0] == empty
