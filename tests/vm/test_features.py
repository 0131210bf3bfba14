"""What the kernel under the tests offers: exactly what its series has, and what it lacks it refuses by the known errno.

conftest.py leaves out the tests of what the probe calls missing, so a probe that is wrong has to fail here.
"""

from __future__ import annotations

import errno
import os

import pytest
from drm_words import node_of
from kernel_words import GET_DEADLINE, SET_DEADLINE, GetDeadline, SetDeadline, answer, refused
from syncobj_words import open_device, refusal

from linuxsync import Syncobj, kms, udmabuf
from linuxsync.inspect import State, examine

# What every kernel has that the tests are for.
ALWAYS = {
    "sync_file",
    "export_sync_file",
    "import_sync_file",
    "sw_sync",
    "debugfs",
    "tracefs",
    "heaps",
    "udmabuf",
    "drm",
    "drm:vgem",
    "drm:vkms",
    "drm:virtio_gpu",
    "pidfd_getfd",
    "kcmp",
    "root",
    "ptrace",
    "hidepid",
}
# What came later than 6.1, and with which release; all of it is there in 6.12.
SINCE = {
    "set_deadline": (6, 8),  # 63ee44540205
    "syncobj": (6, 6),  # of virtio_gpu, 7cb8d1ab8cbd; no other driver that runs without hardware has any
    "timeline_syncobj": (6, 6),
    "syncobj_eventfd": (6, 6),  # c7a472297169
    "udmabuf_pinned": (6, 11),  # memfd_pin_folios, and 7d79cd784470 with it
    "udmabuf_vmap": (6, 3),  # "udmabuf: add vmap and vunmap methods to udmabuf_ops", of November 2022
}
SERIES = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
UNSUPPORTED = {name for name, first in SINCE.items() if first > SERIES}


@pytest.fixture(scope="module")
def found():
    """The probe's answer, by name."""
    return {one.name: one for one in examine()}


def test_the_probe(found):
    """No feature more or less than the series has; the fence device is there where its module could be built."""
    expected = dict.fromkeys(ALWAYS, State.OK)
    expected |= {name: State.MISSING if name in UNSUPPORTED else State.OK for name in SINCE}
    expected["fencedev"] = State.OK if os.environ.get("LINUXSYNC_FENCEDEV") else State.MISSING
    assert {name: one.state for name, one in found.items()} == expected


def test_the_series_of_the_tests():
    """The two that the matrix is about: 6.12 lacks nothing, 6.1 all that came later."""
    of_ours = {(6, 1): set(SINCE), (6, 12): set()}
    assert of_ours.get(SERIES, UNSUPPORTED) == UNSUPPORTED


def test_set_deadline(fence, timeline):
    """Both requests are unknown (ENOTTY), or go on to look at what they are given."""
    wanted, unknown = SetDeadline(deadline_ns=5), -errno.ENOTTY
    known = "set_deadline" not in UNSUPPORTED
    assert answer(fence.fileno(), SET_DEADLINE, wanted) == (0 if known else unknown)
    data = GetDeadline(fence_fd=fence.fileno())
    assert answer(timeline.fileno(), GET_DEADLINE, data) == (0 if known else unknown)
    assert data.deadline_ns == (5 if known else 0)
    if not known:
        with refused(errno.ENOTTY) as caught:
            fence.set_deadline(5)
        assert "SYNC_IOC_SET_DEADLINE" in str(caught.value)
        with refused(errno.ENOTTY):
            timeline.deadline_ns(fence)


def test_syncobj(keep):
    """Without them every request is refused (EOPNOTSUPP), and the device says that it has none."""
    device = keep(open_device())
    known = "syncobj" not in UNSUPPORTED
    assert device.has_syncobj == known
    for name in ("DESTROY", "SIGNAL", "RESET"):  # of handle 0, of which there is none, or of no handles
        assert refusal(device.fileno(), name) == ("EINVAL" if known else "EOPNOTSUPP")
    if not known:
        with refused(errno.EOPNOTSUPP):
            Syncobj.create(device)


def test_timeline_syncobj(keep):
    """A capability of its own, and the same refusal."""
    device = keep(open_device())
    known = "timeline_syncobj" not in UNSUPPORTED
    assert device.has_timeline_syncobj == known
    assert refusal(device.fileno(), "QUERY") == ("EINVAL" if known else "EOPNOTSUPP")


def test_syncobj_eventfd(keep):
    """A request that DRM does not know (EINVAL), or one about a handle that is not there (ENOENT)."""
    assert node_of("virtio_gpu")
    known = "syncobj_eventfd" not in UNSUPPORTED
    assert refusal(keep(open_device()).fileno(), "EVENTFD", 0, 0, 0, -1) == ("ENOENT" if known else "EINVAL")


def test_udmabuf_vmap(screen, keep):
    """Whether what is in a udmabuf can be shown: vkms takes it for a framebuffer, but maps it when it comes to it."""
    width, height = screen.mode.width, screen.mode.height
    buffer = keep(udmabuf.create(width * height * 4))
    fb = keep(kms.add_framebuffer(keep(screen.device.import_dma_buf(buffer)), width, height, pitch=width * 4))
    if "udmabuf_vmap" not in UNSUPPORTED:
        assert screen.flip(fb).wait(60) is None
        return
    with refused(errno.EINVAL):
        screen.commit(fb)
