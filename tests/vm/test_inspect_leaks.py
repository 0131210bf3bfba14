"""linuxsync leaks, and linuxsync.inspect under it: what keeps growing, until when, and where it is made."""

import ctypes
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from clock_words import becomes
from kernel_words import libc, refused
from look_words import NOBODY, Said, as_nobody, elsewhere, linuxsync
from look_words import forked_scene as scene

from linuxsync import _tracefs
from linuxsync._proc import start_time
from linuxsync.inspect import Kind, growth, moments, record_stacks, sample, scan, sync_files, tally

TRACEFS = Path("/sys/kernel/tracing")
# Quick samples, but long enough for a slow machine to make some fences in each third of the time.
QUICK = ("--interval", "0.25", "--for", "3")

LEAKER = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4096))
timeline = Timeline("frames")
held = []
def leak():
    while True:
        held.append(timeline.create_fence(1 + len(held)))
        time.sleep(1 / 30)
threading.Thread(target=leak, daemon=True).start()
ready()
"""

STEADY = """
timeline = Timeline("steady")
held = [timeline.create_fence(n) for n in range(1, 31)]
def busy():
    while True:
        held.append(timeline.create_fence(1))
        held.pop(0).close()
        time.sleep(0.01)
threading.Thread(target=busy, daemon=True).start()
ready()
"""

SAWTOOTH = """
timeline = Timeline("sawtooth")
held = []
def saw():
    while True:
        held.append(timeline.create_fence(1 + len(held)))
        if len(held) == 20:
            while held:
                held.pop().close()
        time.sleep(0.02)
threading.Thread(target=saw, daemon=True).start()
ready()
"""

PROGRAM = """
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

struct sw_sync_create_fence_data { unsigned int value; char name[32]; int fence; };

static int create_fence(int timeline, unsigned int value)
{
    struct sw_sync_create_fence_data data = { .value = value, .fence = -1 };

    ioctl(timeline, _IOWR('W', 0, struct sw_sync_create_fence_data), &data);
    return data.fence;
}

int leak_here(int timeline, unsigned int value)
{
    return create_fence(timeline, value) + 1;
}

int render_frame(int timeline, unsigned int value)
{
    return leak_here(timeline, value) + 1;
}

int main(void)
{
    struct rlimit many = { 4000, 4096 };
    int timeline = open("/sys/kernel/debug/sync/sw_sync", O_RDWR);

    if (timeline < 0 || setrlimit(RLIMIT_NOFILE, &many))
        return 1;
    puts("ready");
    fflush(stdout);
    for (unsigned int value = 1; render_frame(timeline, value) > 1; value++)
        usleep(1000000 / 30);
    return 0;
}
"""


@contextmanager
def compositor(folder, *flags):
    """A program that leaks in leak_here(), called from render_frame()."""
    source, program = folder / "compositor.c", folder / "compositor"
    source.write_text(PROGRAM)
    command = [
        os.environ.get("CC", "cc"),
        "-O0",
        "-Wall",
        "-Wextra",
        "-Werror",
        *flags,
        "-o",
        str(program),
        str(source),
    ]
    subprocess.run(command, check=True)
    with subprocess.Popen([str(program)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process.pid, program
        finally:
            process.kill()


def fds_of(pid):
    """The descriptors of a process."""
    return [*Path(f"/proc/{pid}/fd").iterdir()]


def trace_state():
    """What tracefs has of instances, probes, and the global buffer's settings."""
    files = ("kprobe_events", "set_event", "tracing_on", "trace_options", "current_tracer", "set_event_pid", "trace")
    return sorted(entry.name for entry in (TRACEFS / "instances").iterdir()), {
        name: (TRACEFS / name).read_text() for name in files
    }


