"""linuxsync stuck: what does not signal, who waits for it, who is to signal it, and processes that wait in a circle."""

import errno
import io
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from buffer_words import PAGE
from clock_words import becomes
from kernel_words import refused
from look_words import NOBODY, as_nobody, at, linuxsync, process, scene

from linuxsync import Access, DrmDevice, OwnedFd, SyncFile, Syncobj, Timeline, VgemDevice, merge, wait_any
from linuxsync.cli.graph import as_trees
from linuxsync.fencedev import Fill
from linuxsync.inspect import (
    Descriptor,
    Kind,
    Owed,
    Process,
    StuckFence,
    Waiter,
    deadlocks,
    scan,
    stuck_fences,
    waiters,
)
from linuxsync.syncobj import container_of

AFTER = ("--after", "0.2")
KEPT = []


def asleep(pid, calls=("poll", "ppoll", "ioctl")):
    """Wait until a process waits."""
    end = time.monotonic() + 120
    while not any(one.call in calls for one in waiters(scan([pid]))):
        assert time.monotonic() < end, f"{pid} waits for nothing"
        time.sleep(0.02)


@contextmanager
def owner(comm, name, pair, then=signal.pause):
    """A process with a timeline, of which the fence 1 can be had through the socket."""

    def work():
        timeline = Timeline(name)
        KEPT.append(timeline)
        with timeline.create_fence(1) as fence:
            socket.send_fds(pair, [b"f"], [fence.fileno()])
        return timeline.fileno()

    with process(comm, work, (pair.fileno(),), then) as (pid, fd):
        yield pid, fd


def received(pair):
    """A fence that was sent."""
    _, (number,), _, _ = socket.recv_fds(pair, 1, 1)
    return SyncFile(number)


def waiting(pid, comm, *fds, call="ppoll"):
    return {"pid": pid, "comm": comm, "tid": pid, "thread": comm, "call": call, "fds": list(fds)}


def test_who_waits_and_who_is_to_signal():
    """A frame whose producer hangs: all of it in JSON, and as people see it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, owner("client", "gpu", theirs) as (client, timeline), received(ours) as fence:

        def hold():
            KEPT.append(fence.dup())
            return KEPT[-1].fileno()

        with process("compositor", hold, (fence.fileno(),), lambda: KEPT[-1].wait()) as (compositor, fd):
            asleep(compositor)
            name, ours_fd, me = fence.name, fence.fileno(), os.getpid()
            comm = Path("/proc/self/comm").read_text().strip()
            said = linuxsync("stuck", *AFTER, "--json")
            shown = linuxsync("stuck", *AFTER)
            dry = linuxsync("stuck", *AFTER, "-n", "-r", "-o", "owed,by,waiters").out
            held = [at(compositor, "compositor", fence.fileno()), at(compositor, "compositor", fd)]
            assert said.status == shown.status == 1
            assert said.json["unseen"] == [] and said.json["deadlocks"] == []
            (row,) = said.json["stuck"]
            assert 0.2e9 < row.pop("for") < 60e9
            owed = {"driver": "sw_sync", "timeline": "gpu"}
            assert row == {
                "kind": "sync_file",
                "name": name,
                "ino": None,
                "owed": [owed],
                "by": [owed | {"by_process": True, "sure": True, "owners": [at(client, "client", timeline)]}],
                "holders": sorted([*held, at(me, comm, ours_fd)], key=lambda holder: (holder["pid"], holder["fd"])),
                "waiters": [waiting(compositor, "compositor", fd)],
            }
            lines = re.sub(r"[\d.]+ (?:ms|s)\b", "T", shown.out).splitlines()
            assert lines[0].split() == ["KIND", "NAME", "FOR", "OWED", "BY", "HOLDERS", "WAITERS"]
            assert re.fullmatch(
                rf"sync_file +{name} +T +sw_sync gpu +client {client} +\S.* +compositor {compositor} in ppoll", lines[1]
            )
            assert lines[2:] == [
                "",
                f"compositor {compositor} in ppoll for sync_file {name}, active for T at least",
                f"└ sw_sync gpu, for client {client} to signal",
            ]
            assert dry == f"sw_sync\\x20gpu client\\x20{client} compositor\\x20{compositor}\\x20in\\x20ppoll\n"


def circle(stack, busy=False):
    """Two processes, each of which waits for the other's timeline; their pids."""
    left, right = (stack.enter_context(end) for end in socket.socketpair())

    def exchange(pair):
        """Wait for what the other has sent, beside a thread that does something else if it is busy."""

        def wait():
            if busy:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            fence = received(pair)
            fence.wait()

        return wait

    first, _ = stack.enter_context(owner("client", "gpu", left, exchange(left)))
    second, _ = stack.enter_context(owner("compositor", "display", right, exchange(right)))
    asleep(first)
    asleep(second)
    return first, second


