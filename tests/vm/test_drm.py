"""DRM devices: finding them, opening them, what they say of themselves, and hearing of those that come and go."""

import errno
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from children import forked
from drm_words import ask, clients, node_of
from kernel_words import free_descriptors, refused

from linuxsync import DrmDevice, OwnedFd, SyncFile, Timeline, VgemDevice, drm

DRIVERS = ("vgem", "vkms", "virtio_gpu")
NOBODY = 65534


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def change(driver):
    """Make the kernel announce a device once more."""
    (Path("/sys/class/drm") / Path(node_of(driver)).name / "uevent").write_text("change")


def settle():
    """Wait until udev has told of all that has happened: who watches next would hear of it."""
    subprocess.run(["udevadm", "settle"], check=True)


def test_devices_are_all_there():
    """Each driver of this machine once, with the nodes that debugfs and udev know, in the order of their numbers."""
    found = drm.devices()
    assert {node.driver: (node.primary, node.render) for node in found} == {
        "vgem": (node_of("vgem"), node_of("vgem", "renderD")),
        "vkms": (node_of("vkms"), None),
        "virtio_gpu": (node_of("virtio_gpu"), node_of("virtio_gpu", "renderD")),
    }
    numbers = [int(node.primary.removeprefix("/dev/dri/card")) for node in found]
    assert numbers == sorted(numbers)


def test_what_udev_knows_of_them():
    """Bus, path in /sys, seat and tags; the path is that of the primary node."""
    for node in drm.devices():
        assert node.bus == ("pci" if node.driver == "virtio_gpu" else "platform")
        number = Path(node.primary).stat().st_rdev
        assert (Path(node.syspath) / "dev").read_text().strip() == f"{os.major(number)}:{os.minor(number)}"
        assert stat.S_ISCHR(Path(node.primary).stat().st_mode)
        assert node.seat == "seat0"
        assert node.tags == ("master-of-seat", "seat", "uaccess")


def test_devices_for_another_user():
    """Who may open nothing still sees what there is, and opening says why it can't."""

    def work():
        become_nobody()
        assert [node.driver for node in drm.devices()] == [None] * 3
        with refused(errno.EACCES, PermissionError):
            DrmDevice.open(path=node_of("vgem"))
        with refused(errno.ENOENT, FileNotFoundError) as caught:
            DrmDevice.open(driver="vgem")
        assert "not for this user" in str(caught.value)

    with forked(work):
        pass


@pytest.mark.parametrize("driver", DRIVERS)
def test_open_by_driver(driver):
    """The primary node of that driver, for reading and writing, close-on-exec."""
    with DrmDevice.open(driver=driver) as device:
        assert device.driver == driver
        assert str(Path(f"/proc/self/fd/{device.fileno()}").readlink()) == node_of(driver)
        assert not os.get_inheritable(device.fileno())
        assert clients(driver) == 1
    assert clients(driver) == 0


@pytest.mark.parametrize("driver", ["vgem", "virtio_gpu"])
def test_open_a_render_node(driver):
    """render=True is the other node of the same device."""
    with DrmDevice.open(driver=driver, render=True) as device:
        assert str(Path(f"/proc/self/fd/{device.fileno()}").readlink()) == node_of(driver, "renderD")
        assert device.driver == driver


def test_open_by_path_and_without_words():
    """A path, as text or Path, with the driver or without; and the first device where nothing is asked for."""
    path = node_of("vkms")
    for arguments in ({"path": path}, {"path": Path(path)}, {"path": path, "driver": "vkms"}):
        with DrmDevice.open(**arguments) as device:
            assert device.driver == "vkms"
    with DrmDevice.open() as device:
        assert device.driver == drm.devices()[0].driver


def test_open_what_is_not_there():
    """The error says what is missing, and what would give it."""
    with refused(errno.ENOENT, FileNotFoundError) as caught:
        DrmDevice.open(driver="i915")
    assert "'i915'" in str(caught.value)
    assert all(driver in str(caught.value) for driver in DRIVERS)
    with refused(errno.ENOENT, FileNotFoundError) as caught:
        DrmDevice.open(driver="vkms", render=True)
    assert "no render node" in str(caught.value)
    with refused(errno.ENOENT, FileNotFoundError):
        DrmDevice.open(path="/dev/dri/card63")
    with pytest.raises(ValueError, match="'vkms', not of 'vgem'"):
        DrmDevice.open(path=node_of("vkms"), driver="vgem")
    for path in ("/dev/null", "/dev/dma_heap/system"):
        with pytest.raises(OSError) as refusal:
            DrmDevice.open(path=path)
        assert refusal.value.errno in (errno.ENOTTY, errno.EINVAL)


def test_open_without_descriptors():
    """EMFILE leaves nothing open; one descriptor is all that it takes."""
    path = node_of("vgem")
    with free_descriptors(0), refused(errno.EMFILE):
        DrmDevice.open(path=path)
    assert clients("vgem") == 0
    with free_descriptors(1):
        DrmDevice.open(path=path).close()


def test_looking_without_descriptors():
    """EMFILE is not taken for a device that is not there: by driver, one is all that it takes beyond udev's."""
    drm.devices()  # from here on udev has what it keeps
    for free in range(12):
        with free_descriptors(free):
            try:
                found = {node.driver for node in drm.devices()}
            except OSError as error:
                assert error.errno == errno.EMFILE
            else:
                assert found == {"vgem", "vkms", "virtio_gpu"}
            try:
                VgemDevice.open().close()
            except OSError as error:
                assert error.errno == errno.EMFILE
    assert found