@contextmanager
def in_background(*arguments):
    """`linuxsync leaks` in a process of its own, once all of its probes are there."""
    program = [sys.executable, "-m", "linuxsync.cli", "leaks", *arguments]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        last = re.compile(rf":linuxsync_{process.pid}_\w+/drm_gem_prime_handle_to_fd ")
        while not last.search((TRACEFS / "kprobe_events").read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def only(said, **wanted):
    """The rows of what a command said in which columns have these values."""
    return [row for row in said.json["leaks"] if all(row[name] == value for name, value in wanted.items())]


def test_who_leaks_and_until_when():
    """One that leaks, one that always has 30, one that goes up and down: the first, and when it has 4000."""
    with scene(STEADY, name="steady") as steady, scene(SAWTOOTH, name="sawtooth") as saw, scene(LEAKER) as found:
        said = linuxsync("leaks", *QUICK, "--json")
        assert said.status == 1
        (leak,) = said.json["leaks"]
        assert (leak["pid"], leak["comm"], leak["uid"]) == (found.pid, "scene", 0)
        assert (leak["kind"], leak["driver"], leak["timeline"]) == ("sync_file", ["sw_sync"], ["frames"])
        assert leak["grows"] and leak["stacks"] is None and leak["samples"] == 13
        assert 10 < leak["growth"] <= leak["count"]
        # It is 30 at most, but a sample is counted a little later than its time says.
        assert 1 < leak["rate"] < 45
        assert leak["limit"] == 4000
        # The rate of all descriptors is that of the fences, for nothing else changes; they're counted later.
        assert leak["emfile"] == pytest.approx((4000 - leak["fds"]) / leak["rate"], rel=0.5)
        assert leak["count"] < leak["fds"] < leak["count"] + 400
        everything = linuxsync("leaks", *QUICK, "--json", "--all", "--pid", str(steady.pid), "--pid", str(saw.pid))
        assert everything.status == 0
        assert {(row["pid"], row["kind"]) for row in everything.json["leaks"]} == {
            (pid, kind) for pid in (steady.pid, saw.pid) for kind in ("sync_file", "sw_sync")
        }
        assert not any(row["grows"] or row["emfile"] for row in everything.json["leaks"])


def test_the_prediction_comes_true():
    """A process says when it got EMFILE: after as long as was said, give or take what the machine's mood does."""
    text = """
import errno, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
timeline = Timeline("frames")
held = []
def leak():
    while True:
        try:
            held.append(timeline.create_fence(1 + len(held)))
        except OSError as error:
            print(json.dumps([error.errno, time.monotonic()]), flush=True)
            return
        time.sleep(0.05)
threading.Thread(target=leak, daemon=True).start()
ready()
"""
    with scene(text) as found:
        (leak,) = linuxsync("leaks", "--interval", "0.25", "--for", "3", "--json", "--pid", str(found.pid)).json[
            "leaks"
        ]
        now = time.monotonic()
        assert found.process.stdout is not None
        error, at = json.loads(found.process.stdout.readline())
        assert error == 24
        assert 0.25 < (at - now) / leak["emfile"] < 4


def test_the_table():
    """What people see, to the letter but for numbers."""
    with scene(LEAKER, name="compositor") as found:
        shown = linuxsync("leaks", *QUICK, "--pid", str(found.pid))
    assert (shown.status, shown.err) == (1, "")
    header, line = shown.out.splitlines()
    assert header.split() == [
        *("PID", "COMM", "KIND", "DRIVER", "TIMELINE", "COUNT", "GROWTH", "RATE", "FDS", "LIMIT", "EMFILE"),
    ]
    assert re.fullmatch(
        rf" *{found.pid}  compositor  sync_file  sw_sync  frames +\d+ +\+\d+ +[\d.]+/s +\d+ +4000 +in [\d.]+ (s|min)",
        line,
    ), line
    assert len(header) == len(line)


def test_options_and_filters():
    """-o and -n; what is asked for is known before anything is measured; filters leave the others out."""
    with scene(LEAKER, name="one") as one, scene(LEAKER.replace("frames", "other"), name="two"):
        for options in (["--pid", str(one.pid)], ["--comm", "o?e", "--timeline", "fr*"]):
            said = linuxsync("leaks", *QUICK, "-n", "-o", "comm,timeline,grows", *options)
            assert (said.status, said.out.split()) == (1, ["one", "frames", "True"])
        assert linuxsync("leaks", *QUICK, "--driver", "i915").status == 0
    before = time.monotonic()
    wrong = linuxsync("leaks", "--for", "1000", "-o", "colour")
    assert wrong.status == 2 and "no such column: COLOUR" in wrong.err
    few = linuxsync("leaks", "--interval", "1", "--for", "7")
    assert few.status == 2 and "--for takes at least 8 intervals: 8 s" in few.err
    nobody = linuxsync("leaks", "--for", "1000", "--pid", "4000000")
    assert nobody.status == 2 and "no process 4000000" in nobody.err
    assert time.monotonic() - before < 500


def test_alarm():
    """Ends with 1 as soon as there are so many more than at the start, and with 0 if that does not happen."""
    with scene(LEAKER) as found, scene(STEADY):
        before = time.monotonic()
        said = linuxsync("leaks", "--interval", "0.2", "--for", "1000", "--alarm", "20", "--json")
        assert time.monotonic() - before < 500
        assert said.status == 1
        (leak,) = said.json["leaks"]
        assert leak["pid"] == found.pid and leak["growth"] > 20
        calm = linuxsync("leaks", *QUICK, "--alarm", "3000", "--json")
        assert calm.status == 0
        assert [row["pid"] for row in calm.json["leaks"]] == [found.pid]


def test_alarm_for_one_that_came_later():
    """More than when it was first seen, which need not be at the start."""
    program = [sys.executable, "-m", "linuxsync.cli", "leaks", "--interval", "0.2", "--for", "1000", "--alarm", "20"]
    with subprocess.Popen([*program, "--json"], stdout=subprocess.PIPE, text=True) as watcher:
        try:
            time.sleep(3)
            with scene(LEAKER) as found:
                out, _ = watcher.communicate(timeout=120)
        finally:
            watcher.kill()
    assert watcher.returncode == 1
    assert [row["pid"] for row in json.loads(out)["leaks"]] == [found.pid]


def test_buffers():
    """dma-bufs by who exported them."""
    text = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4096))
