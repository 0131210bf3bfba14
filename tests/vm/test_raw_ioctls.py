"""The errnos that linuxsync never lets anybody see, and the order of the kernel's checks that it relies on."""

import ctypes
import errno
import fcntl
import os
import select
import socket
from contextlib import contextmanager

import pytest
from ioctl_opt import IO, IOR, IOW, IOWR
from kernel_words import (
    CREATE_FENCE,
    FILE_INFO,
    GET_DEADLINE,
    INC,
    MERGE,
    NOWHERE,
    SET_DEADLINE,
    CreateFence,
    FenceData,
    FileInfo,
    GetDeadline,
    MergeData,
    SetDeadline,
    answer,
    free_descriptors,
    has_deadlines,
    raw_count_only,
    raw_fence,
    raw_info,
    raw_merge,
)

from linuxsync import Timeline, merge


def test_request_numbers():
    """The numbers that the structs above add up to are the kernel's."""
    assert (MERGE, FILE_INFO, SET_DEADLINE) == (0xC0303E03, 0xC0383E04, 0x40103E05)
    assert (CREATE_FENCE, INC, GET_DEADLINE) == (0xC0285700, 0x40045701, 0xC0105702)
    sizes = [ctypes.sizeof(s) for s in (MergeData, FileInfo, FenceData, SetDeadline, CreateFence, GetDeadline)]
    assert sizes == [48, 56, 80, 16, 40, 16]


@pytest.mark.parametrize(("field", "value"), [("flags", 1), ("flags", 2**31), ("pad", 1), ("pad", 2**32 - 1)])
@pytest.mark.parametrize("kind", [MergeData, FileInfo])
def test_reserved_fields(kind, field, value, fence, open_files):
    """Flags and padding that are not 0 are EINVAL, and no descriptor comes of it."""
    data = kind()
    if kind is MergeData:
        data.fd2 = fence.fileno()
    before = open_files()
    request = MERGE if kind is MergeData else FILE_INFO
    assert answer(fence.fileno(), request, data) == 0
    if kind is MergeData:
        os.close(data.fence)
        data.fence = 0
    setattr(data, field, value)
    assert answer(fence.fileno(), request, data) == -errno.EINVAL
    assert open_files() == before


def test_bad_pointers(fence, timeline, open_files):
    """An argument that points nowhere is EFAULT for every request, and no descriptor comes of it."""
    before = open_files()
    for address in (None, NOWHERE):
        for fd, request in [(fence.fileno(), MERGE), (fence.fileno(), FILE_INFO)]:
            assert answer(fd, request, address) == -errno.EFAULT
        for request in (CREATE_FENCE, INC):
            assert answer(timeline.fileno(), request, address) == -errno.EFAULT
        expected = -errno.EFAULT if has_deadlines(fence.fileno()) else -errno.ENOTTY
        assert answer(fence.fileno(), SET_DEADLINE, address) == expected
        assert answer(timeline.fileno(), GET_DEADLINE, address) == expected
    assert open_files() == before
    assert fence.status == 0


def test_merge_looks_for_a_descriptor_first(fence, timeline):
    """Without a free descriptor MERGE and CREATE_FENCE say EMFILE before they look at their argument."""
    bad = MergeData(fd2=-1, flags=1, pad=1)
    with free_descriptors(0):
        answers = [answer(fence.fileno(), MERGE, argument) for argument in (None, NOWHERE, bad)]
        answers += [answer(timeline.fileno(), CREATE_FENCE, argument) for argument in (None, NOWHERE)]
    assert answers == [-errno.EMFILE] * 5
    assert answer(fence.fileno(), MERGE, bad) == -errno.EINVAL


@contextmanager
def other_files(timeline):
    """Descriptors that are no sync_file, by name."""
    reading, writing = os.pipe()
    with open("/dev/null", "rb") as null, open(__file__, "rb") as file, socket.socket(socket.AF_UNIX) as unix:
        yield {
            "null": null.fileno(),
            "file": file.fileno(),
            "socket": unix.fileno(),
            "pipe": reading,
            "timeline": timeline.fileno(),
        }
    os.close(reading)
    os.close(writing)