def test_other_descriptors_are_refused(timeline, keep):
    """A sync_file, a timeline, a pipe: ENOTTY, and they stay the caller's."""
    fence = keep(timeline.create_fence(1))
    reading, writing = os.pipe()
    with OwnedFd(reading) as pipe, OwnedFd(writing):
        for other in (fence, timeline, pipe):
            with refused(errno.ENOTTY):
                DrmDevice(other.fileno())
            with refused(errno.ENOTTY):
                DrmDevice.from_fd(other)
            os.fstat(other.fileno())
    with refused(errno.EBADF):
        DrmDevice(reading)


def test_a_device_is_no_fence(keep):
    """And the other way round: ENOTTY, not some answer of the driver's."""
    device = keep(DrmDevice.open(driver="vgem"))
    for kind in (SyncFile, Timeline):
        with refused(errno.ENOTTY):
            kind.from_fd(device)


@pytest.mark.parametrize("driver", DRIVERS)
def test_version(driver, keep):
    """Everything that DRM_IOCTL_VERSION writes, as a second call of our own has it."""
    device = keep(DrmDevice.open(driver=driver))
    version = device.version
    result, said = ask(device.fileno(), "VERSION")
    assert result == 0
    assert (version.major, version.minor, version.patch) == said[:3]
    assert (len(version.name), len(version.date), len(version.desc)) == said[3::2]
    assert version.name == device.driver == driver
    assert version.desc


def test_use_after_close():
    """Closing twice is fine; everything else says so."""
    device = DrmDevice.open(driver="vgem")
    device.close()
    device.close()
    uses = [
        lambda: device.version,
        lambda: device.driver,
        lambda: device.caps,
        lambda: device.has_syncobj,
        lambda: device.create_dumb(1, 1, 8),
        device.dup,
        device.fileno,
    ]
    for use in uses:
        with pytest.raises(ValueError, match="closed DrmDevice"):
            use()


def test_a_forgotten_device_closes_itself():
    """With a warning, as files do."""
    with pytest.warns(ResourceWarning, match="unclosed DrmDevice"):
        DrmDevice.open(driver="vgem")
    assert clients("vgem") == 0


def test_watch_ends_in_time(open_files):
    """Nothing happens: the iteration ends at its time, not before, and gives everything back."""
    settle()
    before = open_files()
    start = time.monotonic()
    assert list(drm.watch(timeout=0.3)) == []
    assert 0.3 <= time.monotonic() - start < 10
    assert open_files() == before
    assert list(drm.watch(timeout=0)) == []
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            drm.watch(timeout=wrong)


def test_watch_hears_of_changes():
    """What happens after the call is told, and the time is that of the whole iteration."""
    with drm.watch(timeout=120) as events:
        for driver in ("vgem", "vkms", "vgem"):
            change(driver)
        heard = [next(events) for _ in range(3)]
    # udev works on several devices at once: only what happens to one of them comes in order.
    assert sorted((event.action, event.path) for event in heard) == sorted(
        ("change", node_of(driver)) for driver in ("vgem", "vkms", "vgem")
    )
    assert all((Path(event.syspath) / "dev").exists() for event in heard)
    assert heard[0].properties["SUBSYSTEM"] == "drm"
    with pytest.raises(StopIteration):
        next(events)


def test_watch_does_not_last_longer_for_events():
    """Events do not put off the end."""
    start = time.monotonic()
    told = 0
    with drm.watch(timeout=5) as events:
        change("vgem")
        for _ in events:
            told += 1
            change("vgem")  # which is told next
    assert 5 <= time.monotonic() - start < 20
    assert told > 1


def test_watch_is_stopped_by_another_thread():
    """stop() ends a wait that has no end of its own; before the wait, and twice, it is fine too."""
    settle()
    events = drm.watch()
    timer = threading.Timer(0.2, events.stop)
    timer.start()
    assert list(events) == []
    timer.join()
    events.stop()
    events.close()
    early = drm.watch()
    early.stop()
    early.stop()
    assert list(early) == []


def test_watch_is_left_early(open_files):
    """Leaving the block gives back what a break left."""
    before = open_files()
    with drm.watch(timeout=120) as events:
        change("vgem")
        for _ in events:
            break
        assert len(open_files()) > len(before)
    assert open_files() == before


def test_watch_without_descriptors():
    """EMFILE leaves nothing open."""
    list(drm.watch(timeout=0))  # libudev is found once
    for free in range(3):
        with free_descriptors(free), pytest.raises(OSError):
            drm.watch(timeout=0)


def test_watch_sees_a_module_go_and_come():
    """vkms is unloaded and loaded: remove and add of its node."""
    path = node_of("vkms")
    with drm.watch(timeout=120) as events:
        subprocess.run(["modprobe", "-r", "vkms"], check=True)
        try:
            gone = next(event for event in events if event.path == path)
            assert "vkms" not in [node.driver for node in drm.devices()]
            with refused(errno.ENOENT, FileNotFoundError) as caught:
                DrmDevice.open(driver="vkms")
            assert "modprobe vkms" in str(caught.value)
        finally:
            subprocess.run(["modprobe", "vkms"], check=True)
        come = next(event for event in events if event.path == path)
    assert (gone.action, come.action) == ("remove", "add")
    settle()
    with DrmDevice.open(driver="vkms") as device:
        assert device.driver == "vkms"


def test_looking_makes_nobody_master(monkeypatch):
    """devices() opens the render node of whatever has one; who opens a primary node first is its master."""
    opened = []
    real = DrmDevice.open

    def watched(*arguments, **options):
        opened.append(options["path"])
        return real(*arguments, **options)

    monkeypatch.setattr(DrmDevice, "open", watched)
    found = drm.devices()
    assert opened == [node.render or node.primary for node in found]
    assert [node.render is None for node in found].count(True) == 1  # vkms
