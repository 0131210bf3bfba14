"""linuxsync top: what grows and what waits, in lines of JSON, in tables and on a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from statistics import median

import pyte
import pytest
from look_words import as_nobody, linuxsync, scene

from linuxsync import Timeline
from linuxsync.cli.top import Look, View, screen
from linuxsync.inspect import PidFd, Watch, fences, scan, sync_files

# A client with 3 fences, 2 of them active, and 2 buffers, one of which a compositor has too; it makes 2 fences for each
# line that it gets.
HEADER = ["PID", "COMM", "SYNCS", "ACTIVE", "BUFS", "SHARE", "SYNCOBJS", "GROWTH", "WAITING"]
TOP = [sys.executable, "-m", "linuxsync.cli", "top"]
CLIENT = """
gpu = Timeline("gpu")
kept = [gpu.create_fence(n) for n in range(1, 4)]
gpu.inc()
bufs = [DmaHeap().alloc(size) for size in (4096, 8192)]
print(json.dumps({"pid": os.getpid()}), flush=True)
for line in sys.stdin:
    kept += [gpu.create_fence(9), gpu.create_fence(9)]
    print("grown", flush=True)
os._exit(0)
"""


def grow(client):
    """Two more."""
    client.process.stdin.write("more\n")
    client.process.stdin.flush()
    assert client.process.stdout.readline() == "grown\n"


@contextmanager
def top(*arguments):
    """``linuxsync top`` with a pipe for its stdout."""
    with subprocess.Popen(
        [*TOP, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_json_of_a_growing_process():
    """Three looks: what it has, and how much more since the last one. It grows between two looks, for which is time."""
    with scene(CLIENT, name="client") as client, top("-J", "-n", "3", "--interval", "3") as process:
        looks = []
        for _ in range(3):
            looks.append(json.loads(process.stdout.readline()))
            grow(client)
        assert process.wait(120) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    grown = []
    for count, look in enumerate(looks):
        (row,) = look["processes"]
        grown.append((row.pop("growth"), row.pop("waiting")))
        assert row == {
            "pid": client.pid,
            "comm": "client",
            "uid": 0,
            "fds": 6 + 2 * count,
            "syncs": 3 + 2 * count,
            "active": 2 + 2 * count,
            "bufs": 2,
            "share": 12288,
            "syncobjs": 0,
            "for": {"driver": "sw_sync", "timeline": "gpu"},
        }
        assert look["unseen"] == []
        assert 0 < look["took"] < 60
        assert (look["cpu"] is None) == (count == 0)
    assert grown[0] == (None, {"ns": 0, "sure": True})
    for before, after in ((0, 1), (1, 2)):
        growth, waiting = grown[after]
        passed = (waiting["ns"] - grown[before][1]["ns"]) / 1e9
        assert waiting["sure"] and passed > 0
        assert growth == pytest.approx(2 / passed)


def test_each_fence_is_asked_once(monkeypatch):
    """However much is made of the answers."""
    asked = []

    class Counting(PidFd):
        def fences(self, descriptors):
            asked.extend(one.fd for one in descriptors)
            return super().fences(descriptors)

    monkeypatch.setattr(fences, "PidFd", Counting)
    with scene(CLIENT):
        assert len(linuxsync("top", "-J", "-n", "2", "-d", "0.1").out.splitlines()) == 2
    assert len(asked) == 6


def test_batch():
    """Without a terminal: tables one after another, to the letter but for numbers that change."""
    with scene(CLIENT, name="client") as client:
        said = linuxsync("top", "-n", "2", "-d", "0.1")
        assert (said.status, said.err) == (0, "")
        first, second, rest = said.out.split("\n\n")
        assert rest == ""
        summary, header, row, cost = first.splitlines()
        assert summary == "1 processes, sync_files: 3 descriptors, 2 active; by growth, every 0.1 s"
        assert header.split() == [*HEADER, "FOR"]
        assert row.split() == f"{client.pid} client 3 2 2 12 KiB 0 - 0 us sw_sync/gpu".split()
        assert re.fullmatch(r"a look takes [\d.]+ m?s", cost)
        words = second.splitlines()[2].split()
        assert words[:9] == f"{client.pid} client 3 2 2 12 KiB 0 0".split()
        assert re.fullmatch(r"linuxsync uses [\d.]+% of a core, a look takes [\d.]+ m?s", second.splitlines()[3])


def test_what_share_and_waiting_mean():
    """A buffer divided by who has it, also with --pid; a fence that comes later waits less; a signaled one does not."""
    text = """
