"""The machine of timelines and sync_files."""

import errno
import os
import socket
import time
from dataclasses import dataclass

from children import forked
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule
from kernel_words import debugfs_timelines, has_deadlines, raw_merge

from linuxsync import FenceError, SyncFile, Timeline, merge, wait_all, wait_any
from tests.models.fences import Group, Line, Point, cut, last_look, merged, signed
from tests.models.machine import WAIT, Machine, Waiter


def text(most):
    """Like st.text, which first makes a table of all characters that there are: seconds, where it is emulated."""
    return st.lists(st.sampled_from("abcXYZ 059-_ö€"), max_size=most).map("".join)


STEPS = st.sampled_from([0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 5, 8, 2**31 - 1, 2**31, 2**32 - 1])
AHEAD = st.sampled_from([-1, 0, 1, 1, 1, 2, 2, 3, 4, 5, 8, 2**31 - 1, 2**31])
DEADLINES = st.sampled_from([0, 5, 10**9, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@dataclass(eq=False)
class File:
    """A SyncFile and what is behind it."""

    real: SyncFile
    group: Group


@dataclass(eq=False)
class Opened:
    """A Timeline, what is behind it, and the list in which its duplicates have what they know of its value."""

    real: Timeline
    line: Line
    known: list


def passed(owner):
    """A descriptor of the same file, as it comes out of a socket."""
    here, there = socket.socketpair()
    with here, there:
        socket.send_fds(here, [b"x"], [owner.fileno()])
        _, (fd,), _, _ = socket.recv_fds(there, 1, 1)
    os.set_inheritable(fd, False)
    return fd


LINES, FILES = Bundle("lines"), Bundle("files")


class Fences(Machine):
    """Timelines, and sync_files of their points: what every machine needs whose fences come from here."""

    most_lines, most_files = 4, 8
    polled_unseen = False  # whether callbacks may have fences of which the model knows nothing

    def __init__(self):
        super().__init__()
        self.lines, self.opened, self.files, self.waiters = [], [], [], []
        self.polled = set()  # groups of more than one fence
        last_look[0] = time.monotonic_ns()

    def held(self):
        """Every fence that somebody holds who can let go of it later."""
        groups = [file.group for file in self.files] + [group for _, group in self.waiters]
        return {fence for group in groups for fence in group.fences}

    def roots(self):
        """Every fence that somebody holds, a callback too: a polled merge stays until all have signaled."""
        self.polled = {group for group in self.polled if not group.done}
        return self.held() | {fence for group in self.polled for fence in group.fences}

    def agree(self):
        for waiter, group in [each for each in self.waiters if each[1].done]:
            waiter.ended()
            self.waiters.remove((waiter, group))
        assert all(waiter.is_alive() for waiter, _ in self.waiters)
        alive = self.roots()
        for line in self.lines:
            line.forget(alive)
        for file in self.files:
            file.group.agree(file.real)
            if len(file.group.fences) > 1:
                self.polled.add(file.group)
        stamped = [(fence.clock, fence.event, fence.stamp) for fence in alive if fence.event >= 0 and fence.stamp]
        assert sorted(stamped) == sorted(stamped, key=lambda one: (one[0], one[2], one[1]))
        for one in self.opened:
            assert one.real.value == one.known[0]
        last_look[0] = time.monotonic_ns()

    def end(self):
        """Nobody waits for ever."""
        for one in list(self.opened):
            self.close_line(one)
        self.agree()
        assert not self.waiters

    def add_line(self, real, line, known):
        made = Opened(self.keep(real), line, known)
        self.stack.callback(lambda: made.real.closed or made.real.inc(2**31 - 1))  # see close_line
        self.opened.append(made)
        return made

    def add_file(self, real, group):
        made = File(self.keep(real), group)
        self.files.append(made)
        return made

    @initialize(target=LINES)
    def first_timeline(self):
        return self.open_timeline("")

    @initialize(target=FILES)
    def first_file(self):
        """One that has signaled, so that there always is one to do something with."""
        self.lines.append(Line("first"))
        with Timeline(name="first") as real:
            made = self.add_file(real.create_fence(0), Group([self.lines[-1].create(0)]))
        self.lines[-1].close()
        return made

    @precondition(lambda self: len(self.opened) < self.most_lines)
    @rule(target=LINES, name=text(15))
    def open_timeline(self, name):
        self.lines.append(Line(f"{len(self.lines)}{name}".encode()[:15].decode(errors="ignore")))
        name = self.lines[-1].name
        return self.add_line(Timeline(name=name), self.lines[-1], [0])

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, one=LINES, ahead=AHEAD)
    def create_fence(self, one, ahead):
        value = (one.line.value + ahead) % 2**32
        return self.add_file(one.real.create_fence(value), Group([one.line.create(value)]))

    @precondition(lambda self: len(self.files) + 3 <= self.most_files)
    @rule(target=FILES, one=LINES, other=LINES, aheads=st.tuples(AHEAD, AHEAD))
    def create_and_merge(self, one, other, aheads):
        files = [self.create_fence(line, ahead) for line, ahead in zip((one, other), aheads, strict=True)]
        return multiple(*files, self.merge_two(*files))

    @rule(one=LINES, step=STEPS)
    def inc(self, one, step):
        one.real.inc(step)
        one.line.inc(step)
        if one.known[0] is not None:
            one.known[0] = signed(one.known[0] + step)

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, one=FILES, other=FILES)
    def merge_two(self, one, other):
        return self.add_file(one.real | other.real, Group(merged(one.group.fences, other.group.fences)))

    @rule(one=FILES, when=DEADLINES)
    def set_deadline(self, one, when):
        if not has_deadlines(one.real.fileno()):
            with self.refused(OSError, errno.ENOTTY):
                one.real.set_deadline(when)
            return
        one.real.set_deadline(when)
        for fence in one.group.fences:
            fence.set_deadline(when)

    @precondition(lambda self: len(self.files) > 1)
    @rule(one=consumes(FILES))
    def close_file(self, one):
        self.files.remove(one)
        one.real.close()
        one.real.close()

    @precondition(lambda self: len(self.opened) > 1)
    @rule(one=consumes(LINES))
    def close_timeline(self, one):
        self.close_line(one)

    @precondition(lambda self: len(self.opened) > 1 and len(self.files) + 2 <= self.most_files)
    @rule(target=FILES, one=consumes(LINES), other=FILES)
    def fail_and_merge(self, one, other):
        """A merge forgets errors."""
        file = self.create_fence(one, 1)
        self.close_line(one)
        return multiple(file, self.merge_two(file, other))

    def close_line(self, one):
        """Fail what is left; but not what a callback alone holds.

        sw_sync_debugfs_release signals under the timeline's lock without a reference of its own. A callback that lets
        go of the last one there (those of a syncobj's eventfd and of poll(2) on a dma-buf do) hangs the CPU, as of
        Linux 6.12: timeline_fence_release wants the same lock. Advancing the timeline is safe.
        """
        if one.line.opened == 1 and (self.polled_unseen or not self.held().issuperset(one.line.ahead())):
            self.inc(one, 2**31 - 1)
        self.opened.remove(one)
        one.real.close()
        one.line.close()


