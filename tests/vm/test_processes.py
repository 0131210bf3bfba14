"""Fences and timelines in more than one process: sent, inherited, borrowed, and what a death does to them."""

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import forked, taken
from clock_words import becomes
from kernel_words import debugfs_timeline, debugfs_timelines, libc, raw_info, refused

from linuxsync import SyncFile, Timeline

PIDFD_GETFD = 438  # the same on every architecture


class Peer:
    """A second Python, started anew, that holds fences and timelines of its own (peer.py)."""

    def __init__(self):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, Path(__file__).with_name("peer.py"), str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self.ours.settimeout(120)

    def tell(self, *message, fds=()):
        """Send it without waiting for the answer."""
        socket.send_fds(self.ours, [json.dumps(message).encode()], fds)

    def answer(self):
        """The value and the descriptors that come back."""
        data, fds, _, _ = socket.recv_fds(self.ours, 65536, 8, socket.MSG_CMSG_CLOEXEC)
        assert data, "the other process has ended"
        return json.loads(data), fds

    def ask(self, *message, fds=()):
        """The value that comes back."""
        self.tell(*message, fds=fds)
        value, received = self.answer()
        assert received == []
        return value

    def fd(self, *message):
        """The one descriptor that comes back."""
        self.tell(*message)
        _, (fd,) = self.answer()
        return fd


@contextmanager
def second_process():
    """A Peer, ended afterwards whatever happened."""
    peer = Peer()
    try:
        yield peer
    finally:
        peer.ours.close()
        try:
            peer.process.wait(60)
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()


@pytest.fixture(scope="module")
def long_lived():
    with second_process() as process:
        yield process


@pytest.fixture
def peer(long_lived):
    """The other process, with nothing in its hands; the same one for many tests because it takes long to start."""
    yield long_lived
    long_lived.ask("forget")


@pytest.fixture
def mortal():
    """Another process that may be killed."""
    with second_process() as process:
        yield process


def test_a_fence_sent_to_another_process(peer, timeline, keep):
    """What arrives is the same fence: it signals there when it is signaled here."""
    fence = keep(timeline.create_fence(1))
    peer.ask("take fences", fds=[fence.fileno()])
    assert peer.ask("status") == [0]
    peer.tell("wait", 60)
    fence.close()
    timeline.inc()
    assert peer.answer() == (1, [])
    assert peer.ask("status") == [1]


def test_a_fence_received_from_another_process(peer, keep):
    """What the other one makes can be held, merged and waited for here."""
    peer.ask("new timeline", "theirs")
    fence = keep(SyncFile(peer.fd("create fence", 2)))
    assert fence.fences[0].obj_name == "theirs"
    both = keep(fence | keep(keep(Timeline(name="ours")).create_fence(1)))
    assert [member.obj_name for member in both.fences] == ["theirs", "ours"]
    assert not fence.poll()
    peer.tell("inc", 2)
    fence.wait(60)
    assert [member.status for member in both.fences] == [1, 0]
    assert peer.answer() == (None, [])


def test_a_timeline_sent_to_another_process(peer, keep):
    """The other process advances it, creates on it, and keeps it alive when it is closed here."""
    timeline = keep(Timeline(name="lent"))
    near, far = keep(timeline.create_fence(1)), keep(timeline.create_fence(5))
    peer.ask("take timelines", fds=[timeline.fileno()])
    peer.ask("inc", 3)
    assert (near.status, far.status) == (1, 0)
    # What another process does is not known here.
    assert (timeline.value, debugfs_timeline("lent").value) == (0, 3)
    theirs = keep(SyncFile(peer.fd("create fence", 5)))
    assert keep(theirs | far).info() == far.info()
    timeline.close()
    assert far.status == 0
    peer.ask("close timeline")
    assert far.status == theirs.status == -errno.ENOENT


def test_a_timeline_received_from_another_process(mortal, keep):
    """Held here, it outlives the process that opened it."""
    mortal.ask("new timeline", "orphan")
    timeline = keep(taken(mortal.fd("send timeline")))
    fence = keep(timeline.create_fence(2))
    mortal.process.kill()
    mortal.process.wait()
    assert (timeline.name, timeline.value, fence.status) == ("orphan", None, 0)
    timeline.inc(2)
    assert fence.status == 1


def test_a_process_that_dies_fails_its_fences(mortal, keep):
    """A timeline that only the dead process held is closed with it: ENOENT, at once, and the waiter wakes."""
    mortal.ask("new timeline", "victim")
    fence = keep(SyncFile(mortal.fd("create fence", 1)))
    with pytest.raises(TimeoutError):
        fence.wait(0.01)
    mortal.process.kill()
    fence.wait(60)
    assert fence.error == errno.ENOENT
    mortal.process.wait()
    fence.close()
    assert debugfs_timelines() == []