heap = DmaHeap()
held = []
def leak():
    while True:
        held.append(heap.alloc(4096))
        time.sleep(0.05)
threading.Thread(target=leak, daemon=True).start()
ready()
"""
    with scene(text) as found:
        said = linuxsync("leaks", *QUICK, "--stacks", "--json")
    (leak,) = said.json["leaks"]
    assert (leak["pid"], leak["kind"], leak["driver"], leak["timeline"]) == (found.pid, "dma_buf", ["system"], [])
    made = {(one["made_by"], one["kernel"][0]) for one in leak["stacks"]}
    # Whether a heap takes dma_buf_fd depends on the kernel.
    assert ("dma_buf_export", "system_heap_allocate") in made
    assert made <= {("dma_buf_export", "system_heap_allocate"), ("dma_buf_fd", "dma_heap_ioctl")}
    # Nobody compiles Python's own ioctl() or the C library's with frame pointers.
    assert {one["user"][0]["function"] for one in leak["stacks"]} == {"ioctl"}


def older_than_a_tick():
    """Wait for longer than a clock tick: of a process that was started in the same one a sample does not tell."""
    time.sleep(0.05)


def test_what_is_growth(timeline):
    """Real samples of this process: three spans of which each lies above the one before, told of 9 or more samples."""

    def measure(counts):
        held, samples = [], []
        for count in counts:
            while len(held) < count:
                held.append(timeline.create_fence(1))
            while len(held) > count:
                held.pop().close()
            samples.append(sample([os.getpid()]))
        while held:
            held.pop().close()
        return next(one for one in growth(samples) if one.sort.kind is Kind.SYNC_FILE)

    leak = measure([0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert (leak.grows, leak.growth, leak.count, leak.samples) == (True, 8, 8, 9)
    assert leak.per_second > 0 and not leak.ended
    assert leak.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert leak.emfile_seconds == pytest.approx((leak.limit - leak.fds) / leak.per_second)
    # With some that come and go on top.
    assert measure([0, 2, 1, 4, 3, 5, 8, 6, 9]).grows
    # The samples where spans meet may have been taken at once.
    assert measure([0, 1, 2, 2, 3, 4, 4, 5, 6]).grows
    for counts in (
        [0, 1, 2, 3, 4, 5, 6, 7],
        [4, 4, 4, 4, 4, 4, 4, 4, 4],
        [1, 1, 1, 1, 9, 9, 9, 9, 9],
        [1, 5, 9, 1, 5, 9, 1, 5, 9],
        [1, 2, 3, 4, 5, 6, 6, 6, 6],
        [1, 2, 4, 3, 5, 6, 7, 8, 9],
        [1, 2, 3, 3, 3, 4, 5, 6, 7],
        [9, 8, 7, 6, 5, 4, 3, 2, 1],
    ):
        calm = measure(counts)
        assert (calm.grows, calm.emfile_seconds, calm.growth) == (False, None, counts[-1] - counts[0])


def test_moments():
    """One in each interval, at random, from 0 to the end."""
    at = list(moments(0.5, 5))
    assert len(at) == 11 and at[0] == 0
    assert all(number * 0.5 <= moment <= (number + 1) * 0.5 for number, moment in enumerate(at[1:]))
    assert at != list(moments(0.5, 5))


def test_a_process_that_ends_or_starts():
    """It is judged by the samples in which it was there; a later one of its number is another process."""
    text = """
