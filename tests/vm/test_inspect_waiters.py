"""linuxsync.inspect.waiters: which thread waits for which descriptor, by which call."""

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest
from children import forked
from clock_words import becomes
from look_words import become_nobody, linuxsync, scene

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
    end = time.monotonic() + 120
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
        ("in_select", {"select", "pselect6"}, ("b",)),  # a fence is never exceptional
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
    with scene(SETUP + "ready(tid=start(in_wait))") as found:
        settled(found.pid, found.facts["tid"], {"ppoll"})
        everybody = waiters(scan())
        assert found.pid in {one.process.pid for one in everybody}
        assert all(isinstance(one, Waiter) and one.process.pid != os.getpid() for one in everybody)


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


HOSTILE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_long] * 7
timeline = Timeline("owed")
fence = timeline.create_fence(1)
class Polled(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]
polled = (Polled * 2)(Polled(fence.fileno(), 1, 0), Polled(fence.fileno(), 0, 0))
silent = (Polled * 1)(Polled(fence.fileno(), 0, 0))
TOP = -256
calls = {
    "select": lambda: libc.syscall(23, 0, TOP, 0, 0, 0, 0),
    "wide": lambda: libc.syscall(7, ctypes.addressof(polled), 0x100000001, -1, 0, 0, 0),
    "silent": lambda: libc.syscall(7, ctypes.addressof(silent), 1, -1, 0, 0, 0),
}
thread = threading.Thread(target=calls[sys.argv[1]], daemon=True)
thread.start()
ready(tid=thread.native_id, fd=fence.fileno())
"""


@pytest.mark.parametrize(("call", "fds"), [("select", None), ("wide", 1), ("silent", None)])
def test_arguments_that_mean_nothing(call, fds):
    """Pointers to nowhere, numbers wider than the kernel takes, descriptors without events."""
    with scene(HOSTILE, call) as found:
        tid = found.facts["tid"]
        while "poll" not in Path(f"/proc/{found.pid}/task/{tid}/wchan").read_text() and call != "select":
            time.sleep(0.02)
        time.sleep(0.3)
        got = [waiter.fds for waiter in waiters(scan([found.pid])) if waiter.tid == tid]
        assert got == ([] if fds is None else [(found.facts["fd"],)])
        assert linuxsync("stuck", "--after", "0.1").status == 1


def test_after_a_stop():
    """A SIGSTOP and a SIGCONT make another call of poll(2); nothing else does that is not one."""
    text = SETUP + "tid = start(in_poll)\nready(tid=tid, a=a.fileno(), b=b.fileno())"
    with scene(text, name="waiter") as found:
        before = settled(found.pid, found.facts["tid"], {"poll"})
        thread = Path(f"/proc/{found.pid}/task/{found.facts['tid']}")
        os.kill(found.pid, signal.SIGSTOP)
        becomes("T", lambda: (thread / "stat").read_text().rpartition(")")[2].split()[0], 120.0)
        os.kill(found.pid, signal.SIGCONT)
        becomes("219", lambda: (thread / "syscall").read_text().split()[0], 120.0)
        assert settled(found.pid, found.facts["tid"], {"poll"}) == before
        assert (thread / "syscall").read_text().split()[0] == "219"


def test_limits():
    """Whether a call was given a time."""
    text = """
import select
timeline = Timeline("owed")
fence = timeline.create_fence(1)
f = fence.fileno()
p, q, e = select.poll(), select.poll(), select.epoll()
for one in (p, q, e):
    one.register(f, select.POLLIN)
calls = [lambda: p.poll(), lambda: q.poll(600000), lambda: e.poll(), lambda: e.poll(600),
         lambda: select.select([f], [], []), lambda: select.select([f], [], [], 600),
         lambda: fence.wait(), lambda: fence.wait(600)]
threads = [threading.Thread(target=call, daemon=True) for call in calls]
for thread in threads: thread.start()
ready(tids=[thread.native_id for thread in threads])
"""
    with scene(text) as found:
        for at, tid in enumerate(found.facts["tids"]):
            waiter = settled(found.pid, tid, {"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait"})
            assert waiter.limited is bool(at % 2), waiter


def test_epolls():
    """By the files that they hold, not by the numbers that these once had; and epolls in epolls."""
    text = """
import select
timeline = Timeline("owed")
a, b = timeline.create_fence(1), timeline.create_fence(2)
inner, outer = select.epoll(), select.epoll()
inner.register(a.fileno(), select.EPOLLIN)
outer.register(inner.fileno(), select.EPOLLIN)
kept, number = a.dup(), a.detach()
os.dup2(b.fileno(), number)
thread = threading.Thread(target=outer.poll, daemon=True)
thread.start()
ready(tid=thread.native_id, kept=kept.fileno(), number=number, b=b.fileno())
"""
    with scene(text) as found:
        waiter = settled(found.pid, found.facts["tid"], {"epoll_wait", "epoll_pwait"})
        assert waiter.fds == (found.facts["kept"],)


def test_what_took_the_number_of_an_epoll(timeline, fence, heap):
    """A dma-buf whose name is no UTF-8 says in its fdinfo what its owner likes; an epoll it is not."""
    with heap.alloc(4096) as buf, select.epoll() as epoll:
        epoll.register(fence.fileno(), select.EPOLLIN)
        thread = threading.Thread(target=epoll.poll, args=(60,), daemon=True)
        thread.start()
        try:
            settled(os.getpid(), thread.native_id, {"epoll_wait", "epoll_pwait"})
            buf.set_name("\udcff\udcfe")
            os.dup2(buf.fileno(), epoll.fileno(), inheritable=False)
            assert b"\xff\xfe" in Path(f"/proc/self/fdinfo/{epoll.fileno()}").read_bytes()
            assert thread.native_id not in [waiter.tid for waiter in waiters(scan([os.getpid()]))]
            (stuck,) = linuxsync("stuck", "--after", "0.1", "--pid", str(os.getpid()), "--json").json["stuck"]
            assert stuck["waiters"] == []
        finally:
            timeline.inc()  # ends the wait, of the file that has no number any more
            thread.join(60)
        assert not thread.is_alive()