timeline = Timeline("t")
fence, buf = timeline.create_fence(1), DmaHeap().alloc(8192)
fork(1)
ready()
"""
    with scene(text) as found:
        rows = linuxsync("top", "-J", "-n", "1").json["processes"]
        assert [(row["bufs"], row["share"], row["active"]) for row in rows] == [(1, 4096, 1)] * 2
        (row,) = linuxsync("top", "-J", "-n", "1", "--pid", str(found.pid)).json["processes"]
        assert (row["pid"], row["share"]) == (found.pid, 4096)


def test_since_when():
    """From when a fence was first seen, as long as it is the same; one named by somebody is not sure to be."""
    watch, me = Watch(), [os.getpid()]

    def look(seconds):
        found = scan(me)
        (row,) = watch.update(found, sync_files(found), 1000 + seconds * 10**9)
        return row

    def named():
        with timeline.create_fence(9) as source:
            return source.merge(source, name="frame")

    with Timeline("t") as timeline, timeline.create_fence(1), timeline.create_fence(2) as second:
        row = look(0)
        assert (row.waiting_ns, row.sure, row.waits_for, row.growth) == (0, True, ("sw_sync", "t"), None)
        with timeline.create_fence(3):
            row = look(2)
            assert (row.waiting_ns, row.sure, row.sync_files, row.growth) == (2 * 10**9, True, 3, 0.5)
            timeline.inc(2)
            row = look(3)
            assert (row.waiting_ns, row.active, row.growth) == (10**9, 1, 0)
        second.close()
        row = look(4)
        assert (row.waiting_ns, row.sure, row.waits_for, row.active, row.growth) == (None, True, None, 0, -2)
        with named() as frame:
            number = frame.fileno()
            assert (look(5).waiting_ns, look(6).waiting_ns) == (0, 10**9)
        with named() as frame:
            assert frame.fileno() == number
            row = look(7)
            assert (row.waiting_ns, row.sure) == (2 * 10**9, False)


def test_as_an_ordinary_user():
    """Nothing of others, which is said in each look."""
    with scene(CLIENT):
        said = as_nobody("top", "-n", "1")
        found = as_nobody("top", "-n", "1", "-J").json
    assert (said.status, said.err) == (0, "")
    assert re.search(r"^\d+ processes not seen: [^\n]*try as root$", said.out, re.MULTILINE)
    assert found["processes"] == []
    assert [one["what"] for one in found["unseen"]] == ["processes"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"big": 3, "slow": 1}),
        (["--comm", "b*"], {"big": 3}),
        (["--timeline", "slow"], {"slow": 1}),
        (["--driver", "i915"], {}),
    ],
    ids=str,
)
def test_selection(options, shown):
    """As in the other commands."""
    with two_scenes():
        rows = linuxsync("top", "-J", "-n", "1", *options).json["processes"]
    assert {row["comm"]: row["syncs"] for row in rows} == shown


@contextmanager
def two_scenes():
    """Processes "big", with 3 signaled fences and 2 MiB, and "slow", with an active one."""
    big = 't = Timeline("big"); f = [t.create_fence(n) for n in (1, 2, 3)]; t.inc(3); b = DmaHeap().alloc(1 << 21)\n'
    slow = 't = Timeline("slow"); f = t.create_fence(1)\n'
    with scene(big + "ready()", name="big") as one, scene(slow + "ready()", name="slow") as other:
        yield one, other


class Screen:
    """``linuxsync top`` on a terminal of its own, as its user sees it; or a shell that runs it."""

    def __init__(self, *arguments, columns=80, lines=24, shell=""):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.text = b""
        self.fd, self.terminal = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.terminal)
        self.process = subprocess.Popen(
            ["sh", "-mc", shell] if shell else [*TOP, *arguments],
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            env={key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is for it
        )

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.terminal)

    def resize(self, columns, lines):
        """Make the window another size."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds):
        """Take in what it writes within so many seconds."""
        if select.select([self.fd], [], [], seconds)[0]:
            data = os.read(self.fd, 65536)
            self.text += data
            self.stream.feed(data)

    def wait(self, condition):
        """Take in what it writes until something holds, whose value is returned."""
        deadline = time.monotonic() + 120
        while not (value := condition()):
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            self.read(0.2)
        return value

    def until(self, pattern):
        """Wait until what is to be seen matches, and has been drawn to its end; return the match."""
        return self.wait(lambda: self.is_whole() and re.search(pattern, "\n".join(self.screen.display), re.MULTILINE))

    def is_whole(self):
        """Whether of the screen that it has begun to draw last all is here: it comes in pieces."""
        return self.text.rfind(b"\x1b[J") > self.text.rfind(b"\x1b[H")

    def count(self, text):
        """How often it has written this."""
        return self.text.count(text)

    def press(self, keys):
        """Type them."""
        os.write(self.fd, keys.encode())

    @property
    def comms(self):
        """Names of the processes, from above."""
        return [line.split()[1] for line in self.screen.display[2:] if re.match(r" *\d+ [^ ]+ +\d+ ", line)]

    def end(self):
        """Take in what it writes until it ends, and return its status."""
        self.wait(lambda: self.process.poll() is not None)
        os.write(self.terminal, b"\0")  # which comes after all that it has written
        self.wait(lambda: self.text.endswith(b"\0"))
        self.text = self.text[:-1]
        return self.process.returncode

    def is_given_back(self):
        """Whether the terminal is as it was: modes, cursor, wrapping, the shell's screen."""
        assert termios.tcgetattr(self.terminal) == self.before
        text = self.text.decode()
        for on, off in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")):
            assert text.count(on) >= 1 and text.rindex(on) < text.rindex(off)
        return True


