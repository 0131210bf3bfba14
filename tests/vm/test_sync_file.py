"""What a sync_file says of itself, and what kind of file it is."""

import dataclasses
import errno
import fcntl
import mmap
import os
import pickle
import re
import select
import time
from pathlib import Path

import pytest
from kernel_words import debugfs_timeline, raw_count_only, raw_fence, raw_info, refused

from linuxsync import FenceError, FenceStatus, SyncFile, Timeline, merge, sw_sync


def same_as_raw(fence):
    """Assert that linuxsync and a FILE_INFO of our own say the same, and return linuxsync's."""
    info = fence.info()
    raw, members = raw_info(fence.fileno())
    assert (info.name.encode(), info.status, info.flags) == (raw.name, raw.status, raw.flags)
    assert [(f.obj_name.encode(), f.driver_name.encode(), f.status, f.flags, f.timestamp_ns) for f in info.fences] == [
        (m.obj_name, m.driver_name, m.status, m.flags, m.timestamp_ns) for m in members
    ]
    return info


def test_one_active_fence(keep):
    """A new fence: driver, timeline, name, no time stamp."""
    fence = keep(keep(Timeline(name="frames")).create_fence(7))
    info = same_as_raw(fence)
    assert re.fullmatch(r"sw_sync-frames\d+-7", info.name)
    assert (info.status, info.flags) == (FenceStatus.ACTIVE, 0)
    (member,) = info.fences
    assert (member.driver_name, member.obj_name) == ("sw_sync", "frames")
    assert (member.status, member.flags, member.timestamp_ns) == (0, 0, 0)
    assert debugfs_timeline("frames").fences == (("active", 7),)


def test_properties_are_those_of_the_snapshot(timeline, keep):
    """name, status, fences, signaled, error and timestamp_ns before and after."""
    fence = keep(timeline.create_fence(1))
    raw, members = raw_info(fence.fileno())
    assert (fence.name.encode(), fence.status, len(fence.fences)) == (raw.name, raw.status, len(members))
    assert (fence.signaled, fence.error, fence.timestamp_ns) == (False, None, None)
    timeline.inc()
    raw, members = raw_info(fence.fileno())
    assert (raw.status, fence.status, fence.signaled, fence.error) == (1, 1, True, None)
    assert fence.timestamp_ns == members[0].timestamp_ns > 0


def test_failed_fence(timeline, keep):
    """-ENOENT in the kernel is error ENOENT, has signaled for poll, and is not `signaled`."""
    fence = keep(timeline.create_fence(1))
    timeline.close()
    raw, _ = raw_info(fence.fileno())
    assert raw.status == -errno.ENOENT
    assert (fence.status, fence.error, fence.signaled) == (-errno.ENOENT, errno.ENOENT, False)
    assert fence.poll()
    fence.wait(0)


def test_raise_for_status(keep):
    """Only a failed fence raises; the exception has the errno, the snapshot, and says whose fence it was."""
    timeline = keep(Timeline(name="doomed"))
    fence = keep(timeline.create_fence(1))
    fence.raise_for_status()
    with keep(timeline.create_fence(0)) as done:
        done.raise_for_status()
    timeline.close()
    with refused(errno.ENOENT, FenceError) as caught:
        fence.raise_for_status()
    assert caught.value.info == fence.info()
    # From Linux 6.17 on a signaled fence no longer knows its timeline.
    assert fence.fences[0].obj_name in str(caught.value)
    assert repr(fence) in str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 64])
def test_any_number_of_fences(count, keep):
    """Every fence is reported with its own state, around the number that one call has room for."""
    timelines = [keep(Timeline(name=f"t{index}")) for index in range(count)]
    with keep(merge([keep(t.create_fence(index + 1)) for index, t in enumerate(timelines)], name="all")) as all_of_them:
        info = same_as_raw(all_of_them)
        assert [member.obj_name for member in info.fences] == [f"t{index}" for index in range(count)]
        for index in range(0, count, 2):
            timelines[index].inc(index + 1)
        info = same_as_raw(all_of_them)
        assert [member.status for member in info.fences] == [1 - index % 2 for index in range(count)]
        assert info.status == all_of_them.status == (1 if count == 1 else 0)
        for index in range(1, count, 2):
            timelines[index].close()
        info = same_as_raw(all_of_them)
        assert [member.status for member in info.fences] == [(1, -errno.ENOENT)[index % 2] for index in range(count)]
        assert info.status == all_of_them.status == (1 if count == 1 else -errno.ENOENT)