def test_a_deadlock():
    """It is called by its name, in every form."""
    with ExitStack() as stack:
        client, compositor = circle(stack)
        said = linuxsync("stuck", *AFTER, "--json").json
        (deadlock,) = said["deadlocks"]
        assert deadlock["doubts"] == []
        assert [
            (step["waiter"]["pid"], step["waiter"]["call"], step["driver"], step["timeline"], step["kind"])
            for step in deadlock["steps"]
        ] == [
            (client, "ppoll", "sw_sync", "display", "sync_file"),
            (compositor, "ppoll", "sw_sync", "gpu", "sync_file"),
        ]
        lines = linuxsync("stuck", *AFTER).out.splitlines()
        assert lines[-1] == (
            f"deadlock: client {client} waits for display, which compositor {compositor} is to signal; "
            f"compositor {compositor} waits for gpu, which client {client} is to signal"
        )
        assert sum("see above" in line for line in lines) == 1
        graph = linuxsync("stuck", *AFTER, "--dot").out
        assert graph.count("color=red") == 6 and graph.count("dashed") == 0


def test_a_circle_that_may_end():
    """A thread that is awake may signal what the others wait for: that is said."""
    with ExitStack() as stack:
        client, compositor = circle(stack, busy=True)
        (deadlock,) = linuxsync("stuck", *AFTER, "--json").json["deadlocks"]
        doubts = [f"client {client} has 1 other thread", f"compositor {compositor} has 1 other thread"]
        assert deadlock["doubts"] == doubts
        lines = linuxsync("stuck", *AFTER).out.splitlines()
        assert lines[-3].startswith("possible deadlock: ")
        assert lines[-2:] == [f"  but {doubt}" for doubt in doubts]


@pytest.mark.parametrize(
    ("wait", "doubt"),
    [
        (lambda fence, other: fence.wait(600), "has set a time limit"),
        (lambda fence, other: wait_any([fence, other]), "waits for something else as well"),
    ],
)
def test_a_circle_that_something_else_ends(wait, doubt):
    """Who polls several is woken by any, and who has a limit gives up: neither is a deadlock for certain."""
    with ExitStack() as stack:
        left, right = (stack.enter_context(end) for end in socket.socketpair())
        other = stack.enter_context(Timeline("other"))
        third = stack.enter_context(other.create_fence(1))
        number = third.fileno()

        def exchange():
            wait(received(left), SyncFile(number))

        with process("client", lambda: give(left, "gpu"), (left.fileno(), number), exchange) as (client, _):
            compositor, _ = stack.enter_context(owner("compositor", "display", right, lambda: received(right).wait()))
            asleep(client, ("ppoll", "poll", "select", "pselect6"))
            asleep(compositor)
            (deadlock,) = linuxsync("stuck", *AFTER, "--json").json["deadlocks"]
            assert deadlock["doubts"] == [f"client {client} {doubt}"]
            assert linuxsync("stuck", *AFTER, "--pid", "1", "--json").json["deadlocks"] == []
            said = linuxsync("stuck", *AFTER, "-r")
            assert "possible deadlock: " in said.err and "deadlock" not in said.out


def give(pair, name):
    """Send a fence of a timeline of our own."""
    KEPT.append(Timeline(name))
    with KEPT[-1].create_fence(1) as fence:
        socket.send_fds(pair, [b"f"], [fence.fileno()])


def test_a_process_that_waits_for_itself():
    """With no other thread it waits for ever; with one, that one may signal, and nothing is said."""

    def prepare():
        timeline = Timeline("own")
        KEPT.extend([timeline, timeline.create_fence(1)])

    def beside():
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        KEPT[-1].wait()

    with process("alone", prepare, then=lambda: KEPT[-1].wait()) as (alone, _):
        asleep(alone)
        found, _ = stuck_fences(0.1)
        (circle,) = deadlocks(found)
        assert [step.waiter.process.pid for step in circle.steps] == [alone] and circle.doubts == ()
    with process("pair", prepare, then=beside) as (pair, _):
        asleep(pair)
        found, _ = stuck_fences(0.1)
        assert len(found) == 1 and deadlocks(found) == []


