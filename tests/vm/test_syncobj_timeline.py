"""Syncobjs as timelines: points, what query says of them, transfers between them, and sync_files at a point."""

import errno
import itertools

import pytest
from clock_words import after, lasts
from kernel_words import refused
from syncobj_words import ask, handles, next_handle, points, refusal, status_at, syncobj_device

from linuxsync import Syncobj

LAST = 2**64 - 1


def state(syncobj):
    """What query says: the last point that has signaled, and the last that there is."""
    return syncobj.query(), syncobj.query_last_submitted()


def test_points_in_order(new, put, timeline):
    """Points rise as their fences signal; each waits for those before it too."""
    syncobj = new()
    assert state(syncobj) == (0, 0)
    put(syncobj, 2, 1)
    put(syncobj, 5, 3)
    put(syncobj, 9, 2)  # signals before its predecessor
    assert state(syncobj) == (0, 9)
    for value, reached in [(1, 2), (2, 2), (3, 9)]:
        timeline.inc()
        assert (timeline.value, state(syncobj)) == (value, (reached, 9))
        for point in range(1, 10):
            if point <= reached:
                syncobj.wait(0, point)
            else:
                with refused(errno.ETIME):
                    syncobj.wait(0, point)
    with refused(errno.EINVAL) as caught:
        syncobj.wait(0, 10)
    assert f"TIMELINE_WAIT on point 10 of {syncobj!r}" in str(caught.value)
    with refused(errno.ETIME, TimeoutError) as caught:
        syncobj.wait(0.001, 10, wait_available=True)
    assert f"point 10 of {syncobj!r} had not been submitted after 0.001 s" in str(caught.value)


def test_query_says_what_the_kernel_says(gpu, new, put):
    """The numbers are those of the bare request."""
    syncobj = new()
    put(syncobj, 7, 0)
    put(syncobj, LAST - 1, 1)
    which, found = handles(syncobj.handle), points(0)
    for flags, said in ((0, syncobj.query()), (1, syncobj.query_last_submitted())):
        assert ask(gpu.fileno(), "QUERY", which.at, found.at, 1, flags)[0] == 0
        assert found.values[0] == said
    assert state(syncobj) == (7, LAST - 1)


def test_signal_at_a_point(new, put, timeline):
    """A point signaled from here counts once all before it have signaled."""
    syncobj = new()
    syncobj.signal(3)
    assert state(syncobj) == (3, 3)
    put(syncobj, 4, 1)
    syncobj.signal(LAST)
    assert state(syncobj) == (3, LAST)
    with refused(errno.ETIME):
        syncobj.wait(0, LAST)
    timeline.inc()
    syncobj.wait(0, LAST)
    assert state(syncobj) == (LAST, LAST)


def test_point_zero(new):
    """Signaling point 0 of an empty one puts a fence there and leaves the count at 0; waiting for 0 waits for it."""
    syncobj = new()
    with refused(errno.EINVAL):
        syncobj.wait(0, 0)
    syncobj.signal(0)
    syncobj.wait(0, 0)
    syncobj.wait(0)
    assert state(syncobj) == (0, 0)


@pytest.mark.parametrize("bad", [-1, 2**64, 2**70])
def test_points_that_are_none(bad, new, timeline, keep):
    """ValueError before the kernel is asked."""
    syncobj, fence = new(), keep(timeline.create_fence(1))
    for attempt in (
        lambda: syncobj.signal(bad),
        lambda: syncobj.wait(0, bad),
        lambda: syncobj.export_sync_file(bad),
        lambda: syncobj.import_sync_file(fence, bad),
        lambda: syncobj.transfer(syncobj, bad, 0),
        lambda: syncobj.transfer(syncobj, 0, bad),
        lambda: syncobj.eventfd(bad, 0),
    ):
        with pytest.raises(ValueError, match="point"):
            attempt()


def test_points_of_another_type(new):
    """TypeError for what is no integer, 1.0 included."""
    syncobj = new()
    for bad in ("1", 1.0, [1]):
        for attempt in (syncobj.signal, lambda p: syncobj.wait(0, p), lambda p: syncobj.transfer(syncobj, p, 0)):
            with pytest.raises(TypeError):
                attempt(bad)
    assert state(syncobj) == (0, 0)


