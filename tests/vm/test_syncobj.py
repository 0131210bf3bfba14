"""Syncobjs and their owners: handles, what becomes of them, threads, forks, and what is said when all is refused."""

import errno
import fcntl
import gc
import os
import pickle
import threading
import weakref
from contextlib import ExitStack

import pytest
from children import forked
from kernel_words import refused
from syncobj_words import ask, next_handle, open_device, refusal, status_at, without_syncobjs

from linuxsync import DrmDevice, OwnedFd, Syncobj


def test_a_new_one(gpu, new):
    """The handle is one that the kernel knows, of the device that was given."""
    syncobj = new()
    assert syncobj.device is gpu
    assert syncobj.handle == 1
    assert not syncobj.closed
    assert refusal(gpu.fileno(), "HANDLE_TO_FD", 1, 1) == "EINVAL"  # it is there, and empty
    assert refusal(gpu.fileno(), "HANDLE_TO_FD", 2, 1) == "ENOENT"
    assert [new().handle, new().handle] == [2, 3]


def test_created_by_its_device(gpu):
    """DrmDevice.create_syncobj is Syncobj.create, empty or signaled; the device says beforehand what it can."""
    assert gpu.has_syncobj and gpu.has_timeline_syncobj
    with gpu.create_syncobj() as empty, gpu.create_syncobj(signaled=True) as done:
        assert [(type(one), one.device, one.handle) for one in (empty, done)] == [(Syncobj, gpu, 1), (Syncobj, gpu, 2)]
        with refused(errno.EINVAL):
            empty.wait(0)
        done.wait(0)
        done.signal(1)
        assert done.query() == 1
    gpu.close()
    with pytest.raises(ValueError, match="closed DrmDevice"):
        gpu.create_syncobj()


def test_repr(gpu, new):
    """It reads as the call that would make it."""
    syncobj = new()
    assert repr(syncobj) == f"Syncobj({gpu!r}, 1)"
    syncobj.close()
    assert repr(syncobj) == "<closed Syncobj>"


def test_created_empty_or_signaled(new):
    """Without `signaled` there is no fence; with it there is one, the kernel's stub, that has signaled."""
    with refused(errno.EINVAL) as caught:
        new().export_sync_file()
    assert "no fence" in str(caught.value)
    with new(signaled=True).export_sync_file() as done:
        assert (done.status, done.fences[0].driver_name) == (1, "stub")


def test_close(gpu, new):
    """It destroys the handle, once; everything else then says that it is closed."""
    syncobj = new()
    other = new()
    syncobj.close()
    assert next_handle(gpu.fileno()) == 1
    again = new()
    assert again.handle == 1
    syncobj.close()  # must not take the handle's next owner for itself
    again.reset()
    assert syncobj.closed
    for use in (
        lambda: syncobj.handle,
        syncobj.__enter__,
        syncobj.to_fd,
        syncobj.signal,
        lambda: syncobj.signal(1),
        syncobj.reset,
        syncobj.query,
        syncobj.query_last_submitted,
        syncobj.wait,
        lambda: syncobj.wait(point=1),
        syncobj.export_sync_file,
        lambda: syncobj.export_sync_file(1),
        lambda: other.transfer(syncobj, 0, 0),
        lambda: syncobj.transfer(other, 0, 0),
        lambda: syncobj.eventfd(0, 0),
        lambda: Syncobj.wait_many([other, syncobj]),
        lambda: Syncobj.query_many([syncobj, other]),
    ):
        with pytest.raises(ValueError, match="closed Syncobj"):
            use()


def test_closed_fence(new, fence):
    """Importing a closed SyncFile is a ValueError, at any point."""
    syncobj = new()
    fence.close()
    for point in (0, 1):
        with pytest.raises(ValueError, match="closed SyncFile"):
            syncobj.import_sync_file(fence, point)


@pytest.mark.usefixtures("gpu")  # which knows where there are no syncobjs
def test_the_device_closed_first():
    """The handle has gone with it: close does nothing, nothing else works, and nobody else's handle is touched."""
    first, second = open_device(), open_device()
    syncobj, bystander = Syncobj.create(first), Syncobj.create(second)
    number = first.fileno()
    first.close()
    assert os.dup2(second.fileno(), number, inheritable=False) == number
    assert syncobj.closed
    with pytest.raises(ValueError, match="closed"):
        syncobj.wait(0)
    syncobj.close()
    bystander.reset()
    os.close(number)
    bystander.close()
    second.close()


@pytest.mark.usefixtures("gpu")
def test_the_device_dropped_first():
    """A syncobj keeps its device; with the last of them it goes."""
    device = open_device()
    fd, gone = device.fileno(), weakref.ref(device)
    syncobj = Syncobj.create(device, signaled=True)
    del device
    gc.collect()
    syncobj.wait(0)
    syncobj.device.close()
    del syncobj
    assert gone() is None
    with refused(errno.EBADF):
        fcntl.fcntl(fd, fcntl.F_GETFD)


def test_forgotten(gpu):
    """One that nobody closed warns, and its handle is destroyed all the same."""
    syncobj = Syncobj.create(gpu)
    text = repr(syncobj)
    with pytest.warns(ResourceWarning, match="unclosed Syncobj") as warned:
        del syncobj
    assert text in str(warned[0].message)
    assert next_handle(gpu.fileno()) == 1


def test_weak_references_and_no_copies(new):
    """It can be referred to weakly, and neither pickled nor copied."""
    syncobj = new()
    assert weakref.ref(syncobj)() is syncobj
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(syncobj)
    with pytest.raises(AttributeError):
        syncobj.anything = 1


