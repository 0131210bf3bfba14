"""linuxsync.inspect.waiters: which thread waits for which descriptor, by which call."""

import os
import time

import pytest
from children import forked
from look_words import become_nobody, scene

from linuxsync.inspect import Waiter, scan, waiters

SETUP = """
import ctypes, select, selectors
libc = ctypes.CDLL(None, use_errno=True)
timeline = Timeline("owed")
a, b = timeline.create_fence(1), timeline.create_fence(2)
def wait_all(): merge([a, b]).wait()
def in_poll():
    p = select.poll()
    p.register(a.fileno(), select.POLLIN)
    p.register(b.fileno(), select.POLLIN)
    p.poll()
def in_select(): select.select([b.fileno()], [], [a.fileno()])
def in_epoll():
    global epoll
    epoll = select.epoll()
    epoll.register(b.fileno(), select.EPOLLIN)
    epoll.poll()
def in_wait(): a.wait()
def in_start():
    global buf
    buf = DmaHeap().alloc(4096)
    buf.import_sync_file(b, Access.WRITE)
    buf.begin_cpu_access(Access.READ)
def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    open(f"/proc/self/task/{thread.native_id}/comm", "w").write(work.__name__)
    return thread.native_id
"""


def settled(pid, tid, call):
    """The waiter, once the thread has come to its call."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for waiter in waiters(scan([pid])):
            if waiter.tid == tid and waiter.call in call:
                return waiter
        time.sleep(0.02)
    raise AssertionError(f"thread {tid} did not come to {call}")


@pytest.mark.parametrize(
    ("work", "calls", "fds"),
    [
        ("in_poll", {"poll"}, ("a", "b")),
        ("in_select", {"select", "pselect6"}, ("a", "b")),
        ("in_epoll", {"epoll_wait", "epoll_pwait"}, ("b",)),
        ("in_wait", {"ppoll"}, ("a",)),
        ("in_start", {"ioctl"}, ("buf",)),
    ],
)
def test_who_waits_for_what(work, calls, fds):
    """Found by /proc alone: the thread, its name, the call and the descriptors; nothing is interrupted."""
    text = (
        SETUP
        + f"""
tid = start({work})
while "{work}" == "in_start" and "buf" not in globals():
    time.sleep(0.01)
ready(tid=tid, a=a.fileno(), b=b.fileno(), buf=buf.fileno() if "buf" in globals() else -1)
"""
    )
    with scene(text, name="waiter") as found:
        waiter = settled(found.pid, found.facts["tid"], calls)
        assert (waiter.process.pid, waiter.comm) == (found.pid, work)
        assert waiter.fds == tuple(sorted(found.facts[name] for name in fds))
        again = settled(found.pid, found.facts["tid"], calls)
        assert again == waiter


def test_who_does_not_wait(fence):
    """A thread that runs, or sleeps for something else."""
    with scene("t = Timeline('x')\nready()") as found:
        time.sleep(0.2)
        assert waiters(scan([found.pid])) == []
    assert all(isinstance(one, Waiter) and one.process.pid != os.getpid() for one in waiters(scan()))


def test_as_an_ordinary_user():
    """It is said what could not be seen."""
    with scene(SETUP + "ready(tid=start(in_wait))") as found:
        look = scan([found.pid])
        settled(found.pid, found.facts["tid"], {"ppoll"})

        def as_nobody():
            become_nobody()
            assert waiters(look) == []
            assert [one.what for one in look.unseen] == ["processes' threads"]

        with forked(as_nobody):
            pass