def test_points_out_of_order(new, put, timeline):
    """A lower point after a higher one: the count may go back to 0 until all have signaled, then it is the higher."""
    syncobj = new()
    syncobj.signal(8)
    assert state(syncobj) == (8, 8)
    put(syncobj, 4, 1)
    assert state(syncobj) == (0, 8)
    timeline.inc()
    assert state(syncobj) == (8, 8)
    syncobj.wait(0, 8)


def test_binary_use_ends_a_timeline(new, put):
    """signal, reset and import without a point replace all points."""
    for end in (lambda s: s.signal(), lambda s: s.reset(), lambda s: put(s, 0, 1)):
        syncobj = new()
        syncobj.signal(5)
        end(syncobj)
        assert state(syncobj) == (0, 0)
        with refused(errno.EINVAL):
            syncobj.wait(0, 5)


def test_export_of_a_timeline(new, put, timeline, keep):
    """Without a point it is the last one there is, with all before it; with one, everything up to that."""
    syncobj = new()
    put(syncobj, 1, 1)
    put(syncobj, 2, 2)
    first, second, last = (keep(syncobj.export_sync_file(point)) for point in (1, 2, 0))
    put(syncobj, 3, 3)
    assert [fence.status for fence in (first, second, last)] == [0, 0, 0]
    timeline.inc()
    assert [fence.status for fence in (first, second, last)] == [1, 0, 0]
    timeline.inc()
    assert [fence.status for fence in (first, second, last)] == [1, 1, 1]
    assert [status_at(syncobj, point) for point in (0, 1, 2, 3)] == [0, 1, 1, 0]
    with refused(errno.EINVAL) as caught:
        syncobj.export_sync_file(4)
    assert "no fence at point 4" in str(caught.value)


def test_import_and_export_leave_no_handle(gpu, new, put):
    """Whatever they take to reach a point, they give back, also when they are refused."""
    syncobj = new()
    put(syncobj, 6, 1)
    status_at(syncobj, 6)
    with refused(errno.EINVAL):
        syncobj.export_sync_file(7)
    assert next_handle(gpu.fileno()) == 2
    assert state(syncobj) == (0, 6)


def knows_points(device):
    """Whether the kernel takes a point with a sync_file (added by c2d3a7300695)."""
    return refusal(device.fileno(), "HANDLE_TO_FD_AT", 0, 3, -1, 0, 1) == "ENOENT"


def test_errors_at_a_point(gpu, new, put, timeline):
    """A fence that fails later keeps its error; one that has failed before it is imported may arrive without."""
    syncobj, late = new(), new()
    put(syncobj, 1, 1)
    with timeline.create_fence(2) as fence:
        timeline.close()
        assert fence.error == errno.ENOENT
        late.import_sync_file(fence, 1)
        for one in (syncobj, late):
            one.wait(0, 1)
            assert state(one) == (1, 1)
        assert status_at(syncobj) == -errno.ENOENT
        assert status_at(late) == (-errno.ENOENT if knows_points(gpu) else 1)
        late.import_sync_file(fence)
    assert status_at(late) == -errno.ENOENT
    syncobj.transfer(late, 0, 0)
    assert status_at(syncobj) == -errno.ENOENT


def test_transfer(new, put, timeline):
    """Every way: from the binary fence or a point, to the binary fence or a point."""
    source = new()
    put(source, 3, 1)
    put(source, 6, 2)
    first, second, third, fourth = (new() for _ in range(4))
    first.transfer(source, 3, 0)
    second.transfer(source, 0, 0)
    third.transfer(source, 3, 10)
    fourth.transfer(source, 0, 11)
    assert [state(one) for one in (third, fourth)] == [(0, 10), (0, 11)]
    timeline.inc()
    assert [status_at(one) for one in (first, second, third, fourth)] == [1, 0, 1, 0]
    assert [state(one) for one in (third, fourth)] == [(10, 10), (0, 11)]
    timeline.inc()
    assert [status_at(one) for one in (first, second, third, fourth)] == [1, 1, 1, 1]
    binary = new(signaled=True)
    fourth.transfer(binary, 0, 12)
    assert state(fourth) == (12, 12)


def test_transfer_within_one(new, put, timeline):
    """A syncobj may take over its own fence; a point that has long signaled is as good as any."""
    syncobj = new()
    syncobj.signal(5)
    syncobj.transfer(syncobj, 2, 9)
    assert state(syncobj) == (9, 9)
    put(syncobj, 12, 1)
    syncobj.transfer(syncobj, 12, 0)
    # Point 12 and what it stands on have become the whole of it.
    with refused(errno.ETIME):
        syncobj.wait(0)
    timeline.inc()
    syncobj.wait(0)


