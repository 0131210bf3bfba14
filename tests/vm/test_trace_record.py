"""trace record and trace live: what is recorded, where it goes, and that nothing stays behind, however they end."""

import errno
import io
import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest
from children import forked
from clock_words import after
from kernel_words import free_descriptors, refused
from look_words import as_nobody, linuxsync
from test_inspect_leaks import TRACEFS, trace_state

from linuxsync import Timeline, _tracefs, trace
from linuxsync.inspect import record_stacks

PROGRAM = """
import sys
from linuxsync import Timeline
with Timeline("scene") as line:
    for value in range(1, int(sys.argv[1]) + 1):
        with line.create_fence(value):
            line.inc()
print("done", flush=True)
sys.exit(int(sys.argv[2]))
"""


def run(*arguments, **options):
    """linuxsync in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "linuxsync.cli", "trace", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def goes_on(path, process):
    """Wait until it records."""
    deadline = time.monotonic() + 600
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def instances():
    return [entry.name for entry in (TRACEFS / "instances").iterdir()]


def is_recording(instance):
    """Whether what happens to fences is being recorded there."""
    try:
        return (instance / "tracing_on").read_text() == "1\n" and "dma_fence:" in (instance / "set_event").read_text()
    except OSError:
        return False  # it has gone


def once_it_records(work):
    """What is to be done as soon as somebody records."""

    def wait_and_work():
        deadline = time.monotonic() + 600
        while not any(is_recording(instance) for instance in (TRACEFS / "instances").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        work()

    return wait_and_work


def some_fences(count=10, name="some"):
    with Timeline(name) as line:
        for value in range(1, count + 1):
            with line.create_fence(value):
                line.inc()


@pytest.fixture(autouse=True)
def tracing_is_as_it_was():
    before = trace_state()
    yield
    assert trace_state() == before


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fences.trace"


@pytest.mark.parametrize("status", [0, 3])
def test_a_command(file, status):
    """Recorded as long as it runs; its output, its exit status."""
    done = run("record", "-o", str(file), "--", sys.executable, "-c", PROGRAM, "50", str(status))
    out, err = done.communicate(timeout=600)
    assert (done.returncode, out) == (status, "done\n")
    assert re.search(r"^linuxsync: [\d,]+ events, 0 lost, [\d.]+ MiB in \S+, [\d.]+ m?s\n", err)
    recorded = trace.load(file)
    assert recorded.damage == []
    (line,) = [line for line in recorded.timelines if line.name == "scene"]
    assert [fence.seqno for fence in line.fences] == [*range(1, 51)]
    assert all(fence.exact and fence.destroy_ns is not None for fence in line.fences)
    assert recorded.command.startswith(f"linuxsync trace record -o {file} -- ")
    assert (recorded.kernel, recorded.machine) == (os.uname().release, os.uname().nodename)
    assert abs(recorded.wall_ns + recorded.end_ns - time.time_ns()) < 120e9


def test_a_command_that_is_killed(file):
    """As the shell says it."""
    done = run("record", "-o", str(file), "--", "sh", "-c", "kill -KILL $$")
    done.communicate(timeout=600)
    assert done.returncode == 128 + signal.SIGKILL
    assert trace.load(file).damage == []


def test_a_command_that_is_not_there(file):
    """Status 127, and a line."""
    said = linuxsync("trace", "record", "-o", str(file), "--", "/nonexistent/program")
    assert said.status == 127
    assert said.err == "Error: /nonexistent/program: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_well(file, number):
    """The file is whole; of the signals that mean it the status tells."""
    recording = run("record", "-o", str(file))
    goes_on(file, recording)
    some_fences()
    recording.send_signal(number)
    _, err = recording.communicate(timeout=600)
    assert recording.returncode == (0 if number == signal.SIGINT else -number), err
    recorded = trace.load(file)
    assert recorded.damage == []
    assert len([fence for fence in recorded.fences if fence.timeline.name == "some"]) == 10


def test_signals_go_to_the_command(file):
    """SIGTERM means the command; it and the recording end."""
    recording = run("record", "-o", str(file), "--", "sleep", "1000")
    goes_on(file, recording)
    time.sleep(0.5)
    recording.send_signal(signal.SIGTERM)
    recording.communicate(timeout=600)
    assert recording.returncode == 128 + signal.SIGTERM
    assert trace.load(file).damage == []


def test_killed(file):
    """What a recorder that is killed leaves is removed by the next one, and its file has all but the last block."""

    def count_early():
        try:
            return len([fence for fence in trace.load(file).fences if fence.timeline.name == "early"])
        except trace.TraceError:
            return 0  # its first block is not there yet

    recording = run("record", "-o", str(file))
    goes_on(file, recording)
    some_fences(name="early")
    deadline = time.monotonic() + 600
    while count_early() < 10:  # the file grows by what was before them, too
        assert time.monotonic() < deadline
        time.sleep(0.1)
    recording.kill()
    recording.communicate()
    left = [name for name in instances() if name.startswith(f"linuxsync_{recording.pid}_")]
    assert len(left) == 1
    recorded = trace.load(file)
    assert recorded.damage == ["it has no end: its recorder was killed, and what came after the last block is missing"]
    assert count_early() == 10
    said = linuxsync("trace", "report", str(file))
    assert said.status == 0
    assert "it has no end" in said.err
    with trace.recording():
        assert not [name for name in instances() if name in left]


def test_the_disk_is_full(tmp_path):
    """That is said, and what was written can be read."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    try:
        file = place / "fences.trace"
        recording = run("record", "-o", str(file))
        goes_on(file, recording)
        deadline = time.monotonic() + 600
        while recording.poll() is None:
            assert time.monotonic() < deadline
            some_fences(500)
        _, err = recording.communicate()
        assert recording.returncode == 2
        assert err.endswith("Error: can't write: No space left on device\n")
        recorded = trace.load(file)
        assert recorded.damage == [
            "it has no end: its recorder was killed, and what came after the last block is missing"
        ]
        assert len(recorded.fences) > 100
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_stdout(tmp_path):
    """-o - is for pipes; a command's output is then no part of it."""
    scene = [sys.executable, "-c", PROGRAM, "5", "0"]
    record = [sys.executable, "-m", "linuxsync.cli", "trace", "record", "-o", "-", "--"]
    done = subprocess.run([*record, *scene], capture_output=True, timeout=600, check=True)
    assert b"done\n" in done.stderr
    (tmp_path / "it").write_bytes(done.stdout)
    assert trace.load(tmp_path / "it").damage == []


