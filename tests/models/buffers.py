"""The machine of dma-bufs and their implicit fences."""

import errno
import mmap
import time
from dataclasses import dataclass, field

from buffer_words import PAGE, bufinfo, raw_import, raw_sync
from drm_words import refusal
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule

from linuxsync import Access, DmaBuf, DmaHeap, FenceExpired, VgemDevice, udmabuf
from tests.models.fences import IDLE, READ, RW, WRITE, Fence, Group, Point, Reservation, contexts, signed
from tests.models.machine import Machine, Waiter
from tests.models.sync_files import FILES, LINES, Fences, passed, text

ACCESS = st.sampled_from([Access.READ, Access.WRITE, Access.RW])
KINDS = {"system": "system", "udmabuf": "udmabuf", "vgem": "drm"}
BUFFERS, SHARED = Bundle("buffers"), Bundle("shared")
# A vgem fence is signaled by the kernel 10 s after it was attached (VGEM_FENCE_TIMEOUT). Here the program does it long
# before: a program may be slow where the CPU is emulated.
OLD, EXPIRES = 4.0, 9.9


@dataclass(eq=False)
class VgemFence(Fence):
    """A fence on a timeline of its own, which the program signals."""

    driver, timeline, value = "vgem", "unbound", 1
    context: int = field(default_factory=lambda: next(contexts))
    real: object = None
    attached: float = field(default_factory=time.monotonic)  # not later than the kernel did it


def near(fence):
    """Whether a point is where points of a timeline are: a little ahead of it, or behind if it has signaled."""
    if not isinstance(fence, Point):
        return True
    ahead = signed(fence.value - fence.line.value)
    return abs(ahead) < 1 << 29 and (fence.status != 1 or ahead <= 0)


@dataclass(eq=False)
class Memory:
    """What is behind a dma-buf."""

    kind: str
    ino: int
    data: bytearray
    held: int = 0  # references that its device has
    name: str | None = None
    begun: bool = False  # whether there ever was a START
    fences: Reservation = field(default_factory=Reservation)
    asked: dict = field(default_factory=dict)  # for READ and WRITE: the fences of which poll(2) watches one
    gem: object = None


@dataclass(eq=False)
class Buffer:
    """A DmaBuf, and whether it keeps a mapping for the next access."""

    real: DmaBuf
    memory: Memory
    idle: bool = False


