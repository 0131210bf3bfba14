"""The machine of DMA handles: ddi_dma_sync(9F) and what it comes to in the kernel."""

from contextlib import ExitStack
from dataclasses import dataclass

from buffer_words import PAGE, syncs
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule

from linuxsync.ddi import (
    DDI_FAILURE,
    DDI_SUCCESS,
    BindResult,
    CoherenceError,
    DmaFlags,
    DmaHandle,
    SyncType,
    ddi_dma_addr_bind_handle,
    ddi_dma_alloc_handle,
    ddi_dma_buf_bind_handle,
    ddi_dma_free_handle,
    ddi_dma_sync,
    ddi_dma_unbind_handle,
    strict,
)
from tests.models.buffers import BUFFERS, Implicit, Memory
from tests.models.fences import READ, RW, WRITE
from tests.models.machine import Machine, Waiter
from tests.models.sync_files import FILES

HANDLES = Bundle("handles")
DIRECTIONS = [DmaFlags.WRITE, DmaFlags.READ, DmaFlags.RDWR]
FLAGS = st.builds(
    lambda direction, hint: direction | hint,
    st.sampled_from(DIRECTIONS),
    st.sampled_from([DmaFlags(0), DmaFlags(0), *DmaFlags]),
)
BAD_FLAGS = [0, DmaFlags.REDZONE, DmaFlags.PARTIAL | DmaFlags.STREAMING, 0x80 | DmaFlags.READ, -1]
# The memory has what the device is to read, and gets what it writes: that is what the CPU does before and after.
ACCESS = {DmaFlags.WRITE: WRITE, DmaFlags.READ: READ, DmaFlags.RDWR: RW}
WORDS = {WRITE: "WRITE", READ: "READ", RW: "RW"}
EDGES = st.sampled_from([-1, 0, 0, 0, 1, 7, 64, 100, PAGE // 2, PAGE - 1, PAGE, PAGE + 1, 2**63 - 1, 2**63, 2**64])


def within(offset, length, size):
    """Whether a range lies in so many bytes; a length of 0 goes to their end."""
    return 0 <= offset < size and length >= 0 and offset + length <= size


@dataclass(eq=False)
class Handle:
    """A DmaHandle, and the memory that is bound to it."""

    real: DmaHandle
    memory: Memory | None = None
    flags: DmaFlags = DmaFlags.READ
    offset: int = 0
    length: int = 0
    freed: bool = False
    busy: tuple | None = None  # the thread that waits in it, and what is so when it has ended

    @property
    def access(self):
        return ACCESS[self.flags & DmaFlags.RDWR]

    @property
    def span(self):
        return set(range(self.offset, self.offset + self.length))


class Views:
    """Whose view of a buffer is behind, byte by byte, since FORDEV and FORCPU."""

    def __init__(self):
        self.cpu = set()  # written by the CPU, and not seen by the device
        self.device = set()  # and the other way round

    def loses(self, handle, kind):
        """Whether a sync throws away what one side has written: in the direction in which it brings something."""
        if kind == SyncType.FORDEV:
            return bool(handle.flags & DmaFlags.WRITE and self.device)
        return bool(handle.flags & DmaFlags.READ and self.cpu)

    def synced(self, handle, kind):
        if kind == SyncType.FORDEV:
            self.cpu = set()
        elif handle.flags & DmaFlags.READ:
            self.cpu, self.device = set(), set()


class Handles(Implicit):
    """Handles and what is bound to them; in half of the programs strict() is on."""

    most_lines, most_files, most_buffers, most_handles = 3, 5, 4, 5

    def __init__(self):
        super().__init__()
        self.handles, self.views, self.expected, self.together = [], {}, [], []
        self.traced = ExitStack()
        self.seen = self.traced.enter_context(syncs())
        self.stack.callback(self.traced.close)
        self.strict = self.ending = False

    def references(self, memory):
        least = super().references(memory)[0] + sum(one.memory is memory for one in self.handles)
        return least, 1 << 30  # how often it is polled for is the library's business

    def asked(self, memory, *requests):
        """The kernel has been asked that; GEM buffers have nothing to do for it."""
        if memory.kind != "vgem":
            self.expected += requests
        memory.begun |= any(request.startswith("START") for request in requests)

    def agree(self):
        before = len(self.expected)
        for one in [one for one in self.handles if one.busy]:
            thread, finish = one.busy
            if one.memory.fences.waited_for(one.access):
                assert thread.is_alive(), "it did not wait"
            else:
                thread.ended()
                one.busy = None
                finish()
        self.together.append(slice(before, len(self.expected)))
        super().agree()
        for one in self.handles:
            if not one.busy:
                real = one.real
                assert (real.bound, real.length) == (one.memory is not None, one.length)
                if one.memory is not None:
                    assert (real.flags, real.offset, real.granularity) == (one.flags, one.offset, PAGE)

    def end(self):
        self.ending = True
        super().end()
        for one in list(self.handles):
            if one.memory is not None:
                self.unbind(one)
            if not one.freed:
                ddi_dma_free_handle(one.real)
        self.traced.close()
        for some in self.together:  # threads whose waits were over at once went on in any order
            self.seen[some], self.expected[some] = sorted(self.seen[some]), sorted(self.expected[some])
        assert list(self.seen) == self.expected

    def perform(self, one, do, finish):
        """Something that waits for fences of the buffer, if there are any: then in a thread."""
        if not one.memory.fences.waited_for(one.access):
            for buffer in [each.real for each in self.buffers if each.memory is one.memory]:
                assert buffer.poll(one.access), "it would wait for ever"
            do()
            finish()
        elif sum(bool(other.busy) for other in self.handles) < 2:
            one.busy = (Waiter(do), finish)
            self.polled_unseen = True  # FORCPU polls the buffer before it asks for START

    @initialize(on=st.booleans())
    def perhaps_be_strict(self, on):
        self.strict = on
        if on:
            self.stack.enter_context(strict())

    @initialize(target=HANDLES)
    def first_handle(self):
        return self.alloc()

    @precondition(lambda self: len(self.handles) < self.most_handles)
    @rule(target=HANDLES)
    def alloc(self):
        result, real = ddi_dma_alloc_handle()
        assert result == DDI_SUCCESS
        self.handles.append(Handle(real))
        return self.handles[-1]

    def views_of(self, memory):
        return self.views.setdefault(memory, Views())

    def may_bind(self, one, memory):
        """A udmabuf's first bind may wait. What strict() says of several handles of one buffer is not modelled."""
        if one.busy or (memory.kind == "udmabuf" and not memory.begun and memory.fences.waited_for(RW)):
            return False
        return not (self.strict and any(other.memory is memory for other in self.handles))

    @rule(one=HANDLES, buffer=BUFFERS, flags=FLAGS, offset=EDGES, length=EDGES)
    def bind(self, one, buffer, flags, offset, length):
        memory = buffer.memory
        if not self.may_bind(one, memory):
            return

        def ask():
            return ddi_dma_addr_bind_handle(one.real, buffer.real, offset, length, flags)

        if one.freed:
            with self.refused(ValueError):
                ask()
        elif one.memory is not None:
            assert ask() == BindResult.INUSE
        elif not within(offset, length, PAGE):
            assert ask() == BindResult.NOMAPPING
        else:
            self.binds(one, memory, flags, offset, length or PAGE - offset, ask)

    @rule(one=HANDLES, buffer=BUFFERS, flags=FLAGS)
    def bind_all(self, one, buffer, flags):
        if self.may_bind(one, buffer.memory) and not one.freed and one.memory is None:
            self.binds(
                one, buffer.memory, flags, 0, PAGE, lambda: ddi_dma_buf_bind_handle(one.real, buffer.real, flags)
            )

    def bind_last(self, one):
        """So that the next rule finds something bound."""
        if self.buffers and not self.ending:
            self.bind_all(one, self.buffers[-1], DIRECTIONS[len(self.expected) % 3])

    def binds(self, one, memory, flags, offset, length, ask):
        """Nothing is in the way but what the device has written, and nobody has fetched."""
        one.flags = flags
        views = self.views_of(memory)
        if self.strict and views.loses(one, SyncType.FORDEV):
            with self.refused(CoherenceError):
                ask()
            return
        assert ask() == BindResult.MAPPED
        one.memory, one.offset, one.length = memory, offset, length
        word = WORDS[one.access]
        first = memory.kind == "udmabuf" and not memory.begun
        self.asked(memory, *([f"END {word}", f"START {word}"] if first else []), f"END {word}")
        views.synced(one, SyncType.FORDEV)

    @rule(one=HANDLES, buffer=BUFFERS, flags=st.sampled_from(BAD_FLAGS))
    def bind_without_direction(self, one, buffer, flags):
        if not one.busy and not one.freed:
            found = ddi_dma_buf_bind_handle(one.real, buffer.real, flags)
            assert found == (BindResult.BADATTR if one.memory is None else BindResult.INUSE)
            Machine.bad_inputs += 1

    @rule(one=HANDLES, kind=st.sampled_from(SyncType), offset=EDGES, length=EDGES)
    def sync(self, one, kind, offset, length):
        if one.busy:
            return
        if one.memory is None:
            with self.refused(ValueError):
                ddi_dma_sync(one.real, offset, length, kind)
            self.bind_last(one)
            return
        if not within(offset, length, one.length):
            assert ddi_dma_sync(one.real, offset, length, kind) == DDI_FAILURE
            return
        memory, views = one.memory, self.views_of(one.memory)
        wrong = self.strict and views.loses(one, kind)

        def do():
            if wrong:
                with self.refused(CoherenceError):
                    ddi_dma_sync(one.real, offset, length, kind)
            else:
                assert ddi_dma_sync(one.real, offset, length, kind) == DDI_SUCCESS

        def finish():
            if not wrong:
                self.asked(memory, f"{'END' if kind == SyncType.FORDEV else 'START'} {WORDS[one.access]}")
                views.synced(one, kind)

        if kind == SyncType.FORDEV:
            do()
            finish()
        else:
            self.perform(one, do, finish)

    @rule(one=HANDLES, buffer=BUFFERS, flags=st.sampled_from(DIRECTIONS), kind=st.sampled_from(SyncType))
    def bind_use_and_sync(self, one, buffer, flags, kind):
        """As a driver does, or the wrong way round."""
        self.bind_all(one, buffer, flags)
        if kind == SyncType.FORDEV:
            self.use_memory(one, 0, b"new")
        else:
            self.device_uses(one, True)
        self.sync(one, kind, 0, 0)

    @rule(one=HANDLES)
    def unbind(self, one):
        if one.busy:
            return
        if one.memory is None:
            with self.refused(ValueError):
                ddi_dma_unbind_handle(one.real)
            self.bind_last(one)
            return
        wrong = self.strict and self.views_of(one.memory).loses(one, SyncType.FORCPU)

        def do():
            if wrong:
                with self.refused(CoherenceError):
                    ddi_dma_unbind_handle(one.real)
            else:
                assert ddi_dma_unbind_handle(one.real) == DDI_SUCCESS

        self.perform(one, do, lambda: self.unbound(one))

    def unbound(self, one, fetched=True):
        memory, views = one.memory, self.views_of(one.memory)
        if fetched:
            self.asked(memory, f"START {WORDS[one.access]}")
            views.synced(one, SyncType.FORCPU)
        views.cpu -= one.span
        views.device -= one.span
        one.memory, one.length = None, 0

    @rule(one=HANDLES)
    def unbind_with_a_slice_left(self, one):
        """It is unbound all the same, and what is left reads zeros."""
        if one.memory is None or one.busy or one.memory.fences.waited_for(one.access):
            return
        if self.strict and self.views_of(one.memory).loses(one, SyncType.FORCPU):
            return
        left = one.real.memory.raw[:1]
        with self.refused(BufferError):
            ddi_dma_unbind_handle(one.real)
        assert left[0] == 0
        left.release()
        self.unbound(one)

    @precondition(lambda self: len(self.handles) > 1)
    @rule(target=HANDLES, one=consumes(HANDLES), ill=st.booleans())
    def leave(self, one, ill):
        """The with block: where an exception ends it, nothing is waited for."""
        if one.busy:
            return one
        memory = one.memory
        waits = memory is not None and memory.fences.waited_for(one.access)
        if (waits and not ill) or (memory and self.strict and self.views_of(memory).loses(one, SyncType.FORCPU)):
            return one
        if ill:
            with self.refused(KeyError), one.real:
                raise KeyError
        else:
            with one.real:
                pass
        one.freed = True
        if memory is not None:
            self.unbound(one, fetched=not waits)
        self.handles.remove(one)
        return multiple()

    @precondition(lambda self: len(self.handles) > 1)
    @rule(target=HANDLES, one=consumes(HANDLES))
    def free(self, one):
        if one.busy:
            return one
        if one.memory is not None:
            with self.refused(ValueError):
                ddi_dma_free_handle(one.real)
            return one
        ddi_dma_free_handle(one.real)
        ddi_dma_free_handle(one.real)
        one.freed = True
        self.handles.remove(one)
        with self.refused(ValueError):
            one.real.bind(self.buffers[0].real, DmaFlags.READ)
        return multiple()

    @precondition(lambda self: len(self.handles) < self.most_handles)
    @rule(target=HANDLES, buffer=BUFFERS, flags=st.sampled_from(DIRECTIONS), ill=st.none() | st.booleans())
    def whole_life(self, buffer, flags, ill):
        """In one step: left to chance, few handles are bound and then freed or left."""
        one = self.alloc()
        self.bind_all(one, buffer, flags)
        if ill is not None:
            return self.leave(one, ill)
        if one.memory is not None:
            self.unbind(one)
        return self.free(one)

    @rule(one=HANDLES, at=st.integers(0, PAGE - 1), data=st.none() | st.binary(min_size=1, max_size=8))
    def use_memory(self, one, at, data):
        """The CPU reads or writes some bytes of what is bound."""
        if one.memory is None or one.busy:
            return
        at %= one.length
        count = min(len(data or b"12345678"), one.length - at)
        first = one.offset + at
        view, views = one.real.memory, self.views_of(one.memory)
        assert len(view) == one.length
        used = set(range(first, first + count))
        if self.strict and used & views.device:
            with self.refused(CoherenceError):
                view[at : at + count] if data is None else view.__setitem__(slice(at, at + count), data[:count])
        elif data is None:
            assert view[at : at + count] == one.memory.data[first : first + count]
            assert view[at] == one.memory.data[first]
        else:
            view[at : at + count] = data[:count]
            one.memory.data[first : first + count] = data[:count]
            views.cpu |= used

    @rule(one=HANDLES, writes=st.booleans())
    def device_uses(self, one, writes):
        """Said of a device that has ended at once."""
        if one.memory is None or one.busy or not self.strict:
            return
        views = self.views_of(one.memory)
        say = one.real.device_writes if writes else one.real.device_reads
        if views.cpu & one.span:
            with self.refused(CoherenceError):
                say()
            return
        say()
        if writes:
            views.device |= one.span

    @rule(one=HANDLES, buffer=BUFFERS, file=FILES)
    def bad_arguments(self, one, buffer, file):
        if one.busy or one.freed:
            return
        with self.refused(TypeError):
            one.real.bind(file.real, DmaFlags.READ)
        if one.memory is None:
            for use in (one.real.unbind, one.real.device_reads, lambda: one.real.memory, lambda: one.real.granularity):
                with self.refused(ValueError):
                    use()
        else:
            with self.refused(ValueError):
                one.real.sync(3)
            with self.refused(ValueError):
                one.real.free()
        closed = buffer.real.dup()
        closed.close()
        with self.refused(ValueError):
            one.real.bind(closed, DmaFlags.READ)
