"""Implicit fences: what import_sync_file attaches, whom it makes wait, and what export_sync_file says of it."""

import asyncio
import errno
import os
import select
import threading
import time

import pytest
from buffer_words import EXPORT, IMPORT, PAGE, SyncFileOf, bufinfo, raw_export, raw_import
from clock_words import after
from kernel_words import NOWHERE, answer, free_descriptors, raw_info, refused

from linuxsync import Access, DmaBuf, DmaHeap, SyncFile, Timeline, udmabuf

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW
IN, OUT = select.POLLIN, select.POLLOUT


def events(buf, wanted=IN | OUT):
    """What poll(2) itself says."""
    poller = select.poll()
    poller.register(buf, wanted)
    return dict(poller.poll(0)).get(buf.fileno(), 0)


def both(buf):
    """What DmaBuf.poll says to a reader and to a writer."""
    assert buf.poll(WRITE) == buf.poll(RW)
    return buf.poll(READ), buf.poll(WRITE)


def exported(buf, access, keep):
    """The points of the fences that are exported, by timeline; signaled ones left out."""
    fence = keep(buf.export_sync_file(access))
    return sorted((member.obj_name, member.status) for member in fence.fences if member.status == 0)


def test_an_idle_buffer(buf, keep):
    """Ready for all; what it exports has signaled, at one moment for all, the first time that anybody asked."""
    assert (events(buf), both(buf)) == (IN | OUT, (True, True))
    first = keep(buf.export_sync_file(READ)).timestamp_ns
    for access in (READ, WRITE, RW):
        fence = keep(buf.export_sync_file(access))
        assert type(fence) is SyncFile
        assert [(one.driver_name, one.obj_name, one.status) for one in fence.fences] == [("stub", "stub", 1)]
        assert 0 < fence.timestamp_ns == first < time.monotonic_ns()
        assert not os.get_inheritable(fence.fileno())


@pytest.mark.parametrize(
    ("access", "usage", "reader", "writer"),
    [(READ, "read", True, False), (WRITE, "write", False, False), (RW, "write", False, False)],
)
def test_who_waits_for_whom(access, usage, reader, writer, buf, keep):
    """Readers wait for those who write, writers for all: by poll, export and bufinfo; after the signal nobody does."""
    timeline = keep(Timeline(name="work"))
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, access)
    assert bufinfo()[buf.ino].fences == ((usage, "work", 1, False),)
    assert both(buf) == (reader, writer)
    assert events(buf) == (IN if reader else 0) | (OUT if writer else 0)
    for asked, free in ((READ, reader), (WRITE, writer), (RW, writer)):
        again = keep(buf.export_sync_file(asked))
        assert again.signaled == free
        if not free:
            assert again.info().fences == fence.info().fences
    assert not fence.closed
    timeline.inc()
    assert (events(buf), both(buf)) == (IN | OUT, (True, True))
    assert all(keep(buf.export_sync_file(asked)).signaled for asked in (READ, WRITE, RW))


@pytest.mark.parametrize("wanted", [0, select.POLLPRI, select.POLLRDNORM, select.POLLWRNORM])
def test_other_events(wanted, buf):
    """Nothing but POLLIN and POLLOUT is ever reported."""
    assert events(buf, wanted) == 0


@pytest.mark.parametrize("access", [READ, WRITE, RW])
def test_a_failed_fence_is_done(access, buf, keep):
    """No POLLERR, no failing START: whoever wants to know asks the fence."""
    timeline = keep(Timeline())
    buf.import_sync_file(keep(timeline.create_fence(1)), access)
    out = keep(buf.export_sync_file(RW))
    timeline.close()
    assert (events(buf, IN | OUT | select.POLLERR), both(buf)) == (IN | OUT, (True, True))
    with buf.cpu_access(RW):
        pass
    assert out.error == errno.ENOENT


