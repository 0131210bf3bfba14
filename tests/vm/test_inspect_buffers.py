"""linuxsync bufs: buffers that real processes and devices hold, and what it says of them."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from buffer_words import PAGE, bufinfo
from kernel_words import libc
from look_words import as_nobody, become_nobody, elsewhere, linuxsync, process, without_debugfs

from linuxsync import Access, DmaBuf, DrmDevice, inspect


def only(said, ino):
    """The one buffer of that number."""
    (found,) = [one for one in said.json["buffers"] if one["ino"] == ino]
    return found


def holder(pid, comm, fds, mappings=0, uid=0):
    return {"pid": pid, "comm": comm, "uid": uid, "fds": fds, "mappings": mappings}


@pytest.fixture
def camera(heap, keep):
    """A buffer of two pages, called so."""
    made = keep(heap.alloc(2 * PAGE))
    made.set_name("camera")
    return made


def test_who_holds_it(camera, me):
    """Descriptors and mappings of all processes; each bears its part of the size."""
    ours = camera.fileno()

    def view():
        return [os.dup(ours), mmap.mmap(ours, 2 * PAGE).size(), os.dup(ours)][::2]

    def only_map():
        # mmap.mmap would keep a descriptor.
        arguments = (ctypes.c_size_t(PAGE), mmap.PROT_READ, mmap.MAP_SHARED, ours, ctypes.c_long(PAGE))
        assert libc.mmap(None, *arguments) != -1
        os.close(ours)

    with (
        process("viewer", view, keep=(ours,)) as (viewer, dups),
        process("mapper", only_map, keep=(ours,)) as (mapper, _),
    ):
        said = linuxsync("bufs", "-J")
        assert said.status == 0
        assert said.json["unseen"] == []
        assert only(said, camera.ino) == {
            "ino": camera.ino,
            "size": 2 * PAGE,
            "share": 2 * PAGE // 3,
            "exporter": "system",
            "name": "camera",
            "devices": [],
            "fences": [],
            "use": "processes",
            "holders": [
                holder(os.getpid(), me, [ours]),
                holder(viewer, "viewer", sorted([ours, *dups])),
                holder(mapper, "mapper", [], 1),
            ],
        }
    assert only(linuxsync("bufs", "-J"), camera.ino)["holders"] == [holder(os.getpid(), me, [ours])]


def test_it_changes_nothing(camera, timeline, open_files):
    """Neither a descriptor nor a reference more, here or there, and the fence is as it was."""
    with timeline.create_fence(1) as fence:
        camera.import_sync_file(fence, Access.WRITE)
    with process("viewer", list, keep=(camera.fileno(),)) as (viewer, _):
        theirs = sorted(entry.name for entry in Path(f"/proc/{viewer}/fd").iterdir())
        before, count = open_files(), bufinfo()[camera.ino]
        for _ in range(3):
            linuxsync("bufs", "-J")
            elsewhere(without_debugfs, "bufs", "-J")
        assert open_files() == before
        assert bufinfo()[camera.ino] == count
        # It may still have been at its start when it was looked at first.
        assert {entry.name for entry in Path(f"/proc/{viewer}/fd").iterdir()} <= {*theirs}


def test_fences_and_devices(camera, timeline, vgem, keep):
    """debugfs tells of every fence and its number, and which devices are attached."""
    imported = vgem.import_dma_buf(camera)
    for value, access in ((3, Access.WRITE), (5, Access.READ)):
        with type(timeline)(name=f"at {value}") as other:
            with other.create_fence(value) as fence:
                camera.import_sync_file(fence, access)
            found = only(linuxsync("bufs", "-J"), camera.ino)
            assert found["devices"] == ["vgem"]
            assert {"driver": "sw_sync", "timeline": f"at {value}", "seqno": value, "status": 0}.items() <= found[
                "fences"
            ][-1].items()
            assert found["fences"][-1]["usage"] == {Access.WRITE: "write", Access.READ: "read"}[access]
    # The timelines are gone, and their fences have failed: debugfs says no more than that they have signaled.
    assert {one["status"] for one in only(linuxsync("bufs", "-J"), camera.ino)["fences"]} <= {1}
    imported.close()


def test_fences_without_debugfs(camera, timeline, keep):
    """The same through a duplicate of the descriptor: what is pending, who writes and who reads."""

    def look():
        said = elsewhere(without_debugfs, "bufs", "-J")
        (unseen,) = said.json["unseen"]
        assert unseen["what"] == "debugfs file"
        assert unseen["why"].startswith("dma_buf/bufinfo, which has the attached devices: debugfs is not mounted")
        found = only(said, camera.ino)
        assert found["devices"] is None
        return found["fences"]

    assert look() == [], "the stub of an idle buffer is nobody's fence"
    writes, reads = timeline.create_fence(1), timeline.create_fence(2)
    with writes, reads:
        camera.import_sync_file(writes, Access.WRITE)
    name = timeline.name
    write = {"usage": "write", "driver": "sw_sync", "timeline": name, "seqno": None, "status": 0}
    assert look() == [write]
    with type(timeline)(name="reader") as other:
        with other.create_fence(7) as reads:
            camera.import_sync_file(reads, Access.READ)
        assert look() == [write, write | {"usage": "read", "timeline": "reader"}]
    timeline.inc()
    assert look() == []


def test_no_process_holds_it(heap, vgem):
    """A buffer that lives in a device alone is listed all the same."""
    with heap.alloc(PAGE) as buffer:
        ino = buffer.ino
        imported = vgem.import_dma_buf(buffer)
    expected = {"size": PAGE, "share": None, "exporter": "system", "name": None, "use": "kernel", "holders": []}
    said = linuxsync("bufs", "-J")
    assert only(said, ino) == expected | {"ino": ino, "devices": ["vgem"], "fences": []}
    # /sys/kernel/dmabuf knows of it too.
    said = elsewhere(without_debugfs, "bufs", "-J")
    assert only(said, ino) == expected | {"ino": ino, "devices": None, "fences": None}
    assert [line.split() for line in linuxsync("bufs", "-n", "-o", "INO,HOLDERS").out.splitlines()] == [
        [str(ino), "no", "process", "seen"]
    ]
    imported.close()


def test_sums_by_process(heap, keep, me):
    """Each buffer counts in full, by its share, and by what nobody else holds."""
    shared = keep(heap.alloc(4 * PAGE))
    keep(heap.alloc(PAGE))
    with process("viewer", list, keep=(shared.fileno(),)) as (viewer, _):
        said = linuxsync("bufs", "--by", "process", "-J")
        assert said.json == {
            "processes": [
                {
                    "pid": os.getpid(),
                    "comm": me,
                    "uid": 0,
                    "buffers": 2,
                    "fds": 2,
                    "mappings": 0,
                    "size": 5 * PAGE,
                    "share": 3 * PAGE,
                    "private": PAGE,
                },
                {
                    "pid": viewer,
                    "comm": "viewer",
                    "uid": 0,
                    "buffers": 1,
                    "fds": 1,
                    "mappings": 0,
                    "size": 4 * PAGE,
                    "share": 2 * PAGE,
                    "private": 0,
                },
            ],
            "unseen": [],
        }
        said = linuxsync("bufs", "--by=process", "--comm=view*")
        assert said.out == (
            f"{'PID':>{len(str(viewer))}}  COMM    BUFFERS  FDS  MAPPINGS    SIZE  SHARE  PRIVATE\n"
            f"{viewer:>3}  viewer        1    1         0  16 KiB  8 KiB      0 B\n"
        )


def test_choosing(camera, keep, heap, timeline):
    """--pid and --comm choose buffers and not holders; --exporter and --timeline whole buffers."""
    with process("viewer", list, keep=(camera.fileno(),)) as (viewer, _), heap.alloc(PAGE) as other:

        def found(*arguments):
            said = linuxsync("bufs", "-J", *arguments)
            assert said.status == (0 if said.json["buffers"] else 1)
            return {one["ino"]: len(one["holders"]) for one in said.json["buffers"]}

        assert found() == {camera.ino: 2, other.ino: 1}
        assert found("--pid", str(viewer)) == {camera.ino: 2}
        assert found("--comm", "view?r") == {camera.ino: 2}
        assert found("--exporter", "sys*") == {camera.ino: 2, other.ino: 1}
        assert found("--exporter", "udmabuf") == {}
        assert found("--pid", "4194304") == {}
        with timeline.create_fence(1) as fence:
            other.import_sync_file(fence, Access.WRITE)
        assert found("--timeline", timeline.name) == {other.ino: 1}
        assert found("--driver", "i915") == {}


def test_the_table(camera, timeline, vgem):
    """What people read."""
    with type(timeline)(name="gpu") as gpu, gpu.create_fence(7) as fence, vgem.import_dma_buf(camera):
        camera.import_sync_file(fence, Access.WRITE)
        with process("viewer", list, keep=(camera.fileno(),)) as (viewer, _):
            said = linuxsync("bufs", "-o", "size,share,exporter,name,devices,fences,holders", "--comm", "viewer")
            me = f"{Path('/proc/self/comm').read_text().strip()} {os.getpid()}:{camera.fileno()}"
            assert said.err == ""
            assert said.out == (
                " SIZE  SHARE  EXPORTER  NAME    DEVICES  FENCES                      HOLDERS\n"
                "8 KiB  4 KiB  system    camera  vgem     write sw_sync/gpu 7 active  "
                f"{me}; viewer {viewer}:{camera.fileno()}\n"
            )


@pytest.mark.parametrize(
    "name", ["\x1b[2Jx\n\u202e", "\udcff\udcfe", "a\tb\n\tAttached Devices:\n\tevil", "\n\n", "<none>", "", "\\x41"]
)
def test_names_that_others_choose(name, camera, keep, vgem):
    """A terminal gets nothing that it would obey, JSON the very bytes, and a name forges no device."""
    camera.set_name(name)
    imported = vgem.import_dma_buf(camera)
    with process(b"\x1b]0;\xff\n", list, keep=(camera.fileno(),)):
        for said in (linuxsync("bufs", "-J"), elsewhere(without_debugfs, "bufs", "-J")):
            found = only(said, camera.ino)
            assert found["name"] == name
            assert found["devices"] in (["vgem"], None)
            assert found["holders"][-1]["comm"] == "\x1b]0;\udcff\n"
        out = linuxsync("bufs").out
        assert len(out.splitlines()) == 2
        assert all(character == "\n" or character.isprintable() for character in out)
        assert r"\x1b]0;\xff\n" in out
    imported.close()


def test_an_ordinary_user(camera, heap):
    """Their own buffers in full but for what debugfs has, others' by size alone, and a word on what is missing."""
    ours = camera.fileno()
    with heap.alloc(PAGE) as root_s, process("mine", become_nobody, keep=(ours,)) as (mine, _):
        said = as_nobody("bufs", "-J")
        assert said.status == 0
        assert only(said, camera.ino) == {
            "ino": camera.ino,
            "size": 2 * PAGE,
            "share": 2 * PAGE,
            "exporter": "system",
            "name": "camera",
            "devices": None,
            "fences": [],
            "use": "processes",
            "holders": [holder(mine, "mine", [ours], uid=65534)],
        }
        theirs = only(said, root_s.ino)
        assert (theirs["size"], theirs["exporter"], theirs["use"], theirs["holders"]) == (PAGE, "system", None, [])
        whys = {one["what"]: one["why"] for one in said.json["unseen"]}
        assert whys.keys() == {"processes", "debugfs file"}
        assert whys["debugfs file"].endswith("only root may enter debugfs")
        said = as_nobody("bufs", "--pid", str(mine))
        assert said.status == 0
        assert len(said.out.splitlines()) == 2
        assert len(said.err.splitlines()) == 2


