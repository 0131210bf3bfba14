"""sw_sync timelines: values, names, and what happens to the fences when a timeline goes away."""

import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernel_words import (
    FILE_INFO,
    INC,
    FileInfo,
    answer,
    debugfs_timeline,
    debugfs_timelines,
    free_descriptors,
    raw_fence,
    raw_info,
    refused,
)

from linuxsync import SyncFile, Timeline, sw_sync

INT_MAX = 2**31 - 1


def states(*fences):
    """The status of each, by a FILE_INFO of our own."""
    return [raw_info(fence.fileno())[0].status for fence in fences]


def test_it_is_found():
    """find() names the device of the mounted debugfs, and a path given by hand is the same thing."""
    path = sw_sync.find()
    assert sw_sync.available()
    assert Path(path).parts[-2:] == ("sync", "sw_sync")
    with Timeline(path=path) as by_text, Timeline(path=Path(path)) as by_path:
        links = [Path(f"/proc/self/fd/{timeline.fileno()}").readlink() for timeline in (by_text, by_path)]
    assert [link.parts[-2:] for link in links] == [("sync", "sw_sync")] * 2


def test_a_new_timeline_is_at_zero(keep):
    """Value 0 here and in debugfs; no fences."""
    timeline = keep(Timeline(name="fresh"))
    listed = debugfs_timeline("fresh")
    assert (timeline.value, listed.value, listed.fences) == (0, 0, ())


@pytest.mark.parametrize(
    ("value", "status"),
    [(0, 1), (1, 0), (2, 0), (INT_MAX, 0), (2**31, 1), (2**31 + 1, 1), (2**32 - 1, 1)],
)
def test_which_values_have_passed(value, status, timeline, keep):
    """On a new timeline 1 to 2**31 - 1 are ahead, everything else has passed."""
    assert states(keep(timeline.create_fence(value))) == [status]


def test_inc_signals_what_it_passes_and_nothing_more(keep):
    """A step signals all fences up to the new value; debugfs lists the others."""
    timeline = keep(Timeline(name="steps"))
    fences = [keep(timeline.create_fence(value)) for value in (1, 2, 3, 5)]
    for count, expected in [(0, [0, 0, 0, 0]), (1, [1, 0, 0, 0]), (2, [1, 1, 1, 0]), (1, [1, 1, 1, 0])]:
        timeline.inc(count)
        assert states(*fences) == expected
        listed = debugfs_timeline("steps")
        assert listed.value == timeline.value
        assert [value for _, value in listed.fences] == [
            v for v, s in zip((1, 2, 3, 5), expected, strict=True) if s == 0
        ]
    timeline.inc()
    assert states(*fences) == [1, 1, 1, 1]
    assert debugfs_timeline("steps").fences == ()


def test_fences_signal_in_ascending_order(timeline, keep):
    """One big step signals them by value, whatever the order in which they were made."""
    values = [7, 3, 9, 1, 5, 2, 8]
    stamps = {}
    fences = [(value, keep(timeline.create_fence(value))) for value in values]
    timeline.inc(10)
    for value, fence in fences:
        stamps[value] = fence.timestamp_ns
    assert sorted(stamps, key=lambda value: (stamps[value], value)) == sorted(values)


@pytest.mark.parametrize("count", [INT_MAX, 2**31, 2**31 + 5, 2**32 - 1])
def test_the_largest_steps_pass_everything(count, keep):
    """A step of more than 2**31 - 1 goes by way of all values between; the sum wraps to a signed 32-bit number."""
    timeline = keep(Timeline(name="leap"))
    near, far = keep(timeline.create_fence(1)), keep(timeline.create_fence(INT_MAX))
    timeline.inc(count)
    assert states(near, far) == [1, 1]
    expected = (count + 2**31) % 2**32 - 2**31
    assert (timeline.value, debugfs_timeline("leap").value) == (expected, expected)


def test_wraparound(keep):
    """From -1 the fence 1 is two steps ahead."""
    timeline = keep(Timeline(name="wrap"))
    timeline.inc(2**32 - 1)
    assert (timeline.value, debugfs_timeline("wrap").value) == (-1, -1)
    at, zero, ahead = (keep(timeline.create_fence(value)) for value in (2**32 - 1, 0, 1))
    assert states(at, zero, ahead) == [1, 0, 0]
    timeline.inc()
    assert states(at, zero, ahead) == [1, 1, 0]
    timeline.inc()
    assert states(at, zero, ahead) == [1, 1, 1]
    assert (timeline.value, debugfs_timeline("wrap").value) == (1, 1)