def test_several_fences(buf, keep):
    """One array with all of them, of which readers see the writers' only."""
    timelines = {name: keep(Timeline(name=name)) for name in ("r1", "r2", "w1", "w2")}
    for name, timeline in timelines.items():
        buf.import_sync_file(keep(timeline.create_fence(1)), READ if name[0] == "r" else WRITE)
    assert exported(buf, READ, keep) == [("w1", 0), ("w2", 0)]
    assert exported(buf, WRITE, keep) == [("r1", 0), ("r2", 0), ("w1", 0), ("w2", 0)]
    timelines["w1"].inc()
    timelines["w2"].inc()
    assert (exported(buf, READ, keep), both(buf)) == ([], (True, False))
    timelines["r1"].inc()
    timelines["r2"].inc()
    assert both(buf) == (True, True)


def test_a_merged_fence_is_taken_apart(buf, keep):
    """Its members are attached one by one; those that have signaled not at all."""
    first, second, done = keep(Timeline(name="one")), keep(Timeline(name="two")), keep(Timeline(name="done"))
    fences = [keep(timeline.create_fence(1)) for timeline in (first, second, done)]
    merged = keep(fences[0].merge(fences[1], fences[2]))
    done.inc()
    buf.import_sync_file(merged, WRITE)
    pending = [fence for fence in bufinfo()[buf.ino].fences if not fence[3]]
    assert sorted(fence[:2] for fence in pending) == [("write", "one"), ("write", "two")]
    first.inc()
    assert both(buf) == (False, False)
    second.inc()
    assert both(buf) == (True, True)


def test_a_signaled_fence_changes_nothing(buf, timeline, keep):
    """Neither readers nor writers wait for it."""
    buf.import_sync_file(keep(timeline.create_fence(0)), WRITE)
    assert both(buf) == (True, True)
    assert not [fence for fence in bufinfo()[buf.ino].fences if not fence[3]]


def test_points_of_one_timeline(buf, keep):
    """A later point takes the place of an earlier one; an earlier one that comes late is added."""
    timeline = keep(Timeline(name="line"))
    fences = {point: keep(timeline.create_fence(point)) for point in (1, 2, 3)}
    buf.import_sync_file(fences[1], READ)
    buf.import_sync_file(fences[2], READ)
    assert [fence[2] for fence in bufinfo()[buf.ino].fences] == [2]
    buf.import_sync_file(fences[1], READ)
    assert sorted(fence[2] for fence in bufinfo()[buf.ino].fences) == [1, 2]
    timeline.inc(2)
    assert both(buf) == (True, True)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (READ, READ, [("read", 2)]),
        (READ, WRITE, [("write", 2)]),
        (WRITE, READ, [("read", 2), ("write", 1)]),
        (WRITE, WRITE, [("write", 2)]),
    ],
)
def test_a_later_point_of_another_use(first, second, left, buf, timeline, keep):
    """It takes the place of an earlier one unless that holds up more: readers do not relieve a writer."""
    for point, access in ((1, first), (2, second)):
        buf.import_sync_file(keep(timeline.create_fence(point)), access)
    assert sorted((usage, point) for usage, _, point, _ in bufinfo()[buf.ino].fences) == left
    timeline.inc(2)
    assert both(buf) == (True, True)


def test_a_reader_becomes_a_writer(buf, timeline, keep):
    """The same fence imported with WRITE after READ holds up readers too."""
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, READ)
    assert both(buf) == (True, False)
    buf.import_sync_file(fence, WRITE)
    assert both(buf) == (False, False)
    assert [member[0] for member in bufinfo()[buf.ino].fences] == ["write"]


def test_an_export_is_a_snapshot(buf, keep):
    """What is attached later is not in it, and imported elsewhere it makes that buffer wait too."""
    first, second = keep(Timeline(name="early")), keep(Timeline(name="late"))
    buf.import_sync_file(keep(first.create_fence(1)), WRITE)
    snapshot = keep(buf.export_sync_file(RW))
    buf.import_sync_file(keep(second.create_fence(1)), WRITE)
    other = keep(udmabuf.create(PAGE))
    other.import_sync_file(snapshot, READ)
    first.inc()
    assert (snapshot.status, both(buf), both(other)) == (1, (False, False), (True, True))


