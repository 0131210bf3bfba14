"""The guest as its users meet it: real boots of the project's kernel through the command line of linuxsync.vm."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels
from linuxsync.vm import runner
from processes import assert_nothing_left, environment, kept_logs, processes_of

EX_UNAVAILABLE = 69
LIMIT = 600.0
VM = [sys.executable, "-m", "linuxsync.vm"]


def vm(cache: Path, *arguments: str, stdin: bytes = b"", limit: float = LIMIT) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end."""
    command = [*VM, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=limit, env=environment(cache))


def assert_lost(done: subprocess.CompletedProcess[bytes], cache: Path, reason: str, last_line: str) -> None:
    """Exit 69, the reason, the console's last lines, and the path of a log that has them."""
    said = done.stderr.decode()
    assert done.returncode == EX_UNAVAILABLE, said
    assert reason in said
    assert last_line in said
    [log] = kept_logs(cache)
    assert f"vm: console log: {log}\n" in said
    assert last_line in log.read_text(errors="replace")
    assert not any((cache / "linuxsync" / "runs").iterdir())
    assert_nothing_left(cache)


# One boot for everything that can be asked in one.
FACTS = """
import json, os, resource, subprocess, sys
from pathlib import Path

def refused(path):
    try:
        Path(path).write_text("x")
    except OSError as error:
        return error.errno
    return 0

def mount(*words):
    return subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode

readonly, writable = sys.argv[1:]
print("<1>linuxsync test: an urgent message", file=open("/dev/kmsg", "w"))
print("a line on stderr", file=sys.stderr)
drivers = {name.read_text().split()[0] for name in Path("/sys/kernel/debug/dri").glob("*/name")}
facts = {
    "modules": [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()],
    "drivers": sorted(drivers),
    "nodes": sorted(os.listdir("/dev/dri")),
    "sw_sync": os.path.exists("/sys/kernel/debug/sync/sw_sync"),
    "tracing": os.path.isdir("/sys/kernel/tracing/events/dma_fence"),
    "heaps": os.listdir("/dev/dma_heap"),
    "udmabuf": os.path.exists("/dev/udmabuf"),
    "readonly": refused(readonly + "/new"),
    "checkout": refused(os.getcwd() + "/new"),
    "writable": refused(writable + "/new"),
    "tmp": refused("/tmp/new-in-guest"),
    "cwd": os.getcwd(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "cpus": os.cpu_count(),
    "argument": os.environ.get("LINUXSYNC_TEST"),
    "python": sys.executable,
    "cmdline": Path("/proc/cmdline").read_text(),
}
# All that the guest's root can do about it: the root, also below what is mounted on it, and each share of files anew.
below, file = "/tmp/below", readonly + "/file"
os.mkdir(below)
ways = [["-o", "remount,rw", "/"], ["--bind", "/", below], ["-o", "remount,rw,bind", below]]
facts["remounted"] = [mount(*words) for words in ways]
facts["root"] = [line.split()[3].split(",")[0] for line in open("/proc/mounts") if line.split()[1] in ("/", below)]
facts["below"] = Path(below + file).read_text()
facts["in_spite"] = [refused(below + one) for one in (file, readonly + "/new", os.getcwd() + "/new")]
facts["tags"] = {}
for number, tag in enumerate(Path("/sys/bus/virtio/drivers/9pnet_virtio").glob("virtio*/mount_tag")):
    name, there = tag.read_text().strip("\\0\\n"), f"/tmp/share{number}"
    os.mkdir(there)
    status = mount("-t", "9p", "-o", "rw,trans=virtio,version=9p2000.L", name, there)
    facts["tags"][name] = status or refused(there + file)
print(json.dumps(facts))
sys.exit(37)
"""