def test_fd2_must_be_a_sync_file(fence, timeline, open_files):
    """Every fd2 that is not an open sync_file is ENOENT."""
    with other_files(timeline) as files:
        before = open_files()
        closed = os.dup(0)
        os.close(closed)
        for fd2 in [-1, -(2**31), 2**31 - 1, closed, *files.values()]:
            assert raw_merge(fence.fileno(), fd2) == -errno.ENOENT
        assert open_files() == before


def test_requests_on_other_files(timeline, fence):
    """MERGE and FILE_INFO on what is no sync_file are ENOTTY; on no open file EBADF."""
    with other_files(timeline) as files:
        for name, fd in files.items():
            assert (name, answer(fd, FILE_INFO, FileInfo())) == (name, -errno.ENOTTY)
            assert (name, raw_merge(fd, fence.fileno())) == (name, -errno.ENOTTY)
        for name, fd in files.items():
            expected = 0 if name == "timeline" else -errno.ENOTTY
            assert (name, answer(fd, INC, ctypes.c_uint32(0))) == (name, expected)
    for request in (MERGE, FILE_INFO, INC, CREATE_FENCE):
        assert answer(-1, request, None) == -errno.EBADF


def test_unknown_requests(fence, timeline):
    """The whole 32-bit number counts: another nr, size or direction is ENOTTY."""
    requests = [
        *(IOWR(ord(">"), nr, FileInfo) for nr in (0, 1, 2, 3, 5, 6, 255)),
        IOR(ord(">"), 4, FileInfo),
        IOW(ord(">"), 4, FileInfo),
        IO(ord(">"), 3),
        IOWR(ord(">"), 4, FenceData),
        IOWR(ord(">"), 3, FileInfo),
        IOWR(ord("d"), 4, FileInfo),
    ]
    for request in [*requests, INC, CREATE_FENCE, GET_DEADLINE]:
        assert (hex(request), answer(fence.fileno(), request, FileInfo())) == (hex(request), -errno.ENOTTY)
    requests = [
        *(IOWR(ord("W"), nr, CreateFence) for nr in (1, 2, 3, 255)),
        IO(ord("W"), 1),
        IOR(ord("W"), 1, ctypes.c_uint32),
        IOW(ord("W"), 1, ctypes.c_uint64),
        IOW(ord("W"), 0, CreateFence),
    ]
    for request in [*requests, MERGE, FILE_INFO, SET_DEADLINE]:
        assert (hex(request), answer(timeline.fileno(), request, CreateFence())) == (hex(request), -errno.ENOTTY)
    assert fence.status == 0


def test_file_info_with_too_little_room(keep):
    """0 < room < fences is EINVAL and writes nothing; more room than fences is filled no further than needed."""
    fences = [keep(keep(Timeline()).create_fence(1)) for _ in range(3)]
    fd = keep(merge(fences)).fileno()
    room = (FenceData * 5)()
    ctypes.memset(room, 0x55, ctypes.sizeof(room))
    untouched = bytes(room)
    for count in (1, 2):
        info = FileInfo(num_fences=count, sync_fence_info=ctypes.addressof(room))
        assert answer(fd, FILE_INFO, info) == -errno.EINVAL
        assert (bytes(room), info.num_fences) == (untouched, count)
    info = FileInfo(num_fences=5, sync_fence_info=ctypes.addressof(room))
    assert answer(fd, FILE_INFO, info) == 0
    assert info.num_fences == 3
    assert [room[index].driver_name for index in range(3)] == [b"sw_sync"] * 3
    assert bytes(room)[3 * 80 :] == untouched[3 * 80 :]


