"""Closed objects, foreign descriptors, values of every wrong kind: a clear answer, nothing lost, nothing signaled."""

import asyncio
import copy
import errno
import fcntl
import gc
import os
import pickle
import warnings

import pytest
from kernel_words import debugfs_timeline, raw_info, refused

from linuxsync import OwnedFd, SyncFile, Timeline, as_completed, merge, wait_all, wait_any


def on_closed(owner):
    """What can be called on anything that is closed and must say so."""
    return {
        "fileno": owner.fileno,
        "dup": owner.dup,
        "detach": owner.detach,
        "from_fd": lambda: type(owner).from_fd(owner),
        "with": owner.__enter__,
    }


def on_closed_fence(fence, other):
    return on_closed(fence) | {
        "info": fence.info,
        "name": lambda: fence.name,
        "status": lambda: fence.status,
        "fences": lambda: fence.fences,
        "signaled": lambda: fence.signaled,
        "error": lambda: fence.error,
        "timestamp_ns": lambda: fence.timestamp_ns,
        "merge": lambda: fence.merge(other),
        "merge into": lambda: other.merge(fence),
        "merge strict": lambda: fence.merge(other, strict=True),
        "or": lambda: fence | other,
        "poll": fence.poll,
        "wait": fence.wait,
        "raise_for_status": fence.raise_for_status,
        "wait_async": lambda: asyncio.run(fence.wait_async()),
        "set_deadline": lambda: fence.set_deadline(1),
        "wait_all": lambda: wait_all([fence]),
        "wait_any": lambda: wait_any([fence]),
        "merge many": lambda: merge([other, fence]),
        "as_completed": lambda: asyncio.run(anext(as_completed([fence]))),
    }


def on_closed_timeline(timeline, fence):
    return on_closed(timeline) | {
        "create_fence": lambda: timeline.create_fence(1),
        "inc": timeline.inc,
        "name": lambda: timeline.name,
        "deadline_ns": lambda: timeline.deadline_ns(fence),
    }


def public(kind):
    """The names that a class offers."""
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize("detached", [False, True])
def test_a_closed_fence(detached, timeline, fence, open_files):
    """Everything but close, closed and repr is a ValueError that says "closed"."""
    other = fence.dup()
    number = other.detach() if detached else other.close()
    before = open_files()
    attempts = on_closed_fence(other, fence)
    assert public(SyncFile) - set(attempts) == {"close", "closed"}
    for name, attempt in attempts.items():
        with pytest.raises(ValueError, match="closed SyncFile"):
            print(name, attempt())
    assert other.closed
    assert repr(other) == "<closed SyncFile>"
    other.close()
    if detached:
        os.close(number)
        del before[number]
    assert open_files() == before
    assert fence.status == 0


def test_a_closed_timeline(timeline, fence):
    """The same for a timeline; the value it had stays known."""
    timeline.inc(0)
    timeline.close()
    attempts = on_closed_timeline(timeline, fence)
    assert public(Timeline) - set(attempts) == {"close", "closed", "value"}
    for name, attempt in attempts.items():
        with pytest.raises(ValueError, match="closed Timeline"):
            print(name, attempt())
    assert repr(timeline) == "<closed Timeline>"
    timeline.close()


def test_a_deadline_of_a_closed_fence(timeline, fence):
    """Asking an open timeline about a closed fence is a ValueError too."""
    fence.close()
    with pytest.raises(ValueError, match="closed SyncFile"):
        timeline.deadline_ns(fence)


def test_every_value_but_a_fence_for_deadline_ns(timeline):
    """Only a SyncFile has a deadline."""
    for thing in (None, 1, "fence", timeline):
        with pytest.raises(TypeError):
            timeline.deadline_ns(thing)


@pytest.mark.parametrize("kind", [SyncFile, Timeline])
@pytest.mark.parametrize("thing", ["/dev/null", "pipe", "file", "socket", "the other"])
def test_foreign_descriptors(kind, thing, timeline, fence, open_files):
    """What is open but of another kind is ENOTTY, stays open, and stays the caller's."""
    reading, writing = os.pipe()
    with open("/dev/null", "rb") as null, open(__file__, "rb") as file:
        fds = {"/dev/null": null.fileno(), "pipe": reading, "file": file.fileno(), "socket": writing}
        fds["the other"] = timeline.fileno() if kind is SyncFile else fence.fileno()
        before = open_files()
        with refused(errno.ENOTTY) as caught:
            kind.from_fd(fds[thing])
        assert "is not a s" in str(caught.value)
        if kind is SyncFile:
            with refused(errno.ENOTTY) as caught:
                kind(fds[thing])
            assert f"fd {fds[thing]} is not a sync_file" in str(caught.value)
        assert open_files() == before
    os.close(reading)
    os.close(writing)
    assert (fence.status, debugfs_timeline(timeline.name).value) == (0, 0)