def test_equal_pending_values_share_one_fence(keep):
    """Two fences for one value ahead are two descriptors of one kernel fence; of one passed, two fences."""
    timeline = keep(Timeline(name="shared"))
    one, two = keep(timeline.create_fence(4)), keep(timeline.create_fence(4))
    assert one.fileno() != two.fileno()
    assert debugfs_timeline("shared").fences == (("active", 4),)
    assert keep(one | two).info() == one.info()
    one.close()
    assert debugfs_timeline("shared").fences == (("active", 4),)
    two.close()
    assert len(debugfs_timeline("shared").fences) == 1  # the merged one holds it still


def test_closing_the_timeline_fails_what_is_outstanding(keep):
    """Fences ahead fail with ENOENT, passed ones stay signaled, and nothing changes after that."""
    timeline = keep(Timeline(name="short"))
    done, ahead, far = (keep(timeline.create_fence(value)) for value in (1, 2, INT_MAX))
    timeline.inc()
    timeline.close()
    assert states(done, ahead, far) == [1, -errno.ENOENT, -errno.ENOENT]
    assert [fence.poll() for fence in (done, ahead, far)] == [True, True, True]
    assert debugfs_timeline("short").fences == (("error", 2), ("error", INT_MAX))
    for fence in (done, ahead, far):
        fence.close()
    assert debugfs_timelines() == []


def test_a_duplicate_keeps_the_timeline_alive(keep):
    """Only the last close fails the fences; duplicates in this process share the value they know."""
    timeline = keep(Timeline(name="twins"))
    twin = keep(timeline.dup())
    fence = keep(timeline.create_fence(3))
    timeline.inc(2)
    assert (twin.value, timeline.value, debugfs_timeline("twins").value) == (2, 2, 2)
    timeline.close()
    assert states(fence) == [0]
    twin.inc(1)
    assert states(fence) == [1]
    assert (twin.value, debugfs_timeline("twins").value) == (3, 3)


def test_a_foreign_descriptor_has_no_value(keep):
    """What came through from_fd or the constructor works, but nobody knows where it stands."""
    timeline = keep(Timeline(name="guest"))
    timeline.inc(5)
    for foreign in (keep(Timeline.from_fd(timeline)), keep(Timeline.from_fd(timeline.fileno()))):
        assert type(foreign) is Timeline
        assert foreign.value is None
        assert keep(foreign.dup()).value is None
        assert foreign.name == "guest"
        foreign.inc()
        assert foreign.value is None
    assert debugfs_timeline("guest").value == 7
    assert states(keep(foreign.create_fence(7)), keep(foreign.create_fence(8))) == [1, 0]


def test_taking_over_changes_nothing(keep):
    """from_fd finds out what kind of file it is without moving the timeline."""
    timeline = keep(Timeline(name="still"))
    fence = keep(timeline.create_fence(1))
    keep(Timeline.from_fd(timeline))
    assert debugfs_timeline("still").value == 0
    assert states(fence) == [0]


@pytest.mark.parametrize("name", ["x", "frame timeline", "n" * 15, "ä" * 7 + "x", "%s: 1", ""])
def test_names(name, keep):
    """The name given is the kernel's, in FILE_INFO and debugfs, and what the property says."""
    timeline = keep(Timeline(name=name))
    fence = keep(timeline.create_fence(1))
    assert raw_info(fence.fileno())[1][0].obj_name == name.encode()
    assert fence.fences[0].obj_name == timeline.name == name
    assert [listed.name for listed in debugfs_timelines()] == [name]


@pytest.mark.parametrize("name", ["n" * 16, "ä" * 8, "a\0b", "\0"])
def test_names_that_the_kernel_would_cut(name, open_files):
    """16 bytes and NULs are refused before anything is opened."""
    before = open_files()
    with pytest.raises(ValueError, match="name"):
        Timeline(name=name)
    assert open_files() == before


