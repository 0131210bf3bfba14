"""DRM_IOCTL_MODE_ATOMIC with what linuxsync never sends: arrays, events, writeback, and what interrupts it."""

import ctypes
import errno
import os
import struct

import pytest
from clock_words import after, alarm, alarms, lasts
from drm_words import ask, atomic, exchange, properties
from kernel_words import answer, raw_info, refused

from linuxsync import SyncFile, kms

WAIT = 60.0
CRTC, CONNECTOR, PLANE = 0xCCCCCCCC, 0xC0C0C0C0, 0xEEEEEEEE
EVENT, TEST_ONLY, NONBLOCK = 1, 0x100, 0x200
FLIP_COMPLETE = 2  # the type of the event
VIRTUAL, WRITEBACK = 15, 18  # types of connectors
CREATEPROPBLOB, DESTROYPROPBLOB = 0xC01064BD, 0xC00464BE
UNIVERSAL_PLANES, CAP_ATOMIC, CAP_WRITEBACK = 2, 3, 5


@pytest.fixture
def flip(screen):
    """The change that shows the second framebuffer."""
    return screen.plane, screen.ids(screen.plane, PLANE)["FB_ID"], screen.fbs[1].id


@pytest.fixture
def waits(screen):
    """A function that makes the change that gives the plane an in-fence."""
    number = screen.ids(screen.plane, PLANE)["IN_FENCE_FD"]
    return lambda fence: (screen.plane, number, fence.fileno())


@pytest.fixture
def out(screen):
    """Where an out-fence is written to, and the change that asks for one."""
    room = ctypes.c_int32(77)
    return room, (screen.crtc, screen.ids(screen.crtc, CRTC)["OUT_FENCE_PTR"], ctypes.addressof(room))


def test_arrays_that_can_not_be_read(screen, flip):
    """EFAULT for each of the four."""
    arrays = [(ctypes.c_uint64 * 1)(number) for number in (flip[0], 1, flip[1], flip[2])]
    addresses = [ctypes.addressof(array) for array in arrays]
    assert ask(screen.fd, "ATOMIC", 0, 1, *addresses)[0] == 0
    for number in range(4):
        wrong = [*addresses[:number], 8, *addresses[number + 1 :]]
        assert ask(screen.fd, "ATOMIC", 0, 1, *wrong)[0] == -errno.EFAULT


def test_no_such_crtc(screen):
    """EINVAL for a plane and for a connector that are to go to a CRTC that there is not."""
    for number, kind in ((screen.plane, PLANE), (screen.pipeline.connector, CONNECTOR)):
        assert atomic(screen.fd, 0, (number, screen.ids(number, kind)["CRTC_ID"], 0xDEAD)) == -errno.EINVAL


def test_a_refused_commit_gives_no_fence(screen, flip, waits, out, fence, timeline):
    """EBUSY leaves -1 where the out-fence would be; a fence that is given is close-on-exec."""
    pending = screen.flip(screen.fbs[2], in_fence=fence)
    room, give = out
    assert atomic(screen.fd, NONBLOCK, flip, give) == -errno.EBUSY
    assert room.value == -1
    timeline.inc()
    pending.wait(WAIT)
    assert atomic(screen.fd, NONBLOCK, flip, give, waits(fence)) == 0
    with SyncFile(room.value) as given:
        assert not os.get_inheritable(given.fileno())
        given.wait(WAIT)


def test_signals(screen, flip, waits, fence, timeline):
    """EINTR while a commit that blocks waits for its in-fence, unless the handler was set with SA_RESTART."""
    ran = []
    # Again and again: one that comes before it waits would leave it waiting for ever.
    with alarms(0.1, lambda *_: ran.append("interrupted")):
        assert atomic(screen.fd, 0, flip, waits(fence)) == -errno.EINTR
    with alarm(0.1, lambda: ran.append("restarted"), restart=True), lasts(0.3), after(0.3, timeline.inc):
        assert atomic(screen.fd, 0, flip, waits(fence)) == 0
    assert list(dict.fromkeys(ran)) == ["interrupted", "restarted"]


def count_of(fence):
    """The fence's number on its timeline, with which the kernel's name for it ends."""
    return int(raw_info(fence.fileno())[0].name.rsplit(b"-", 1)[1])


def test_out_fences_are_counted(screen, flip, out, fence, timeline):
    """One timeline for each CRTC, one step for each fence that is made, also for a commit that is refused later on."""
    first = screen.flip(screen.fbs[1])
    first.wait(WAIT)
    second = screen.flip(screen.fbs[2], in_fence=fence)
    assert count_of(second) == count_of(first) + 1
    assert raw_info(first.fileno())[0].name.startswith(b"vkms-CRTC:%d-crtc-" % screen.crtc)
    with refused(errno.EBUSY):
        screen.commit(screen.fbs[0])
    timeline.inc()
    second.wait(WAIT)
    third = screen.flip(screen.fbs[0])
    assert count_of(third) == count_of(second) + 2
    third.wait(WAIT)