def test_transfer_of_what_is_not_there(new):
    """EINVAL, and neither side changes; wait_available is how to wait for it."""
    source, target = new(), new(signaled=True)
    for src_point, dst_point in itertools.product((0, 4), (0, 4)):
        with refused(errno.EINVAL) as caught:
            target.transfer(source, src_point, dst_point)
        assert f"DRM_IOCTL_SYNCOBJ_TRANSFER on {target!r}" in str(caught.value)
        assert repr(source) in str(caught.value)
    target.wait(0)
    assert state(target) == (0, 0)
    for wrong in (None, 1, "syncobj"):
        with pytest.raises(TypeError):
            target.transfer(wrong, 0, 0)


@pytest.mark.parametrize("count", [1, 64, 65, 256])
def test_query_many(count, new, put):
    """As many as there are, in their order, in one call."""
    syncobjs = [new() for _ in range(count)]
    for number, syncobj in enumerate(syncobjs):
        if number % 3:
            syncobj.signal(2**40 + number)
        if number % 3 == 2:
            put(syncobj, 2**41 + number, 1)
    assert list(Syncobj.query_many(syncobjs)) == [syncobj.query() for syncobj in syncobjs]
    last = Syncobj.query_many(iter(syncobjs), last_submitted=True)
    assert last.typecode == "Q"
    last = list(last)
    assert last == [syncobj.query_last_submitted() for syncobj in syncobjs]
    assert last == [(0, 2**40 + number, 2**41 + number)[number % 3] for number in range(count)]


def test_query_many_arguments(new):
    """No objects, other things and other devices are refused before the kernel is asked."""
    syncobj = new()
    with pytest.raises(ValueError, match="at least one"):
        Syncobj.query_many([])
    for wrong in (None, 1, [syncobj]):
        with pytest.raises(TypeError):
            Syncobj.query_many([syncobj, wrong])
    with pytest.raises(TypeError):
        Syncobj.query_many(None)
    with (
        syncobj_device() as other,
        Syncobj.create(other) as foreign,
        pytest.raises(ValueError, match="another device"),
    ):
        Syncobj.query_many([syncobj, foreign])


def test_shared_points(gpu, new, put, timeline):
    """Two handles of one container see one timeline; waits through the one end with what the other adds."""
    syncobj = new()
    fd = syncobj.to_fd()
    with open(fd, closefd=True, mode="rb", buffering=0) as file, Syncobj.from_fd(gpu, file) as twin:
        put(twin, 4, 1)
        assert state(syncobj) == (0, 4)
        timeline.inc()
        twin.wait(0, 4)
        twin.signal(6)
        syncobj.wait(0, 6)


@pytest.mark.parametrize("count", [1, 65])
def test_signal_and_reset_many(count, new):
    """All at once, binary and at points; what is refused changes none."""
    syncobjs = [new() for _ in range(count)]
    Syncobj.signal_many(iter(syncobjs), range(5, 5 + count))
    assert list(Syncobj.query_many(syncobjs)) == list(range(5, 5 + count))
    Syncobj.reset_many(syncobjs)
    with refused(errno.EINVAL):
        Syncobj.wait_many(syncobjs, timeout=0)
    Syncobj.signal_many(syncobjs)
    Syncobj.wait_many(syncobjs, timeout=0)
    for wrong in ([], [*syncobjs, None]):
        for use in (Syncobj.signal_many, Syncobj.reset_many):
            with pytest.raises((ValueError, TypeError)):
                use(wrong)
    with pytest.raises(ValueError, match="points"):
        Syncobj.signal_many(syncobjs, [1] * (count + 1))
    Syncobj.wait_many(syncobjs, timeout=0)


def test_transfer_that_waits(new, timeline):
    """For a fence to be submitted, in another thread; the kernel gives up after 5 s."""
    src, dst = new(), new()
    with timeline.create_fence(1) as fence, after(0.2, lambda: src.import_sync_file(fence, 4)):
        dst.transfer(src, 4, 7, wait_for_submit=True)
    assert dst.query_last_submitted() == 7
    with lasts(4.5, 15), pytest.raises(TimeoutError) as caught:
        dst.transfer(src, 5, 8, wait_for_submit=True)
    assert caught.value.errno == errno.ETIME