def test_the_screen():
    """80 columns and 24 lines: what there is, what it costs, and the keys."""
    with two_scenes() as (big, _), Screen("-d", "0.2") as top:
        top.until(r"linuxsync uses [\d.]+% of a core, a look takes [\d.]+ m?s")
        lines = top.screen.display
        assert lines[0].rstrip() == "2 processes, sync_files: 4 descriptors, 1 active; by growth, every 0.2 s"
        assert lines[1].split() == HEADER
        assert top.screen.buffer[1][0].reverse and not top.screen.buffer[2][0].reverse
        assert top.comms == ["slow", "big"]  # nothing grows, one waits
        assert lines[3].split() == f"{big.pid} big 3 0 1 2 MiB 0 0 -".split()
        assert all(line.isspace() for line in lines[4:21])
        assert lines[23].rstrip() == ("g growth  w waiting  n number  s size  / filter  space freeze  + - time  q quit")
        top.press("q")
        assert top.end() == 0
        assert top.is_given_back()


def test_keys():
    """Sort, filter, freeze, change the interval, quit; function keys and others do nothing."""
    with two_scenes(), Screen("-d", "0.2", "--sort", "waiting") as top:
        top.until("by waiting, every 0.2 s")
        assert top.comms == ["slow", "big"]
        top.press("n")
        top.until("by number")
        assert top.comms == ["big", "slow"]
        top.press("w")
        top.until("by waiting")
        assert top.comms == ["slow", "big"]
        top.press("x\x1b[A\x1bOP")
        top.press("s")
        top.until("by size")
        assert top.comms == ["big", "slow"]
        top.press("g+")
        top.until("by growth, every 0.4 s")
        top.press("--")
        top.until("every 0.1 s")
        for text, left in (("ig", ["big"]), ("slow", ["slow"]), ("sw_s", ["slow", "big"]), ("?", [])):
            top.press("/" + text)
            top.until(rf"^/{re.escape(text)}_ ")
            top.until(rf"filter {re.escape(text)}: {len(left)} of 2")
            assert top.comms == left
            top.press("\r")
            top.until("^g growth")
            assert top.comms == left
        top.press("/xq\x7f\x7fb")
        top.until("^/b_ ")
        assert top.comms == ["big"]
        top.press("\x1b")
        top.until("^g growth")
        assert top.comms == ["slow", "big"]
        top.press("q")
        assert top.end() == 0


def test_freeze():
    """What is shown stays, sorts and filters; then it goes on."""
    with scene(CLIENT, name="client") as client, Screen("-d", "0.1") as top:
        top.until(r"^ *\d+ client +3 ")
        top.press(" ")
        top.until("^FROZEN")
        grow(client)
        seen = len(top.text)
        top.press("w")
        top.until("FROZEN .* by waiting")
        top.read(0.5)
        assert len(top.text) - seen < 4000  # once more, and not again and again
        assert re.match(r" *\d+ client +3 ", top.screen.display[2])
        top.press("f")
        top.until(r"^ *\d+ client +5 ")
        assert not top.screen.display[0].startswith("FROZEN")


