"""cpu_access under strain: threads, fences and signals as it begins, close() and fork() while open, refusals."""

import errno
import gc
import os
import resource
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from buffer_words import PAGE, bufinfo, peek, syncs
from children import forked
from clock_words import alarm
from kernel_words import free_descriptors, refused

from linuxsync import Access, DmaHeap

READ, WRITE, RW = Access.READ, Access.WRITE, Access.RW


def test_many_threads_write(buf):
    """Threads that open and close their own accesses, each in its own page: nothing is lost, no view is shared."""
    wrong = []
    views = set()

    def work(number):
        for turn in range(40):
            with buf.cpu_access(RW) as view:
                views.add(id(view.obj))
                mine = view[number * PAGE : (number + 1) * PAGE]
                if mine[0] != turn:
                    wrong.append((number, turn, mine[0]))
                mine[0] = turn + 1
                mine.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with syncs() as seen:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert wrong == []
    assert [view[0] for view in pages(buf)] == [40] * 8 + [0] * 4
    assert set(seen) == {"START RW", "END RW"}
    assert seen[-1] == "END RW"
    assert seen.count("END RW") == 320 >= seen.count("START RW")


def pages(buf):
    """The buffer, page by page."""
    with buf.mmap(READ) as mapped:
        return [mapped[start : start + PAGE] for start in range(0, buf.size, PAGE)]


def test_a_reader_in_another_thread_is_not_held_up(buf, timeline, keep):
    """While one thread's START waits for a fence, another that need not wait for it comes and goes."""
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, READ)
    opened = threading.Event()

    def work():
        with buf.cpu_access(RW) as view:
            opened.set()
            view[0] = 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert not opened.wait(0.1)
        with buf.cpu_access(READ) as view:
            assert view[0] == 0
        assert not opened.is_set()
    finally:
        timeline.inc()
        thread.join(60)
    assert opened.is_set()
    assert peek(buf) == b"\x01"


@pytest.mark.parametrize("nested", [False, True])
def test_access_waits_for_fences(nested, buf, timeline, keep):
    """Entering waits for the implicit fences, also where START is left out because somebody writes already."""
    fence = keep(timeline.create_fence(1))
    with ExitStack() as stack:
        if nested:
            stack.enter_context(buf.cpu_access(RW))
        buf.import_sync_file(fence, WRITE)
        timer = threading.Timer(0.2, timeline.inc)
        started = time.monotonic()
        timer.start()
        with buf.cpu_access(READ):
            assert fence.status == 1
            assert time.monotonic() - started >= 0.19
        timer.join()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["cpu_access", "begin_cpu_access"])
def test_a_signal_while_waiting(how, nested, buf, timeline, keep):
    """A handler runs while START waits. Afterwards it goes on waiting; the handler may use the buffer itself."""
    fence = keep(timeline.create_fence(1))
    ran = []

    def handler():
        with buf.cpu_access(READ) as view:
            ran.append(view[0])
        timeline.inc()

    with ExitStack() as stack:
        if nested:
            stack.enter_context(buf.cpu_access(RW))
        buf.import_sync_file(fence, READ)
        with alarm(0.1, handler):
            if how == "cpu_access":
                with buf.cpu_access(RW):
                    assert fence.status == 1
            else:
                buf.begin_cpu_access(RW)
                buf.end_cpu_access(RW)
    assert ran == [0]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("error", [KeyError("mine"), TimeoutError(errno.ETIMEDOUT, "mine"), InterruptedError("mine")])
def test_what_a_handler_raises_ends_the_wait(error, nested, buf, timeline, keep):
    """It comes through, OSErrors too; access has not begun, the block does not run, and the next one can begin."""
    fence = keep(timeline.create_fence(1))

    def handler():
        raise error

    with ExitStack() as stack:
        if nested:
            stack.enter_context(buf.cpu_access(RW))
        buf.import_sync_file(fence, WRITE)
        # The alarm inside of raises(): it may come before the wait has begun.
        with syncs() as seen, pytest.raises(type(error)) as caught, alarm(0.1, handler), buf.cpu_access(RW):
            raise AssertionError("it must not begin")
        assert caught.value is error
        assert not [word for word in seen if word.startswith("END")]
        with pytest.raises(type(error)) as caught, alarm(0.1, handler):
            buf.begin_cpu_access(READ)
        assert caught.value is error
        timeline.inc()
        with buf.cpu_access(RW) as view:
            view[0] = 1
    assert peek(buf) == b"\x01"


def test_closed_while_open(buf, open_files):
    """close() inside the block: the object is closed at once, the memory and the END are not lost."""
    fd, ino = buf.fileno(), buf.ino
    with syncs() as seen:
        with buf.cpu_access() as view, buf.cpu_access(READ):
            buf.close()
            assert buf.closed
            view[0] = 8
            assert view[0] == 8
            assert ino in bufinfo()
            with pytest.raises(ValueError, match="closed DmaBuf"):
                buf.cpu_access()
            buf.close()
        assert fd not in open_files()
    assert seen == ["START RW", "END RW"]
    assert ino not in bufinfo()