def test_after_a_block_that_had_no_room(tmp_path):
    """Nothing comes, though there is room again: the file ends with the block before."""
    file = tmp_path / "it"
    with file.open("wb", buffering=0) as stream:
        writer = trace.file.Writer(stream)
        writer.write("page", os.urandom(1000))
        whole = file.read_bytes()
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            with pytest.raises(OSError) as caught:
                writer.write("page", os.urandom(1 << 16))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError) as caught:
            writer.write("page", os.urandom(100))
        assert caught.value.errno == errno.EFBIG
    assert file.read_bytes() == whole and writer.size == len(whole)


def test_what_takes_a_part_only(tmp_path):
    """A block is written whole, also to a pipe that is full, with no buffer of Python's in between."""
    hear, tell = os.pipe()
    with open(hear, "rb") as reader, open(tell, "wb", buffering=0) as stream:
        told = []
        thread = threading.Thread(target=lambda: told.append(reader.read()))
        writer = trace.file.Writer(Sips(stream))
        thread.start()
        content = os.urandom(1 << 18)
        writer.write("page", content)
        stream.close()
        thread.join()
    damage = []
    assert [*trace.file.blocks(io.BytesIO(told[0]), damage)] == [("page", content)]
    assert damage == []


class Sips(io.RawIOBase):
    """Takes 1,000 bytes at most."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, data):
        return self.stream.write(data[:1000])


def test_other_files_are_not_overwritten(file):
    """A recording is, what is none is not."""
    file.write_text("my thesis\n")
    said = linuxsync("trace", "record", "-o", str(file), "--for", "0.1")
    assert said.status == 2
    assert said.err.startswith(f"Error: {file} is no recording, and is not overwritten")
    assert file.read_text() == "my thesis\n"
    file.unlink()
    for _ in range(2):
        assert linuxsync("trace", "record", "-o", str(file), "--for", "0.1").status == 0
    assert trace.load(file).damage == []
    missing = linuxsync("trace", "record", "-o", str(file / "in a file"), "--for", "0.1")
    assert missing.status == 2


def test_a_bad_request_leaves_the_file(file):
    """The recording that was there is overwritten once there is a new one."""
    assert linuxsync("trace", "record", "-o", str(file), "--for", "0.1").status == 0
    before = file.read_bytes()
    said = linuxsync("trace", "record", "-o", str(file), "--pid", "4000000")
    assert said.status == 2
    assert said.err == "Error: no process 4000000\n"
    said = linuxsync("trace", "record", "-o", str(file), "--buffer", "1048576", "--for", "0.1")
    assert said.status == 2
    assert said.err.startswith("Error: no memory is left")
    assert file.read_bytes() == before


def test_an_ordinary_user(tmp_path):
    """It takes root, which is said."""
    for command in ("record", "live"):
        import_module(f"linuxsync.cli.trace_{command}")  # which nobody can't where the checkout is root's alone
        said = as_nobody("trace", command, "--for", "0.1")
        assert said.status == 2
        assert said.err.startswith("Error: it takes root")


def test_the_global_trace_is_left_alone():
    """Its clock, its events and its buffer."""
    files = [TRACEFS / name for name in ("trace_clock", "buffer_size_kb", "tracing_on", "set_event", "set_event_pid")]
    before = [file.read_text() for file in files]
    with trace.recording(syscalls=True, pids=[os.getpid()]):
        some_fences()
        assert [file.read_text() for file in files] == before
        assert "dma_fence" not in (TRACEFS / "trace").read_text()
    assert [file.read_text() for file in files] == before


def test_two_at_once(file):
    """Each has all of it."""
    with trace.recording() as one, trace.recording() as two:
        some_fences(5)
    assert [fence.name for fence in one.fences] == [fence.name for fence in two.fences]
    assert len(one.fences) == 5


def test_python(file):
    """What a recording says only when it is over; what goes wrong in it; the file that it keeps."""
    with trace.recording(file) as recorded:
        some_fences(3)
        with pytest.raises(RuntimeError, match="still goes on"):
            recorded.fences  # noqa: B018
    assert len(recorded.fences) == len(trace.load(file).fences) == 3
    assert recorded.lost == 0
    assert recorded.latency(timeline="some").count == 3
    with pytest.raises(ValueError, match="smoe"):
        recorded.latency(timeline="smoe")
    with pytest.raises(ZeroDivisionError), trace.recording() as failed:
        1 / 0  # noqa: B018
    assert failed.fences == []
    with refused(3, ProcessLookupError), trace.recording(pids=[4000000]):
        pass


def test_a_process_that_forks_while_it_records():
    """The child has nothing to do with it."""
    with trace.recording() as recorded, forked(some_fences):
        pass
    assert len(recorded.fences) == 10


def test_a_child_that_unwinds(tmp_path):
    """The recording, its instance and its file are its parent's."""
    for path in (None, str(tmp_path / "it")):
        program = f"""
import os
from linuxsync import Timeline, trace
def work():
    with Timeline("x") as line, line.create_fence(1):
        line.inc()
try:
    with trace.recording({path!r}) as recorded:
        work()
        if os.fork() == 0:
            raise ValueError("in the child")
        os.wait()
        work()
    print(len(recorded.fences), recorded.trace.damage)
except ValueError:
    pass
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True)
        assert (done.stdout, done.stderr) == ("2 []\n", "")


def test_an_exception_ends_it():
    """And what was recorded until then is there: a test that failed wants it."""
    with pytest.raises(ZeroDivisionError), trace.recording() as recorded:
        some_fences(4)
        1 / 0  # noqa: B018
    assert len(recorded.fences) == 4


def test_killed_in_a_pid_namespace(file):
    """What is left by one that nobody sees any more is removed, too."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    record = [sys.executable, "-m", "linuxsync.cli", "trace", "record", "-o", str(file)]
    recording = subprocess.Popen([*unshare, *record], stderr=subprocess.PIPE, text=True)
    goes_on(file, recording)
    (name,) = [name for name in instances() if name.startswith("linuxsync_")]
    with trace.recording():
        assert name in instances()
    recording.kill()
    recording.communicate()
    deadline = time.monotonic() + 600
    while name in instances():  # until its process is gone
        assert time.monotonic() < deadline
        with trace.recording():
            time.sleep(0.1)