NUMBERS = [
    (-1, ValueError),
    (-(2**31), ValueError),
    (2**31, ValueError),
    (2**64, ValueError),
    (-(2**100), ValueError),
    (None, TypeError),
    (1.5, TypeError),
    ("1", TypeError),
    (b"1", TypeError),
    ([], TypeError),
]


@pytest.mark.parametrize(("number", "error"), NUMBERS)
@pytest.mark.parametrize("make", [OwnedFd, SyncFile, OwnedFd.from_fd, SyncFile.from_fd, Timeline.from_fd])
def test_no_descriptor_numbers(make, number, error):
    """What can't be a descriptor is refused before the kernel is asked."""
    with pytest.raises(error):
        make(number)


@pytest.mark.parametrize("make", [OwnedFd, SyncFile, OwnedFd.from_fd, SyncFile.from_fd, Timeline.from_fd])
def test_numbers_that_are_not_open(make, open_files):
    """A number that nobody has open is EBADF."""
    before = open_files()
    unused = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(unused)
    for number in (unused, 2**31 - 1):
        with refused(errno.EBADF):
            make(number)
    assert open_files() == before


@pytest.mark.parametrize("thing", [5, b"name", ["name"], 1.5])
def test_a_timeline_is_opened_by_name(thing):
    """A number is no name: Timeline(fd) is a TypeError; from_fd is for those."""
    with pytest.raises(TypeError):
        Timeline(thing)


@pytest.mark.parametrize("thing", [1.5, [], {}])
def test_a_path_is_text(thing):
    """The path is what open() takes."""
    with pytest.raises(TypeError):
        Timeline(path=thing)


VALUES = [
    (-1, ValueError),
    (2**32, ValueError),
    (2**64, ValueError),
    (-(2**100), ValueError),
    (float("nan"), (ValueError, TypeError)),
    (float("inf"), (ValueError, TypeError)),
    (1.5, TypeError),
    (1.0, TypeError),
    ("1", TypeError),
    (b"1", TypeError),
    (None, TypeError),
    ([1], TypeError),
]


@pytest.mark.parametrize(("value", "error"), VALUES)
def test_no_u32(value, error, timeline, fence, open_files):
    """Neither create_fence nor inc takes what is no u32, and the timeline does not move."""
    before = open_files()
    for attempt in (timeline.create_fence, timeline.inc):
        with pytest.raises(error):
            attempt(value)
    assert open_files() == before
    assert (timeline.value, debugfs_timeline(timeline.name).value, fence.status) == (0, 0, 0)


@pytest.mark.parametrize(("value", "error"), [case for case in VALUES if case[0] != 2**32])
def test_no_u64(value, error, fence):
    """set_deadline takes no such thing either."""
    with pytest.raises(error):
        fence.set_deadline(value)


def test_numbers_that_are_like_ints(timeline, keep):
    """True is 1, and whatever has __index__ is a number."""

    class Two:
        def __index__(self):
            return 2

    first, second = keep(timeline.create_fence(True)), keep(timeline.create_fence(3))
    timeline.inc(True)
    assert (timeline.value, first.status, second.status) == (1, 1, 0)

    class Number(Two):
        def __index__(self):
            return second.fileno()

    with SyncFile.from_fd(Number()) as again:
        assert again.info() == second.info()


@pytest.mark.parametrize("name", [1, b"name", ["n"], 1.5])
def test_no_name(name, fence, open_files):
    """A name is a str."""
    before = open_files()
    for attempt in (lambda: fence.merge(fence, name=name), lambda: merge([fence], name=name)):
        with pytest.raises(TypeError):
            attempt()
    assert open_files() == before


@pytest.mark.parametrize("things", [None, 1, object()])
def test_no_iterable(things):
    """Functions of many fences want many fences."""
    for function in (merge, wait_all, wait_any):
        with pytest.raises(TypeError):
            function(things)