def events(fd):
    """Type, user data and time in microseconds of all events that are there."""
    data = os.read(fd, 4096)
    found = [struct.unpack_from("IIQIIII", data, at) for at in range(0, len(data), 32)]
    assert all(length == 32 for _, length, *_ in found)
    return [(kind, user, seconds * 1_000_000 + micro) for kind, _, user, seconds, micro, _, _ in found]


def test_the_event_has_the_time_of_the_fence(screen, flip, out):
    """Both come from the vblank that ended the flip."""
    room, give = out
    assert atomic(screen.fd, EVENT, flip, give, user_data=0x1234) == 0
    with SyncFile(room.value) as fence:
        assert events(screen.fd) == [(FLIP_COMPLETE, 0x1234, fence.timestamp_ns // 1000)]


def test_room_for_events(screen, flip):
    """4096 bytes of events that nobody reads, and the next is ENOMEM; once they are read there is room again."""
    answers = [atomic(screen.fd, EVENT, flip, user_data=number) for number in range(129)]
    assert answers == [0] * 128 + [-errno.ENOMEM]
    assert [user for _, user, _ in events(screen.fd)] == list(range(128))
    assert atomic(screen.fd, EVENT, flip) == 0
    assert len(events(screen.fd)) == 1


def connectors(fd):
    """Id to type."""
    found = (ctypes.c_uint32 * 8)()
    result, said = ask(fd, "GETRESOURCES", 0, 0, ctypes.addressof(found), 0, 0, 0, 8, 0)
    assert (result, said[5]) == (0, 1)  # one CRTC
    ids, blank = found[: said[6]], [0] * 8
    answers = [exchange(fd, 0xC05064A7, "QQQQ" + "I" * 12, *blank, number) for number in ids]
    assert [result for result, _ in answers] == [0] * len(ids)
    return {said[8]: said[9] for _, said in answers}


def test_what_there_is(vkms):
    """One CRTC; the cursor's plane beside the primary one, and the writeback connector, for those who ask."""
    fd = vkms.fileno()
    assert list(connectors(fd).values()) == [VIRTUAL]
    for value, count in ((0, 0), (1, 2)):
        assert ask(fd, "SET_CLIENT_CAP", UNIVERSAL_PLANES, value)[0] == 0
        result, (_, planes) = exchange(fd, 0xC01064B5, "QI")
        assert (result, planes) == (0, count)
    for cap in (CAP_ATOMIC, CAP_WRITEBACK):
        assert ask(fd, "SET_CLIENT_CAP", cap, 1)[0] == 0
    assert list(connectors(fd).values()) == [VIRTUAL, WRITEBACK]
    modes = kms.find_pipeline(vkms).modes
    assert len({(mode.name, mode.refresh) for mode in modes}) > 20


def test_writeback_out_fences(screen):
    """EFAULT for a bad pointer; without a framebuffer to write to no fence, or EINVAL where it is said to be none."""
    fd = screen.fd
    assert ask(fd, "SET_CLIENT_CAP", CAP_WRITEBACK, 1)[0] == 0
    (connector,) = (number for number, kind in connectors(fd).items() if kind == WRITEBACK)
    ids = {name: number for name, (number, _) in properties(fd, connector, CONNECTOR).items()}
    room = ctypes.c_int32(77)
    give = (connector, ids["WRITEBACK_OUT_FENCE_PTR"], ctypes.addressof(room))
    assert atomic(fd, 0, (connector, ids["WRITEBACK_OUT_FENCE_PTR"], 8)) == -errno.EFAULT
    assert (atomic(fd, 0, give), room.value) == (0, -1)
    room.value = 77
    assert (atomic(fd, 0, (connector, ids["WRITEBACK_FB_ID"], 0), give), room.value) == (-errno.EINVAL, -1)


def test_modes_leave_no_blobs(screen):
    """The number that the kernel gives the next blob is the same after any number of modesets."""

    def next_blob():
        data = (ctypes.c_uint8 * 4)()
        room = struct.pack("QII", ctypes.addressof(data), 4, 0)
        blob = ctypes.create_string_buffer(room, len(room))
        answer(screen.fd, CREATEPROPBLOB, ctypes.addressof(blob))
        number = struct.unpack("QII", blob.raw)[2]
        gone = ctypes.c_uint32(number)
        assert answer(screen.fd, DESTROYPROPBLOB, ctypes.addressof(gone)) == 0
        return number

    kms.modeset(screen.device, screen.pipeline, screen.fbs[1])
    kms.modeset(screen.device, screen.pipeline, screen.fbs[0])
    seen = {next_blob() for _ in range(3)}
    for number in range(6):
        kms.modeset(screen.device, screen.pipeline, screen.fbs[number % 3])
    assert max(next_blob() for _ in range(3)) <= max(seen) + 1
