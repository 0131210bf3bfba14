"""The machine of syncobjs: containers of a fence, or of a timeline of fences, in drivers/gpu/drm/drm_syncobj.c."""

import errno
import os
import re
from dataclasses import dataclass, field
from itertools import takewhile

from clock_words import becomes
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule
from syncobj_words import GONE, handles, next_handle, open_device, refusal

from linuxsync import OwnedFd, Syncobj
from tests.models.fences import IDLE, Group, contexts, merged, stub
from tests.models.machine import WAIT, Machine, Waiter
from tests.models.sync_files import FILES, LINES, Fences

OBJECTS, DESCRIPTORS = Bundle("objects"), Bundle("descriptors")
POINTS = st.sampled_from([1, 1, 2, 3, 4, 5, 6, 8, 10, 2**32, 2**64 - 1])


@dataclass(eq=False)
class Node:
    """A point of a timeline (dma_fence_chain.c): its own fences, and everything below it."""

    fences: list
    seqno: int
    below: object  # a Node, a list of fences that is no point, or None
    context: int = field(default_factory=lambda: next(contexts))
    follows: int = 0  # the point below it that it follows, 0 if it is not in order

    def own_done(self):
        return all(fence.status for fence in self.fences)

    def next(self):
        """What is below and has not signaled by itself: what has is forgotten."""
        found = self.below
        while isinstance(found, Node) and found.own_done():
            found = found.below
        return found if isinstance(found, Node) or any(fence.status == 0 for fence in found or ()) else None


def nodes(behind):
    """A timeline from above to below; what is no timeline, alone."""
    while behind is not None:
        yield behind
        behind = behind.next() if isinstance(behind, Node) else None


def flat(behind):
    """Its fences, as FILE_INFO lists them."""
    return [fence for node in nodes(behind) for fence in (node.fences if isinstance(node, Node) else node)]


def done(behind):
    """Whether it has signaled, it and all below; nothing left is done too."""
    return all(fence.status for fence in flat(behind))


class Behind(Group):
    """A sync_file of what a syncobj held."""

    def __init__(self, behind):
        self.name, self.ordered, self.behind = "", True, behind

    @property
    def fences(self):
        return flat(self.behind)

    def named(self, name):
        if isinstance(self.behind, Node):
            point = (self.behind.seqno + 2**63) % 2**64 - 2**63  # "%lld"
            assert re.fullmatch(rf"dma_fence_chain-unbound\d+-{point}", name) or len(name) == 31
        else:
            super().named(name)


MISSING = object()


@dataclass(eq=False)
class Latch:
    """Somebody who waits for a point: by an eventfd, or in a thread with an object of its own."""

    point: int
    available: bool
    eventfd: OwnedFd | None = None
    thread: Waiter | None = None
    own: Syncobj | None = None
    found: object = MISSING

    @property
    def over(self):
        return self.found is not MISSING and (self.available or done(self.found))


@dataclass(eq=False)
class Container:
    """A drm_syncobj: what is in it, how many handles and descriptors it has, and who waits for something to come."""

    behind: object = None
    held: int = 0
    latches: list = field(default_factory=list)

    def find(self, point):
        """The fence of a point, MISSING before it was submitted, None if nothing of it is left to wait for."""
        top = self.behind
        if top is None:
            return MISSING
        if not point:
            return top
        if not isinstance(top, Node) or top.seqno < point:
            return MISSING
        found = top
        while isinstance(found, Node) and found.context == top.context and found.follows >= point:
            found = found.next()
        return found

    def replace(self, behind):
        """Whoever waits for a fence to come keeps what is there when it comes."""
        self.behind = behind
        for latch in self.latches:
            self.look(latch)

    def look(self, latch):
        if latch.found is MISSING:
            latch.found = self.find(latch.point)

    def add(self, fences, point):
        """A point is to be above those that are there; where it is not, it counts as the highest of them."""
        top = self.behind
        if isinstance(top, Node) and point > top.seqno:
            self.replace(Node(fences, point, top, top.context, top.seqno))
        else:
            self.replace(Node(fences, max(point, top.seqno) if isinstance(top, Node) else point, top))

    def query(self):
        """The point up to which all has signaled, as far down as the points were added in order."""
        top = self.behind
        if not isinstance(top, Node):
            return 0
        *_, last = takewhile(lambda node: isinstance(node, Node) and node.context == top.context, nodes(top))
        return last.seqno if done(last) else last.follows

    def submitted(self):
        return self.behind.seqno if isinstance(self.behind, Node) else 0


