"""linuxsync syncobjs: syncobjs that real processes hold as descriptors, and what it says of them."""

import os
from pathlib import Path

import pytest
from drm_words import clients, node_of
from look_words import as_nobody, at, become_nobody, elsewhere, linuxsync, process
from syncobj_words import next_handle

from linuxsync import DrmDevice, Syncobj, Timeline, inspect

HANDLES = {
    "what": "DRM files' handles",
    "count": 1,
    "why": "a syncobj that has no descriptor is known to its own process alone",
}


@pytest.fixture
def sent():
    """A function that gives the descriptor of a syncobj, closed when the test is over."""
    fds = []

    def send(syncobj):
        fds.append(syncobj.to_fd())
        return fds[-1]

    yield send
    for fd in fds:
        os.close(fd)


def test_binary_timeline_and_empty(new, put, sent, timeline, me):
    """What each holds and owes; the device file of this process may have more."""
    binary, points, empty = new(), new(), new()
    put(binary, 0)
    for point in (3, 7, 9):
        put(points, point, point)
    fds = [sent(one) for one in (binary, points, empty)]
    timeline.inc(3)
    said = linuxsync("syncobjs", "-J")
    assert said.status == 0
    name = timeline.name
    assert said.json["syncobjs"] == [
        {
            "kind": "binary",
            "status": 1,
            "signaled": 0,
            "submitted": 0,
            "driver": ["sw_sync"],
            "timeline": [name],
            "holders": [at(os.getpid(), me, fds[0])],
        },
        {
            "kind": "timeline",
            "status": 0,
            "signaled": 3,
            "submitted": 9,
            "driver": ["sw_sync"] * 2,
            "timeline": [name] * 2,
            "holders": [at(os.getpid(), me, fds[1])],
        },
        {
            "kind": "empty",
            "status": None,
            "signaled": 0,
            "submitted": 0,
            "driver": [],
            "timeline": [],
            "holders": [at(os.getpid(), me, fds[2])],
        },
    ]
    assert said.json["unseen"] == [HANDLES]
    timeline.inc(6)
    (row,) = [one for one in linuxsync("syncobjs", "-J").json["syncobjs"] if one["kind"] == "timeline"]
    assert (row["status"], row["signaled"], row["submitted"]) == (1, 9, 9)


def test_a_file_of_several_processes(new, put, sent):
    """One line for one open file; a process without the device file is told of as well."""
    syncobj = new()
    put(syncobj, 4)
    fd = sent(syncobj)
    with process("viewer", lambda: os.dup(fd), keep=(fd,)) as (viewer, copy):
        said = linuxsync("syncobjs", "-J", "--comm", "viewer")
        (row,) = said.json["syncobjs"]
        assert (row["signaled"], row["submitted"]) == (0, 4)
        assert [(one["pid"], one["fd"]) for one in row["holders"]] == [
            (os.getpid(), fd),
            *sorted([(viewer, fd), (viewer, copy)]),
        ]
        (row,) = linuxsync("syncobjs", "-J", "--pid", str(viewer)).json["syncobjs"]
        assert {one["pid"] for one in row["holders"]} == {viewer}
        assert linuxsync("syncobjs", "--pid", str(viewer), "--driver", "i915").status == 1


def test_no_handle_is_made_in_their_file(gpu, new, put, sent, open_files):
    """Neither a handle nor a descriptor nor an open device file is left, and none comes and goes in theirs."""
    syncobj = new()
    put(syncobj, 4)
    fd = sent(syncobj)
    device_fd = gpu.fileno()
    made = []

    def hold():
        # Whoever made a handle in this file and destroyed it again would give the number away.
        made.append(next_handle(device_fd))
        return made[0]

    with process("client", hold, keep=(device_fd, fd)) as (client, free):
        before, files = open_files(), clients("virtio_gpu")
        theirs = sorted(entry.name for entry in Path(f"/proc/{client}/fd").iterdir())
        for _ in range(3):
            assert linuxsync("syncobjs", "-J").status == 0
        assert open_files() == before
        assert clients("virtio_gpu") == files
        assert sorted(entry.name for entry in Path(f"/proc/{client}/fd").iterdir()) == theirs
        assert next_handle(device_fd) == free
    assert (syncobj.query(), syncobj.query_last_submitted()) == (0, 4)