timeline = Timeline("t")
held = [timeline.create_fence(1) for _ in range(int(sys.argv[1]))]
ready()
"""
    samples = [sample() for _ in range(2)]
    with scene(text, "5") as found:
        older_than_a_tick()
        samples += [sample() for _ in range(2)]
    samples.append(sample())
    (gone,) = (one for one in growth(samples) if one.sort.kind is Kind.SYNC_FILE)
    assert gone.sort.process.pid == found.pid
    assert (gone.samples, gone.count, gone.growth, gone.ended, gone.grows) == (2, 5, 0, True, False)
    assert gone.emfile_seconds is None


def test_a_number_that_is_used_again(timeline):
    """The one that has it now has no past; its descriptors are not counted from the other's."""

    @contextmanager
    def born(pid, count):
        """A child with that number, which holds so many fences."""
        reading, writing = os.pipe()
        # struct clone_args, of which it takes exit_signal, set_tid and set_tid_size; clone3(2) is 435 on every machine.
        number = ctypes.c_int32(pid)
        clone_args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
        child = libc.syscall(435, ctypes.byref(clone_args), ctypes.sizeof(clone_args))
        if child == -1:
            raise OSError(ctypes.get_errno(), "clone3")
        if child == 0:
            held = [timeline.create_fence(1) for _ in range(count)]
            os.write(writing, b"!")
            signal.pause()
            os._exit(len(held))
        assert child == pid
        try:
            assert os.read(reading, 1) == b"!"
            older_than_a_tick()
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)

    # The number of one that has gone is free, and nobody gets it by chance before all others have been used.
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    samples = []
    for count in (3, 40):
        with born(gone, count):
            samples += [sample([gone]) for _ in range(5)]
    old, new = sorted((one for one in growth(samples) if one.sort.kind is Kind.SYNC_FILE), key=lambda one: one.start)
    assert (old.count, old.growth, old.samples, old.ended) == (3, 0, 5, True)
    assert (new.count, new.growth, new.samples, new.ended) == (40, 0, 5, False)


def test_a_name_that_changes():
    """The same process, under the name that it has now."""
    text = """
timeline = Timeline("t")
held = [timeline.create_fence(1)]
print(json.dumps({}), flush=True)
sys.stdin.readline()
open("/proc/self/comm", "w").write("after")
held.append(timeline.create_fence(1))
ready()
"""
    with scene(text, name="before") as found:
        older_than_a_tick()
        samples = [sample([found.pid])]
        assert found.process.stdin is not None and found.process.stdout is not None
        found.process.stdin.write("\n")
        found.process.stdin.flush()
        found.process.stdout.readline()
        samples.append(sample([found.pid]))
    (one,) = (one for one in growth(samples) if one.sort.kind is Kind.SYNC_FILE)
    assert (one.sort.process.comm, one.count, one.growth) == ("after", 2, 1)


def test_counts_are_those_of_tally():
    """A sample has what there is."""
    with scene(STEADY.replace("threading.Thread(target=busy, daemon=True).start()", "")) as found:
        older_than_a_tick()
        look = scan([found.pid])
        one = sample([found.pid])
        fds = len(fds_of(found.pid))
        assert one.counts == tally(look, sync_files(look)) and sum(one.counts.values()) == 31
        assert one.tables[found.pid].fds == fds
        assert one.starts == {found.pid: start_time(found.pid)}