def test_all_descriptors_have_the_same_fences(buf, timeline, keep):
    """Fences belong to the buffer, not to the descriptor."""
    twin = keep(buf.dup())
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    assert both(twin) == (False, False)
    buf.close()
    assert both(twin) == (False, False)


@pytest.mark.parametrize("access", [READ, WRITE, RW])
def test_poll_waits(access, buf, timeline, keep):
    """With a timeout it waits so long and no longer; with a signal of the fence as long as that takes."""
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    started = time.monotonic()
    assert buf.poll(access, 0.1) is False
    assert time.monotonic() - started >= 0.1
    timer = threading.Timer(0.1, timeline.inc)
    timer.start()
    assert buf.poll(access, None) is True
    timer.join()
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("access", [READ, WRITE, RW])
def test_poll_goes_on_for_what_comes_later(access, buf, timeline, keep):
    """A fence that is imported while somebody waits for another is waited for too."""
    second = keep(Timeline())
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: ready.set() if buf.poll(access, 60) else None)
    thread.start()
    assert not ready.wait(0.1)
    buf.import_sync_file(keep(second.create_fence(1)), WRITE)
    timeline.inc()
    assert not ready.wait(0.1)
    second.inc()
    thread.join(60)
    assert ready.is_set()


@pytest.mark.parametrize("timeout", [-1, float("nan"), -float("inf")])
def test_no_timeout(timeout, buf):
    """Negative or not a number: ValueError."""
    with pytest.raises(ValueError, match="timeout"):
        buf.poll(READ, timeout)


@pytest.mark.parametrize(("access", "waits"), [(READ, False), (WRITE, True), (RW, True)])
def test_start_waits(access, waits, buf, timeline, keep):
    """START as poll: READ for the writers only. END waits for nothing."""
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, READ)
    with after(0.2 if waits else 60, timeline.inc):
        buf.begin_cpu_access(access)
        assert fence.signaled == waits
    buf.import_sync_file(keep(timeline.create_fence(9)), WRITE)
    buf.end_cpu_access(access)
    assert both(buf) == (False, False)


def test_many_wait_at_once(buf, timeline, keep):
    """Threads that wait by poll, by START and for an export: all wake, and others run on meanwhile."""
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    out = keep(buf.export_sync_file(READ))
    woken = []

    def start(access):
        with buf.cpu_access(access):
            woken.append(access)

    waits = [lambda a=a: woken.append(a) if buf.poll(a, 60) else None for a in (READ, WRITE, RW)]
    waits += [lambda a=a: start(a) for a in (READ, WRITE, RW)]
    waits += [lambda: woken.append(out.wait(60))]
    threads = [threading.Thread(target=wait) for wait in waits]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert woken == []
    timeline.inc()
    for thread in threads:
        thread.join(60)
    assert len(woken) == len(threads)


def test_awaiting_a_buffer(buf, timeline, keep):
    """In a coroutine the exported fence is awaited."""

    async def work():
        asyncio.get_running_loop().call_later(0.05, timeline.inc)
        with buf.export_sync_file(WRITE) as fence:
            await fence
        return both(buf)

    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    assert asyncio.run(work()) == (True, True)


def test_a_poll_keeps_the_buffer(buf, timeline, keep):
    """Having asked while a fence is pending keeps the memory until that fence signals, closed or not."""
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    ino = buf.ino
    assert not buf.poll(RW)
    buf.close()
    assert bufinfo()[ino].count == 1
    timeline.inc()
    assert ino not in bufinfo()


def test_unpolled_fences_do_not_keep_it(buf, timeline, keep):
    """A fence alone does not: the buffer goes, the fence lives on."""
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, WRITE)
    ino = buf.ino
    buf.close()
    assert ino not in bufinfo()
    assert fence.status == 0