def test_file_info_with_a_bad_array(fence):
    """Room that is not there is EFAULT; room for no fence is never looked at."""
    for address in (0, NOWHERE):
        assert answer(fence.fileno(), FILE_INFO, FileInfo(num_fences=1, sync_fence_info=address)) == -errno.EFAULT
        info = FileInfo(num_fences=0, sync_fence_info=address)
        assert answer(fence.fileno(), FILE_INFO, info) == 0
        assert info.num_fences == 1


def test_file_info_ignores_what_it_fills_in(fence):
    """name and status of the question do not matter."""
    info = FileInfo(name=b"x" * 32, status=-5)
    assert answer(fence.fileno(), FILE_INFO, info) == 0
    assert (info.name, info.status) == (raw_count_only(fence.fileno()).name, 0)


def test_merge_writes_the_result_only_on_success(fence):
    """A refused MERGE leaves the caller's struct as it was."""
    data = MergeData(name=b"keep", fd2=-1, fence=-77)
    assert answer(fence.fileno(), MERGE, data) == -errno.ENOENT
    assert (data.name, data.fd2, data.fence) == (b"keep", -1, -77)


def test_results_are_close_on_exec(fence, timeline):
    """MERGE and CREATE_FENCE hand out close-on-exec descriptors by themselves."""
    for fd in (raw_merge(fence.fileno(), fence.fileno()), raw_fence(timeline.fileno(), 9)):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        os.close(fd)


def test_set_deadline(fence):
    """A pad that is not 0 is EINVAL, everything else 0; ENOTTY where the kernel has no deadlines."""
    known = has_deadlines(fence.fileno())
    for pad in (1, 2**63, 2**64 - 1):
        data = SetDeadline(deadline_ns=1, pad=pad)
        assert answer(fence.fileno(), SET_DEADLINE, data) == (-errno.EINVAL if known else -errno.ENOTTY)
    for deadline in (0, 1, 2**64 - 1):
        data = SetDeadline(deadline_ns=deadline)
        assert answer(fence.fileno(), SET_DEADLINE, data) == (0 if known else -errno.ENOTTY)


def test_get_deadline(fence, timeline, keep):
    """Inputs that are not 0, files that are no sync_file and fences that are not sw_sync's are EINVAL."""
    if has_deadlines(fence.fileno()):
        unset, wrong = -errno.ENOENT, -errno.EINVAL
    else:
        unset = wrong = -errno.ENOTTY
    fd = fence.fileno()
    pair = keep(fence | keep(keep(Timeline()).create_fence(1)))
    done = keep(timeline.create_fence(0))
    stub = keep(done | done)
    cases = [(GetDeadline(fence_fd=fd), unset), (GetDeadline(fence_fd=done.fileno()), unset)]
    cases += [(GetDeadline(fence_fd=fd, deadline_ns=1), wrong), (GetDeadline(fence_fd=fd, pad=1), wrong)]
    cases += [(GetDeadline(fence_fd=bad), wrong) for bad in (-1, 0, timeline.fileno(), pair.fileno(), stub.fileno())]
    for data, expected in cases:
        given = bytes(data)
        assert (given, answer(timeline.fileno(), GET_DEADLINE, data)) == (given, expected)


def test_a_timeline_is_always_ready(timeline):
    """A timeline has no poll of its own: it reads as ready for everything, always."""
    poller = select.poll()
    poller.register(timeline, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == [(timeline.fileno(), select.POLLIN | select.POLLOUT)]


def test_create_fence_ignores_the_name(timeline):
    """Neither a name nor 32 bytes without a NUL are an error, nor seen again."""
    for name in (b"mine", b"x" * 32):
        data = CreateFence(value=1, name=name)
        assert answer(timeline.fileno(), CREATE_FENCE, data) == 0
        info, _ = raw_info(data.fence)
        os.close(data.fence)
        assert name[:4] not in info.name


def test_merge_name_without_nul(fence):
    """32 bytes without a NUL are cut at 31."""
    fd = raw_merge(fence.fileno(), fence.fileno(), b"y" * 32)
    info, _ = raw_info(fd)
    os.close(fd)
    assert info.name == b"y" * 31