def test_the_wrong_thing_sent(peer, timeline, keep):
    """A fence is no timeline in the other process either, and nothing is signaled by the attempt."""
    fence = keep(timeline.create_fence(1))
    assert peer.ask("take timelines", fds=[fence.fileno()]) == ["refused", errno.ENOTTY]
    assert peer.ask("take fences", fds=[timeline.fileno()]) == ["refused", errno.ENOTTY]
    assert (fence.status, timeline.value) == (0, 0)


def test_borrowed_by_pidfd_getfd(peer, keep):
    """pidfd_getfd takes the same fence and the same timeline out of another process, without its help."""
    peer.ask("new timeline", "borrowed")
    original = keep(SyncFile(peer.fd("create fence", 1)))
    fence_number, timeline_number = peer.ask("numbers")
    pidfd = os.pidfd_open(peer.process.pid)
    try:
        fence = keep(SyncFile(libc.syscall(PIDFD_GETFD, pidfd, fence_number, 0)))
        timeline = keep(taken(libc.syscall(PIDFD_GETFD, pidfd, timeline_number, 0)))
        ctypes.set_errno(0)
        assert libc.syscall(PIDFD_GETFD, pidfd, 9999, 0) == -1
        assert ctypes.get_errno() == errno.EBADF
    finally:
        os.close(pidfd)
    assert not os.get_inheritable(fence.fileno())
    assert fence.info() == original.info()
    timeline.inc()
    assert (fence.status, original.status, peer.ask("status")) == (1, 1, [1])


def test_opening_by_proc_is_not_possible(peer, keep):
    """/proc/PID/fd/N of a fence can be read as a link but not opened: ENXIO."""
    peer.ask("new timeline", "closed book")
    keep(SyncFile(peer.fd("create fence", 1)))
    fence_number, _ = peer.ask("numbers")
    path = Path(f"/proc/{peer.process.pid}/fd/{fence_number}")
    assert str(path.readlink()) == "anon_inode:sync_file"
    with refused(errno.ENXIO):
        os.open(path, os.O_RDONLY)


def test_a_forked_child_has_the_same_fence(timeline, keep):
    """A child signals through the inherited timeline; the object in the parent sees the fence, not the value."""
    fence, after = keep(timeline.create_fence(1)), keep(timeline.create_fence(2))
    with forked(lambda: timeline.inc(1)):
        fence.wait(60)
    assert (fence.status, after.status, timeline.value) == (1, 0, 0)


def test_a_childs_close_is_its_own(timeline, keep):
    """Closing in the child, the fence or the timeline, leaves the parent's alone."""
    fence = keep(timeline.create_fence(1))

    def work():
        timeline.close()
        fence.close()

    with forked(work):
        pass
    assert (fence.status, timeline.closed, fence.closed) == (0, False, False)
    timeline.inc()
    assert fence.status == 1


def test_an_inherited_timeline_keeps_its_fences_alive(timeline, keep):
    """With a child that holds it, closing the timeline fails nothing; the child's end does."""
    fence = keep(timeline.create_fence(1))
    reading, writing = os.pipe()
    with forked(lambda: os.read(reading, 1)):
        timeline.close()
        assert fence.status == 0
        assert not fence.poll(0.05)
        os.write(writing, b"x")
        fence.wait(60)
        assert fence.error == errno.ENOENT
    os.close(reading)
    os.close(writing)


def test_a_child_waits_for_its_parent(timeline, keep):
    """The child sleeps in wait() on the inherited fence until the parent signals, and finds it signaled."""
    fence = keep(timeline.create_fence(1))
    reading, writing = os.pipe()

    def work():
        os.write(writing, b"x")
        fence.wait(60)
        assert raw_info(fence.fileno())[0].status == 1

    with forked(work):
        assert os.read(reading, 1) == b"x"
        time.sleep(0.05)
        timeline.inc()
    os.close(reading)
    os.close(writing)


def test_execed_programs_do_not_hold_fences(timeline, keep):
    """Everything is close-on-exec: a program started here keeps no timeline alive."""
    fence = keep(timeline.create_fence(1))
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        path = Path(f"/proc/{program.pid}")
        try:
            # Asleep, and not on its way there: until then it opens and closes libraries.
            becomes(True, lambda: "nanosleep" in (path / "wchan").read_text(), 30)
            links = [str(entry.readlink()) for entry in (path / "fd").iterdir()]
            timeline.close()
            assert fence.error == errno.ENOENT
        finally:
            program.kill()
    assert not [link for link in links if "sync" in link]