def test_detached_while_open(buf, open_files):
    """detach() inside the block: the caller may close the descriptor at once, END goes through another."""
    before = len(open_files())
    with syncs() as seen, buf.cpu_access() as view:
        with free_descriptors(0), refused(errno.EMFILE):
            buf.detach()
        assert not buf.closed
        os.close(buf.detach())
        view[0] = 8
    assert seen == ["START RW", "END RW"]
    assert len(open_files()) == before - 1


def test_forgotten_while_open(buf):
    """An access that nobody ends is ended when it is forgotten, with a warning; its view is cut off."""
    with syncs() as seen, pytest.warns(ResourceWarning, match="never ended"):
        view = buf.cpu_access().__enter__()
        gc.collect()
    assert seen == ["START RW", "END RW"]
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_end_fails(buf, keep):
    """A refused END is an OSError that names it; the access is over, the view dead, the next START is a START."""
    other = keep(buf.dup())
    with refused(errno.ENOTTY) as caught, buf.cpu_access() as view, open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), buf.fileno(), inheritable=False)
    assert "DMA_BUF_IOCTL_SYNC END|RW" in str(caught.value)
    with pytest.raises(ValueError, match="released"):
        view[0]
    with syncs() as seen, other.cpu_access(READ):
        pass
    assert seen == ["START READ", "END READ"]


def test_end_fails_after_an_exception(buf):
    """Then the block's exception is the context of END's."""
    with refused(errno.ENOTTY) as caught, buf.cpu_access(), open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), buf.fileno(), inheritable=False)
        raise KeyError("mine")
    assert isinstance(caught.value.__context__, KeyError)


def test_start_fails(buf):
    """A refused START leaves nothing behind: no mapping, no view, no END."""
    with buf.cpu_access():
        pass  # from here on there is a mapping to reuse
    with open("/dev/null", "rb") as null:
        os.dup2(null.fileno(), buf.fileno(), inheritable=False)
    with syncs() as seen, refused(errno.ENOTTY) as caught, buf.cpu_access():
        raise AssertionError("it must not begin")
    assert "DMA_BUF_IOCTL_SYNC START|RW" in str(caught.value)
    assert seen == []


def test_a_mapping_that_is_refused(keep):
    """A descriptor that is not open for it: EACCES, before any START."""
    heap = keep(DmaHeap())
    readable, writable = keep(heap.alloc(PAGE, READ)), keep(heap.alloc(PAGE, WRITE))
    with syncs() as seen:
        for buf, access in ((readable, RW), (readable, WRITE), (writable, READ), (writable, RW)):
            with refused(errno.EACCES) as caught, buf.cpu_access(access):
                raise AssertionError("it must not begin")
            assert f"mmap of dma-buf fd {buf.fileno()}" in str(caught.value)
        with readable.cpu_access(READ) as view:
            assert view[0] == 0
    assert seen == ["START READ", "END READ"]


def test_no_room_for_a_mapping(buf):
    """ENOMEM where the address space is limited; nothing has begun."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used, before[1]))
    try:
        with refused(errno.ENOMEM), buf.cpu_access():
            raise AssertionError("it must not begin")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_mapping_is_kept_for_the_next_time(buf):
    """One mapping at most stays, until close(); refcount counts it."""
    assert buf.refcount == 1
    with buf.cpu_access(), buf.cpu_access():
        assert buf.refcount == 3
    assert buf.refcount == 2
    with buf.cpu_access():
        assert buf.refcount == 2
    other = buf.dup()
    buf.close()
    assert other.refcount == 1
    other.close()


def test_in_a_forked_child(buf):
    """A child writes through the access that it inherits, and opens its own when that is over."""
    with buf.cpu_access() as view:
        view[0] = 1

        def inherited():
            assert view[0] == 1
            view[1] = 2

        with forked(inherited):
            pass
        assert view[1] == 2

    def own():
        with buf.cpu_access(RW) as mine:
            mine[2] = 3

    with forked(own):
        pass
    with buf.cpu_access(READ) as view:
        assert bytes(view[:3]) == b"\x01\x02\x03"


def test_a_fork_while_another_thread_waits_in_start(buf, timeline, keep):
    """The child knows nothing of the START that the parent's thread is in; it gets its access."""
    fence = keep(timeline.create_fence(1))
    buf.import_sync_file(fence, READ)
    thread = threading.Thread(target=lambda: buf.cpu_access(RW).__enter__().release())
    with pytest.warns(ResourceWarning):
        thread.start()
        time.sleep(0.1)

        def work():
            timeline.inc()
            with buf.cpu_access(RW) as view:
                view[0] = 7

        with forked(work):
            thread.join(60)
    assert peek(buf) == b"\x07"
