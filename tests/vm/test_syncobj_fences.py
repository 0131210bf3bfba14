"""What goes into a syncobj and comes out of it: binary fences, sync_files, and descriptors of the container itself."""

import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_words import free_descriptors, raw_info, refused
from syncobj_words import next_handle, status_at, syncobj_device

from linuxsync import FenceError, OwnedFd, Syncobj, Timeline


def test_binary_life(new, fence, timeline):
    """Empty, a fence, signaled, empty again."""
    syncobj = new()
    syncobj.import_sync_file(fence)
    assert fence.status == 0  # it stays the caller's
    assert status_at(syncobj) == 0
    with refused(errno.ETIME, TimeoutError):
        syncobj.wait(0)
    timeline.inc()
    syncobj.wait(0)
    assert status_at(syncobj) == 1
    syncobj.reset()
    with refused(errno.EINVAL):
        syncobj.wait(0)
    syncobj.signal()
    syncobj.wait(0)
    with syncobj.export_sync_file() as stub:
        assert stub.fences[0].obj_name == "stub"


def test_signal_replaces_the_fence(new, fence):
    """Signaling a syncobj leaves the fence that was in it alone."""
    syncobj = new()
    syncobj.import_sync_file(fence)
    syncobj.signal()
    syncobj.wait(0)
    assert fence.status == 0


def test_export_is_a_snapshot(new, fence, timeline, keep):
    """What was exported does not change with the syncobj; it is the very fence that was put in."""
    syncobj = new()
    syncobj.import_sync_file(fence)
    exported = keep(syncobj.export_sync_file())
    assert fcntl.fcntl(exported, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    syncobj.signal()
    again = keep(syncobj.export_sync_file())
    syncobj.reset()
    syncobj.close()
    assert (exported.status, again.status) == (0, 1)
    assert exported.fences == fence.fences
    timeline.inc()
    assert exported.wait(0) is None
    assert raw_info(exported.fileno())[1][0].timestamp_ns == fence.timestamp_ns


def test_a_failed_fence_has_signaled(new, fence, timeline, keep):
    """wait returns; the exported sync_file has the error."""
    syncobj = new()
    syncobj.import_sync_file(fence)
    timeline.close()
    syncobj.wait(0)
    exported = keep(syncobj.export_sync_file())
    assert exported.error == errno.ENOENT
    with refused(errno.ENOENT, FenceError):
        exported.raise_for_status()


def test_a_fence_of_another_driver(new, keep):
    """Whose fence it is does not matter: two timelines merged go in, and come out, as they are."""
    one, two = keep(Timeline("one")), keep(Timeline("two"))
    both = keep(keep(one.create_fence(1)) | keep(two.create_fence(1)))
    syncobj = new()
    syncobj.import_sync_file(both)
    exported = keep(syncobj.export_sync_file())
    assert {fence.obj_name for fence in exported.fences} == {"one", "two"}
    one.inc()
    with refused(errno.ETIME):
        syncobj.wait(0)
    two.inc()
    syncobj.wait(0)


def test_importing_what_is_no_sync_file(new, fence):
    """Anything else is a TypeError; a sync_file whose number somebody closed is EINVAL."""
    syncobj = new()
    for thing in (None, 0, syncobj, fence.fileno()):
        with pytest.raises(TypeError):
            syncobj.import_sync_file(thing)
    twin = fence.dup()
    os.close(twin.fileno())
    for point in (0, 1):
        with refused(errno.EINVAL):
            syncobj.import_sync_file(twin, point)
    twin.detach()
    with refused(errno.EINVAL):
        syncobj.wait(0)


def test_descriptors(gpu, new, fence, timeline):
    """Handle to descriptor to handle: another handle of the same container."""
    syncobj = new()
    fd = syncobj.to_fd()
    assert str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:syncobj_file"
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    with Syncobj.from_fd(gpu, fd) as twin, Syncobj.from_fd(gpu, fd) as third:
        assert len({syncobj.handle, twin.handle, third.handle}) == 3
        os.fstat(fd)  # it stays the caller's
        twin.import_sync_file(fence)
        assert status_at(syncobj) == 0
        timeline.inc()
        third.wait(0)
        third.reset()
        with refused(errno.EINVAL):
            twin.wait(0)
        syncobj.close()
        twin.signal()
        third.wait(0)
    os.close(fd)


def test_a_descriptor_is_no_fence(new):
    """poll(2) says that it is ready, whatever is in it: so does nothing but wait() tell."""
    with OwnedFd(new().to_fd()) as owned:
        poller = select.poll()
        poller.register(owned, select.POLLIN | select.POLLOUT)
        assert poller.poll(0) == [(owned.fileno(), select.POLLIN | select.POLLOUT)]


@pytest.mark.linuxsync(requires=["syncobj"])
def test_a_descriptor_outlives_everything(fence, timeline, keep):
    """It keeps the container alive when the handle and the device are gone, and another open of the device takes it."""
    with syncobj_device() as first, Syncobj.create(first) as syncobj:
        syncobj.import_sync_file(fence)
        owned = keep(OwnedFd(syncobj.to_fd()))
    with syncobj_device() as second, Syncobj.from_fd(second, owned) as back:
        with refused(errno.ETIME):
            back.wait(0)
        timeline.inc()
        back.wait(0)


def test_descriptors_that_are_none(gpu, fence):
    """EINVAL for what is no syncobj's, ValueError and TypeError for what is no descriptor at all."""
    closed = os.dup(0)
    os.close(closed)
    for fd in (closed, 0, gpu.fileno(), fence.fileno()):
        with refused(errno.EINVAL) as caught:
            Syncobj.from_fd(gpu, fd)
        assert f"fd {fd} is no syncobj" in str(caught.value)
    for fd in (-1, 2**31):
        with pytest.raises(ValueError, match="file descriptor"):
            Syncobj.from_fd(gpu, fd)
    for fd in ("0", None, 1.0):
        with pytest.raises(TypeError):
            Syncobj.from_fd(gpu, fd)


def test_no_descriptor_left(new, gpu, fence):
    """EMFILE for what makes a descriptor, at a point too; nothing is left half done."""
    syncobj = new(signaled=True)
    syncobj.signal(3)
    with free_descriptors(0):
        for attempt in (syncobj.to_fd, syncobj.export_sync_file, lambda: syncobj.export_sync_file(3)):
            with refused(errno.EMFILE):
                attempt()
        syncobj.import_sync_file(fence)
    assert next_handle(gpu.fileno()) == 2


PEER = """
import socket, sys
from linuxsync import DrmDevice, OwnedFd, Syncobj
peer = socket.socket(fileno=int(sys.argv[1]))
_, (fd,), _, _ = socket.recv_fds(peer, 16, 1, socket.MSG_CMSG_CLOEXEC)
with OwnedFd(fd) as owned, DrmDevice.open(driver='virtio_gpu') as device, Syncobj.from_fd(device, owned) as syncobj:
    syncobj.wait(60, wait_for_submit=True)
    syncobj.reset()
    syncobj.signal(7)
peer.send(b"done")
"""


def test_sent_to_another_process(new, fence, timeline):
    """A process with its own open of the device shares the container through its descriptor."""
    syncobj = new()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(120)
        command = [sys.executable, "-c", PEER, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process, OwnedFd(syncobj.to_fd()) as owned:
            theirs.close()  # so that a process that fails is noticed at once
            socket.send_fds(ours, [b"take"], [owned.fileno()])
            syncobj.import_sync_file(fence)
            timeline.inc()
            assert ours.recv(16) == b"done"
        assert process.returncode == 0
    assert syncobj.query() == 7