def test_as_an_ordinary_user():
    """Their own processes; --stacks says what it takes."""
    with scene(LEAKER):

        def leak_as_nobody(*arguments):
            return as_nobody("leaks", *arguments)

        said = leak_as_nobody(*QUICK)
        assert (said.status, said.out.count("\n")) == (0, 1)
        assert re.fullmatch(r"linuxsync: \d+ processes not seen: [^\n]*try as root\n", said.err)
        refused_ = leak_as_nobody(*QUICK, "--stacks")
        assert (refused_.status, refused_.out) == (2, "")
        assert re.fullmatch(r"Error: --stacks takes root, [^\n]*\n", refused_.err)
    # One that is theirs, which root has given a timeline.
    text = LEAKER.replace(
        "held = []", f"held = []\nos.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)"
    )
    text = text.replace("ready()", "import ctypes\nctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\nready()")
    with scene(text) as found:
        said = as_nobody("leaks", *QUICK, "--json")
        assert [(row["pid"], row["uid"]) for row in said.json["leaks"]] == [(found.pid, NOBODY)]


def test_names_are_harmless(tmp_path):
    """A process's, a timeline's and a program's, in the table and under it; and no name confuses the trace."""
    text = LEAKER.replace('"frames"', 'os.fsdecode(b"t\\x1b]0;x\\n\\xff")')
    with scene(text, name="ev\x1b[2J\n => x-1 [") as found:
        shown = linuxsync("leaks", *QUICK, "--pid", str(found.pid), "--stacks")
        assert shown.status == 1
        assert all(one.isprintable() or one == "\n" for one in shown.out)
        assert r"ev\x1b[2J\n => x-1" in shown.out
        assert r"t\x1b]0;x\n\xff" in shown.out
        assert "\n  " in shown.out and " by sync_file_create < sw_sync_ioctl < " in shown.out
    folder = tmp_path / "a\x1b[2J\nb\r (deleted)"
    folder.mkdir()
    with compositor(folder, "-fno-omit-frame-pointer") as (pid, program):
        (leak,) = linuxsync("leaks", *QUICK, "--pid", str(pid), "--stacks", "--json").json["leaks"]
        assert leak["stacks"][0]["user"][1]["binary"] == str(program)
        assert leak["stacks"][0]["user"][1]["function"] == "leak_here"