def test_an_iterable_that_raises(fence, open_files):
    """What the caller's generator raises comes through, and nothing stays open."""

    def broken():
        yield fence
        raise KeyError("mine")

    before = open_files()
    for function in (merge, wait_all, wait_any, lambda fences: asyncio.run(anext(as_completed(fences)))):
        with pytest.raises(KeyError, match="mine"):
            function(broken())
    assert open_files() == before


def test_ownership_when_the_constructor_raises(timeline):
    """If it raises, the descriptor is still the caller's and open; the failed object closes nothing."""
    fd = os.dup(timeline.fileno())
    with refused(errno.ENOTTY):
        SyncFile(fd)
    gc.collect()
    assert os.fstat(fd)
    os.close(fd)


def test_an_object_owns_one_descriptor(timeline, fence, keep):
    """Calling __init__ again is refused, and neither descriptor is lost."""
    other = keep(timeline.create_fence(2))
    with pytest.raises(ValueError, match="already owns"):
        fence.__init__(other.fileno())
    with pytest.raises(ValueError, match="already owns"):
        timeline.__init__()
    assert (fence.status, other.status, timeline.value) == (0, 0, 0)


def test_closing_twice_closes_once(fence, timeline, keep):
    """The second close does not hit whoever got the number meanwhile."""
    number = fence.fileno()
    fence.close()
    successor = keep(timeline.create_fence(2))
    assert successor.fileno() == number
    fence.close()
    with fence.__class__.from_fd(successor):
        pass
    assert raw_info(number)[0].status == 0
    assert not successor.closed


def test_with_closes(timeline):
    """The end of a with block closes, also by an exception and also if it was closed inside."""
    with timeline.create_fence(1) as fence:
        assert not fence.closed
    assert fence.closed
    with pytest.raises(KeyError), timeline.create_fence(1) as fence:
        raise KeyError
    assert fence.closed
    with timeline.create_fence(1) as fence:
        fence.close()
    with pytest.raises(ValueError, match="closed"), fence:
        raise AssertionError("a closed object can't be entered")


def test_detach(fence, open_files):
    """detach gives the number away: the object is closed, the descriptor open, and nobody is warned."""
    number = fence.detach()
    assert fence.closed
    del fence
    gc.collect()
    assert number in open_files()
    assert raw_info(number)[0].status == 0
    os.close(number)


@pytest.mark.parametrize("kind", ["fence", "timeline", "merge", "plain"])
def test_a_forgotten_object_warns_and_closes(kind, timeline, fence, open_files):
    """ResourceWarning names what was forgotten, and the descriptor is closed."""
    before = open_files()
    make = {
        "fence": lambda: timeline.create_fence(1),
        "timeline": Timeline,
        "merge": lambda: fence | fence,
        "plain": lambda: OwnedFd(os.dup(0)),
    }
    forgotten = make[kind]()
    text = repr(forgotten)
    with pytest.warns(ResourceWarning) as warned:
        del forgotten
        gc.collect()
    assert [str(warning.message) for warning in warned] == [f"unclosed {text}"]
    assert open_files() == before


def test_a_closed_object_does_not_warn(timeline):
    """Nothing is said about what was closed, by close, with or detach."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        closed, detached = timeline.create_fence(1), timeline.create_fence(1)
        closed.close()
        number = detached.detach()
        with timeline.create_fence(1) as left:
            pass
        del closed, detached, left
        gc.collect()
    os.close(number)
    assert warned == []


def test_no_pickles_and_no_copies(timeline, fence):
    """An object can't be in two places: pickle and copy say how it is done."""
    for owner in (timeline, fence):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy, *[lambda o, p=p: pickle.dumps(o, p) for p in range(6)]):
            with pytest.raises(TypeError, match=r"dup\(\)"):
                attempt(owner)


def test_owned_fd_by_itself(open_files):
    """The base class owns any descriptor at all."""
    reading, writing = os.pipe()
    with OwnedFd(reading) as one, OwnedFd.from_fd(writing) as two:
        assert (one.fileno(), repr(one)) == (reading, f"OwnedFd({reading})")
        os.close(writing)
        os.write(two.fileno(), b"x")
        with one.dup() as again:
            assert type(again) is OwnedFd
            assert os.read(again.fileno(), 1) == b"x"
            assert fcntl.fcntl(again.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert reading not in open_files()


def test_close_reports_what_the_kernel_says(fence):
    """A number that somebody else has closed is EBADF, once."""
    twin = fence.dup()
    os.close(twin.fileno())
    with refused(errno.EBADF):
        twin.close()
    assert twin.closed
    twin.close()