def test_guest_is_what_was_promised(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINUXSYNC_TEST", 'it\'s "quoted" $HOME\nand two lines')
    readonly, writable = tmp_path / "a folder", tmp_path / "another one"
    readonly.mkdir()
    writable.mkdir()
    (readonly / "file").write_text("as it was")
    options = ["--quiet", "--rw", str(writable), "--cpus", "3", "--append", "linuxsync.test=1"]
    done = vm(cache, *options, "--", "python", "-c", FACTS, str(readonly), str(writable))
    # Nothing but the command's own words, although the kernel had something urgent to say.
    assert (done.returncode, done.stderr) == (37, b"a line on stderr\n")
    facts = json.loads(done.stdout)
    assert {"vgem", "vkms", "fencedev"} <= set(facts["modules"])
    assert facts["drivers"] == ["vgem", "virtio_gpu", "vkms"]
    assert facts["sw_sync"] and facts["tracing"] and facts["udmabuf"]
    assert facts["heaps"] == ["system"]
    assert len([node for node in facts["nodes"] if node.startswith("card")]) == 3
    # The root is read-only, for the guest's root too; a checkout below /tmp is a copy that is thrown away.
    assert facts["checkout"] == (0 if Path.cwd().is_relative_to("/tmp") else errno.EROFS)
    assert facts["writable"] == 0
    assert (writable / "new").read_text() == "x"
    assert facts["tmp"] == 0
    assert not Path("/tmp/new-in-guest").exists()
    assert facts["remounted"] == [0, 0, 0] and facts["root"] == ["rw", "rw"]
    assert facts["below"] == "as it was"
    assert facts["in_spite"] == [errno.EROFS] * 3  # QEMU says so
    assert len(facts["tags"]) >= 2 and all(facts["tags"].values())
    assert [(one.name, one.read_text()) for one in readonly.iterdir()] == [("file", "as it was")]
    assert not Path("new").exists()
    assert facts["cwd"] == str(Path.cwd())
    assert facts["files"][1] > 4096
    assert facts["cpus"] == 3
    assert facts["argument"] == os.environ["LINUXSYNC_TEST"]
    assert facts["python"] == sys.executable
    assert "linuxsync.test=1" in facts["cmdline"]
    # A run that went well leaves nothing at all.
    assert not any((cache / "linuxsync" / "runs").iterdir())
    assert kept_logs(cache) == []
    assert_nothing_left(cache)


def test_bytes_pass_unchanged_both_ways(cache: Path) -> None:
    data = bytes(range(256)) * 8192 + b"the end without a newline"
    # tee writes the same to stderr; a status of 255 is the command's own, not a lost guest.
    done = vm(cache, "-q", "--", "sh", "-c", "tee /dev/stderr; exit 255", stdin=data)
    assert done.returncode == 255, done.stderr[-300:]
    assert done.stdout == data
    assert done.stderr == data


def test_output_to_a_file_is_appended(cache: Path, tmp_path: Path) -> None:
    """QEMU truncates what it opens; ours is a file that somebody else writes too."""
    with open(tmp_path / "out", "wb+") as out:
        out.write(b"before\n")
        out.flush()
        command = [*VM, "--", "sh", "-c", "echo out; echo err >&2; echo dev > /dev/stdout"]
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=LIMIT, env=environment(cache)
        ).returncode
    lines = (tmp_path / "out").read_text().splitlines()
    assert status == 0, lines
    assert lines[0] == "before"
    assert lines[1].startswith("vm: booting Linux ")
    assert sorted(lines[2:]) == ["dev", "err", "out"]


def test_two_guests_side_by_side(cache: Path) -> None:
    commands = [[*VM, "-q", "--", "sh", "-c", f"sleep 2; echo {n}; exit {n}"] for n in (0, 1)]
    started = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(cache))
        for command in commands
    ]
    for n, process in enumerate(started):
        out, _ = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (n, f"{n}\n".encode())


@functools.cache
def enough() -> int:
    """Seconds in which a guest comes up on this machine as busy as it is now, with some to spare."""
    start = time.monotonic()
    subprocess.run([*VM, "--", "true"], check=True, timeout=LIMIT)
    return 5 + 2 * int(time.monotonic() - start)


def test_timeout(cache: Path) -> None:
    limit = enough()
    start = time.monotonic()
    done = vm(cache, "--timeout", f"{limit}", "--", "sleep", "1000", limit=limit + LIMIT)
    assert limit <= time.monotonic() - start < limit + 60
    assert_lost(done, cache, f"the command did not end within {limit} s (--timeout)", "Initialized vkms")