def test_a_merged_fence_of_three_holders():
    """Each timeline that is missing is named once, with its own process; what has signaled is not missing."""
    with ExitStack() as stack:
        ends = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        pids = [
            stack.enter_context(owner(name, name, theirs))[0]
            for name, (_, theirs) in zip(("left", "right"), ends, strict=True)
        ]
        done = stack.enter_context(Timeline("done"))
        with received(ends[0][0]) as a, received(ends[1][0]) as b, done.create_fence(0) as c:
            frame = stack.enter_context(merge([a, b, c], name="frame"))
        holders = [stack.enter_context(process(f"holder {n}", lambda: 0, (frame.fileno(),)))[0] for n in range(2)]
        rows = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        (row,) = (row for row in rows if row["name"] == "frame")
        assert {(owed["timeline"], owed["owners"][0]["pid"], len(owed["owners"])) for owed in row["by"]} == {
            ("left", pids[0], 1),
            ("right", pids[1], 1),
        }
        assert [holder["pid"] for holder in row["holders"]] == sorted([os.getpid(), *holders])
        # Only the fence that is missing still.
        assert len(row["owed"]) == 2


def test_timelines_of_one_name():
    """Whoever merges fences names the file as they like, so no name makes it sure; the likely one comes first."""
    with ExitStack() as stack:
        ends = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        pids = [stack.enter_context(owner(f"number {n}", "gpu", theirs))[0] for n, (_, theirs) in enumerate(ends)]
        fences = [stack.enter_context(received(ours)) for ours, _ in ends]
        forged = stack.enter_context(fences[0].merge(fences[0], name=fences[1].name))
        rows = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        for fence, pid in [(fences[0], pids[0]), (fences[1], pids[1]), (forged, pids[1])]:
            (row,) = (row for row in rows if fence.fileno() in [holder["fd"] for holder in row["holders"]])
            (owed,) = row["by"]
            assert not owed["sure"]
            assert owed["owners"][0]["pid"] == pid and sorted(who["pid"] for who in owed["owners"]) == sorted(pids)
        shown = linuxsync("stuck", *AFTER, "-n", "-o", "by").out
        assert f"number 0 {pids[0]}?; number 1 {pids[1]}?" in shown


def test_a_device_by_name_alone(tmp_path):
    """A file that is called as a device is none: who holds it has given nobody any work."""
    text = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0 and libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None) == 0