def test_a_pipe_with_a_name(tmp_path):
    """Is written to, and not looked into before."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    recording = run("record", "--for", "0.2", "-o", str(pipe))
    content = pipe.read_bytes()
    assert recording.wait(60) == 0
    recording.communicate()
    (tmp_path / "it").write_bytes(content)
    assert trace.load(tmp_path / "it").damage == []


@pytest.mark.parametrize("comm", ["end\n", "\n\n", "a\n1 b", " ", "\n 7 x", "\udcff\n"])
def test_threads_with_names_of_several_lines(comm):
    """Which in the kernel's list look like those of others."""
    raw = os.fsencode(comm)

    def work():
        Path("/proc/self/comm").write_bytes(raw)
        some_fences(3)
        time.sleep(0.1)

    init = Path("/proc/1/comm").read_text().strip()
    with trace.recording() as recorded:
        with forked(work) as child:
            pass
        some_fences(1, "ours")
    assert len([fence for fence in recorded.fences if fence.timeline.name == "some"]) == 3
    (thread,) = {fence.creator for fence in recorded.fences if fence.creator.tid == child}
    assert "\n" not in thread.comm or thread.comm == comm
    assert 1 not in recorded.trace.threads or recorded.trace.threads[1].comm == init
    assert linuxsync("trace", "live", "--for", "0.1").status == 0