# sw_sync_debugfs_release() holds the timeline's lock while it signals the fence, and the eventfd lets go of the last
# reference there: timeline_fence_release() takes the same lock. SECURITY.md tells of it.
HANG = """
import os
from linuxsync import DrmDevice, Syncobj, Timeline
with DrmDevice.open("virtio_gpu", render=True) as device, Syncobj.create(device) as syncobj:
    timeline = Timeline()
    with timeline.create_fence(1) as fence:
        syncobj.import_sync_file(fence)
    syncobj.eventfd(None, os.eventfd(0))
    syncobj.reset()
    print("closing", flush=True)
    timeline.close()
print("closed")
"""


def test_a_kernel_that_hangs_in_close(cache: Path) -> None:
    """Nothing ends that command, a kill neither; the guest is lost, and nothing else."""
    limit = enough()
    done = vm(cache, "--timeout", f"{limit}", "--", "python", "-c", HANG, limit=limit + LIMIT)
    assert done.stdout == b"closing\n"
    assert_lost(done, cache, f"the command did not end within {limit} s (--timeout)", "Initialized vkms")


def test_panic(cache: Path) -> None:
    done = vm(cache, "--", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger")
    assert done.stdout == b"before\n"
    assert_lost(done, cache, "the guest's kernel panicked: ", "Kernel panic - not syncing: sysrq triggered crash")


def test_power_off_without_a_report(cache: Path) -> None:
    done = vm(cache, "--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 100")
    assert_lost(done, cache, "the guest powered off before the command had ended", "sysrq: Power Off")


def test_kernel_that_finds_no_root(cache: Path) -> None:
    done = vm(cache, "--append", "rootflags=trans=virtio,version=no-such", "--", "true")
    assert_lost(done, cache, "the guest's kernel panicked: ", "Unable to mount root fs")


def test_kernel_that_never_reaches_the_command(cache: Path) -> None:
    """A guest that is wedged at boot: the time is up before it has come up."""
    limit = enough()
    done = vm(cache, "--timeout", f"{limit}", "--append", "rootdelay=600", "--", "true", limit=limit + LIMIT)
    said = f"the guest did not come up within {min(limit, runner.BOOT_LIMIT):g} s"
    assert_lost(done, cache, said, "Waiting 600 sec before mounting root device")


def test_files_that_are_no_kernel(cache: Path, tmp_path: Path) -> None:
    bogus = tmp_path / "bzImage"
    bogus.write_bytes(b"not a kernel\n" * 1000)
    done = vm(cache, "--kernel", str(bogus), "--", "true")
    assert (done.returncode, done.stdout) == (EX_UNAVAILABLE, b"")
    assert f"{bogus} is no x86 kernel image (bzImage)".encode() in done.stderr
    # The right header, and nothing behind it.
    head = bytearray(kernels.ensure().image.read_bytes()[:0x8000])
    bogus.write_bytes(head + bytes(100_000))
    done = vm(cache, "--timeout", "5", "--kernel", str(bogus), "--", "true")
    assert done.returncode == EX_UNAVAILABLE
    assert b"vm: the guest did not come up" in done.stderr
    assert_nothing_left(cache)


MODULE = r"""
#include <linux/module.h>
static char *how = "";
module_param(how, charp, 0);
static int __init start(void)
{
	WARN(!strcmp(how, "warn"), "linuxsync test warning\n");
	if (!strcmp(how, "oops"))
		*(volatile int *)8 = 1;
	return -ENODEV;
}
module_init(start);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def module(kernel: kernels.Kernel, build_module: Callable[[kernels.Kernel, str], Path]) -> Path:
    """A module that warns or oopses when it is loaded."""
    return build_module(kernel, MODULE)


def test_oops_is_a_lost_guest_though_the_command_passes(cache: Path, module: Path) -> None:
    done = vm(cache, "--", "sh", "-c", f"insmod {module} how=oops; echo survived; exit 0")
    assert done.stdout == b"survived\n"
    assert_lost(done, cache, "the guest's kernel is broken: ", "BUG: kernel NULL pointer dereference")


def test_warning_is_shown_and_leaves_the_status(cache: Path, module: Path) -> None:
    done = vm(cache, "-q", "--", "sh", "-c", f"insmod {module} how=warn 2>/dev/null; exit 3")
    said = done.stderr.decode()
    assert done.returncode == 3, said
    assert "vm: the guest's kernel printed a warning while the command ran (console log: " in said
    assert "linuxsync test warning" in said
    assert len(kept_logs(cache)) == 1


@pytest.fixture
def sleeper(cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose command is known to be running in the guest."""
    command = [*VM, "--", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(cache)) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            assert any("qemu-system-x86_64" in line for line in processes_of(cache))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_nothing(cache: Path, sleeper: subprocess.Popen[bytes], number: signal.Signals) -> None:
    sleeper.send_signal(number)
    status = sleeper.wait(LIMIT)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert_nothing_left(cache)
    # What a run leaves that was killed, the next one removes.
    left = list((cache / "linuxsync" / "runs").iterdir())
    assert len(left) == (1 if number == signal.SIGKILL else 0)


def test_reader_that_goes_away(cache: Path) -> None:
    """Like `vm/run -- yes | head -1`: the guest is not left running for nobody."""
    command = [*VM, "-q", "--", "yes"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(cache)) as process:
        assert process.stdout
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE
    assert_nothing_left(cache)


def test_shell_reads_a_script_from_stdin(cache: Path) -> None:
    done = vm(cache, "-q", "shell", stdin=b"echo $((6 * 7))\nexit 5\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"42\n", b"")


def test_stale_run_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with runner.run_folder() as alive:
        dead = alive.parent / "killed"
        dead.mkdir()
        with runner.run_folder() as second:
            assert sorted(alive.parent.iterdir()) == sorted([alive, second])
    assert list(alive.parent.iterdir()) == []


def test_only_the_latest_logs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for n in range(runner.LOGS_KEPT + 3):
        folder = tmp_path / f"run-{n:03}"
        folder.mkdir()
        (folder / "console.log").write_text(str(n))
        assert runner.keep_log(folder).read_text() == str(n)
    kept = kept_logs(tmp_path)
    assert [log.read_text() for log in kept] == [str(n) for n in range(3, runner.LOGS_KEPT + 3)]


def test_a_build_tree(cache: Path, kernel: kernels.Kernel, tmp_path: Path) -> None:
    """--kernel takes a tree in which an image was built; one without modules is a guest without them."""
    tree = tmp_path / "tree"
    (tree / kernels.IMAGE).parent.mkdir(parents=True)
    shutil.copyfile(kernel.image, tree / kernels.IMAGE)
    done = vm(cache, "--kernel", str(tree), "--", "sh", "-c", "uname -r; ls /sys/module | grep -c vgem")
    assert done.stdout.decode().split() == [kernel.version, "0"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--timeout", "inf", "--", "true"], 2, "--timeout"),
        (["--timeout", "nan", "--", "true"], 2, "nan"),
        (["--timeout", "0", "--", "true"], 2, "--timeout"),
        (["--rw", "/a,b", "--", "true"], 69, "/a,b"),
        (["torture", "--minutes", "nan"], 2, "nan"),
        (["torture", "--minutes", "0"], 2, "--minutes"),
        (["torture", "--kernel", "6.nonsense"], 69, "6.nonsense"),
        (["test", "tests", "--kernel", "6.nonsense"], 69, "6.nonsense"),  # before any test runs on the host
    ],
)
def test_what_cannot_be_booted_is_said_in_a_line(
    cache: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    """No traceback, and no guest that dies of it."""
    (tmp_path / "a,b").mkdir()
    words = [word.replace("/a,b", str(tmp_path / "a,b")) for word in arguments]
    done = vm(cache, *words)
    assert done.returncode == status
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_cache_that_cannot_be_written(kernel: kernels.Kernel) -> None:
    """An error of the file system is a line and 69."""
    done = vm(Path("/proc/nonexistent"), "--kernel", str(kernel.image), "--", "true")
    assert done.returncode == EX_UNAVAILABLE
    assert b"Traceback" not in done.stderr


RACE = """
from linuxsync.vm import runner
for _ in range(100):
    with runner.run_folder() as folder:
        assert folder.is_dir()
"""


def test_many_runs_start_at_once(tmp_path: Path) -> None:
    """Nobody sweeps away the folder that somebody else has just made."""
    command = [sys.executable, "-c", RACE]
    runs = [subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE) for _ in range(4)]
    assert [(run.communicate(timeout=LIMIT)[1], run.returncode) for run in runs] == [(b"", 0)] * 4