def test_their_device_is_asked_nothing_that_leaves_a_trace(gpu, new, sent, monkeypatch):
    """Handles are made through files opened here and never through a duplicate."""
    sent(new())
    used = []
    plain = Syncobj.from_fd.__func__

    def spy(cls, device, number):
        used.append(os.fstat(device.fileno()).st_rdev)
        assert not inspect.same_file((os.getpid(), device.fileno()), (os.getpid(), gpu.fileno()))
        return plain(cls, device, number)

    monkeypatch.setattr(Syncobj, "from_fd", classmethod(spy))
    assert linuxsync("syncobjs", "--pid", str(os.getpid())).status == 0
    assert used == [Path(node_of("virtio_gpu", "renderD")).stat().st_rdev]


def test_devices_without_syncobjs_hide_none(vgem, vkms):
    """Nothing is said of handles where there can't be any."""
    assert linuxsync("syncobjs", "-J").json == {"syncobjs": [], "unseen": []}


def test_the_table(new, put, sent, timeline, me):
    """What people read."""
    points = new()
    for point in (3, 7):
        put(points, point, point)
    fd = sent(points)
    timeline.inc(3)
    said = linuxsync("syncobjs")
    name = timeline.name
    assert said.out == (
        f"KIND      STATUS  SIGNALED  SUBMITTED  DRIVER   {'TIMELINE':<{len(name)}}  HOLDERS\n"
        f"timeline  active         3          7  sw_sync  {name:<8}  {me} {os.getpid()}:{fd}\n"
    )
    assert said.err == (
        "linuxsync: 1 DRM files' handles not seen: a syncobj that has no descriptor is known to its own process alone\n"
    )
    timeline.inc(4)
    assert linuxsync("syncobjs", "--active").status == 1


def test_a_fence_that_failed(new, sent):
    """Its errno, as long as the syncobj holds it."""
    syncobj = new()
    with Timeline(name="gone") as gone, gone.create_fence(1) as fence:
        syncobj.import_sync_file(fence)
    sent(syncobj)
    (row,) = linuxsync("syncobjs", "-J").json["syncobjs"]
    assert (row["kind"], row["status"], row["timeline"]) == ("binary", -2, ["gone"])
    assert "error ENOENT" in linuxsync("syncobjs").out


def test_an_ordinary_user(new, put, sent):
    """Their own syncobj, its points where they may open a render node, and else a word on why not."""
    syncobj = new()
    put(syncobj, 4)
    fd = sent(syncobj)
    node = Path(node_of("virtio_gpu", "renderD"))
    mode = node.stat().st_mode
    with process("mine", become_nobody, keep=(fd,)) as (mine, _):
        said = as_nobody("syncobjs", "-J")
        assert said.status == 0
        unknown = {"kind": None, "status": None, "signaled": None, "submitted": None, "driver": [], "timeline": []}
        assert said.json["syncobjs"] == [unknown | {"holders": [at(mine, "mine", fd, uid=65534)]}]
        whys = {one["what"]: one["why"] for one in said.json["unseen"]}
        assert whys.keys() == {"processes", "syncobjs' points"}
        assert whys["syncobjs' points"].endswith("join the group render, or try as root")
        try:
            node.chmod(0o666)
            (row,) = as_nobody("syncobjs", "-J").json["syncobjs"]
        finally:
            node.chmod(mode)
        assert (row["kind"], row["signaled"], row["submitted"]) == ("timeline", 0, 4)


def test_names_that_others_choose(new, sent):
    """A terminal gets nothing that it would obey."""
    syncobj = new()
    with Timeline(name="\x1b[2J\n\udcff") as hostile, hostile.create_fence(1) as fence:
        syncobj.import_sync_file(fence)
        fd = sent(syncobj)
        with process(b"\x1b]0;\xff\n", list, keep=(fd,)):
            (row,) = linuxsync("syncobjs", "-J").json["syncobjs"]
            assert row["timeline"] == ["\x1b[2J\n\udcff"]
            out = linuxsync("syncobjs").out
            assert len(out.splitlines()) == 2
            assert all(character == "\n" or character.isprintable() for character in out)


def test_processes_that_end_meanwhile(new, put, sent):
    """A descriptor that is closed between the scan and the question is left out."""
    syncobj = new()
    put(syncobj, 4)
    fd = sent(syncobj)
    with process("viewer", list, keep=(fd,)) as (viewer, _):
        look = inspect.scan()
    assert {one.process.pid for one in look.of(inspect.Kind.SYNCOBJ_FILE)} == {os.getpid(), viewer}
    (found,) = inspect.syncobj_files(look)
    assert [holder.process.pid for holder in found.holders] == [os.getpid()]
    assert (found.signaled, found.submitted, found.is_timeline, found.status) == (0, 4, True, 0)


def test_without_any(vgem):
    """Status 1, and a heading."""
    said = elsewhere(lambda: None, "syncobjs")
    assert (said.status, len(said.out.splitlines())) == (1, 1)
    assert isinstance(vgem, DrmDevice)