def test_a_file_of_that_name(tmp_path, camera):
    """A file /dmabuf:x in somebody's root folder is no buffer, opened or mapped."""

    def pretend():
        os.chroot(tmp_path)
        fd = os.open("/dmabuf:x", os.O_RDWR | os.O_CREAT)
        os.truncate(fd, PAGE)
        kept.append(mmap.mmap(fd, PAGE))

    kept = []
    with process("pretender", pretend) as (pretender, _):
        assert Path(f"/proc/{pretender}/root").readlink() == tmp_path
        assert [one["ino"] for one in linuxsync("bufs", "-J").json["buffers"]] == [camera.ino]


def test_the_library(camera, vgem, me):
    """inspect.dma_bufs is all of it, without the command."""
    (found,) = inspect.dma_bufs(inspect.scan())
    assert isinstance(found, inspect.HeldBuffer)
    assert (found.ino, found.size, found.exporter, found.name) == (
        camera.ino,
        camera.size,
        camera.exporter,
        camera.name,
    )
    assert found.share == camera.size
    assert [(one.process.comm, one.fds, one.mappings) for one in found.holders] == [(me, (camera.fileno(),), 0)]
    assert inspect.dma_bufs(inspect.scan([])) == [found], "who holds it is looked up again"


def test_processes_that_end_meanwhile(heap):
    """A storm of short-lived processes with buffers disturbs nothing."""
    with heap.alloc(PAGE) as buffer:
        held = buffer.fileno()

        def storm():
            if os.fork():
                return
            while True:
                child = os.fork()
                if child == 0:
                    DmaBuf.from_fd(held).mmap()
                    os._exit(0)
                os.waitpid(child, 0)

        with process("storm", storm, keep=(held,)) as (pid, _):
            try:
                for _ in range(5):
                    look = inspect.scan()
                    assert buffer.ino in {one.ino for one in inspect.dma_bufs(look)}
                    assert look.unseen == []
            finally:
                for entry in Path("/proc").iterdir():
                    if entry.name.isdigit() and int(entry.name) != pid:
                        try:
                            if (entry / "comm").read_text() == "storm\n":
                                os.kill(int(entry.name), 9)
                        except OSError:
                            pass


def test_devices_are_asked_of_each_driver(camera, keep):
    """One buffer in two devices."""
    devices = [keep(DrmDevice.open(driver=name)) for name in ("vgem", "vkms")]
    imported = [device.import_dma_buf(camera) for device in devices]
    assert sorted(only(linuxsync("bufs", "-J"), camera.ino)["devices"]) == ["vgem", "vkms"]
    for gem in imported:
        gem.close()