assert libc.mount(b"none", b"/dev/dri", b"tmpfs", 0, None) == 0
file = open("/dev/dri/card0", "w")
ready(fd=file.fileno())
"""
    with (
        scene(text, name="impostor") as impostor,
        VgemDevice.open() as vgem,
        vgem.create_dumb(8, 8, 32) as gem,
        gem.export() as buf,
    ):
        assert Path(f"/proc/{impostor.pid}/fd/{impostor.facts['fd']}").readlink() == Path("/dev/dri/card0")
        attached = vgem.attach_fence(gem, write=True)
        (row,) = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        attached.signal()
        (owed,) = row["by"]
        assert owed["sure"] and {who["pid"] for who in owed["owners"]} == {os.getpid()}
        assert buf.size


def test_what_signals_in_time_is_not_stuck(timeline, fence):
    """And nobody waits longer than that: of the minute only what it takes."""
    started = threading.Timer(0.3, timeline.inc)
    started.start()
    start = time.monotonic()
    said = linuxsync("stuck", "--after", "60", "--json")
    started.join()
    assert time.monotonic() - start < 45
    assert (said.status, said.json["stuck"]) == (0, [])
    shown = linuxsync("stuck", *AFTER)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.splitlines() == ["KIND  NAME  FOR  OWED  BY  HOLDERS  WAITERS"]


def test_what_signals_while_the_answer_is_made(timeline, fence, monkeypatch):
    """After the last look at the processes: it is not stuck, and certainly not something that nobody has submitted."""
    looks = []

    def look(*arguments):
        looks.append(scan(*arguments))
        if len(looks) == 2:
            timeline.inc()
        return looks[-1]

    monkeypatch.setattr("linuxsync.inspect.stuck.scan", look)
    assert stuck_fences(0.1)[0] == []
    assert len(looks) == 2


def test_how_long_it_was_active(timeline, monkeypatch):
    """Counted from when it was first seen, not from when the look began."""
    began = []

    def look(*arguments):
        if not began:
            time.sleep(1)
            began.append(timeline.create_fence(1))
        return scan(*arguments)

    monkeypatch.setattr("linuxsync.inspect.stuck.scan", look)
    (row,), _ = stuck_fences(0.1)
    began[0].close()
    assert row.active_ns > 0.05e9
    start = time.monotonic()
    began.clear()
    (row,), _ = stuck_fences(0.1)
    began[0].close()
    assert row.active_ns < (time.monotonic() - start - 1) * 1e9


def test_readers_and_writers_of_a_buffer(heap):
    """Who polls to read waits for writers alone, who polls to write for all."""
    with (
        heap.alloc(PAGE) as buf,
        Timeline("reads") as reads,
        Timeline("writes") as writes,
        reads.create_fence(1) as read,
        writes.create_fence(1) as written,
    ):
        buf.import_sync_file(read, Access.READ)
        buf.import_sync_file(written, Access.WRITE)
        number = buf.fileno()

        def polling(events):
            poll = select.poll()
            poll.register(number, events)
            return poll.poll

        with (
            process("reader", lambda: 0, (number,), polling(select.POLLIN)) as (reader, _),
            process("writer", lambda: 0, (number,), polling(select.POLLOUT)) as (writer, _),
        ):
            asleep(reader)
            asleep(writer)
            rows = linuxsync("stuck", *AFTER, "--json").json["stuck"]
            owed = {
                tuple(sorted(one["timeline"] for one in row["owed"])): sorted(one["pid"] for one in row["waiters"])
                for row in rows
                if row["kind"] == "dma_buf"
            }
            assert owed == {("writes",): sorted([reader, writer]), ("reads", "writes"): [writer]}
        writes.inc()
        rows = [row for row in linuxsync("stuck", *AFTER, "--json").json["stuck"] if row["kind"] == "dma_buf"]
        assert [[one["timeline"] for one in row["owed"]] for row in rows] == [["reads"]]


def test_a_long_chain():
    """A thousand processes that wait for each other in a row: the tree ends somewhere."""
    each = [Process(pid, f"p{pid}", 0) for pid in range(1, 1001)]
    rows = [
        StuckFence(
            Kind.SYNC_FILE,
            f"f{after.pid}",
            None,
            (Owed("sw_sync", f"t{after.pid}", (Descriptor(after, 3, Kind.SW_SYNC, "/sw_sync"),), True),),
            (Descriptor(before, 4, Kind.SYNC_FILE, "anon_inode:sync_file"),),
            (Waiter(before, before.pid, before.comm, "ppoll", (4,)),),
            1,
        )
        for before, after in pairwise(each)
    ]
    out = io.StringIO()
    with redirect_stdout(out):
        as_trees(rows)
    lines = out.getvalue().splitlines()
    assert sum(" in ppoll for " in line for line in lines) == 999
    assert max(len(line) - len(line.lstrip()) for line in lines) == 80
    assert deadlocks(rows) == []


def test_a_failed_fence_is_not_stuck():
    """What a killed client leaves behind has an error, which wakes all who wait."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with owner("client", "gpu", theirs), received(ours) as fence:
            kept = fence.dup()
            assert linuxsync("stuck", *AFTER).status == 1
        with kept:
            assert kept.error == errno.ENOENT
            assert linuxsync("stuck", *AFTER).status == 0


