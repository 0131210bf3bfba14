"""What makes the kernel print a warning, once in a boot: elsewhere it would hide those that nobody expects."""

import ctypes

import pytest
from drm_words import atomic
from syncobj_words import ALL, ask, handles, points, refusal

from linuxsync import SyncFile

CRTC, PLANE, NONBLOCK = 0xCCCCCCCC, 0xEEEEEEEE, 0x200
ABSURD = (2**21, 2**31, 2**32 - 1)
pytestmark = pytest.mark.linuxsync(kernel_may_warn=True)


@pytest.mark.parametrize("count", ABSURD)
def test_more_syncobjs_than_there_is_room_for(count, gpu, new):
    """ENOMEM from every request that takes an array; the syncobj is as it was. (The allocator warns.)"""
    syncobj = new(signaled=True)
    fd, which, where = gpu.fileno(), handles(syncobj.handle), points(0)
    for name, *values in (
        ("WAIT", which.at, 0, count, ALL),
        ("TIMELINE_WAIT", which.at, where.at, 0, count, ALL),
        ("RESET", which.at, count),
        ("SIGNAL", which.at, count),
        ("TIMELINE_SIGNAL", which.at, where.at, count),
        ("QUERY", which.at, where.at, count),
    ):
        assert (name, refusal(fd, name, *values)) == (name, "ENOMEM")
    assert ask(fd, "QUERY", which.at, where.at, 1)[0] == 0
    syncobj.wait(0)


def test_an_in_fence_for_nothing(screen, fence, timeline):
    """A plane that shows nothing waits for its in-fence too, which linuxsync refuses. (The atomic helpers warn.)"""
    plane, crtc = screen.ids(screen.plane, PLANE), screen.ids(screen.crtc, CRTC)
    room = ctypes.c_int32(-1)
    change = [(screen.plane, plane[name], 0) for name in ("FB_ID", "CRTC_ID")]
    change.append((screen.plane, plane["IN_FENCE_FD"], fence.fileno()))
    change.append((screen.crtc, crtc["OUT_FENCE_PTR"], ctypes.addressof(room)))
    assert atomic(screen.fd, NONBLOCK, *change) == 0
    with SyncFile(room.value) as out:
        assert not out.poll(0.2)
        timeline.inc()
        out.wait(60)
    screen.flip(screen.fbs[1]).wait(60)
