"""linuxsync timelines: timelines and fences that real processes hold, and what it says of them."""

import os
from pathlib import Path

import pytest
from look_words import as_nobody, at, become_nobody, elsewhere, linuxsync, process, scene, without_debugfs

from linuxsync import Access, Timeline, inspect, merge


def rows(said):
    """By driver and timeline."""
    return {(one["driver"], one["timeline"]): one for one in said.json["timelines"]}


@pytest.fixture
def gpu(keep):
    """A timeline of that name."""
    return keep(Timeline(name="gpu"))


def test_a_timeline_and_its_fences(gpu, keep, me):
    """Where it is, what is to come, what is held, and by whom."""
    fences = [keep(gpu.create_fence(value)) for value in (1, 3, 5)]
    gpu.inc(2)
    ours = fences[1].fileno()
    with process("viewer", list, keep=(ours,)) as (viewer, _):
        said = linuxsync("timelines", "-J")
        assert said.status == 0
        assert said.json == {
            "timelines": [
                {
                    "driver": "sw_sync",
                    "timeline": "gpu",
                    "value": [2],
                    "pending": [[3, 5]],
                    "active": 2,
                    "signaled": 1,
                    "failed": 0,
                    "owner": {"sure": True, "descriptors": [at(os.getpid(), me, gpu.fileno())]},
                    "holders": [*(at(os.getpid(), me, fence.fileno()) for fence in fences), at(viewer, "viewer", ours)],
                }
            ],
            "unseen": [],
        }


def test_fences_nobody_holds(gpu):
    """A timeline without sync_files is there; a fence that is gone is not to come."""
    with gpu.create_fence(1):
        pass
    (row,) = linuxsync("timelines", "-J").json["timelines"]
    assert (row["value"], row["pending"], row["active"], row["holders"]) == ([0], [[]], 0, [])


def test_failed_and_merged(keep):
    """What fails with its timeline counts as failed, and each fence of a merged one by itself."""
    gone, gpu = Timeline(name="gone"), keep(Timeline(name="gpu"))
    kept = keep(gone.create_fence(1))
    with gone.create_fence(2) as two, gpu.create_fence(1) as one:
        keep(merge([one, two]))
    gone.close()
    found = rows(linuxsync("timelines", "-J"))
    assert kept.error
    wanted = ("value", "pending", "active", "signaled", "failed")
    assert {name: [row[key] for key in wanted] for name, row in found.items()} == {
        ("sw_sync", "gone"): [[0], [[]], 0, 0, 2],
        ("sw_sync", "gpu"): [[0], [[1]], 1, 0, 0],
    }
    # One open file, two timelines, and only one of them has a future.
    assert found["sw_sync", "gpu"]["owner"]["sure"] is True
    assert found["sw_sync", "gone"]["owner"] is None


def test_whose_it_is(keep):
    """Of several open files the one whose process has the timeline's name may be it; the rest can't be told."""
    keep(Timeline(name="other"))

    def own():
        made.append(Timeline())
        return made[0].fileno()

    made = []
    with process("compositor", own) as (pid, fd):
        found = rows(linuxsync("timelines", "-J"))
        assert found["sw_sync", "compositor"]["owner"] == {"sure": False, "descriptors": [at(pid, "compositor", fd)]}
        assert found["sw_sync", "other"]["owner"] is None
        out = linuxsync("timelines", "-n", "-o", "TIMELINE,OWNER", "--timeline", "comp*").out
        assert out == f"compositor  compositor {pid}:{fd}?\n"
        # A second of that name, and a name says nothing any more.
        with process("compositor", own):
            assert rows(linuxsync("timelines", "-J"))["sw_sync", "compositor"]["owner"] is None


def test_several_of_one_name(keep):
    """They are one line, with the values of each."""
    made = [keep(Timeline(name="twin")) for _ in range(2)]
    made[0].inc(4)
    keep(made[0].create_fence(5))
    keep(made[1].create_fence(1))
    (row,) = linuxsync("timelines", "-J").json["timelines"]
    assert sorted(zip(row["value"], row["pending"], strict=True)) == [(0, [1]), (4, [5])]
    assert (row["active"], row["owner"]) == (2, None)
    shown = "; ".join(map(str, row["value"]))
    assert f"  {shown}  " in linuxsync("timelines").out


def test_other_drivers(keep, heap):
    """What debugfs does not list comes from the sync_files."""
    with heap.alloc(4096) as idle:
        keep(idle.export_sync_file(Access.READ))
    (row,) = linuxsync("timelines", "-J").json["timelines"]
    assert (row["driver"], row["timeline"], row["signaled"], row["value"], row["owner"]) == (
        "stub",
        "stub",
        1,
        [],
        None,
    )


def test_choosing(gpu, keep):
    """By process, driver and name, and what is still to come."""
    idle = keep(Timeline(name="idle"))
    fence = keep(gpu.create_fence(1))
    with process("viewer", list, keep=(fence.fileno(),)) as (viewer, _):

        def found(*arguments):
            said = linuxsync("timelines", "-J", *arguments)
            assert said.status == (0 if said.json["timelines"] else 1)
            return {one["timeline"] for one in said.json["timelines"]}

        assert found() == {"gpu", "idle"}
        assert found("--active") == {"gpu"}
        assert found("--pid", str(viewer)) == found("--comm", "viewer") == {"gpu"}
        assert found("--timeline", "i*") == {"idle"}
        assert found("--driver", "sw_*") == {"gpu", "idle"}
        assert found("--driver", "i915") == set()
    idle.inc()


