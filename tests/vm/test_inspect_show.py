"""linuxsync show: everything known about one object."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from buffer_words import PAGE
from drm_words import node_of
from look_words import as_nobody, linuxsync, process, scene

from linuxsync import Access, FenceDevice, OwnedFd, SyncFile, Syncobj, Timeline, merge
from linuxsync.inspect import scan, waiters

ME = os.getpid
KEPT = []


def asleep(pid):
    """Wait until a process waits for a descriptor."""
    end = time.monotonic() + 120
    while not waiters(scan([pid])):
        assert time.monotonic() < end
        time.sleep(0.02)


def shown(*what):
    """The one object, from JSON."""
    said = linuxsync("show", *map(str, what), "--json")
    assert said.status == 0, said.err
    (found,) = said.json["objects"]
    return found


def test_a_sync_file(timeline, fence):
    """Fences, holders and waiters; --confirm says who owes it."""
    number = fence.fileno()
    with process("waiter", lambda: 0, (number,), lambda: SyncFile(number).wait()) as (pid, _):
        asleep(pid)
        found = shown(pid, number)
        sure = shown(pid, number, "--confirm")
        text = linuxsync("show", str(pid), str(number), "--confirm").out
    comm = Path("/proc/self/comm").read_text().strip()
    holders = [
        {"pid": ME(), "comm": comm, "uid": 0, "fd": number},
        {"pid": pid, "comm": "waiter", "uid": 0, "fd": number},
    ]
    assert found == {
        "kind": "sync_file",
        "name": fence.name,
        "status": 0,
        "since": None,
        "fences": [{"driver": "sw_sync", "timeline": timeline.name, "status": 0, "timestamp_ns": None}],
        "holders": sorted(holders, key=lambda holder: holder["pid"]),
        "waiters": [{"pid": pid, "comm": "waiter", "tid": pid, "thread": "waiter", "call": "ppoll", "fds": [number]}],
    }
    (owed,) = sure["owed"]
    assert owed["sure"] and [one["fd"] for one in owed["owners"]] == [timeline.fileno()]
    assert text.splitlines() == [
        "kind     sync_file",
        f"name     {fence.name}",
        "status   active",
        "since    -",
        f"fences   sw_sync {timeline.name} active",
        f"owed     sw_sync {timeline.name}: {comm} {ME()}",
        f"holders  {comm} {ME()}:{number}",
        f"         waiter {pid}:{number}",
        f"waiters  waiter {pid} in ppoll",
    ]
    assert "as far as is known without a poll (--confirm)" in linuxsync("show", str(ME()), str(number)).out


def test_one_that_has_signaled(timeline):
    """Its time too; of a merged one each fence."""
    with timeline.create_fence(1) as a, Timeline("other") as other, other.create_fence(1) as b, merge([a, b]) as both:
        timeline.inc()
        found = shown(f"/proc/{ME()}/fd/{both.fileno()}")
        alone = shown(ME(), a.fileno(), "--confirm")
        stamp = a.timestamp_ns
    assert found["status"] == 0 and {one["timeline"]: one["status"] for one in found["fences"]} == {
        timeline.name: 1,
        "other": 0,
    }
    assert (alone["status"], alone["owed"], alone["fences"][0]["timestamp_ns"]) == (1, [], stamp)
    assert 0 < alone["since"] < 60e9


def test_a_buffer(heap, fence):
    """By its inode number, and by a descriptor."""
    with heap.alloc(PAGE) as buf:
        buf.set_name("frame")
        buf.import_sync_file(fence, Access.WRITE)
        found = shown(buf.ino)
        assert found == shown(ME(), buf.fileno())
        assert (found["kind"], found["ino"], found["name"]) == ("dma_buf", buf.ino, "frame")
        assert (found["exporter"], found["size"], found["share"]) == ("system", PAGE, PAGE)
        (implicit,) = found["fences"]
        assert (implicit["usage"], implicit["driver"], implicit["status"]) == ("write", "sw_sync", 0)
        (holder,) = found["holders"]
        assert (holder["pid"], holder["fds"]) == (ME(), [buf.fileno()])
        assert found["devices"] == [] and found["waiters"] == []
        text = linuxsync("show", str(buf.ino)).out
        assert re.search(r"^size +4 KiB$", text, re.MULTILINE)
        assert re.search(r"^fences +write sw_sync/\S+ \d+ active$", text, re.MULTILINE)


def test_a_syncobj(gpu, fence):
    """Its points and fences."""
    with Syncobj.create(gpu) as syncobj, OwnedFd(syncobj.to_fd()) as exported:
        syncobj.import_sync_file(fence)
        found = shown(ME(), exported.fileno())
    assert (found["kind"], found["status"], found["submitted"]) == ("syncobj_file", 0, 0)
    assert [one["driver"] for one in found["fences"]] == ["sw_sync"]


def test_timelines():
    """With several, a name is known only from a fence, which --confirm asks for; the timelines stay as they are."""
    with Timeline("one") as one, Timeline("two") as two, one.create_fence(3), two.create_fence(9):
        one.inc()
        unknown = shown(ME(), one.fileno())
        assert unknown["name"] is None and unknown["values"] == []
        found = shown(ME(), one.fileno(), "--confirm")
        assert (found["name"], found["values"], found["pending"]) == ("one", [1], [[3]])
        assert shown(ME(), two.fileno(), "--confirm")["pending"] == [[9]]
        assert [holder["fd"] for holder in found["holders"]] == [one.fileno()]
        assert (one.value, two.value) == (1, 0)
    with Timeline("only") as only:
        assert shown(ME(), only.fileno())["name"] == "only"


def test_devices():
    """Every open file of a path, and what the driver says in fdinfo."""
    path = str(node_of("virtio_gpu"))
    with (
        FenceDevice() as device,
        OwnedFd(os.open(path, os.O_RDWR)) as a,
        OwnedFd(os.open(path, os.O_RDWR)) as b,
        a.dup() as copy,
    ):
        objects = linuxsync("show", path, "--json").json["objects"]
        assert [[holder["fd"] for holder in one["holders"]] for one in objects] == [
            [a.fileno(), copy.fileno()],
            [b.fileno()],
        ]
        assert all((one["kind"], one["path"]) == ("drm", path) for one in objects)
        assert not {"pos", "flags"} & {*objects[0]["fdinfo"]}
        (fencedev,) = linuxsync("show", "/dev/fencedev", "--json").json["objects"]
        assert [holder["fd"] for holder in fencedev["holders"]] == [device.fileno()]


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        (("1", "0"), 1, "nothing here that is about fences or buffers"),
        (("999999999", "3"), 1, "No such process"),
        (("/nowhere",), 1, "No such file"),
        (("/etc/passwd",), 1, "nothing here"),
        (("4711",), 1, "nothing here"),
        (("a", "b"), 2, "neither PID FD, nor INO, nor one PATH"),
        (("1", "2", "3"), 2, "neither"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_is_not_there(what, status, words):
    """It is said, and how to say it right."""
    said = linuxsync("show", *what)
    assert (said.status, said.out) == (status, "") and words in said.err


def test_as_an_ordinary_user():
    """What is somebody else's is not shown, and it is said why."""
    with scene("t = Timeline('x')\nf = t.create_fence(1)\nready(fd=f.fileno())") as found:
        said = as_nobody("show", str(found.pid), str(found.facts["fd"]))
    assert said.status == 1
    assert "processes not seen: of another user" in said.err


def test_hostile_names():
    """A terminal gets them escaped; JSON has them as they are."""
    evil = "\x1b[31m\nx"

    def hold():
        KEPT.append(Timeline(evil))
        KEPT.append(KEPT[0].create_fence(1))
        return KEPT[1].fileno()

    with process(b"\x1b[31m\xff\n", hold) as (pid, fd):
        text = linuxsync("show", str(pid), str(fd), "--confirm").out
        found = json.loads(linuxsync("show", str(pid), str(fd), "--json").out)["objects"][0]
    assert "\x1b" not in text and "\\x1b[31m\\xff\\n" in text
    assert found["fences"][0]["timeline"] == evil
