"""KMS on vkms: what it refuses, from us and from whoever asks by himself, and what is left of framebuffers."""

import ctypes
import errno

import pytest
from clock_words import becomes
from drm_words import ask, atomic, framebuffers, properties, refusal, shown
from kernel_words import free_descriptors, refused
from screen import Screen

from linuxsync import DrmDevice, SyncFile, kms

CRTC, PLANE = 0xCCCCCCCC, 0xEEEEEEEE
EVENT, ASYNC, TEST_ONLY, ALLOW_MODESET = 1, 2, 0x100, 0x400


def test_devices_without_one(keep):
    """vgem has no modes, a render node no say; the requests are named."""
    vgem = keep(DrmDevice.open(driver="vgem"))
    for use in (
        lambda: kms.find_pipeline(vgem),
        lambda: kms.commit(vgem, crtc=1, plane=1, fb=1),
    ):
        with refused(errno.EOPNOTSUPP) as caught:
            use()
        assert "DRM_CLIENT_CAP_ATOMIC" in str(caught.value)
    assert atomic(vgem.fileno(), 0) == -errno.EOPNOTSUPP
    with vgem.create_dumb(64, 64, 32) as gem, refused(errno.EOPNOTSUPP) as caught:
        kms.add_framebuffer(gem, 64, 64)
    assert "DRM_IOCTL_MODE_ADDFB2" in str(caught.value)
    render = keep(DrmDevice.open(driver="virtio_gpu", render=True))
    with refused(errno.EACCES, PermissionError):
        kms.find_pipeline(render)
    assert atomic(render.fileno(), 0) == -errno.EACCES


def test_who_is_not_master(screen, keep):
    """EACCES, whatever is asked."""
    other = keep(DrmDevice.open(driver="vkms"))
    with refused(errno.EACCES, PermissionError) as caught:
        kms.commit(other, crtc=screen.crtc, plane=screen.plane, fb=screen.fbs[1].id)
    assert "DRM_IOCTL_MODE_ATOMIC" in str(caught.value)
    assert "master" in str(caught.value)
    for show in (
        lambda: kms.commit(other, crtc=screen.crtc, plane=screen.plane, fb=screen.fbs[1]),
        lambda: kms.modeset(other, screen.pipeline, screen.fbs[1]),
    ):
        with pytest.raises(ValueError, match="of another device"):
            show()
    assert atomic(other.fileno(), 0xDEAD0000, reserved=1) == -errno.EACCES


def test_objects_that_are_none(screen):
    """ENOENT for the ids of nothing, and of something else; EINVAL for a framebuffer."""
    for crtc, plane in ((0xDEAD, screen.plane), (screen.crtc, 0xDEAD), (screen.plane, screen.plane)):
        with refused(errno.ENOENT, FileNotFoundError):
            kms.commit(screen.device, crtc=crtc, plane=plane, fb=screen.fbs[1])
    for fb in (0xDEAD, screen.crtc):
        with refused(errno.EINVAL):
            screen.commit(fb)


def test_a_screen_that_is_off(keep):
    """EINVAL: an out-fence needs a CRTC that is on; after disable() too."""
    screen = Screen(keep)
    kms.disable(screen.device, screen.pipeline)
    for fb in (screen.fbs[1], None):
        with refused(errno.EINVAL):
            screen.commit(fb)


def test_a_framebuffer_that_is_too_small(screen, keep):
    """ENOSPC from modeset, EINVAL from ADDFB2 where the buffer is; nothing is left of either."""
    gem = keep(screen.device.create_dumb(64, 64, 32))
    with refused(errno.EINVAL) as caught:
        kms.add_framebuffer(gem, 65, 65)
    assert "DRM_IOCTL_MODE_ADDFB2" in str(caught.value)
    for wrong in ({"pitch": 100}, {"format": 0}, {"offset": 4}):
        with refused(errno.EINVAL):
            kms.add_framebuffer(gem, 64, 64, **wrong)
    small = keep(kms.add_framebuffer(gem, 64, 64))
    with refused(errno.ENOSPC):
        kms.modeset(screen.device, screen.pipeline, small)
    assert screen.fbs[0].id in shown("vkms").values()


def test_without_descriptors(screen):
    """EMFILE changes nothing."""
    with free_descriptors(0), refused(errno.EMFILE):
        screen.commit(screen.fbs[1])
    screen.flip(screen.fbs[1]).wait(60)