def test_a_queue_that_hangs(device, heap):
    """A fence device's: it is said who gave it the work. Its reset ends it."""
    with (
        heap.alloc(PAGE) as buf,
        device.attach(buf) as attached,
        device.create_queue("draw") as queue,
        queue.submit(Fill(attached, 1), hang=True) as job,
    ):
        (row,) = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        (owed,) = row["by"]
        assert (owed["driver"], owed["timeline"]) == ("fencedev", "draw")
        assert (owed["by_process"], owed["sure"]) == (False, True)
        assert {who["pid"] for who in owed["owners"]} == {os.getpid()}
        assert device.fileno() in [who["fd"] for who in owed["owners"]]
        number = job.fence.fileno()
        with process("waiter", lambda: 0, (number,), lambda: SyncFile(number).wait()) as (pid, _):
            asleep(pid)
            lines = linuxsync("stuck", *AFTER).out.splitlines()
            assert lines[-1].startswith("└ fencedev draw, which has its work from ")
        queue.reset()
        job.fence.wait(120)
        assert linuxsync("stuck", *AFTER).status == 0


def test_a_buffer_that_vgem_does_not_give_back():
    """An implicit fence: the buffer is stuck, for who polls it and who waits in DMA_BUF_IOCTL_SYNC."""
    with VgemDevice.open() as vgem, vgem.create_dumb(64, 64, 32) as gem, gem.export() as buf:
        buf.set_name("frame")
        attached = vgem.attach_fence(gem, write=True)
        ino = buf.ino

        def start():
            buf.begin_cpu_access(Access.READ)

        with process("reader", lambda: 0, (buf.fileno(),), start) as (reader, _):
            asleep(reader, ("ioctl",))
            said = linuxsync("stuck", *AFTER, "--json")
            attached.signal()
        (row,) = (row for row in said.json["stuck"] if row["kind"] == "dma_buf")
        assert (row["name"], row["ino"]) == ("frame", ino)
        assert row["owed"] == [{"driver": "vgem", "timeline": "unbound"}]
        assert row["waiters"] == [waiting(reader, "reader", buf.fileno(), call="ioctl")]
        assert {who["pid"] for who in row["by"][0]["owners"]} == {os.getpid()} and row["by"][0]["by_process"]
        assert {who["pid"] for who in row["holders"]} == {os.getpid(), reader}
        assert linuxsync("stuck", *AFTER).status == 0


def test_a_syncobj(gpu, timeline, fence):
    """One that has come to be a descriptor: what its fence waits for."""
    with Syncobj.create(gpu) as syncobj, OwnedFd(syncobj.to_fd()) as exported:
        syncobj.import_sync_file(fence)
        rows = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        (row,) = (row for row in rows if row["kind"] == "syncobj_file")
        assert row["owed"] == [{"driver": "sw_sync", "timeline": timeline.name}]
        assert [holder["fd"] for holder in row["holders"]] == [exported.fileno()]
        timeline.inc()
        assert linuxsync("stuck", *AFTER).status == 0


@pytest.mark.parametrize("point", [0, 7])
def test_a_syncobj_that_is_but_a_handle(gpu, point, timeline, fence):
    """What Vulkan's waits are: an ioctl on the device, of which the handles are in the memory of the thread."""
    with Syncobj.create(gpu) as syncobj:
        syncobj.import_sync_file(fence, point)
        fd, handle = gpu.fileno(), syncobj.handle
        with process("game", lambda: 0, (fd,), lambda: wait_for(fd, handle, point)) as (game, _):
            asleep(game, ("ioctl",))
            said = linuxsync("stuck", *AFTER, "--json")
            lines = linuxsync("stuck", *AFTER, "--pid", str(game)).out.splitlines()
            handles = syncobj_handles(gpu)
        (row,) = (row for row in said.json["stuck"] if row["kind"] == "drm")
        name = f"syncobj {handle}" + (f" point {point}" if point else "")
        assert row["name"] == name
        assert row["owed"] == [{"driver": "sw_sync", "timeline": timeline.name}]
        assert [who["fd"] for who in row["by"][0]["owners"]] == [timeline.fileno()]
        assert row["waiters"] == [waiting(game, "game", fd, call="ioctl")]
        assert {who["pid"] for who in row["holders"]} == {os.getpid(), game}
        assert f"game {game} in ioctl for {name}, active for" in lines[-2]
        assert handles == [handle]
        timeline.inc()
        assert linuxsync("stuck", *AFTER).status == 0


