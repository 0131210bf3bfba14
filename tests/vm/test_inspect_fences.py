"""linuxsync ps, and linuxsync.inspect under it: every sync_file once, by whom it is held, and nothing is changed."""

import errno
import json
import os
import re
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from children import forked
from kernel_words import free_descriptors, refused
from look_words import NOBODY, as_nobody, become_nobody, linuxsync, scene

from linuxsync import SyncFile, Timeline, merge
from linuxsync.inspect import (
    Descriptor,
    Kind,
    PidFd,
    examine,
    named_timelines,
    owed_by,
    same_file,
    scan,
    sync_files,
)


def fds_of(pid):
    """What /proc says of a process."""
    return sorted(entry.name for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_each_file_once():
    """Three fences and one merged of two of them, which two children have inherited; a duplicate is the same file."""
    text = """
gpu, display = Timeline("gpu"), Timeline("display")
a, b, c = gpu.create_fence(1), display.create_fence(1), gpu.create_fence(2)
gpu.inc()
copy = c.dup()
frame = merge([b, c], name="frame 7")
fork(2)
ready(a=a.fileno(), b=b.fileno(), c=c.fileno(), copy=copy.fileno(), frame=frame.fileno())
"""
    with scene(text, name="compositor") as found:
        said = linuxsync("ps", "--json").json
        pid, facts = found.pid, found.facts
        holders = sorted({one["pid"] for one in said["sync_files"][0]["holders"]})
        assert len(holders) == 3 and holders[0] == pid

        def held(*names):
            return [
                {"pid": holder, "comm": "compositor", "uid": 0, "fd": facts[name]}
                for holder in holders
                for name in names
            ]

        assert said["unseen"] == []
        a, b, c, frame = said["sync_files"]
        assert 0 < a.pop("since") < 60e9
        assert re.fullmatch(r"sw_sync-gpu\d+-1", a.pop("name"))
        assert a == {
            "status": 1,
            "fences": 1,
            "driver": ["sw_sync"],
            "timeline": ["gpu"],
            "seqno": 1,
            "holders": held("a"),
        }
        assert (b["status"], b["timeline"], b["seqno"], b["since"]) == (0, ["display"], 1, None)
        assert (c["status"], c["timeline"], c["seqno"]) == (0, ["gpu"], 2)
        assert c["holders"] == held("c", "copy")
        assert (frame["name"], frame["status"], frame["fences"]) == ("frame 7", 0, 2)
        assert frame["timeline"] == ["gpu", "display"] or frame["timeline"] == ["display", "gpu"]
        assert frame["holders"] == held("frame")


def test_the_table(timeline):
    """What people see, to the letter but for numbers; -v has the fences of the merged one."""
    with (
        timeline.create_fence(1) as a,
        Timeline("other") as other,
        other.create_fence(3) as b,
        merge([a, b], name="both") as both,
    ):
        timeline.inc()
        me, fds = os.getpid(), (a.fileno(), b.fileno(), both.fileno())
        shown = linuxsync("ps", "--pid", str(me), "-v")
    assert (shown.status, shown.err) == (0, "")
    lines = re.sub(r"[\d.]+ (?:us|ms|s|min)", "T", shown.out).splitlines()
    name = timeline.name
    context = re.escape(name) + r"\d+"
    by = [f"{name} {me}:{fd}" for fd in fds]
    expected = [
        r"STATUS +FENCES +DRIVER +TIMELINE +SEQNO +SINCE +NAME +HOLDERS",
        rf"signaled +1 +sw_sync +{name} +1 +T +sw_sync-{context}-1 +{by[0]}",
        rf"active +1 +sw_sync +other +3 +- +sw_sync-other\d+-3 +{by[1]}",
        rf"active +2 +sw_sync +(?:{name}, other|other, {name}) +- +- +both +{by[2]}",
        rf"(?:signaled +1 +sw_sync +{name} +- +T|active +1 +sw_sync +other +- +-) +both +{by[2]}",
        rf"(?:signaled +1 +sw_sync +{name} +- +T|active +1 +sw_sync +other +- +-) +both +{by[2]}",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_columns(fence):
    """-o names them, + adds to the usual ones, -n leaves out the header, -r is for awk."""
    me = str(os.getpid())
    shown = linuxsync("ps", "--pid", me, "-n", "-o", "status,fences").out
    assert re.fullmatch(r"active +1\n", shown)
    header = linuxsync("ps", "--pid", me, "-o", "+name").out.splitlines()[0].split()
    assert header == ["STATUS", "FENCES", "DRIVER", "TIMELINE", "SEQNO", "SINCE", "NAME", "HOLDERS"]
    with fence.merge(fence, name="a b") as named:
        raw = linuxsync("ps", "--pid", me, "-r", "-n", "-o", "name,seqno").out.splitlines()
        assert raw[1] == "a\\x20b -"
        assert [*linuxsync("ps", "--pid", me, "-o", "name,status", "--json").json["sync_files"][1]] == [
            "name",
            "status",
        ]
        assert named.status == 0
    wrong = linuxsync("ps", "-o", "colour")
    assert wrong.status == 2 and "no such column: COLOUR; there are STATUS" in wrong.err
    for column in header:
        assert re.search(rf"^ +{column} +\w", linuxsync("ps", "--help").out, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--comm", "scene"], {"gpu", "display"}),
        (["--comm", "sc?n*"], {"gpu", "display"}),
        (["--comm", "Scene"], set()),
        (["--timeline", "gpu"], {"gpu"}),
        (["--timeline", "g*", "--timeline", "display"], {"gpu", "display"}),
        (["--driver", "i915"], set()),
        (["--driver", "sw_*", "--active"], {"display"}),
        (["--pid", "1"], set()),
    ],
    ids=" ".join,
)
def test_filters(options, found):
    """By process, driver and timeline; 1 where nothing is found."""
    text = 'gpu, display = Timeline("gpu"), Timeline("display")\n'
    text += "held = gpu.create_fence(1), display.create_fence(1)\ngpu.inc()\nready()"
    with scene(text):
        result = linuxsync("ps", *options, "--json")
        assert {name for one in json.loads(result.out)["sync_files"] for name in one["timeline"]} == found
        assert result.status == (0 if found else 1)


def test_names_are_harmless():
    """Escape sequences, newlines, what hides or turns text, and bytes that are no UTF-8, in every name there is."""
    text = r"""
evil = Timeline(os.fsdecode(b"e\x1b[2J\n\xff"))
a = evil.create_fence(1)
b = a.merge(a, name="\u202eb\\x1b")
ready()
"""
    with scene(text, name="ev\x1b]0;x\n"):
        shown = linuxsync("ps", "--timeline", "e*")
        assert shown.status == 0
        assert all(one.isprintable() or one == "\n" for one in shown.out)
        assert shown.out.count("\n") == 3
        assert r"e\x1b[2J\n\xff" in shown.out
        assert r"\u202eb\\x1b" in shown.out
        assert r"ev\x1b]0;x\n " in shown.out
        found = linuxsync("ps", "--timeline", "e*", "--json").json["sync_files"]
        assert found[0]["timeline"] == ["e\x1b[2J\n\udcff"]
        assert found[1]["name"] == "\u202eb\\x1b"


def test_nothing_is_changed(device, open_files):
    """A process with 1,000 fences, and we, have the same descriptors after a scan, and no fence was asked to signal."""
    text = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
timeline = Timeline("many")
held = [timeline.create_fence(1 + i) for i in range(1000)]
device = FenceDevice()
queue = device.create_queue("q")
job = queue.submit(hang=True)
ready(job=job.fence.fileno())
"""
    with scene(text, name="holder") as found, PidFd.open(found.pid) as process:
        before, ours = fds_of(found.pid), open_files()
        fences = sync_files(scan([found.pid]))
        assert len(fences) == 1001
        assert (fds_of(found.pid), open_files()) == (before, ours)
        with process.get(SyncFile, found.facts["job"]) as job:
            assert not device.query(job).signaling
            assert job.poll(0) is False
            assert device.query(job).signaling


def test_as_an_ordinary_user():
    """Sees their own, and says in one line what not."""
    text = 'theirs = Timeline("theirs")\nfence = theirs.create_fence(1)\nready()'
    with scene(text):

        def look():
            become_nobody()
            result = linuxsync("ps")
            assert (result.status, result.out.count("\n")) == (1, 1)
            assert re.fullmatch(r"linuxsync: \d+ processes not seen: [^\n]*try as root\n", result.err)
            found = linuxsync("ps", "--json").json
            assert found["sync_files"] == [] and found["unseen"][0]["what"] == "processes"
            with pytest.raises(PermissionError):
                PidFd.open(os.getppid())._getfd(0)

        with forked(look):
            pass


def test_an_ordinary_users_own_fences(timeline):
    """Given to them by somebody who may make them; seen without being root."""
    with timeline.create_fence(1) as fence:

        def look():
            become_nobody()
            (found,) = linuxsync("ps", "--json").json["sync_files"]
            assert found["holders"] == [
                {"pid": os.getpid(), "comm": "python", "uid": NOBODY, "fd": fence.fileno()},
            ]

        with forked(look):
            pass


def test_what_vanishes_is_left_out(fence):
    """Between one look and the next: closed, or the number given to something else; and whole processes."""
    held = [fence.dup() for _ in range(3)]
    look = scan([os.getpid()])
    assert len(look.of(Kind.SYNC_FILE)) == 4
    held[0].close()
    number = held[1].detach()
    os.dup2(0, number)
    assert [len(found.holders) for found in sync_files(look)] == [2]
    os.close(number)
    held[2].close()
    with scene('t = Timeline("gone")\nf = t.create_fence(1)\nready()') as found:
        look = scan([found.pid, os.getpid(), 4000000])
    assert len(look.processes) == 2
    assert [file.holders[0].process.pid for file in sync_files(look)] == [os.getpid()]
    assert look.unseen == []


def test_in_a_fork_storm(fence):
    """While processes come and go all the time, what stays is seen every time."""
    storm = subprocess.Popen(["sh", "-c", "while :; do (:); (: & :); done"], start_new_session=True)
    try:
        for _ in range(40):
            look = scan()
            assert [found.holders[0].fd for found in sync_files(look) if found.holders[0].process.pid == os.getpid()]
            assert look.unseen == []
    finally:
        os.killpg(storm.pid, 9)
        storm.wait()


@pytest.mark.parametrize(
    "command",
    [
        "ps -v --confirm",
        "bufs",
        "bufs --by process",
        "timelines --confirm",
        "syncobjs",
        "stuck --after 0.1",
        "top -b -n 3 -d 0.1",
        "metrics",
        "doctor",
        "leaks --interval 0.1 --for 1",
        "show {pid} {fd} --confirm",
    ],
)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_every_command_in_a_fork_storm(command, user, fence):
    """None of them minds processes that come and go, with fences and names of any kind; an ordinary user's neither."""
    text = """
def storm():
    timeline = Timeline("storm")
    while True:
        child = os.fork()
        if child == 0:
            kept = [timeline.create_fence(n + 1) for n in range(3)]
            open("/proc/self/comm", "wb").write(b"\\x1b[2J\\xff\\n")
            os._exit(0)
        os.waitpid(child, 0)
threading.Thread(target=storm, daemon=True).start()
ready()
"""
    words = command.format(pid=os.getpid(), fd=fence.fileno()).split()
    with scene(text, name="storm"):
        for _ in range(3):
            said = linuxsync(*words) if user == "root" else as_nobody(*words)
            assert said.status in (0, 1) and "\x1b" not in said.out, said


def test_many_processes():
    """200 processes with 50 fences each: all of them, each once."""
    text = """
def child():
    timeline = Timeline("many")
    kept = [timeline.create_fence(n + 1) for n in range(50)]
    os.write(writing, b"x")
    sys.stdin.read()
    os._exit(0)
reading, writing = os.pipe()
children = []
for _ in range(200):
    children.append(os.fork())
    if children[-1] == 0:
        child()
for _ in children:
    os.read(reading, 1)
ready(children=children)
"""
    with scene(text, name="many") as found:
        said = linuxsync("ps", "--json").json
        assert said["unseen"] == []
        counted = Counter(one["holders"][0]["pid"] for one in said["sync_files"])
        assert counted == dict.fromkeys(found.facts["children"], 50)
        assert len({one["name"] for one in said["sync_files"]}) == 10000
        (row,) = linuxsync("timelines", "--json", "--timeline", "many").json["timelines"]
        assert (row["active"], len(row["value"]), len(row["holders"])) == (10000, 200, 10000)
        assert {one["seqno"] for one in said["sync_files"]} == set(range(1, 51))


def test_pidfd(fence, timeline):
    """What the kernel refuses, by errno; the object owns its descriptor."""
    with refused(errno.ESRCH):
        PidFd.open(4000000)
    with refused(errno.EINVAL):
        PidFd.open(0)
    with PidFd.open(os.getpid()) as me:
        with me.get(SyncFile, fence.fileno()) as copy:
            assert copy.fileno() != fence.fileno()
            assert same_file((os.getpid(), copy.fileno()), (os.getpid(), fence.fileno()))
            assert not same_file((os.getpid(), copy.fileno()), (os.getpid(), timeline.fileno()))
        with refused(errno.EBADF):
            me.get(SyncFile, 4000)
        with refused(errno.ENOTTY):
            me.get(SyncFile, timeline.fileno())
    with pytest.raises(ValueError, match="closed"):
        me.get(SyncFile, fence.fileno())
    with refused(errno.EBADF):
        same_file((os.getpid(), 4000), (os.getpid(), fence.fileno()))
    with refused(errno.ESRCH):
        same_file((4000000, 0), (os.getpid(), 0))


def test_a_batch(fence, timeline, open_files):
    """Only those that are sync_files still; one of another kind among them is not asked, and nothing is left open."""
    me, number = os.getpid(), fence.fileno()
    (one,) = scan([me]).of(Kind.SYNC_FILE)
    others = [Descriptor(one.process, fd, one.kind, one.link) for fd in (timeline.fileno(), 4000, 0)]
    before = open_files()
    with PidFd.open(me) as process:
        assert [held.holders for held in process.fences([others[0], one, *others[1:], one])] == [(one,), (one,)]
        assert process.fences([]) == []
        (held,) = process.fences([one])
        assert (held.info, held.name, held.status) == (fence.info(), fence.name, 0)
        for free in (0, 1):
            with free_descriptors(free), refused(errno.EMFILE):
                process.fences([one])
        with free_descriptors(2):
            assert [held.info for held in process.fences([one])] == [fence.info()]
        with pytest.raises(TypeError):
            process.fences([number])
    with pytest.raises(ValueError, match="closed"):
        process.fences([one])
    assert open_files() == before


def test_a_process_that_ends_within_a_batch(fence):
    """What it has said until then stays; the rest is left out."""
    with scene('t = Timeline("gone")\nheld = [t.create_fence(1 + i) for i in range(9)]\nready()') as found:
        theirs = scan([found.pid]).of(Kind.SYNC_FILE)
        process = PidFd.open(found.pid)
        assert len(process.fences(theirs)) == 9
    with process:
        assert process.fences(theirs) == []


def test_confirm(timeline, fence):
    """A fence that has come since it was asked says so after the poll; one that has not stays active."""
    with timeline.create_fence(7) as later:
        before = linuxsync("ps", "--pid", str(os.getpid()), "--confirm", "--json").json["sync_files"]
        timeline.inc()
        after = linuxsync("ps", "--pid", str(os.getpid()), "--confirm", "-J", "-o", "status,seqno,since").json[
            "sync_files"
        ]
        assert later.status == 0
    assert [one["status"] for one in before] == [0, 0]
    assert [(one["status"], one["seqno"]) for one in after] == [(1, 1), (0, 7)]
    assert after[0]["since"] > 0 and after[1]["since"] is None


def enough_or_emfile(ask, right, most):
    """With ever more descriptors to spare: EMFILE, until there are enough for what is right; nothing in between."""
    refusals = 0
    for free in range(most):
        with free_descriptors(free):
            try:
                found = ask()
            except OSError as error:
                assert error.errno == errno.EMFILE
                refusals += 1
            else:
                assert found == right, f"with {free} descriptors"
    assert 0 < refusals < most


def test_what_can_not_be_looked_at_is_not_gone(fence, device):
    """Without descriptors of our own nobody is left out of what is found, and no timeline goes without a name."""
    look, info = scan([os.getpid()]), fence.info()
    for question in (named_timelines, partial(owed_by, info=info)):
        enough_or_emfile(lambda ask=question: (ask(look), look.unseen), (question(look), []), 16)


def test_what_can_not_be_looked_at_is_not_missing():
    """What doctor could not open for want of descriptors is not said to be missing from the machine."""
    enough_or_emfile(examine, examine(), 24)