class SyncFiles(Fences):
    """Everything that can be done with timelines and sync_files."""

    most_lines, most_files = 6, 10

    def __init__(self):
        super().__init__()
        self.forks = 0

    def agree(self):
        super().agree()
        # What debugfs lists: timelines as long as anything of theirs is there, and of their fences those that were
        # ahead when they were made, until they are passed.
        alive = self.roots()
        lines = [line for line in self.lines if line.opened or any(fence.timeline == line.name for fence in alive)]
        words = {0: "active", -errno.ENOENT: "error"}
        expected = {
            line.name: (line.value, sorted((words[point.status], value) for value, point in line.points.items()))
            for line in lines
        }
        assert {one.name: (one.value, sorted(one.fences)) for one in debugfs_timelines()} == expected

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, some=st.lists(FILES, min_size=1, max_size=6), name=text(31).map(cut))
    def merge_many(self, some, name):
        group = Group(merged(*(one.group.fences for one in some)), name)
        return self.add_file(merge([one.real for one in some], name=name), group)

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, some=st.lists(FILES, min_size=2, max_size=4))
    def merge_strictly(self, some):
        first, *others = (one.real for one in some)
        failed = next((one.group.failed for one in some if one.group.failed), 0)
        if failed:
            with self.refused(FenceError, -failed):
                first.merge(*others, strict=True)
            return multiple()
        return self.add_file(first.merge(*others, strict=True), Group(merged(*(one.group.fences for one in some))))

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, one=FILES, how=st.sampled_from([SyncFile.dup, SyncFile.from_fd, passed, os.dup]))
    def another_descriptor(self, one, how):
        real = how(one.real) if how is not os.dup else os.dup(one.real.fileno())
        return self.add_file(real if isinstance(real, SyncFile) else SyncFile(real), one.group)

    @precondition(lambda self: len(self.opened) < self.most_lines)
    @rule(target=LINES, one=LINES, sent=st.booleans())
    def another_timeline(self, one, sent):
        one.line.opened += 1
        if not sent:
            return self.add_line(one.real.dup(), one.line, one.known)
        fd = passed(one.real)
        try:
            return self.add_line(Timeline.from_fd(fd), one.line, [None])
        finally:
            os.close(fd)

    @rule(one=FILES)
    def detach(self, one):
        one.real = self.keep(SyncFile(one.real.detach()))

    @rule(one=FILES, asked=LINES)
    def get_deadline(self, one, asked):
        first, *others = one.group.fences
        if not has_deadlines(one.real.fileno()):
            with self.refused(OSError, errno.ENOTTY):
                asked.real.deadline_ns(one.real)
        elif others or not isinstance(first, Point):
            with self.refused(OSError, errno.EINVAL):
                asked.real.deadline_ns(one.real)
        elif first.deadline is None:
            with self.refused(OSError, errno.ENOENT):
                asked.real.deadline_ns(one.real)
        else:
            assert asked.real.deadline_ns(one.real) == first.deadline % 2**64

    @rule(one=FILES)
    def wait(self, one):
        if one.group.done:
            one.real.wait()
        else:
            with self.refused(TimeoutError, errno.ETIME):
                one.real.wait(0)

    @rule(some=st.lists(FILES, max_size=5))
    def wait_for_many(self, some):
        reals = [one.real for one in some]
        if all(one.group.done for one in some):
            wait_all(reals)
        else:
            with self.refused(TimeoutError, errno.ETIME):
                wait_all(reals, 0)
        first = next((one.real for one in some if one.group.done), None)
        if first is not None:
            assert wait_any(reals) is first
        elif some:
            with self.refused(TimeoutError, errno.ETIME):
                wait_any(reals, 0)

    @precondition(lambda self: len(self.waiters) < 3)
    @rule(one=FILES)
    def wait_in_a_thread(self, one):
        own = self.keep(one.real.dup())

        def wait():
            with own:
                own.wait(2 * WAIT)

        self.waiters.append((Waiter(wait), one.group))

    @precondition(lambda self: self.forks < 1 and not self.waiters)
    @rule(one=LINES, ahead=AHEAD, step=STEPS)
    def fork(self, one, ahead, step):
        """A child sees the same, can do the same, and takes with it what it leaves open."""
        self.forks += 1

        def work():
            self.agree()
            self.create_fence(one, ahead)
            self.inc(one, step)
            self.agree()

        with forked(work):
            pass
        one.line.inc(step)

    @rule(number=st.sampled_from([-(2**63), -1, 2**32, 2**64, 2**70]), one=LINES)
    def numbers_that_are_none(self, number, one):
        with self.refused(ValueError):
            one.real.create_fence(number)
        with self.refused(ValueError):
            one.real.inc(number)

    @rule(one=FILES, line=LINES)
    def bad_arguments(self, one, line):
        with self.refused(ValueError):
            one.real.merge(one.real, name="n" * 32)
        with self.refused(ValueError):
            merge([one.real], name="a\0b")
        with self.refused(ValueError):
            merge([])
        with self.refused(TypeError):
            merge([one.real, line.real])
        for timeout in (-1, float("nan")):
            with self.refused(ValueError):
                one.real.wait(timeout)
        for deadline in (-1, 2**64):
            with self.refused(ValueError):
                one.real.set_deadline(deadline)
        with self.refused(ValueError):
            wait_any([])

    @rule(one=FILES, line=LINES)
    def what_is_no_fence(self, one, line):
        """Another kind of file, and the bare request with it."""
        with self.refused(OSError, errno.ENOTTY):
            SyncFile(line.real.fileno())
        with self.refused(OSError, errno.ENOTTY):
            Timeline.from_fd(one.real)
        for fd in (-1, line.real.fileno(), 1 << 20):
            assert raw_merge(one.real.fileno(), fd) == -errno.ENOENT
            Machine.bad_inputs += 1

    @precondition(lambda self: len(self.files) > 1)
    @rule(one=consumes(FILES), other=FILES)
    def use_after_close(self, one, other):
        self.close_file(one)
        for use in (one.real.info, one.real.poll, one.real.dup, one.real.wait, one.real.fileno):
            with self.refused(ValueError):
                use()
        with self.refused(ValueError):
            merge([other.real, one.real])