def test_stacks(tmp_path):
    """The call site, by the program's own symbols, and every making of a fence is counted once."""
    with compositor(tmp_path, "-fno-omit-frame-pointer") as (pid, program), scene(LEAKER) as other:
        before = trace_state()
        held = len(fds_of(pid))
        said = linuxsync("leaks", *QUICK, "--stacks", "--json")
        most = len(fds_of(pid)) - held
        assert trace_state() == before
        (leak,) = only(said, pid=pid)
        (way,) = leak["stacks"]
        assert way["made_by"] == "sync_file_create"
        assert way["kernel"][0] == "sw_sync_ioctl" and way["kernel"][-1].startswith("entry_SYSCALL_64")
        # The C library's ioctl() has no frame, so its caller create_fence() is not to be seen.
        assert [place["function"] for place in way["user"][:4]] == ["ioctl", "leak_here", "render_frame", "main"]
        assert [place["binary"] for place in way["user"][1:4]] == [str(program)] * 3
        assert leak["growth"] <= way["count"] <= most
        for place in way["user"][1:4]:
            command = ["addr2line", "-f", "-e", str(program), hex(place["offset"] - 1)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
            assert told == place["function"]
        (python,) = only(said, pid=other.pid)
        assert {one["user"][0]["function"] for one in python["stacks"]} == {"ioctl"}


def test_stacks_for_people(tmp_path):
    """Under the table, one block for each process and kind; -o has them in a line."""
    with compositor(tmp_path, "-fno-omit-frame-pointer") as (pid, program):
        shown = linuxsync("leaks", *QUICK, "--stacks", "--pid", str(pid), "-o", "+stacks")
    table, _, stacks = shown.out.partition("\n\n")
    assert re.search(r"\d+x ioctl < leak_here < render_frame < main < ", table)
    lines = stacks.splitlines()
    assert lines[0] == f"compositor {pid}, sync_file:"
    assert re.fullmatch(
        r"  \d+ by sync_file_create < sw_sync_ioctl < __x64_sys_ioctl < do_syscall_64 < entry.*", lines[1]
    )
    assert re.fullmatch(r"    ioctl \(/\S+\+0x[0-9a-f]+\)", lines[2])
    for line, name in zip(lines[3:6], ["leak_here", "render_frame", "main"], strict=True):
        assert re.fullmatch(rf"    {name} \({program}\+0x[0-9a-f]+\)", line)


def test_without_symbols_or_frame_pointers(tmp_path):
    """A stripped program is known by its offsets, and one without frame pointers by its innermost function."""
    (tmp_path / "stripped").mkdir()
    with compositor(tmp_path / "stripped", "-fno-omit-frame-pointer", "-s") as (pid, program):
        (leak,) = linuxsync("leaks", *QUICK, "--stacks", "--pid", str(pid), "--json").json["leaks"]
        (way,) = leak["stacks"]
        assert [(place["binary"], place["function"]) for place in way["user"][1:4]] == [(str(program), None)] * 3
    with compositor(tmp_path, "-O2", "-fomit-frame-pointer", "-fno-inline") as (pid, _):
        shown = linuxsync("leaks", *QUICK, "--stacks", "--pid", str(pid))
        assert shown.status == 1
        assert "    ioctl (" in shown.out
        assert "leak_here" not in shown.out


# Frames of a program's own making, each in another mapping: `fakes(mapping, ...)` makes fences with them on the stack.
FAKES = """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

def executable(fd, size=4096):
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd, 0)
    assert address != 2 ** 64 - 1, os.strerror(ctypes.get_errno())
    return address

# push rbp; push rbx; mov rbx, rsp; mov rbp, rdi; mov rsp, rdi; mov edi, esi; mov rsi, rdx; mov rdx, rcx;
# mov eax, 16 (ioctl); syscall; mov rsp, rbx; pop rbx; pop rbp; ret
# The kernel follows frames above the stack pointer only, and where Python's memory lies is chance.
CODE = bytes.fromhex("55 53 4889e3 4889fd 4889fc 89f7 4889d6 4889ca b810000000 0f05 4889dc 5b 5d c3")
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(CODE)
call = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ctypes.addressof(ctypes.c_char.from_buffer(code)))

def fakes(*addresses):
    stack = mmap.mmap(-1, 1 << 16)
    frames = (ctypes.c_uint64 * (2 * len(addresses) + 2)).from_buffer(stack, 1 << 15)  # below it, room for a signal's
    for at, address in enumerate(addresses):
        frames[2 * at] = ctypes.addressof(frames) + 16 * (at + 1)
        frames[2 * at + 1] = address + 100
    timeline = os.open("/sys/kernel/debug/sync/sw_sync", os.O_RDWR)
    data = ctypes.create_string_buffer(bytes([1]) + bytes(39), 40)
    while True:
        assert call(ctypes.addressof(frames), timeline, 0xc0285700, ctypes.addressof(data)) == 0
        time.sleep(1 / 30)
"""


def test_what_is_mapped_is_no_program(tmp_path):
    """A dma-buf, and a file that claims too much, on the stack of one who means it: no symbols, no error."""
    text = (
        FAKES
        + """
from linuxsync import DmaHeap
heap = DmaHeap()
buffer = heap.alloc(4096)
hostile = os.open(sys.argv[1], os.O_RDONLY)
places = [executable(buffer.fileno()), executable(hostile)]
threading.Thread(target=fakes, args=places, daemon=True).start()
ready(places=[place + 100 for place in places])
"""
    )
    hole, tables = 24 << 20, 400
    sections = struct.pack("=IIQQQQIIQQ", 0, 2, 0, 0, 1 << 20, hole, 0, 0, 8, 24) * tables
    file = tmp_path / "hostile"
    file.write_bytes(
        struct.pack("=16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 120, 0, 64, 56, 1, 64, tables, 0)
        + struct.pack("=IIQQQQQQ", 1, 5, 0, 0, 0, 1 << 30, 1 << 30, 4096)
        + sections
    )
    os.truncate(file, 64 << 20)
    with scene(text, str(file)) as found, record_stacks([found.pid]) as stacks:
        frames, deadline = {}, time.monotonic() + 120
        while not frames.keys() >= {*found.facts["places"]} and time.monotonic() < deadline:
            time.sleep(1)
            stacks.collect()
            frames = {frame.address: frame for origin in stacks.origins() for frame in origin.user}
    buffer, hostile = (frames[place] for place in found.facts["places"])
    assert (buffer.function, buffer.offset) == (None, 100) and buffer.binary is not None
    assert (hostile.function, hostile.offset, hostile.binary) == (None, 100, str(file))


def test_stacks_of_one_process(tmp_path):
    """With --pid the kernel records those of that process, of its threads to come too, and of no other."""
    text = """
timeline = Timeline("t")
def leak():
    while True:
        timeline.create_fence(1).close()
        time.sleep(0.01)
def later():
    time.sleep(2)
    leak()
threading.Thread(target=leak, daemon=True).start()
threading.Thread(target=lambda: (time.sleep(1), threading.Thread(target=leak).start()), daemon=True).start()
ready()
"""
    with scene(text) as one, scene(text) as other:
        for pids, expected in (([one.pid], {one.pid}), (None, {one.pid, other.pid})):
            with record_stacks(pids) as stacks:
                time.sleep(3)
                stacks.collect()
                found = stacks.origins()
            assert {origin.pid for origin in found} == expected
            assert {origin.start for origin in found} == {start_time(pid) for pid in expected}
            assert stacks.lost == 0


def test_lost_stacks(timeline):
    """What came faster than it was read is counted, and what is left is whole."""
    with record_stacks([os.getpid()]) as stacks:
        stacks._instance.set("buffer_size_kb", "8")
        for _ in range(600):
            timeline.create_fence(1).close()
        stacks.collect()
        seen = sum(origin.count for origin in stacks.origins())
        assert 0 < seen < 600 and stacks.lost > 0
        assert {origin.kernel[0] for origin in stacks.origins()} == {"sw_sync_ioctl"}
        # From here on all is seen again.
        for _ in range(5):
            timeline.create_fence(1).close()
        stacks.collect()
        assert sum(origin.count for origin in stacks.origins()) == seen + 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_ended_by_a_signal(number):
    """Nothing is left in tracefs. Ctrl-C shows what there was; of the others it dies, as it would have anyway."""
    before = trace_state()
    with scene(LEAKER), in_background("--interval", "0.2", "--for", "1000", "--stacks", "--json") as process:
        time.sleep(1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        if number == signal.SIGINT:
            assert process.returncode in (1, 2)
            assert json.loads(out)["unseen"] == []
        else:
            assert (process.returncode, out) == (-number, "")
    assert trace_state() == before


def test_ctrl_c_before_anything_can_be_told():
    """It shows what has become more, and says that this may mean nothing."""
    with scene(LEAKER), in_background("--interval", "1", "--for", "1000", "--stacks") as process:
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert re.search(r"^linuxsync: [1-8] samples, it takes 9 to tell what grows$", err, re.MULTILINE)


def test_killed():
    """What it leaves is removed by the next, and only that: not what is of one that lives, or of others."""
    before = trace_state()
    theirs = TRACEFS / "instances" / "theirs"
    theirs.mkdir()
    try:
        (theirs / "events/dma_fence/enable").write_text("1")
        with in_background("--interval", "0.2", "--for", "1000", "--stacks") as alive:
            with in_background("--interval", "0.2", "--for", "1000", "--stacks") as killed:
                killed.kill()
                killed.communicate()
                left, of_killed = trace_state(), f"linuxsync_{killed.pid}_"
                assert any(name.startswith(of_killed) for name in left[0])
                assert f":{of_killed}" in left[1]["kprobe_events"]
            with _tracefs.private_instance() as ours:
                names, files = trace_state()
                assert not any(name.startswith(of_killed) for name in names)
                assert of_killed not in files["kprobe_events"]
                assert [name for name in names if name.startswith(f"linuxsync_{alive.pid}_")]
                assert f":linuxsync_{alive.pid}_" in files["kprobe_events"]
                assert {"theirs", ours.name} < {*names}
            assert (theirs / "events/dma_fence/enable").read_text() == "1\n"
            alive.send_signal(signal.SIGTERM)
            alive.communicate(timeout=120)
    finally:
        theirs.rmdir()
    assert trace_state() == before


def test_the_global_trace_is_left_alone():
    """Whatever somebody has set up there, and recorded, is as it was, while we record and after."""
    (TRACEFS / "events/dma_fence/dma_fence_destroy/enable").write_text("1")
    (TRACEFS / "tracing_on").write_text("0")
    _tracefs.write(TRACEFS / "kprobe_events", "p:foreign/probe sync_file_create\n")
    try:
        before = trace_state()
        assert "p:foreign/probe sync_file_create" in before[1]["kprobe_events"]
        with scene(LEAKER), record_stacks() as stacks:
            during = trace_state()
            becomes(True, lambda: bool(stacks.collect() or stacks.origins()), 60.0)
        changed = [name for name in before[1] if before[1][name] != during[1][name]]
        assert changed == ["kprobe_events"]
        assert {*before[1]["kprobe_events"].splitlines()} < {*during[1]["kprobe_events"].splitlines()}
        assert trace_state() == before
    finally:
        _tracefs.write(TRACEFS / "kprobe_events", "-:foreign/probe\n")
        (TRACEFS / "tracing_on").write_text("1")
        (TRACEFS / "events/dma_fence/dma_fence_destroy/enable").write_text("0")
        (TRACEFS / "trace").write_text("")


def test_removed_after_an_exception():
    """Of the one who records."""
    before = trace_state()
    with pytest.raises(ZeroDivisionError), record_stacks():
        assert trace_state() != before
        1 / 0  # noqa: B018
    assert trace_state() == before


def test_somebody_reads_our_instance():
    """It can't be removed then, which is said; the next one does it."""
    before = trace_state()
    with refused(16), record_stacks() as stacks:
        reader = (stacks._instance.path / "trace_pipe").open("rb")
    assert trace_state() != before
    reader.close()
    owner = re.fullmatch(r"linuxsync_(\d+)_.*", stacks._instance.name)
    assert owner is not None and int(owner[1]) == os.getpid()
    _tracefs.remove(TRACEFS, stacks._instance.name)
    assert trace_state() == before


def without_tracefs():
    """Give this process mounts of its own, without tracefs."""
    assert libc.unshare(0x20000) == 0
    assert libc.mount(None, b"/", None, 0x4000 | 0x40000, None) == 0
    assert libc.umount2(b"/sys/kernel/debug", 2) == 0
    assert libc.umount2(b"/sys/kernel/tracing", 2) == 0


def test_without_tracefs():
    """It says the command that helps."""
    said = elsewhere(without_tracefs, "leaks", *QUICK, "--stacks")
    assert isinstance(said, Said) and said.status == 2
    assert "mount -t tracefs none /sys/kernel/tracing" in said.err


def test_counter_is_real():
    """Stacks of one process add up to what it made."""
    text = """
timeline = Timeline("t")
ready_now = json.dumps({})
print(ready_now, flush=True)
sys.stdin.readline()
held = [timeline.create_fence(1) for _ in range(50)]
held += [held[0].merge(held[1]) for _ in range(7)]
ready()
"""
    with scene(text) as found, record_stacks() as stacks:
        assert found.process.stdin is not None and found.process.stdout is not None
        found.process.stdin.write("\n")
        found.process.stdin.flush()
        found.process.stdout.readline()
        stacks.collect()
        made = Counter()
        for origin in stacks.origins():
            if origin.pid == found.pid:
                assert origin.kind is Kind.SYNC_FILE
                assert origin.made_by == (
                    "sync_file_merge" if origin.kernel[0] == "sync_file_ioctl" else "sync_file_create"
                )
                made[origin.kernel[0]] += origin.count
    assert made == {"sw_sync_ioctl": 50, "sync_file_ioctl": 7}