@dataclass(eq=False)
class Object:
    """A Syncobj, the number of its device, and what is behind it."""

    real: Syncobj
    device: int
    container: Container


class Syncobjs(Fences):
    """Syncobjs of two open files of one device."""

    most_lines, most_files, most_objects = 4, 6, 7

    def __init__(self):
        super().__init__()
        self.devices = [self.keep(open_device()) for _ in range(2)]
        self.objects, self.containers = [], []

    def held(self):
        found = [container.behind for container in self.containers]
        return super().held() | {fence for behind in found for fence in flat(behind)}

    def roots(self):
        found = [latch.found for one in self.containers for latch in one.latches if latch.found is not MISSING]
        return super().roots() | {fence for behind in found for fence in flat(behind)}

    def agree(self):
        for container in list(self.containers):
            for latch in list(container.latches):
                if latch in container.latches:  # with the last thread others may go
                    self.agree_on(container, latch)
        super().agree()
        for one in self.objects:
            assert one.real.query() == one.container.query()
            assert one.real.query_last_submitted() == one.container.submitted()

    def agree_on(self, container, latch):
        if latch.thread is not None:
            if latch.over:
                latch.thread.ended()
                container.latches.remove(latch)
                self.release(container)
            else:
                assert latch.thread.is_alive()
        elif latch.over:
            becomes(1, lambda: counted(latch.eventfd), WAIT)
            container.latches.remove(latch)
            latch.eventfd.close()
        else:
            assert counted(latch.eventfd) == 0

    def end(self):
        """Who waits for what was never submitted, gets it now."""
        for container in list(self.containers):
            for latch in [latch for latch in container.latches if latch.thread and latch.found is MISSING]:
                latch.own.signal(max(latch.point, container.submitted()))
                container.add([IDLE], max(latch.point, container.submitted()))
        super().end()
        for one in list(self.objects):
            self.close_object(one)
        for device in self.devices:
            assert next_handle(device.fileno()) == 1, "a handle was left behind"

    def hold(self, container):
        container.held += 1
        if container not in self.containers:
            self.containers.append(container)
        return container

    def release(self, container):
        """Nothing is left of it with its last handle or descriptor, and those who wait for a point are forgotten."""
        container.held -= 1
        if not container.held:
            self.containers.remove(container)
            for latch in container.latches:
                if latch.found is MISSING:
                    assert counted(latch.eventfd) == 0
                latch.eventfd.close()
            container.latches = []

    def add_object(self, real, device, container):
        made = Object(self.keep(real), device, self.hold(container))
        self.objects.append(made)
        return made

    def close_object(self, one):
        self.objects.remove(one)
        one.real.close()
        one.real.close()
        self.release(one.container)

    @initialize(target=OBJECTS)
    def first_object(self):
        return self.create(0, False)

    @precondition(lambda self: len(self.objects) < self.most_objects)
    @rule(target=OBJECTS, device=st.integers(0, 1), signaled=st.booleans())
    def create(self, device, signaled):
        real = Syncobj.create(self.devices[device], signaled=signaled)
        return self.add_object(real, device, Container([stub()] if signaled else None))

    @precondition(lambda self: len(self.objects) > 1)
    @rule(one=consumes(OBJECTS))
    def destroy(self, one):
        self.close_object(one)
        for use in (one.real.query, one.real.to_fd, one.real.reset, lambda: one.real.wait(0)):
            with self.refused(ValueError):
                use()

    @rule(target=DESCRIPTORS, one=OBJECTS)
    def to_fd(self, one):
        return self.keep(OwnedFd(one.real.to_fd())), self.hold(one.container)

    @precondition(lambda self: len(self.objects) < self.most_objects)
    @rule(target=OBJECTS, one=consumes(DESCRIPTORS), device=st.integers(0, 1))
    def from_fd(self, one, device):
        fd, container = one
        made = self.add_object(Syncobj.from_fd(self.devices[device], fd), device, container)
        fd.close()
        self.release(container)
        return made

    @rule(one=OBJECTS, point=st.none() | st.just(0) | POINTS)
    def signal(self, one, point):
        one.real.signal(point)
        if point is None:
            one.container.replace([stub()])
        else:
            one.container.add([IDLE], point)

    @rule(one=OBJECTS)
    def reset(self, one):
        one.real.reset()
        one.container.replace(None)

    def of_one_device(self, some):
        return [one for one in some if one.device == some[0].device]

    @rule(some=st.lists(OBJECTS, min_size=1, max_size=4), points=st.none() | st.lists(POINTS, min_size=4, max_size=4))
    def signal_many(self, some, points):
        some = self.of_one_device(some)
        Syncobj.signal_many([one.real for one in some], points and points[: len(some)])
        for one, point in zip(some, points or [None] * 4, strict=False):
            if point is None:
                one.container.replace([stub()])
            else:
                one.container.add([IDLE], point)

    @rule(some=st.lists(OBJECTS, min_size=1, max_size=4))
    def query_many(self, some):
        some = self.of_one_device(some)
        reals = [one.real for one in some]
        assert list(Syncobj.query_many(reals)) == [one.container.query() for one in some]
        assert list(Syncobj.query_many(reals, True)) == [one.container.submitted() for one in some]

    @rule(one=OBJECTS, file=FILES, point=st.just(0) | POINTS)
    def import_sync_file(self, one, file, point):
        one.real.import_sync_file(file.real, point)
        group = file.group
        if point:
            one.container.add(merged(group.fences), point)
        else:
            one.container.replace(group.behind if isinstance(group, Behind) else group.fences)

    @precondition(lambda self: len(self.files) + 3 <= self.most_files)
    @rule(
        target=FILES,
        one=OBJECTS,
        line=LINES,
        steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=2, max_size=3),
        done=st.integers(0, 2),
    )
    def submit_points(self, one, line, steps, done):
        """A timeline as drivers make it: points that rise, each with a fence, of which some signal."""
        files, point = [], one.container.submitted() % 2**32
        for up, ahead in steps:
            point += up
            files.append(self.create_fence(line, ahead))
            self.import_sync_file(one, files[-1], point)
        self.inc(line, done)
        for asked in range(max(point - 4, 1), point + 2):
            self.wait_many([one], [asked] * 4, True, False, False)
        return multiple(*files)

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, one=OBJECTS, point=st.just(0) | POINTS)
    def export_sync_file(self, one, point):
        found = one.container.find(point)
        if found is MISSING:
            with self.refused(OSError, errno.EINVAL):
                one.real.export_sync_file(point)
            return multiple()
        return self.add_file(one.real.export_sync_file(point), Behind([IDLE] if found is None else found))

    @rule(one=OBJECTS, other=OBJECTS, here=st.just(0) | POINTS, there=st.just(0) | POINTS)
    def transfer(self, one, other, here, there):
        found = other.container.find(there)
        if one.device != other.device:
            with self.refused(ValueError):
                one.real.transfer(other.real, there, here)
        elif found is MISSING:
            with self.refused(OSError, errno.EINVAL):
                one.real.transfer(other.real, there, here)
        else:
            one.real.transfer(other.real, there, here)
            found = [IDLE] if found is None else found
            if here:
                one.container.add(merged(flat(found)), here)
            else:
                one.container.replace(found)

    @rule(
        some=st.lists(OBJECTS, min_size=1, max_size=4),
        points=st.none() | st.lists(st.just(0) | POINTS, min_size=4, max_size=4),
        all=st.booleans(),
        submit=st.booleans(),
        available=st.booleans(),
    )
    def wait_many(self, some, points, all, submit, available):
        some = self.of_one_device(some)
        available = available and points is not None
        points = points and points[: len(some)]
        found = [one.container.find(point) for one, point in zip(some, points or [0] * len(some), strict=True)]
        ready = [fence is not MISSING and (available or done(fence)) for fence in found]

        def wait():
            reals = [one.real for one in some]
            return Syncobj.wait_many(reals, points, 0, all=all, wait_for_submit=submit, wait_available=available)

        if MISSING in found and not submit and not available:
            with self.refused(OSError, errno.EINVAL):
                wait()
        elif not (min(ready) if all else max(ready)):
            with self.refused(TimeoutError, errno.ETIME):
                wait()
        else:
            assert wait() == (None if all else ready.index(True))

    @rule(one=OBJECTS, point=st.just(0) | POINTS, available=st.booleans())
    def register_eventfd(self, one, point, available):
        eventfd = self.keep(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))
        one.real.eventfd(point, eventfd, available)
        latch = Latch(point, available, eventfd)
        one.container.look(latch)
        one.container.latches.append(latch)

    @precondition(lambda self: sum(latch.thread is not None for one in self.containers for latch in one.latches) < 2)
    @rule(one=OBJECTS, point=st.none() | st.just(0) | POINTS, available=st.booleans())
    def wait_in_a_thread(self, one, point, available):
        with OwnedFd(one.real.to_fd()) as fd:
            own = self.keep(Syncobj.from_fd(self.devices[one.device], fd))
        available = available and point is not None

        def wait():
            with own:
                own.wait(2 * WAIT, point, wait_for_submit=True, wait_available=available)

        latch = Latch(point or 0, available, thread=Waiter(wait), own=own)
        latch.thread.asleep()
        self.hold(one.container)
        one.container.look(latch)
        one.container.latches.append(latch)

    @rule(one=OBJECTS, file=FILES, number=st.sampled_from([-1, 2**64, 2**70]))
    def bad_arguments(self, one, file, number):
        device = self.devices[one.device]
        for use in (
            lambda: one.real.signal(number),
            lambda: one.real.wait(0, number),
            lambda: one.real.wait(-1),
            lambda: one.real.export_sync_file(number),
            lambda: one.real.import_sync_file(file.real, number),
            lambda: one.real.transfer(one.real, number, 0),
            lambda: Syncobj.wait_many([], timeout=0),
            lambda: Syncobj.wait_many([one.real], [1, 2], 0),
            lambda: Syncobj(device, number),
        ):
            with self.refused(ValueError):
                use()
        with self.refused(OSError, errno.EINVAL):
            Syncobj.from_fd(device, file.real)
        with self.refused(OSError, errno.ENOENT):
            Syncobj(device, GONE)
        with self.refused(TypeError):
            one.real.import_sync_file(one.real)

    @rule(one=OBJECTS)
    def bad_requests(self, one):
        """One handle that there is not among others: nothing is done to any."""
        fd = self.devices[one.device].fileno()
        both = handles(one.real.handle, GONE)
        for name in ("RESET", "SIGNAL"):
            assert refusal(fd, name, both.at, 2) == "ENOENT"
            assert refusal(fd, name, both.at, 1, 1) == "EINVAL"
        assert refusal(fd, "DESTROY", GONE) == "EINVAL"
        assert refusal(fd, "TRANSFER", GONE, one.real.handle) == "ENOENT"
        assert refusal(fd, "TRANSFER", one.real.handle, GONE) == "ENOENT"
        assert refusal(fd, "CREATE", 0, 2) == "EINVAL"
        Machine.bad_inputs += 8


def counted(eventfd):
    """What an eventfd has counted."""
    try:
        return os.eventfd_read(eventfd.fileno())
    except BlockingIOError:
        return 0
