"""Where there is no sw_sync, or not for this user: the error says why, and nothing is opened or mounted."""

import ctypes
import errno
import json
import os
from pathlib import Path

import pytest
from kernel_words import libc

from linuxsync import Timeline, sw_sync

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 0x40000
MNT_DETACH = 2


def mount(source, target, kind, flags=0):
    """mount(2)."""
    arguments = [text if text is None else os.fsencode(text) for text in (source, target, kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), None) == -1:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def elsewhere(prepare):
    """What find() says in a child with mounts of its own, after `prepare` has changed them: a path or an error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert libc.unshare(CLONE_NEWNS) == 0
            mount(None, "/", None, MS_REC_PRIVATE)
            prepare()
            mounts = Path("/proc/self/mountinfo").read_text()
            answers = []
            for attempt in (sw_sync.find, Timeline):
                try:
                    answers.append(["fine", str(attempt())])
                except OSError as error:
                    answers.append([type(error).__name__, error.errno, str(error)])
            answers.append(sw_sync.available())
            answers.append(Path("/proc/self/mountinfo").read_text() == mounts)
            os.write(writing, json.dumps(answers).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as answers:
        text = answers.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found, opened, available, untouched = json.loads(text)
    assert untouched, "find() must mount nothing"
    return found, opened, available


def unmount_debugfs():
    """Take every debugfs away."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - debugfs " in line:
            assert libc.umount2(os.fsencode(line.split()[4]), MNT_DETACH) == 0


@pytest.mark.parametrize("name", ["debug", "with blank", "tab\tand\\backslash", "ümlaut"])
def test_debugfs_in_another_place(name, tmp_path):
    """It is found wherever debugfs is mounted, under any name."""
    place = tmp_path / name
    place.mkdir()

    def prepare():
        unmount_debugfs()
        mount("none", place, "debugfs")

    found, opened, available = elsewhere(prepare)
    assert found == ["fine", str(place / "sync" / "sw_sync")]
    assert opened[0] == "fine"
    assert available is True


def test_debugfs_is_not_mounted():
    """The error says what to mount."""
    found, opened, available = elsewhere(unmount_debugfs)
    assert found[:2] == opened[:2] == ["FileNotFoundError", errno.ENOENT]
    assert "not mounted" in found[2]
    assert "mount -t debugfs" in found[2]
    assert available is False


def test_a_debugfs_without_sw_sync(tmp_path):
    """Where debugfs is there and sw_sync is not, the kernel was built without it."""

    def prepare():
        # Something else in the place of debugfs' sync folder: the same to see as a kernel without CONFIG_SW_SYNC.
        mount("none", Path(sw_sync.find()).parent, "tmpfs")

    found, opened, available = elsewhere(prepare)
    assert found[:2] == opened[:2] == ["FileNotFoundError", errno.ENOENT]
    assert "CONFIG_SW_SYNC" in found[2]
    assert available is False


def test_for_another_user():
    """Not root: the error says so."""

    def prepare():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    found, opened, available = elsewhere(prepare)
    assert found[:2] == opened[:2] == ["PermissionError", errno.EACCES]
    assert "root" in found[2]
    assert available is False