def test_a_thousand_fences(many_descriptors, keep):
    """A merge of 1,000 contexts: all are there, one after the other signals, the last one signals the whole."""
    path = sw_sync.find()
    timelines = [keep(Timeline(path=path)) for _ in range(1000)]
    fences = [keep(timeline.create_fence(1)) for timeline in timelines]
    all_of_them = keep(merge(fences))
    assert len(same_as_raw(all_of_them).fences) == 1000
    for timeline in timelines[1:]:
        timeline.inc()
    assert [member.status for member in all_of_them.fences] == [0] + [1] * 999
    assert not all_of_them.poll()
    timelines[0].inc()
    assert same_as_raw(all_of_them).status == 1
    assert all_of_them.poll()


@pytest.mark.parametrize("enabled", [False, True])
def test_status_comes_from_the_members(enabled, keep):
    """The count-only FILE_INFO hides a failed member, at times for ever; `status` does not."""
    first, second = keep(Timeline()), keep(Timeline())
    both = keep(keep(first.create_fence(1)) | keep(second.create_fence(1)))
    if enabled:
        assert not both.poll()
    first.close()
    assert raw_count_only(both.fileno()).status == 0
    assert both.status == both.info().status == -errno.ENOENT
    second.inc()
    assert raw_count_only(both.fileno()).status == (-errno.ENOENT if enabled else 1)
    assert both.status == both.info().status == -errno.ENOENT
    assert both.error == errno.ENOENT


def test_a_failed_member_behind_an_active_one(keep):
    """The status is the first that is not 1, in order; the failed member shows in `fences` from the start."""
    first, second = keep(Timeline()), keep(Timeline())
    both = keep(keep(first.create_fence(1)) | keep(second.create_fence(1)))
    second.close()
    assert [member.status for member in same_as_raw(both).fences] == [0, -errno.ENOENT]
    assert (both.status, both.error, both.timestamp_ns) == (0, None, None)
    both.raise_for_status()
    first.inc()
    assert [member.status for member in same_as_raw(both).fences] == [1, -errno.ENOENT]
    with refused(errno.ENOENT, FenceError):
        both.raise_for_status()


def test_timestamps_are_of_the_monotonic_clock(keep):
    """A fence's time stamp is the moment at which it signaled or failed, the whole's is the latest."""
    first, second = keep(Timeline()), keep(Timeline())
    both = keep(keep(first.create_fence(1)) | keep(second.create_fence(1)))
    moments = [time.monotonic_ns()]
    first.inc()
    moments.append(time.monotonic_ns())
    assert [member.timestamp_ns > 0 for member in both.fences] == [True, False]
    assert both.timestamp_ns is None
    second.close()
    moments.append(time.monotonic_ns())
    done, failed = (member.timestamp_ns for member in both.fences)
    assert moments[0] <= done <= moments[1] <= failed <= moments[2]
    assert both.timestamp_ns == failed
    assert both.timestamp_ns == failed


def test_a_signaled_fence_does_not_change_any_more(timeline, keep):
    """Neither more steps nor the end of the timeline change what has signaled."""
    fence = keep(timeline.create_fence(1))
    timeline.inc()
    before = fence.info()
    assert before.status == 1
    timeline.inc(100)
    timeline.close()
    assert fence.info() == before


def test_snapshots_are_values(timeline, keep):
    """A snapshot stays as it was, can be compared, hashed, copied and pickled, and can't be changed."""
    fence = keep(timeline.create_fence(1))
    info = fence.info()
    assert info == fence.info() and hash(info) == hash(fence.info())
    assert pickle.loads(pickle.dumps(info)) == info
    assert dataclasses.replace(info, status=1).status == 1
    timeline.inc()
    assert (info.status, fence.info().status) == (0, 1)
    assert info != fence.info()
    for snapshot in (info, info.fences[0]):
        for field in dataclasses.fields(snapshot):
            with pytest.raises(AttributeError):
                setattr(snapshot, field.name, 1)
        with pytest.raises(AttributeError):
            snapshot.anything = 1