def test_lost_events_are_counted():
    """Those that were overwritten, to the last one, and said by all who read the file."""
    count = 3000
    with trace.source.source(None, False, 64) as made:
        made.go(True)
        some_fences(count, "fast")
        made.go(False)
        events, lost = made.count()
        pages = trace.decode.Pages((TRACEFS / "events/header_page").read_text(), made.formats, sys.byteorder)
        for _, cpu, page in made.read():
            pages.add_page(cpu, page)
    assert lost > 0
    assert len(pages.found) == events - lost
    # Of each fence four are the kernel's and one a probe's; naming the timeline takes one more.
    assert events == 5 * count + 1


def test_lost_events_are_said(file, monkeypatch):
    """On stderr, in the file, in the report."""
    monkeypatch.setattr(trace.record, "EVERY", 600)
    with trace.recording(file, buffer=64) as recorded:
        some_fences(3000)
    assert recorded.lost > 0
    said = linuxsync("trace", "report", str(file))
    assert f"{recorded.lost:,} events" in said.err.replace(str(recorded.lost), f"{recorded.lost:,}")


def test_live():
    """A line each, in order, as it happens; JSON has the same."""
    process = run("live", "--json", "--timeline", "lively", "--timeline", "unbound")
    seen = []
    with process, after(240, process.kill):
        try:
            once_it_records(lambda: None)()
            with (
                Timeline("lively") as line,
                Timeline("other") as other,
                line.create_fence(1) as fence,
                other.create_fence(1) as second,
            ):
                (fence | second).close()
                line.inc()
                name, stamp = fence.name, fence.timestamp_ns
            while not seen or (seen[-1]["timeline"], seen[-1]["event"]) != ("lively", "destroy"):
                seen.append(json.loads(process.stdout.readline()))
            process.send_signal(signal.SIGINT)
            seen += map(json.loads, process.stdout)
            assert (process.stderr.read(), process.wait()) == ("", 0)
        finally:
            process.kill()
    assert [one["ns"] for one in seen] == sorted(one["ns"] for one in seen)
    ours = [one for one in seen if one["timeline"] == "lively"]
    assert [one["event"] for one in ours if one["event"] != "inc"] == ["init", "signaled", "destroy"]
    (signaled,) = [one for one in ours if one["event"] == "signaled"]
    assert f"sw_sync-lively{signaled['context']}-{signaled['seqno']}" == name
    assert signaled["ns"] == stamp
    assert signaled["since_init_ns"] == stamp - ours[[one["event"] for one in ours].index("init")]["ns"]
    assert signaled["tid"] == os.getpid()
    (array,) = [one for one in seen if one["event"] == "init" and one["driver"] == "dma_fence_array"]
    assert len(array["inputs"]) == 2
    assert array["inputs"][0] == {"context": signaled["context"], "seqno": 1}


def test_live_lines():
    """For people; what a name would do to a terminal is escaped."""
    process = run("live", "--event", "signaled")
    with process, after(240, process.kill):
        try:
            once_it_records(lambda: some_fences(2, "a\x1b[31m"))()
            lines = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert (process.stdout.read(), process.stderr.read(), process.wait()) == ("", "", 0)
        finally:
            process.kill()
    for number, text in enumerate(lines, 1):
        assert re.fullmatch(
            rf" +\d+\.\d{{6}}  \S+/\d+ +signaled +sw_sync a\\x1b\[31m \d+:{number}  \+[\d.]+ [um]?s\n", text
        ), text


def test_stale_probes_of_others_stay():
    """Somebody else's probes are as they were."""
    _tracefs.write(TRACEFS / "kprobe_events", "p:foreign/probe sync_file_create\n")
    try:
        with trace.recording():
            assert "p:foreign/probe" in (TRACEFS / "kprobe_events").read_text()
        assert "p:foreign/probe" in (TRACEFS / "kprobe_events").read_text()
    finally:
        _tracefs.write(TRACEFS / "kprobe_events", "-:foreign/probe\n")