def test_a_point_that_nobody_submits(gpu):
    """A wait for it goes on until somebody does."""
    with Syncobj.create(gpu) as syncobj:
        fd, handle = gpu.fileno(), syncobj.handle
        with process("game", lambda: 0, (fd,), lambda: wait_for(fd, handle, 9)) as (game, _):
            asleep(game, ("ioctl",))
            (row,) = linuxsync("stuck", *AFTER, "--json").json["stuck"]
            assert (row["kind"], row["name"], row["owed"]) == ("drm", f"syncobj {handle} point 9", [])
            assert row["for"] >= 0.2e9
            shown = linuxsync("stuck", *AFTER).out
            assert re.search(rf"^drm +syncobj {handle} point 9 +\S+ m?s +not submitted +- ", shown, re.MULTILINE)
            assert shown.splitlines()[-1] == "└ which nobody has submitted"
            syncobj.signal(9)
            assert linuxsync("stuck", *AFTER).status == 0


def test_a_wait_inside_the_kernel(screen, fence, timeline):
    """A flip that waits for its in-fence: who waits is found, for what the kernel does not say."""
    number = fence.fileno()

    def flip():
        screen.commit(screen.fbs[1], in_fence=fence, nonblock=False)
        signal.pause()

    keep = (number, screen.device.fileno())
    with process("compositor", lambda: 0, keep, flip) as (compositor, _):
        asleep(compositor, ("ioctl",))
        rows = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        (row,) = (row for row in rows if row["kind"] == "drm")
        assert (row["owed"], row["by"]) == (None, [])
        assert "dma_fence" in row["name"]
        assert [(one["pid"], one["call"]) for one in row["waiters"]] == [(compositor, "ioctl")]
        lines = linuxsync("stuck", *AFTER).out.splitlines()
        assert lines[-1] == "└ which the kernel does not name"
        timeline.inc()
        becomes(False, lambda: any("dma_fence" in (one.wchan or "") for one in waiters(scan([compositor]))))
        assert linuxsync("stuck", *AFTER).status == 0


def wait_for(fd, handle, point):
    """Wait in the kernel for a syncobj of the parent's, on the open file that we share."""
    KEPT.append(Syncobj(DrmDevice(fd), handle))  # for good: to close it would take the handle from the parent
    KEPT[-1].wait(point=point or None, wait_for_submit=True)
    signal.pause()


def syncobj_handles(device):
    """Those that an open file has, of the first few numbers."""
    found = []
    for handle in range(1, 20):
        with suppress(OSError):
            os.close(container_of(device, handle))
            found.append(handle)
    return found


def test_nothing_is_changed_and_nothing_kept(timeline, fence):
    """The owner's timeline stands where it stood, and both have the descriptors that they had."""
    with scene("t = Timeline('owed')\nf = t.create_fence(5)\nt.inc(2)\nready(fd=f.fileno())") as found:

        def state():
            # What this list is read through is not there any more when its link is asked for.
            links = {pid: {} for pid in ("self", str(found.pid))}
            for pid, each in links.items():
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(FileNotFoundError):
                        each[entry.name] = entry.readlink()
            return links, linuxsync("timelines", "-n", "-o", "timeline,value,pending,active").out

        before = state()
        assert linuxsync("stuck", *AFTER).status == 1
        assert state() == before
        assert "owed" in before[1]


def test_a_file_that_only_looks_like_a_timeline(tmp_path):
    """Its name ends as sw_sync's does: it is not asked, and the real one is found."""
    folder = tmp_path / "sync"
    folder.mkdir()
    with (folder / "sw_sync").open("w"), Timeline("gpu") as timeline, timeline.create_fence(1):
        (row,) = linuxsync("stuck", *AFTER, "--json").json["stuck"]
        assert [who["fd"] for who in row["by"][0]["owners"]] == [timeline.fileno()]


def test_choosing(timeline, fence):
    """By who holds it, who is to signal it, and what it is of."""
    me = str(os.getpid())
    for options, count in [
        (("--pid", me), 1),
        (("--pid", "1"), 0),
        (("--driver", "sw_*"), 1),
        (("--driver", "vgem"), 0),
        (("--timeline", timeline.name), 1),
        (("--comm", "nobody*"), 0),
    ]:
        said = linuxsync("stuck", *AFTER, "--json", *options)
        assert (len(said.json["stuck"]), said.status) == (count, min(count, 1)), options


def test_as_an_ordinary_user(timeline, fence):
    """One's own, and in one line what was not to be seen."""
    said = as_nobody("stuck", *AFTER)
    assert said.status == 0
    assert re.search(r"processes not seen: of another user", said.err)
    with scene("open('/proc/self/oom_score_adj').close()\nready()", user=NOBODY):
        assert as_nobody("stuck", *AFTER).status == 0