class Implicit(Fences):
    """Buffers of a heap, of memfds and of vgem, and the implicit fences that they are given and asked for."""

    most_lines, most_files, most_buffers = 4, 6, 6

    def __init__(self):
        super().__init__()
        self.vgem = self.keep(VgemDevice.open())
        self.heap = self.keep(DmaHeap())
        self.buffers, self.memories = [], []

    def held(self):
        return super().held() | {fence for memory in self.memories for fence, _ in memory.fences.slots}

    def roots(self):
        return super().roots() | {fence for memory in self.memories for some in memory.asked.values() for fence in some}

    def references(self, memory):
        """Of its open file, at least and at most: which of many fences poll(2) watches nobody says."""
        descriptors = sum(one.memory is memory for one in self.buffers)
        idle = sum(one.memory is memory and one.idle for one in self.buffers)
        sure = descriptors + idle + memory.held
        watched = [some for some in memory.asked.values() if some]
        least = sure + sum(all(fence.status == 0 for fence in some) for some in watched)
        most = sure + sum(any(fence.status == 0 for fence in some) for some in watched)
        return least, most

    def agree(self):
        super().agree()
        listed = bufinfo()
        for memory in self.memories:
            least, most = self.references(memory)
            assert least <= (listed[memory.ino].count if memory.ino in listed else 0) <= most
            if memory.ino in listed:
                self.agree_on(memory, listed[memory.ino])
        for one in self.buffers:
            assert one.real.ino == one.memory.ino and one.real.size == len(one.memory.data)
            assert one.real.name == one.memory.name

    def agree_on(self, memory, seen):
        """What debugfs says of a buffer."""
        assert (seen.size, seen.exporter) == (len(memory.data), KINDS[memory.kind])
        assert seen.name == (memory.name if memory.name is not None else "<none>")
        active = [(writes, timeline, number) for writes, timeline, number, done in self.slots(seen) if not done]
        model = [(writes, fence.timeline, fence.value) for fence, writes in memory.fences.slots if fence.status == 0]
        assert sorted(active) == sorted(model)

    def slots(self, seen):
        return [(usage == "write", timeline, number, done) for usage, timeline, number, done in seen.fences]

    def add_buffer(self, real, memory):
        made = Buffer(self.keep(real), memory)
        self.buffers.append(made)
        return made

    @initialize(target=BUFFERS)
    def first_buffer(self):
        return self.new_buffer("system")

    @precondition(lambda self: len(self.buffers) < self.most_buffers)
    @rule(target=BUFFERS, kind=st.sampled_from(sorted(KINDS)))
    def new_buffer(self, kind):
        gem = None
        if kind == "vgem":
            gem = self.keep(self.vgem.create_dumb(PAGE // 4, 1, 32))
        real = gem.export() if gem else udmabuf.create(PAGE) if kind == "udmabuf" else self.heap.alloc(PAGE)
        memory = Memory(kind, real.ino, bytearray(PAGE), held=real.refcount - 1, gem=gem)
        assert bool(memory.held) == bool(gem)
        self.memories.append(memory)
        return self.add_buffer(real, memory)

    @rule(one=BUFFERS, file=FILES, access=ACCESS)
    def import_sync_file(self, one, file, access):
        """Of points of one timeline that are half the circle of its numbers apart the kernel takes either for later.

        So it does when a timeline has gone round since one of them signaled. Then what has signaled replaces what has
        not: dma_resv_add_fence asks for numbers only, and dma_buf_import_sync_file gives it signaled fences too. No
        driver's numbers are ever that far apart.
        """
        there = [fence for fence, _ in one.memory.fences.slots]
        if not all(near(fence) for fence in there + file.group.fences):
            return
        one.real.import_sync_file(file.real, access)
        self.added(one.memory, file.group.fences, access)

    def added(self, memory, fences, access):
        memory.fences.add(fences, access, self.slots(bufinfo()[memory.ino]))

    @precondition(lambda self: len(self.files) < self.most_files)
    @rule(target=FILES, one=BUFFERS, access=ACCESS)
    def export_sync_file(self, one, access):
        fences = one.memory.fences.waited_for(access)
        return self.add_file(one.real.export_sync_file(access), Group(fences or [IDLE], ordered=not fences))

    @precondition(lambda self: len(self.files) + 2 <= self.most_files)
    @rule(target=FILES, one=BUFFERS, line=LINES, access=ACCESS, asked=ACCESS)
    def use_and_ask(self, one, line, access, asked):
        """Somebody uses a buffer that was idle or not, and somebody else asks."""
        file = self.create_fence(line, 1)
        self.import_sync_file(one, file, access)
        self.poll(one, asked)
        return multiple(file, self.export_sync_file(one, asked))

    @rule(one=BUFFERS, access=ACCESS)
    def poll(self, one, access):
        wanted = one.memory.fences.waited_for(access)
        assert one.real.poll(access) == (not wanted)
        side = access & WRITE
        if wanted and not any(fence.status == 0 for fence in one.memory.asked.get(side, ())):
            one.memory.asked[side] = wanted
        elif wanted:
            # It may be that nothing is watched any more, or that what was watched first still is.
            one.memory.asked[side] = list({*one.memory.asked[side], *wanted})


class Buffers(Implicit):
    """Everything else that can be done with buffers: names, bytes, views and references."""

    def __init__(self):
        super().__init__()
        self.mappings, self.accesses = [], []

    def references(self, memory):
        least, most = super().references(memory)
        # Each mmap object has a descriptor of its own, and the mapping is a reference too.
        mapped = 2 * sum(of is memory for _, of, _ in self.mappings)
        # A thread that waits in START has a descriptor, and the call of its own holds the file too.
        return least + mapped, most + mapped + 2 * sum(of is memory for _, _, of, _ in self.accesses)

    def agree(self):
        for fence in self.vgem_fences():
            if time.monotonic() - fence.attached > OLD:
                self.signal_vgem(fence)
        for waiter, first, memory, access in list(self.accesses):
            if not memory.fences.waited_for(access) and all(fence.status for fence in first):
                waiter.ended()
                self.accesses.remove((waiter, first, memory, access))
            else:
                assert waiter.is_alive() or all(fence.status for fence in first)
        super().agree()

    def end(self):
        for fence in self.vgem_fences():
            self.signal_vgem(fence)
        super().end()
        assert not self.accesses

    def vgem_fences(self):
        """Those that have not signaled."""
        slots = {fence for memory in self.memories for fence, _ in memory.fences.slots}
        return [fence for fence in slots if isinstance(fence, VgemFence) and not fence.status]

    @precondition(lambda self: len(self.buffers) < self.most_buffers)
    @rule(target=BUFFERS, one=BUFFERS, how=st.sampled_from([DmaBuf.dup, DmaBuf.from_fd, passed]))
    def another_buffer(self, one, how):
        real = how(one.real)
        return self.add_buffer(DmaBuf(real) if isinstance(real, int) else real, one.memory)

    @precondition(lambda self: len(self.buffers) > 1)
    @rule(one=consumes(BUFFERS))
    def close_buffer(self, one):
        self.buffers.remove(one)
        one.real.close()
        for use in (one.real.fileno, one.real.dup, lambda: one.real.size, lambda: one.real.poll(Access.READ)):
            with self.refused(ValueError):
                use()

    @rule(one=BUFFERS)
    def close_gem(self, one):
        if one.memory.gem is not None and not one.memory.gem.closed:
            one.memory.gem.close()
            one.memory.held = 0

    @rule(one=BUFFERS, name=text(12))
    def set_name(self, one, name):
        one.real.set_name(name)
        one.memory.name = name

    @rule(one=BUFFERS, access=ACCESS)
    def cpu_access_by_hand(self, one, access):
        """START waits for fences; END does not, and a udmabuf wants the one before the other."""
        if one.memory.kind == "udmabuf" and not one.memory.begun:
            with self.refused(OSError, errno.EINVAL):
                one.real.end_cpu_access(access)
        first = one.memory.fences.waited_for(access)
        if not first:
            assert one.real.poll(access), "it would wait for ever"
            one.real.begin_cpu_access(access)
            one.memory.begun = True
        elif len(self.accesses) < 3:
            own = self.keep(one.real.dup())

            def wait():
                with own:
                    own.begin_cpu_access(access)
                    own.end_cpu_access(access)

            waiter = Waiter(wait)
            waiter.asleep()
            self.accesses.append((waiter, first, one.memory, access))
            one.memory.begun = True
        if one.memory.begun:
            one.real.end_cpu_access(access)

    @rule(one=BUFFERS, access=ACCESS, at=st.integers(0, PAGE - 8), data=st.binary(min_size=1, max_size=8))
    def cpu_access(self, one, access, at, data):
        """In the with block: only when nothing has to be waited for."""
        if one.memory.fences.waited_for(access):
            return
        assert one.real.poll(access), "it would wait for ever"
        with one.real.cpu_access(access) as view:
            one.idle = True
            one.memory.begun = True
            assert view.readonly == (access == Access.READ) and len(view) == PAGE
            assert bytes(view) == one.memory.data
            if access == Access.READ:
                with self.refused(TypeError):
                    view[0] = 1
            else:
                view[at : at + len(data)] = data
                one.memory.data[at : at + len(data)] = data
        with self.refused(ValueError):
            view[0]

    @precondition(lambda self: len(self.mappings) < 3)
    @rule(target=SHARED, one=BUFFERS, access=ACCESS)
    def map(self, one, access):
        made = (one.real.mmap(access), one.memory, access)
        self.stack.callback(made[0].close)
        self.mappings.append(made)
        return made

    @rule(one=SHARED, at=st.integers(0, PAGE - 8), data=st.binary(min_size=1, max_size=8))
    def use_mapping(self, one, at, data):
        """All views are of the same bytes, on this machine without any sync."""
        mapped, memory, access = one
        assert mapped[:] == memory.data
        if access == Access.READ:
            with self.refused(TypeError):
                mapped[0] = 1
        else:
            mapped[at : at + len(data)] = data
            memory.data[at : at + len(data)] = data

    @rule(one=consumes(SHARED))
    def unmap(self, one):
        self.mappings.remove(one)
        one[0].close()

    @rule(one=BUFFERS, write=st.booleans())
    def attach_vgem_fence(self, one, write):
        """Which refuses to wait."""
        gem = one.memory.gem
        if gem is None or gem.closed:
            return
        if one.memory.fences.waited_for(WRITE if write else READ):
            with self.refused(OSError, errno.EBUSY):
                self.vgem.attach_fence(gem, write)
            return
        fence = VgemFence()
        fence.real = self.vgem.attach_fence(gem, write)
        self.added(one.memory, [fence], WRITE if write else READ)

    @precondition(lambda self: len(self.buffers) < self.most_buffers)
    @rule(target=BUFFERS, write=st.booleans())
    def new_vgem_buffer_in_use(self, write):
        """In one step: left to chance, few of the buffers that get a fence are vgem's."""
        made = self.new_buffer("vgem")
        self.attach_vgem_fence(made, write)
        return made

    @rule(one=BUFFERS)
    def signal_vgem_fence(self, one):
        for fence, _ in one.memory.fences.slots:
            if isinstance(fence, VgemFence) and not fence.status:
                self.signal_vgem(fence)
                with self.refused(OSError, errno.ENOENT):
                    fence.real.signal()
                return

    def signal_vgem(self, fence):
        try:
            fence.real.signal()
        except FenceExpired:  # a single step took that long
            assert time.monotonic() - fence.attached >= EXPIRES
        fence.signal()

    @rule(one=BUFFERS, file=FILES, access=st.sampled_from([-1, 0, 4, 7, 8, 2**32 + 1]))
    def bad_access(self, one, file, access):
        for use in (
            lambda: one.real.begin_cpu_access(access),
            lambda: one.real.end_cpu_access(access),
            lambda: one.real.cpu_access(access),
            lambda: one.real.poll(access),
            lambda: one.real.mmap(access),
            lambda: one.real.import_sync_file(file.real, access),
            lambda: one.real.export_sync_file(access),
        ):
            with self.refused(ValueError):
                use()

    @rule(one=BUFFERS, file=FILES)
    def bad_requests(self, one, file):
        """Other kinds of files, and bits that there are not."""
        with self.refused(OSError, errno.ENOTTY):
            DmaBuf.from_fd(file.real)
        with self.refused(ValueError):
            one.real.set_name("n" * 32)
        fd = one.real.fileno()
        for other in (-1, fd, self.heap.fileno(), 1 << 20):
            assert raw_import(fd, RW, other) == -errno.EINVAL
        for flags in (0, 4, 8, 1 << 32 | 1):
            assert raw_sync(fd, flags) == -errno.EINVAL
        with self.refused((OSError, ValueError)):
            mmap.mmap(fd, 2 * PAGE)
        assert refusal(self.vgem.fileno(), "FENCE_ATTACH", 0xFF) == errno.ENOENT
        Machine.bad_inputs += 9