@pytest.mark.parametrize("what", ["recording", "recorder", "live_events", "record_stacks"])
def test_no_descriptor_is_left_at_the_end(what):
    """What a recording still has to write can't be; but the instance goes, and its probes, as the fixture sees."""
    made = {
        "recording": trace.recording,
        "recorder": lambda: trace.recorder(io.BytesIO()),
        "live_events": trace.live_events,
        "record_stacks": lambda: record_stacks([os.getpid()]),
    }[what]()
    with ExitStack() as taken:
        made.__enter__()
        taken.enter_context(free_descriptors(0))
        if what in ("live_events", "record_stacks"):
            made.__exit__(None, None, None)
        else:
            with refused(errno.EMFILE):
                made.__exit__(None, None, None)


def test_few_descriptors_are_left_at_the_beginning(monkeypatch):
    """However many there are: too few are EMFILE, and nothing stays; tempfile would say that it finds no folder."""
    before = trace_state()
    monkeypatch.setattr(tempfile, "tempdir", None)
    for free in count():
        try:
            with free_descriptors(free), trace.recording():
                pass
        except OSError as error:
            assert error.errno == errno.EMFILE, f"with {free}: {error!r}"
            assert trace_state() == before
        else:
            break
    assert free > 3  # its file, what the removal takes, and the buffer of one CPU


def test_without_dma_fence_events(tmp_path, monkeypatch):
    """Which the error names."""
    monkeypatch.setattr(trace.source, "OF_PROCESSES", ())
    with refused(2, FileNotFoundError) as caught, trace.recording():
        pass
    assert "CONFIG_FTRACE" in str(caught.value)


def test_live_ends_when_asked_to():
    """Also while more happens than it can print; what it missed it says where that was."""
    stop, tell = os.pipe()

    def make():
        while not select.select([stop], [], [], 0)[0]:
            some_fences(100, "busy")

    process = run("live", "--json")
    deadline = time.monotonic() + 600

    def printed(enough=math.inf):
        """Its lines, until there are enough of them or no more. In this thread: another would keep it off the GIL."""
        text = b""
        while text.count(b"\n") < enough and (more := os.read(process.stdout.fileno(), 1 << 16)):
            text += more
            assert time.monotonic() < deadline
        return text

    with process:
        try:
            with forked(make):
                before = printed(1000)
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
                after = printed()
                os.write(tell, b"x")
            process.wait(60)
        finally:
            process.kill()
    os.close(stop)
    os.close(tell)
    assert process.returncode == -signal.SIGTERM
    assert after.count(b"\n") < 3000  # what the pipe held, and not all that there was to print
    seen = [json.loads(text) for text in (before + after).splitlines()]
    assert {one["event"] for one in seen} <= {"init", "signaled", "destroy", "inc", "lost"}
    assert all(one["more"]["events"] > 0 for one in seen if one["event"] == "lost")


def test_live_ends_with_much_to_print():
    """What has just happened it prints, but not thousands of lines more."""
    with run("live", "--json") as process:
        try:
            while not any(is_recording(instance) for instance in (TRACEFS / "instances").iterdir()):
                assert process.poll() is None
                time.sleep(0.05)
            some_fences(1, "alone")
            assert json.loads(process.stdout.readline())["timeline"] == "alone"
            process.send_signal(signal.SIGSTOP)
            some_fences(1000, "many")
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            seen = [json.loads(text) for text in process.stdout]
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGTERM
    assert 0 < len(seen) <= 512


def test_live_count():
    """On a terminal record says how it goes, and takes that away in the end."""
    ours, theirs = os.openpty()
    record = [sys.executable, "-m", "linuxsync.cli", "trace", "record", "--for", "5", "-o", "-"]
    with open(ours, "rb", buffering=0) as screen:
        recording = subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        some_fences(10)
        shown = b""
        try:
            while piece := screen.read(4096):
                shown += piece
        except OSError as error:  # nobody writes to it any more
            assert error.errno == errno.EIO
        assert recording.wait(60) == 0
    counts, end = shown.decode().rsplit("\r\x1b[K", 1)
    assert len(re.findall(r"\r\x1b\[K\d+ s, [\d,]+ events, 0 lost, 0\.0 MiB", counts)) >= 2
    assert re.fullmatch(r"linuxsync: [\d,]+ events, 0 lost, 0\.0 MiB, [\d.]+ s\r\n", end)