@pytest.mark.parametrize(
    ("how", "status"), [("q", 0), ("\x03", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=repr
)
def test_the_terminal_is_given_back(how, status):
    """Whatever ends it, in the middle of a look or between two."""
    with Screen("-d", "0.1") as top:
        top.until("^g growth")
        assert termios.tcgetattr(top.terminal) != top.before
        if isinstance(how, str):
            top.press(how)
        else:
            top.process.send_signal(how)
        assert top.end() == status
        assert top.is_given_back()


def test_given_back_after_an_error():
    """A traceback comes on the shell's screen, with the terminal as it was."""
    program = "import sys; from linuxsync.cli import main; sys.modules['linuxsync.cli.top'].cost = None; main(['top'])"
    with Screen(shell=f'{sys.executable} -c "{program}"') as top:
        assert top.end() == 1
        assert top.is_given_back()
        assert "TypeError" in top.text.decode().rpartition("\x1b[?1049l")[2]


def test_ctrl_z():
    """The shell has its terminal as it was while top is stopped, and top has its screen again afterwards."""
    command = " ".join([*TOP, "-d", "0.2"])
    with Screen(shell=f"{command}; echo stopped; read line; fg; echo over") as top:
        top.until("^g growth")
        top.press("\x1a")
        top.wait(lambda: top.count(b"\x1b[?1049lstopped"))
        assert top.is_given_back()
        screens = top.count(b"\x1b[?1049h")
        top.press("\n")
        top.wait(lambda: top.count(b"\x1b[?1049h") > screens)
        drawn = top.count(b"\x1b[J")
        top.wait(lambda: top.count(b"\x1b[J") > drawn)
        top.press("q")
        assert top.end() == 0
        assert top.text.endswith(b"over\r\n")
        assert top.is_given_back()


def test_resize():
    """The next screen is as large as the terminal is then: wider has what the fences are, small has less."""
    with two_scenes(), Screen("-d", "60") as top:
        top.until("^g growth")
        top.resize(120, 30)
        assert top.until("WAITING FOR +$")
        top.until("^g growth")
        assert top.screen.display[29].startswith("g growth")
        assert re.search(r" sw_sync/slow +$", "\n".join(top.screen.display), re.MULTILINE)
        for columns, lines in ((40, 10), (20, 5), (10, 2), (1, 1)):
            top.resize(columns, lines)
            seen = len(top.text)
            top.wait(lambda seen=seen: b"\x1b[J" in top.text[seen:])
            last = top.text[seen:].decode().rpartition("\x1b[H")[2]
            shown = re.sub(r"\x1b\[[0-9]*[a-zA-Z]|\r", "", last).split("\n")
            assert len(shown) <= lines and all(len(line) <= columns for line in shown)


def test_no_line_is_too_long():
    """Names that are long, wide and hostile: cut, escaped, and every line is within the terminal."""
    text = """
timeline = Timeline(os.fsdecode(b"t\\x1b]0;owned\\x07\\xff"))
fences = [timeline.create_fence(1 << 30) for _ in range(20)]
fork(30)
ready()
"""
    with scene(text, name="\N{CJK UNIFIED IDEOGRAPH-706B}\x1b[2J\n\x9b9"), Screen("-d", "0.2", columns=120) as top:
        top.until(r"\d+ more rows; .*linuxsync uses")
        assert r"sw_sync/t\x1b]0;owned\x07\xff" in top.screen.display[2]
        assert re.match(r" *\d+ \N{CJK UNIFIED IDEOGRAPH-706B}\\x1b\[2J\\n\\x9… ", top.screen.display[2])
        assert len(top.comms) == 19
        top.resize(80, 24)
        top.until("WAITING *$")
        top.press("/" + "long" * 30)
        top.until("^/(long){10}.*…$")
        top.press("\r")
        top.until("filter (long){10}")
        escapes = set(re.findall(r"\x1b[^A-Za-z]*[A-Za-z]", top.text.decode()))
        assert escapes <= {f"\x1b[{one}" for one in ("?1049h", "?25l", "?7l", "H", "2K", "7m", "0m", "J")}
        controls = set(re.sub(r"\x1b[^A-Za-z]*[A-Za-z]", "", top.text.decode()))
        assert {one for one in controls if not one.isprintable()} <= {"\r", "\n"}


def test_unseen_is_in_the_footer():
    """An ordinary user is told what is missing."""
    become = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
    program = f"import os; from linuxsync.cli import main; {become}; main(['top'])"
    with scene(CLIENT), Screen(shell=f'{sys.executable} -c "{program}"') as top:
        top.until(r"^\d+ processes not seen: of another user, or not to be traced: try as root")
        top.press("q")
        assert top.end() == 0


def test_dumb_terminal():
    """One that can't be drawn on gets tables."""
    with Screen(shell=f"TERM=dumb {' '.join(TOP)} -n 1") as top:
        assert top.end() == 0
        assert b"a look takes" in top.text and b"\x1b" not in top.text


COST = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
timeline = Timeline("many")
held = [timeline.create_fence(1 + i) for i in range(int(sys.argv[1]))]
ready()
"""


def test_what_it_adds_to_a_bare_look():
    """Keeping state and drawing cost a small part of what asking costs."""
    with scene(COST, "2000"):
        watch, view = Watch(), View("growth", 1.0)
        bare, added = [], []
        for _ in range(7):
            began = time.process_time()
            found = scan()
            held = sync_files(found)
            asked = time.process_time()
            rows = watch.update(found, held, time.monotonic_ns())
            assert len(screen(Look(rows, held, found.unseen, 0.0, 0.1, 0.1), view, 80, 24)) == 24
            bare.append(asked - began)
            added.append(time.process_time() - asked)
    print(f"asking takes {median(bare):.3f} s, top {median(added):.3f} s more")
    assert median(added) < 0.5 * median(bare)