EVERYTHING = select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM | select.POLLRDHUP


@pytest.mark.parametrize("ending", ["inc", "close"])
def test_poll_reports_pollin_and_nothing_else(ending, timeline, keep):
    """An active fence has no events; a signaled or failed one POLLIN alone, whatever else is asked."""
    fence = keep(timeline.create_fence(1))
    everything, nothing, wrong = select.poll(), select.poll(), select.poll()
    everything.register(fence, EVERYTHING)
    nothing.register(fence, 0)
    wrong.register(fence, EVERYTHING & ~select.POLLIN)
    assert everything.poll(0) == []
    getattr(timeline, ending)()
    assert everything.poll(0) == [(fence.fileno(), select.POLLIN)]
    assert nothing.poll(0) == wrong.poll(0) == []


def test_epoll_and_select(timeline, keep):
    """epoll is level-triggered, or reports once if asked so; select works too."""
    fence = keep(timeline.create_fence(1))
    with select.epoll() as level, select.epoll() as edge:
        level.register(fence, select.EPOLLIN | select.EPOLLOUT)
        edge.register(fence, select.EPOLLIN | select.EPOLLET)
        assert level.poll(0) == edge.poll(0) == []
        assert select.select([fence], [fence], [fence], 0) == ([], [], [])
        timeline.inc()
        assert level.poll(0) == level.poll(0) == [(fence.fileno(), select.EPOLLIN)]
        assert edge.poll(0) == [(fence.fileno(), select.EPOLLIN)]
        assert edge.poll(0) == []
        assert select.select([fence], [fence], [fence], 0) == ([fence], [], [])


def test_kind_of_file(timeline, keep):
    """The link in /proc, flags and mode; the inode is that of every anonymous file."""
    first, second = keep(timeline.create_fence(1)), keep(timeline.create_fence(2))
    fd = first.fileno()
    assert str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:sync_file"
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert not os.get_inheritable(fd)
    stat = os.fstat(fd)
    assert (stat.st_size, stat.st_mode & 0o777) == (0, 0o600)
    assert stat.st_ino == os.fstat(second.fileno()).st_ino


def test_every_new_descriptor_is_close_on_exec(timeline, keep):
    """Fences, merges and duplicates do not leak into programs that this process starts."""
    fence = keep(timeline.create_fence(1))
    made = [
        timeline,
        fence,
        keep(fence.dup()),
        keep(fence | fence),
        keep(SyncFile.from_fd(fence)),
        keep(timeline.dup()),
    ]
    for owner in made:
        assert fcntl.fcntl(owner.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_no_reading_writing_seeking_mapping(timeline, keep):
    """The errnos of a sync_file for what only other files can do."""
    fd = keep(timeline.create_fence(0)).fileno()
    with refused(errno.EINVAL):
        os.read(fd, 1)
    with refused(errno.EBADF):
        os.write(fd, b"x")
    with refused(errno.ESPIPE):
        os.lseek(fd, 0, os.SEEK_SET)
    with refused(errno.ENODEV):
        mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)


def test_duplicates_are_one_fence(timeline, keep):
    """dup and from_fd give the same fence behind another number, with a life of its own."""
    fence = keep(timeline.create_fence(1))
    others = [keep(fence.dup()), keep(SyncFile.from_fd(fence)), keep(SyncFile.from_fd(fence.fileno()))]
    assert len({fence.fileno(), *(other.fileno() for other in others)}) == 4
    assert all(type(other) is SyncFile and other.info() == fence.info() for other in others)
    fence.close()
    timeline.inc()
    assert [raw_info(other.fileno())[0].status for other in others] == [1, 1, 1]


def test_a_foreign_descriptor_becomes_ours(timeline, open_files):
    """The constructor takes over a descriptor that somebody else has made, and close() closes it."""
    fd = raw_fence(timeline.fileno(), 1)
    with SyncFile(fd) as fence:
        assert fence.fileno() == fd
        assert fence.status == 0
    assert fd not in open_files()


def test_repr(timeline, keep):
    """repr() names the class and the descriptor, or says that it is closed."""
    fence = keep(timeline.create_fence(1))
    assert repr(fence) == f"SyncFile({fence.fileno()})"
    fence.close()
    assert repr(fence) == "<closed SyncFile>"