def test_wrong_arguments(screen, timeline):
    """Refused before the kernel is asked."""
    for wrong in (timeline, 3, screen.device):
        with pytest.raises(TypeError, match="SyncFile"):
            screen.commit(screen.fbs[1], in_fence=wrong)
    for crtc, plane, fb in ((-1, 1, 1), (2**32 + screen.crtc, screen.plane, 0), (screen.crtc, 2**32, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="2\\*\\*32"):
            kms.commit(screen.device, crtc=crtc, plane=plane, fb=fb)
    for wrong in ({"pitch": -1}, {"offset": 2**32}, {"format": 2**32}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kms.add_framebuffer(screen.fbs[0].gem, 64, 64, **wrong)
    fence = timeline.create_fence(1)
    fence.close()
    with pytest.raises(ValueError, match="closed"):
        screen.commit(screen.fbs[1], in_fence=fence)
    screen.fbs[1].close()
    with pytest.raises(ValueError, match="closed Framebuffer"):
        screen.commit(screen.fbs[1])


def test_framebuffers_go(screen, keep):
    """Closed twice is fine; the buffer may go before, the device too; who shows it goes dark."""
    gem = screen.device.create_dumb(screen.mode.width, screen.mode.height, 32)
    fb = kms.add_framebuffer(gem, screen.mode.width, screen.mode.height)
    gem.close()
    assert fb.id in framebuffers("vkms")
    screen.flip(fb).wait(60)
    number = fb.id
    fb.close()
    fb.close()
    assert number not in framebuffers("vkms")
    assert number not in shown("vkms").values()
    assert refusal(screen.fd, "RMFB", number) == errno.ENOENT
    other = screen.framebuffer()
    assert ask(screen.fd, "RMFB", other.id)[0] == 0
    with refused(errno.ENOENT) as caught:
        other.close()
    assert "DRM_IOCTL_MODE_RMFB" in str(caught.value)
    screen.device.close()
    for fb in screen.fbs:
        fb.close()
    becomes([], lambda: framebuffers("vkms"))  # the worker of the flip may hold one for a moment
    with pytest.raises(ValueError, match="closed"):
        screen.commit(1)


def test_a_buffer_closed_behind_our_back(screen):
    """ENOENT: there is nothing to show."""
    gem = screen.device.create_dumb(64, 64, 32)
    assert ask(screen.fd, "GEM_CLOSE", gem.handle)[0] == 0
    with refused(errno.ENOENT) as caught:
        kms.add_framebuffer(gem, 64, 64)
    assert f"DRM_IOCTL_MODE_ADDFB2 of handle {gem.handle}" in str(caught.value)
    with refused(errno.EINVAL):
        gem.close()
    gem.close()
    with pytest.raises(ValueError, match="closed GemBuffer"):
        kms.add_framebuffer(gem, 64, 64)


def test_words_that_are_wrong(screen):
    """Flags and reserved fields of DRM_IOCTL_MODE_ATOMIC."""
    fd, plane = screen.fd, screen.ids(screen.plane, PLANE)
    flip = (screen.plane, plane["FB_ID"], screen.fbs[1].id)
    assert atomic(fd, 0, flip, reserved=1) == -errno.EINVAL
    for flags in (0x800, 0x80000000, 4, ASYNC, TEST_ONLY | EVENT):
        assert atomic(fd, flags, flip) == -errno.EINVAL
    assert atomic(fd, EVENT) == -errno.EINVAL
    assert atomic(fd, 0) == 0
    assert ask(fd, "ATOMIC", 0, 1, 8, 8, 8, 8)[0] == -errno.EFAULT
    crtc = screen.ids(screen.crtc, CRTC)
    off = (screen.crtc, crtc["ACTIVE"], 0)
    assert atomic(fd, 0, off) == -errno.EINVAL  # a modeset without ALLOW_MODESET
    assert atomic(fd, 0, (screen.crtc, crtc["ACTIVE"], 2)) == -errno.EINVAL
    for wrong in ((0xDEAD, plane["FB_ID"], 0), (screen.plane, 0xDEAD, 0), (screen.plane, crtc["ACTIVE"], 0)):
        assert atomic(fd, 0, wrong) == -errno.ENOENT
    assert atomic(fd, 0, (screen.plane, plane["CRTC_ID"], 0xDEAD)) == -errno.EINVAL
    with DrmDevice.open(driver="virtio_gpu") as virtio:
        assert atomic(virtio.fileno(), 0) == -errno.EINVAL  # has not said that it speaks atomic


def test_in_fence_words(screen, timeline, keep):
    """What IN_FENCE_FD refuses: what is no fence, and a second one; -1 is none."""
    fd, ids = screen.fd, screen.ids(screen.plane, PLANE)
    fence = keep(timeline.create_fence(0))

    def flip(*fences):
        changes = [(screen.plane, ids["IN_FENCE_FD"], number) for number in fences]
        return atomic(fd, 0, (screen.plane, ids["FB_ID"], screen.fbs[1].id), *changes)

    for wrong in (-2, 2**31, 2**32, fd, timeline.fileno(), 999):
        assert flip(wrong) == -errno.EINVAL
    assert flip(fence.fileno(), fence.fileno()) == -errno.EINVAL
    assert flip(-1) == flip(fence.fileno()) == 0
    assert properties(fd, screen.plane, PLANE)["IN_FENCE_FD"][1] == 2**64 - 1
    assert properties(fd, screen.crtc, CRTC)["OUT_FENCE_PTR"][1] == 0


def test_out_fence_words(screen, keep):
    """Where OUT_FENCE_PTR points to nothing; what it holds after a refusal; a screen that goes off with a fence."""
    fd, plane, crtc = screen.fd, screen.ids(screen.plane, PLANE), screen.ids(screen.crtc, CRTC)
    pointer = crtc["OUT_FENCE_PTR"]
    flip = (screen.plane, plane["FB_ID"], screen.fbs[1].id)
    assert atomic(fd, 0, flip, (screen.crtc, pointer, 8)) == -errno.EFAULT
    assert atomic(fd, 0, flip, (screen.crtc, pointer, 0)) == 0
    out = ctypes.c_int32(77)
    wrong = (screen.plane, plane["FB_ID"], screen.fbs[1].id), (screen.crtc, crtc["ACTIVE"], 0)
    assert atomic(fd, 0, (screen.crtc, pointer, ctypes.addressof(out)), *wrong) == -errno.EINVAL
    assert out.value == -1
    out.value = 77
    assert atomic(fd, TEST_ONLY, flip, (screen.crtc, pointer, ctypes.addressof(out))) == 0
    assert out.value == -1
    changes = [
        (screen.crtc, pointer, ctypes.addressof(out)),
        (screen.crtc, crtc["ACTIVE"], 0),
    ]
    assert atomic(fd, ALLOW_MODESET, *changes) == 0
    keep(SyncFile(out.value)).wait(60)