def test_the_table(gpu, keep, me):
    """What people read."""
    keep(gpu.create_fence(2))
    for value in range(3, 9):
        with gpu.create_fence(value):
            pass
    keep(gpu.create_fence(9))
    said = linuxsync("timelines")
    assert said.err == ""
    assert said.out == (
        "DRIVER   TIMELINE  VALUE  PENDING  ACTIVE  SIGNALED  FAILED  OWNER"
        f"{' ' * (len(f'{me} {os.getpid()}:{gpu.fileno()}') - 3)}HOLDERS\n"
        f"sw_sync  gpu           0  2,9           2         0       0  {me} {os.getpid()}:{gpu.fileno()}  "
        f"{me} {os.getpid()} x2\n"
    )


@pytest.mark.parametrize("name", [b"a: 5", b"two\nlines", b"\xff\x1b[2J", b"x: 1\n", b""])
def test_names_that_others_choose(name, keep):
    """Line breaks and colons in a name do not hide what stands after them, nor does a terminal get them."""
    keep(Timeline(name="first"))
    keep(Timeline(name=os.fsdecode(name))).inc(7)
    keep(Timeline(name="last")).inc(9)
    said = linuxsync("timelines", "-J")
    assert {one["timeline"]: one["value"] for one in said.json["timelines"]} == {
        "first": [0],
        os.fsdecode(name): [7],
        "last": [9],
    }
    assert said.json["unseen"] == []
    out = linuxsync("timelines").out
    assert len(out.splitlines()) == 4
    assert all(character == "\n" or character.isprintable() for character in out)


def test_without_debugfs(gpu, keep, me):
    """Fences tell of it all the same, and it says what is missing."""
    fence = keep(gpu.create_fence(1))
    said = elsewhere(without_debugfs, "timelines", "-J")
    (row,) = said.json["timelines"]
    assert (row["timeline"], row["value"], row["active"], row["owner"]) == ("gpu", [], 1, None)
    assert row["holders"] == [at(os.getpid(), me, fence.fileno())]
    (unseen,) = said.json["unseen"]
    assert unseen["why"].startswith("sync/info, which has the values of sw_sync timelines: debugfs is not mounted")


def test_an_ordinary_user(gpu, keep):
    """Their own fences, and two lines about what they can't see."""
    fence = keep(gpu.create_fence(1))
    with process("mine", become_nobody, keep=(fence.fileno(),)) as (mine, _):
        said = as_nobody("timelines", "-J")
        assert said.status == 0
        assert said.json["timelines"] == [
            {
                "driver": "sw_sync",
                "timeline": "gpu",
                "value": [],
                "pending": [],
                "active": 1,
                "signaled": 0,
                "failed": 0,
                "owner": None,
                "holders": [at(mine, "mine", fence.fileno(), uid=65534)],
            }
        ]
        whys = {one["what"]: one["why"] for one in said.json["unseen"]}
        assert whys.keys() == {"processes", "debugfs file"}
        assert whys["debugfs file"].startswith("sync/info, which has the values of sw_sync timelines: only root")
    assert as_nobody("timelines").status == 1


def test_it_changes_nothing(gpu, keep, open_files):
    """Neither a descriptor nor a fence more, and the timeline is where it was."""
    keep(gpu.create_fence(1))
    before, info = open_files(), Path("/sys/kernel/debug/sync/info").read_text()
    for _ in range(3):
        linuxsync("timelines", "-J")
    assert open_files() == before
    assert Path("/sys/kernel/debug/sync/info").read_text() == info


def test_a_file_of_that_name(tmp_path, gpu, me):
    """Somebody's own file sync/sw_sync is no timeline's."""
    (tmp_path / "sync").mkdir()
    with open(tmp_path / "sync" / "sw_sync", "wb"):
        (row,) = linuxsync("timelines", "-J").json["timelines"]
        assert row["owner"] == {"sure": True, "descriptors": [at(os.getpid(), me, gpu.fileno())]}


def test_the_library(gpu, keep):
    """inspect.fence_timelines is all of it, without the command."""
    keep(gpu.create_fence(1))
    look = inspect.scan()
    (found,) = inspect.fence_timelines(look, inspect.sync_files(look))
    assert isinstance(found, inspect.HeldTimeline)
    assert (found.driver_name, found.obj_name, found.active) == ("sw_sync", "gpu", 1)
    assert [point.seqno for point in found.sw_sync[0].points] == [1]
    assert look.unseen == []


def test_owners_that_are_sure():
    """With --confirm each timeline tells its name itself, which changes nothing in it."""
    text = "a, b = Timeline('gpu'), Timeline('display')\nf = a.create_fence(4)\nready(a=a.fileno(), b=b.fileno())"
    with scene(text, name="one") as one, scene(text, name="two") as two:
        guessed = linuxsync("timelines", "--json").json["timelines"]
        assert [row["owner"] for row in guessed] == [None, None]
        rows = linuxsync("timelines", "--confirm", "--json").json["timelines"]
        owners = {row["timeline"]: row["owner"] for row in rows}
        for name, key in (("gpu", "a"), ("display", "b")):
            assert owners[name]["sure"]
            assert sorted((each["pid"], each["fd"]) for each in owners[name]["descriptors"]) == sorted(
                (found.pid, found.facts[key]) for found in (one, two)
            )
        assert [row["pending"] for row in rows] == [row["pending"] for row in guessed]
        assert linuxsync("timelines", "-n", "-o", "active").out.split() == ["0", "2"]