def test_names_that_would_obey(tmp_path):
    """Escapes, quotes and line breaks in names reach neither the terminal nor dot(1) as such."""
    evil = b'\x1b[2J"]\\n\xff\n<b>'
    ours, theirs = socket.socketpair()
    file, same = tmp_path / "graph.svg", tmp_path / "same"
    file.write_text("old")
    same.hardlink_to(file)
    with (
        ours,
        theirs,
        owner(evil, "gpu", theirs) as (pid, _),
        received(ours) as fence,
        process(evil, lambda: 0, (fence.fileno(),), lambda: SyncFile(fence.fileno()).wait()) as (waiter, _),
    ):
        asleep(waiter)
        text, dot = linuxsync("stuck", *AFTER).out, linuxsync("stuck", *AFTER, "--dot").out
        said = linuxsync("stuck", *AFTER, "--svg", str(file))
    harmless = r'\x1b[2J"]\\n\xff\n<b>'
    assert f"{harmless} {pid}" in text and not {*text} & {"\x1b", "\xff"}
    assert "\x1b" not in dot
    assert (said.status, said.out) == (1, "")
    assert same.read_text() == "old"  # it was replaced when all was there, and not written in place
    drawn = ElementTree.parse(file)
    words = [text for node in drawn.iter() if (text := node.text)]
    assert f"{harmless} {pid}" in words and f"{harmless} {waiter}" in words
    assert len([node for node in drawn.iter() if node.get("class") == "node"]) == 4


def test_a_graph_that_cant_be_drawn(timeline, fence, tmp_path, monkeypatch):
    """The next step is said; --watch has no graph."""
    nowhere = linuxsync("stuck", *AFTER, "--svg", str(tmp_path / "no" / "file.svg"))
    assert nowhere.status == 2 and "No such file or directory" in nowhere.err
    monkeypatch.setenv("PATH", str(tmp_path))
    without = linuxsync("stuck", *AFTER, "--svg", str(tmp_path / "file.svg"))
    assert without.status == 2 and "apt install graphviz" in without.err
    (tmp_path / "dot").write_text("#!/bin/sh\necho '<svg/>'\n")
    (tmp_path / "dot").chmod(0o755)
    command = [sys.executable, "-m", "linuxsync.cli", "stuck", *AFTER, "--svg", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, "<svg/>\n"), done.stderr
    assert [*map(str, tmp_path.iterdir())] == [str(tmp_path / "dot")]
    assert linuxsync("stuck", "--watch", "--dot").status == 2
    assert linuxsync("stuck", "--after", "-1").status == 2


def test_watching(timeline):
    """What comes to be stuck is printed once; Ctrl-C ends it, and the exit status says that there was something."""
    command = [sys.executable, "-m", "linuxsync.cli", "stuck", "--watch", "--after", "0.3", "-n", "-r", "-o", "owed"]
    for something in (True, False):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching, ExitStack() as stack:
            stack.callback(watching.kill)
            if something:
                # What is stuck is held until the end: without a holder it would be something new.
                stack.enter_context(timeline.create_fence(1))
                assert watching.stdout.readline() == f"sw_sync\\x20{timeline.name}\n"
                second = stack.enter_context(Timeline("second"))
                stack.enter_context(second.create_fence(1))
                assert watching.stdout.readline() == "sw_sync\\x20second\n"
            else:
                becomes(True, lambda: "nanosleep" in Path(f"/proc/{watching.pid}/wchan").read_text())
            watching.send_signal(signal.SIGINT)
            rest, _ = watching.communicate(timeout=120)
            assert (rest, watching.returncode) == ("", int(something))


def test_more_than_we_may_hold(timeline):
    """Our limit is raised as far as it goes; where that is not enough it is said, and nothing is left open."""
    with ExitStack() as stack:
        for n in range(40):
            stack.enter_context(timeline.create_fence(n + 1))
        before = len(list(Path("/proc/self/fd").iterdir()))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
        try:
            with refused(errno.EMFILE):
                stuck_fences(0.1)
            assert len(list(Path("/proc/self/fd").iterdir())) == before
            assert linuxsync("stuck", *AFTER).status == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