def test_without_a_name_it_is_the_threads(keep):
    """The kernel's own choice: the name of the thread that opens."""
    names = []
    names.append((Path("/proc/thread-self/comm").read_text().rstrip("\n"), keep(Timeline()).name))

    def elsewhere():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("other thread")
        names.append(("other thread", keep(Timeline()).name))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(names) == 2
    assert all(comm == name for comm, name in names)


def test_the_thread_is_not_left_renamed(keep, tmp_path):
    """Naming a timeline borrows the thread's name and gives it back, also when the open fails."""
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text()
    keep(Timeline(name="borrowed"))
    assert comm.read_text() == before
    with refused(errno.ENOENT, FileNotFoundError):
        Timeline(name="borrowed", path=str(tmp_path / "none"))
    assert comm.read_text() == before
    with refused(errno.ENOTTY):
        Timeline(name="borrowed", path="/dev/null")
    assert comm.read_text() == before


def test_names_in_many_threads():
    """Threads that name timelines at the same time do not get each other's names, nor keep one."""

    def worker(number):
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        before = comm.read_text()
        for turn in range(25):
            with Timeline(name=f"{number} {turn}") as timeline:
                assert timeline.name == f"{number} {turn}"
            assert comm.read_text() == before

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, range(8)))


def test_steps_from_many_threads(keep):
    """No step is lost, in the kernel or in the value that this process knows."""
    timeline = keep(Timeline(name="crowd"))
    last, beyond = keep(timeline.create_fence(800)), keep(timeline.create_fence(801))

    def worker(owner):
        for _ in range(100):
            owner.inc()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, [timeline, keep(timeline.dup())] * 4))
    assert timeline.value == debugfs_timeline("crowd").value == 800
    assert states(last, beyond) == [1, 0]


@pytest.mark.parametrize("steps", [0, 1, 0x40000000, INT_MAX, 2**31 + 7, 2**32 - 1])
def test_the_name_is_known_at_any_value(steps, keep):
    """Asking for the name works wherever the timeline stands, and moves nothing and leaves no fence."""
    timeline = keep(Timeline(name="anywhere"))
    fence = keep(timeline.create_fence(0x40000000))
    timeline.inc(steps)
    before = debugfs_timeline("anywhere"), fence.info()
    assert timeline.name == "anywhere"
    assert (debugfs_timeline("anywhere"), fence.info()) == before


def test_opening_without_a_descriptor(timeline, open_files):
    """EMFILE from open and from CREATE_FENCE, and all is well afterwards."""
    before, path = open_files(), sw_sync.find()
    with free_descriptors(0):
        with refused(errno.EMFILE):
            Timeline(path=path)
        with refused(errno.EMFILE):
            timeline.create_fence(1)
        with refused(errno.EMFILE):
            sw_sync.available()  # which is no no
        timeline.inc()
    assert open_files() == before
    with timeline.create_fence(1) as fence:
        assert fence.signaled


@pytest.mark.parametrize(
    ("path", "number"),
    [("/dev/null", errno.ENOTTY), ("/nowhere/sw_sync", errno.ENOENT), ("/", errno.EISDIR), ("", errno.ENOENT)],
)
def test_another_path(path, number, open_files):
    """A path that is something else is refused with the kernel's errno, and nothing stays open."""
    before = open_files()
    with refused(number) as caught:
        Timeline(path=path)
    assert open_files() == before
    assert number == errno.ENOTTY or caught.value.filename == path


def test_a_path_with_nul():
    """A NUL can't be in a path: ValueError, as from open()."""
    with pytest.raises(ValueError, match="NUL"):
        Timeline(path="/dev/null\0")


def test_the_kernel_ignores_the_name_of_a_fence(timeline, keep):
    """CREATE_FENCE's name goes nowhere; a merge with itself is what names a fence."""
    fence = keep(SyncFile(raw_fence(timeline.fileno(), 1)))
    assert keep(fence.merge(fence, name="mine")).name == "mine"
    assert fence.name.startswith("sw_sync-")


def test_a_timeline_is_no_sync_file(timeline):
    """The timeline's descriptor knows INC and not FILE_INFO; reading is EINVAL."""
    assert answer(timeline.fileno(), FILE_INFO, FileInfo()) == -errno.ENOTTY
    assert answer(timeline.fileno(), INC, ctypes.c_uint32(0)) == 0
    with refused(errno.EINVAL):
        os.read(timeline.fileno(), 1)