def test_two_hundred_buffers_under_one_fence(timeline, keep):
    """200 buffers wait for it, and all are free when it signals."""
    heap = keep(DmaHeap())
    bufs = [keep(heap.alloc(PAGE)) for _ in range(200)]
    fence = keep(timeline.create_fence(1))
    for buf in bufs:
        buf.import_sync_file(fence, WRITE)
    assert not any(buf.poll(READ) for buf in bufs)
    timeline.inc()
    assert all(buf.poll(RW) for buf in bufs)


def test_what_is_no_fence(buf, timeline):
    """import_sync_file takes an open SyncFile."""
    for thing in (None, 3, timeline, buf):
        with pytest.raises(TypeError):
            buf.import_sync_file(thing, READ)
    fence = timeline.create_fence(1)
    fence.close()
    with pytest.raises(ValueError, match="closed SyncFile"):
        buf.import_sync_file(fence, READ)


@pytest.mark.parametrize("access", [0, 4, -1, None])
def test_no_access(access, buf, timeline, keep):
    """Neither imports nor exports anything."""
    fence = keep(timeline.create_fence(1))
    for attempt in (lambda: buf.import_sync_file(fence, access), lambda: buf.export_sync_file(access)):
        with pytest.raises((ValueError, TypeError)):
            attempt()
    assert both(buf) == (True, True)


def test_a_fence_that_somebody_else_closed(buf, timeline, open_files):
    """EINVAL from the kernel, which names both."""
    fence = timeline.create_fence(1)
    number = fence.fileno()
    with open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), number, inheritable=False)
    with refused(errno.EINVAL) as caught:
        buf.import_sync_file(fence, READ)
    assert f"fence fd {number} on fd {buf.fileno()}" in str(caught.value)
    fence.close()


def test_a_kernel_that_has_neither(buf, timeline, keep):
    """ENOTTY says from which Linux on and with which option they are there. Seen on a file that is no dma-buf."""
    fence = keep(timeline.create_fence(1))
    with open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), buf.fileno(), inheritable=False)
    for attempt in (lambda: buf.export_sync_file(READ), lambda: buf.import_sync_file(fence, READ)):
        with refused(errno.ENOTTY) as caught:
            attempt()
        assert "6.0 with CONFIG_SYNC_FILE" in str(caught.value)


def test_read_only_descriptors(timeline, keep):
    """Fences are imported and exported whatever the descriptor is open for."""
    buf = keep(keep(DmaHeap()).alloc(PAGE, READ))
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    assert keep(buf.export_sync_file(WRITE)).status == 0


def test_errnos(buf, timeline, keep, open_files):
    """The kernel's refusals; none lets a descriptor out or a fence in."""
    fd, fence = buf.fileno(), keep(timeline.create_fence(1))
    before = open_files()
    for flags in (0, 4, 5, 7, 8, 1 << 31 | 1, (1 << 32) - 1):
        assert raw_export(fd, flags) == raw_import(fd, flags, fence.fileno()) == -errno.EINVAL
    for request in (EXPORT, IMPORT):
        for address in (None, NOWHERE):
            assert answer(fd, request, address) == -errno.EFAULT
        assert answer(fd, request ^ 1 << 16, SyncFileOf(flags=1)) == -errno.ENOTTY
    for wrong in (-1, 0, 1 << 20, fd, timeline.fileno()):
        assert raw_import(fd, 1, wrong) == -errno.EINVAL
    with free_descriptors(0):
        assert raw_export(fd, 1) == -errno.EMFILE
        with refused(errno.EMFILE):
            buf.export_sync_file(READ)
    assert open_files() == before
    assert both(buf) == (True, True)
    assert raw_import(fd, 3, fence.fileno()) == 0
    number = raw_export(fd, 3)
    assert raw_info(number)[0].status == 0
    os.close(number)


def test_a_received_buffer_has_its_fences(buf, timeline, keep):
    """An object made of another descriptor of the buffer sees what was imported through the first."""
    buf.import_sync_file(keep(timeline.create_fence(1)), WRITE)
    with DmaBuf.from_fd(buf) as other:
        assert keep(other.export_sync_file(READ)).status == 0
