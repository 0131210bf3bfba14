"""DRM's own rules: who may ask for what, which answers there are, and how a request is recognised."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest
from children import forked
from drm_words import ask, node_of, refusal
from kernel_words import NOWHERE, answer, libc, refused
from syncobj_words import without_syncobjs

from linuxsync import DrmDevice, drm

DRIVERS = ("vgem", "vkms", "virtio_gpu")
NOBODY = 65534
PR_SET_NAME = 15
SET_MASTER, DROP_MASTER, GEM_OPEN = 0x641E, 0x641F, 0xC010640B
UNIVERSAL_PLANES, ATOMIC, WRITEBACK, CURSOR_HOTSPOT = 2, 3, 5, 6
# What GET_CAP answers for vgem, which knows nothing of modes; everything else is EOPNOTSUPP.
VGEM_CAPS = {5: 3, 6: 1, 0x13: 0, 0x14: 0}


@pytest.mark.parametrize("driver", DRIVERS)
def test_caps(driver, keep):
    """Each capability that the kernel answers for, and none that it refuses."""
    device = keep(DrmDevice.open(driver=driver))
    raw = {}
    for number in (*range(1, 0x40), 0xFFFF):
        result, (_, value) = ask(device.fileno(), "GET_CAP", number)
        if result == 0:
            raw[number] = value
        else:
            assert -result == (errno.EOPNOTSUPP if driver == "vgem" else errno.EINVAL)
    assert device.caps == {number: value for number, value in raw.items() if number in set(drm.Cap)}
    assert device.has_syncobj == bool(raw[0x13])
    assert device.has_timeline_syncobj == bool(raw[0x14])
    if driver == "vgem":
        assert raw == VGEM_CAPS
    else:
        assert raw[drm.Cap.DUMB_BUFFER] == 1
    if driver == "vkms":
        assert (raw[5], raw[8], raw[9], raw[0x10], raw[0x12]) == (3, 512, 512, 1, 1)
        assert raw.get(0x15, 0) == 0  # asked for since 6.8
    assert (raw[0x13], raw[0x14]) == ((0, 0) if driver in without_syncobjs() else (1, 1))


def test_client_caps(keep, vgem, vkms):
    """Who may ask for what: EOPNOTSUPP, EACCES or EINVAL, and the range of each value."""
    virtio, render = (keep(DrmDevice.open(driver="virtio_gpu", render=render)) for render in (False, True))
    for cap in (2, 3, 0xFF):
        assert refusal(vgem.fileno(), "SET_CLIENT_CAP", cap, 1) == errno.EOPNOTSUPP
        assert refusal(render.fileno(), "SET_CLIENT_CAP", cap, 1) == errno.EACCES
    for cap, value in ((0xFF, 1), (UNIVERSAL_PLANES, 2), (ATOMIC, 3), (WRITEBACK, 1)):
        assert refusal(vkms.fileno(), "SET_CLIENT_CAP", cap, value) == errno.EINVAL
    for cap, value in ((UNIVERSAL_PLANES, 1), (ATOMIC, 0), (ATOMIC, 2), (ATOMIC, 1), (WRITEBACK, 1)):
        assert ask(vkms.fileno(), "SET_CLIENT_CAP", cap, value)[0] == 0
    assert refusal(vkms.fileno(), "SET_CLIENT_CAP", WRITEBACK, 2) == errno.EINVAL
    # Known since 6.8, and by drivers whose cursor has a hot spot.
    known = refusal(vkms.fileno(), "SET_CLIENT_CAP", CURSOR_HOTSPOT, 1)
    assert known in (errno.EOPNOTSUPP, errno.EINVAL)
    assert refusal(virtio.fileno(), "SET_CLIENT_CAP", CURSOR_HOTSPOT, 1) == errno.EINVAL  # before ATOMIC
    assert ask(virtio.fileno(), "SET_CLIENT_CAP", ATOMIC, 1)[0] == 0
    expected = 0 if known == errno.EOPNOTSUPP else -errno.EINVAL
    assert ask(virtio.fileno(), "SET_CLIENT_CAP", CURSOR_HOTSPOT, 1)[0] == expected


def test_a_program_whose_name_begins_with_x(vkms):
    """It is refused the first version of ATOMIC, because the X server of old misused it."""

    def work():
        assert libc.prctl(PR_SET_NAME, b"Xtest", 0, 0, 0) == 0
        assert refusal(vkms.fileno(), "SET_CLIENT_CAP", ATOMIC, 1) == errno.EOPNOTSUPP
        assert ask(vkms.fileno(), "SET_CLIENT_CAP", ATOMIC, 2)[0] == 0

    with forked(work):
        pass


@pytest.mark.parametrize("driver", DRIVERS)
def test_strings_of_a_version_are_cut_off(driver, keep):
    """To the room there is, without a NUL; the length is that of the whole."""
    device = keep(DrmDevice.open(driver=driver))
    room = ctypes.create_string_buffer(b"-" * 8)
    result, said = ask(device.fileno(), "VERSION", 0, 0, 0, 3, ctypes.addressof(room))
    assert (result, room.value, said[3]) == (0, driver[:3].encode() + b"-----", len(driver))


def test_how_requests_are_told_apart(keep):
    """By the number alone: another type is ENOTTY, an unknown number EINVAL, another size is the same request."""
    device = keep(DrmDevice.open(driver="vgem"))
    assert answer(device.fileno(), 0xC0106500, 8) == -errno.ENOTTY
    for number in (0x43, 0x9F, 0xFE):  # of vgem, the last of all drivers, of nobody
        assert answer(device.fileno(), 0xC0106400 | number, 8) in (-errno.EINVAL, -errno.EOPNOTSUPP)
    assert answer(device.fileno(), 0xC010640C, NOWHERE) == -errno.EFAULT
    # With half the struct the rest is zeros and nothing is written there; without _IOC_WRITE all of it is.
    half = ctypes.c_uint64(drm.Cap.PRIME)
    assert answer(device.fileno(), 0xC008640C, half) == 0
    assert answer(device.fileno(), 0x8010640C, (ctypes.c_uint64 * 2)(5, 0)) == -errno.EOPNOTSUPP
    result, said = ask(device.fileno(), "SET_VERSION", 1, 4, -1, -1)
    assert (result, said) == (0, (1, 4, 1, 0))


def test_who_is_master(vkms, keep):
    """The first to open a primary node is, so SET_VERSION works, until it drops it; on a render node EACCES."""
    first, second = vkms.fileno(), keep(DrmDevice.open(driver="vkms")).fileno()
    assert ask(first, "SET_VERSION", 1, 4, -1, -1)[0] == 0
    assert refusal(second, "SET_VERSION", 1, 4, -1, -1) == errno.EACCES
    assert answer(second, SET_MASTER, 0) == -errno.EBUSY
    assert answer(first, DROP_MASTER, 0) == 0
    assert refusal(first, "SET_VERSION", 1, 4, -1, -1) == errno.EACCES
    assert answer(first, DROP_MASTER, 0) == -errno.EINVAL
    assert answer(first, SET_MASTER, 0) == 0
    assert ask(first, "SET_VERSION", 1, 4, -1, -1)[0] == 0
    render = keep(DrmDevice.open(driver="vgem", render=True))
    assert refusal(render.fileno(), "SET_VERSION", 1, 4, -1, -1) == errno.EACCES


def test_who_is_authenticated(vkms):
    """Somebody who is not root, beside the master: EACCES for what needs it, an answer for what does not."""

    def work():
        node = Path(node_of("vkms")).stat()
        os.setgroups([node.st_gid])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with DrmDevice.open(path=node_of("vkms")) as device:
            assert answer(device.fileno(), GEM_OPEN, ctypes.c_uint64(1)) == -errno.EACCES
            assert device.driver == "vkms"

    assert answer(vkms.fileno(), GEM_OPEN, (ctypes.c_uint64 * 2)(1, 0)) == -errno.ENOENT
    with forked(work):
        pass


def test_an_unplugged_device(gpu, new):
    """ENODEV for everything but the closing of it; plugged in again it is there, under the same name."""
    path, syncobj = node_of("virtio_gpu"), new()
    bus = Path("/sys/bus/virtio/drivers/virtio_gpu")
    (name,) = (entry.name for entry in bus.iterdir() if entry.name.startswith("virtio"))
    try:
        (bus / "unbind").write_text(name)
        for use in (lambda: gpu.version, lambda: gpu.create_dumb(64, 64, 32), syncobj.reset, gpu.create_syncobj):
            with refused(errno.ENODEV):
                use()
        with refused(errno.ENODEV):
            syncobj.close()
        gpu.close()
    finally:
        (bus / "bind").write_text(name)
        subprocess.run(["udevadm", "settle"], check=True)
    with DrmDevice.open(driver="virtio_gpu") as device:
        assert os.fstat(device.fileno()).st_rdev == Path(path).stat().st_rdev