def test_a_handle_from_elsewhere(gpu):
    """The constructor takes over a handle, once the kernel has said that there is one."""
    result, (handle, _) = ask(gpu.fileno(), "CREATE")
    assert result == 0
    with Syncobj(gpu, handle) as syncobj:
        assert syncobj.handle == handle
        with pytest.raises(ValueError, match="already owns"):
            syncobj.__init__(gpu, handle)
    with pytest.raises(ValueError, match="opened again"):
        syncobj.__init__(gpu, handle)
    with refused(errno.ENOENT) as caught:
        Syncobj(gpu, handle)
    assert f"no syncobj {handle}" in str(caught.value)
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match="handle"):
            Syncobj(gpu, bad)
    for bad in ("1", 1.0, None):
        with pytest.raises(TypeError):
            Syncobj(gpu, bad)
    with refused(errno.ENOENT):
        Syncobj(gpu, 0)


def test_never_initialised():
    """An instance made past the constructor is a closed one, not a crash."""
    syncobj = Syncobj.__new__(Syncobj)
    assert (syncobj.closed, syncobj.device, repr(syncobj)) == (True, None, "<closed Syncobj>")
    for use in (syncobj.to_fd, syncobj.wait, syncobj.reset, syncobj.query, lambda: Syncobj.query_many([syncobj])):
        with pytest.raises(ValueError, match="closed"):
            use()
    syncobj.close()


def test_drivers_without_syncobjs(keep):
    """EOPNOTSUPP, and the message says which driver has them."""
    for driver in without_syncobjs():
        device = keep(open_device(driver))
        assert not device.has_syncobj
        for attempt in (
            device.create_syncobj,
            lambda device=device: Syncobj.create(device),
            lambda device=device: Syncobj.from_fd(device, 0),
            lambda device=device: Syncobj(device, 1),
        ):
            with refused(errno.EOPNOTSUPP) as caught:
                attempt()
            assert "virtio_gpu" in str(caught.value)
            assert "DRM_IOCTL_SYNCOBJ_" in str(caught.value)


def test_no_drm_device(keep):
    """TypeError for what is no DrmDevice; ValueError for a closed one."""
    null = keep(OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)))
    device = DrmDevice.open("virtio_gpu")
    device.close()
    for attempt in (lambda d: Syncobj.create(d), lambda d: Syncobj.from_fd(d, 0), lambda d: Syncobj(d, 1)):
        for wrong in (None, 0, "/dev/dri/card0", null):
            with pytest.raises(TypeError):
                attempt(wrong)
        with pytest.raises(ValueError, match="closed"):
            attempt(device)


def test_the_message_names_object_and_request(new):
    """So that one line of a log is enough."""
    syncobj = new()
    for attempt, request in [(syncobj.export_sync_file, "HANDLE_TO_FD"), (lambda: syncobj.wait(0), "WAIT")]:
        with refused(errno.EINVAL) as caught:
            attempt()
        assert f"DRM_IOCTL_SYNCOBJ_{request} on {syncobj!r}" in str(caught.value)


def test_somebody_else_destroyed_the_handle(gpu):
    """ENOENT or EINVAL, as the kernel says, also from close."""
    syncobj = Syncobj.create(gpu)
    assert ask(gpu.fileno(), "DESTROY", syncobj.handle)[0] == 0
    for attempt in (syncobj.wait, syncobj.reset, syncobj.signal, syncobj.query, syncobj.export_sync_file):
        with refused(errno.ENOENT):
            attempt()
    with refused(errno.EINVAL):
        syncobj.to_fd()
    with refused(errno.EINVAL):
        syncobj.close()
    assert syncobj.closed
    syncobj.close()


def test_two_hundred_at_once(gpu, timeline, keep):
    """Two hundred containers of one fence each, on one device; all signal, none is left."""
    with ExitStack() as stack:
        many = [stack.enter_context(Syncobj.create(gpu)) for _ in range(200)]
        assert sorted(syncobj.handle for syncobj in many) == list(range(1, 201))
        for value, syncobj in enumerate(many, 1):
            with timeline.create_fence(value) as fence:
                syncobj.import_sync_file(fence)
        timeline.inc(100)
        assert [status_at(syncobj) for syncobj in many] == [1] * 100 + [0] * 100
        with refused(errno.ETIME):
            Syncobj.wait_many(many, timeout=0)
        timeline.inc(100)
        Syncobj.wait_many(many, timeout=0)
    assert next_handle(gpu.fileno()) == 1


def test_threads(gpu, timeline):
    """Threads that make, use and close syncobjs of one device do not disturb each other."""
    failures = []
    shared = Syncobj.create(gpu, signaled=True)

    def worker():
        try:
            for _ in range(50):
                with Syncobj.create(gpu) as mine, timeline.create_fence(1) as fence:
                    mine.import_sync_file(fence)
                    shared.wait(60)
                    shared.signal()
                    assert status_at(mine) == 0
                    mine.transfer(shared, 0, 0)
                    mine.wait(60)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert next_handle(gpu.fileno()) == 2
    shared.close()


def test_a_forked_child_shares_the_handles(gpu, new, fence, timeline):
    """The child uses what the parent made and signals it; closing, or forgetting, destroys nothing of the parent's."""
    syncobj, other = new(), new()

    def child():
        syncobj.wait(60, wait_for_submit=True)
        other.signal()
        other.close()
        syncobj.close()
        with Syncobj.create(gpu) as mine:
            assert mine.handle == 3

    with forked(child):
        syncobj.import_sync_file(fence)
        timeline.inc()
        other.wait(60, wait_for_submit=True)
    syncobj.wait(0)
    other.reset()
    assert next_handle(gpu.fileno()) == 3
