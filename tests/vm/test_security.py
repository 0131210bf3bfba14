"""SECURITY.md's table: what each command opens for writing, by strace, and what none of them ever does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from linuxsync import DmaHeap, SyncFile
from linuxsync.cli import main

ROOT = Path(__file__).resolve().parents[2]
FONTS = ["/var/cache/fontconfig", "~/.cache/fontconfig", "~/.fontconfig"]
TRACING = ["/sys/kernel/tracing/kprobe_events", "/sys/kernel/tracing/instances/linuxsync_*"]

# What strace prints with -y: a string, and a descriptor with the path of its file.
STRING = r"\"((?:[^\"\\]|\\.)*)\""
OPENED = r"(?:AT_FDCWD|\d+)<([^<>]*)>(?:\(deleted\))?"
# A call that changes the file of a descriptor, or that of a path: its first, or of two the second, or both.
OF_DESCRIPTOR = "ftruncate,fallocate,fchmod,fchown,fsetxattr,fremovexattr"
FIRST = (
    "creat,mkdir,mkdirat,rmdir,unlink,unlinkat,truncate,chmod,fchmodat,fchmodat2,chown,lchown,fchownat,mknod,mknodat,"
    "setxattr,lsetxattr,removexattr,lremovexattr,utime,utimes,futimesat,utimensat"
)
SECOND = "link,linkat,symlink,symlinkat"
BOTH = "rename,renameat,renameat2"
OPENS = "open,openat,openat2"
PLACE = re.compile(rf"{OPENED}, {STRING}|{STRING}|{OPENED}")
# Nothing else that changes somebody or something.
NEVER = (
    "ptrace,process_vm_writev,process_madvise,process_mrelease,migrate_pages,move_pages,kill,tkill,tgkill,"
    "pidfd_send_signal,rt_sigqueueinfo,rt_tgsigqueueinfo,setns,unshare,chroot,pivot_root,mount,umount2,fsopen,fspick,"
    "fsconfig,fsmount,move_mount,open_tree,mount_setattr,swapon,swapoff,acct,quotactl,init_module,finit_module,"
    "delete_module,kexec_load,kexec_file_load,setuid,setgid,setreuid,setregid,setresuid,setresgid,setfsuid,setfsgid,"
    "setgroups,capset,bpf,perf_event_open,io_uring_setup,userfaultfd,add_key,keyctl,reboot,sethostname,setdomainname,"
    "settimeofday,clock_settime,iopl,ioperm"
)
FILES = f"%file,{OPENS},{OF_DESCRIPTOR},{FIRST},{SECOND},{BOTH}".replace(
    "fchmodat2", "?fchmodat2"
)  # strace 6.6 brought that one

# Calls for which the last column of the table has words, by these words.
OTHERS = "?poll,ppoll,pidfd_getfd"
SAID = {
    "polls fences": re.compile(r"p?poll\(\[.*<(?:anon_inode:\[?sync_file|/dmabuf)"),
    "reads the memory": re.compile(r'open(?:at|at2)?\(.*"/proc/\d+/(?:task/\d+/)?mem"'),
    "duplicate": re.compile(r"pidfd_getfd\("),
}
STARTED = re.compile(r'execve\("(?:[^"]*/)?([^"/]+)"')
SOCKETS = re.compile(r"(socket|socketpair|connect|bind)\(")

# Each row of the table, as it is run here, with what it may write; HERE is the folder that it is run in.
COMMANDS = {
    "ps": [],
    "ps --confirm": [],
    "bufs": [],
    "timelines": [],
    "timelines --confirm": [],
    "syncobjs": [],
    "show": [],
    "show --confirm": [],
    "top -n 1": [],
    "metrics": [],
    "stuck --after 0.1": [],
    "stuck --after 0.1 --svg HERE/s.svg": ["HERE/s.svg", "HERE/.s.svg.*", *FONTS],
    "leaks --interval 0.1 --for 0.8": [],
    "leaks --interval 0.1 --for 0.8 --stacks --pid 1": TRACING,
    "doctor": ["/dev/dri/*", "/dev/udmabuf", "/dev/kvm", "/sys/kernel/debug/sync/sw_sync"],
    "metrics --textfile HERE/m.prom": ["HERE/m.prom", "HERE/m.prom.*"],
    "trace record -o HERE/new --for 0.2 --pid 1 --syscalls --buffer 64": ["HERE/new", *TRACING],
    "trace live --for 0.2 --pid 1": TRACING,
    "trace report HERE/recorded": [],
    "trace diff HERE/recorded HERE/recorded": [],
    "trace export --html HERE/t.html HERE/recorded": ["HERE/t.html", "HERE/.t.html.*"],
    "trace export --svg HERE/t.svg HERE/recorded": ["HERE/t.svg", "HERE/.t.svg.*"],
    "trace export --perfetto HERE/t.pftrace HERE/recorded": ["HERE/t.pftrace", "HERE/.t.pftrace.*"],
    "completion bash": [],
}
# Options that choose, format, or say how long and how often, and change nothing of that; "" stands for every command.
HARMLESS = {
    "": "--version --pid --comm --driver --timeline --json --output --noheadings --raw",
    "bufs": "--by --exporter",
    "doctor": "--require",
    "leaks": "--alarm --all",
    "metrics": "--no-processes",
    "ps": "--verbose --active",
    "stuck": "--watch --dot",
    "syncobjs": "--active",
    "timelines": "--active",
    "top": "--interval --sort --batch",
    "trace diff": "--fail-if-slower --csv",
    "trace export": "--from --to",
    "trace live": "--event",
    "trace report": "--histogram --chain --csv",
}
# Those of test_listens_on_loopback, and of tests/host/test_vm_*.py.
ELSEWHERE = {
    "metrics": "--listen",
    "vm": "--kernel --kvm --timeout --rw --cpus --memory --incoherent --append --device --env --yes --quiet",
    "vm kernel list": "--json",
    "vm kernel prune": "--all --dry-run",
    "vm matrix": "--kernel --json",
    "vm test": "--junit --limit",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording."""
    file = tmp_path_factory.mktemp("recording") / "recorded"
    code = "from linuxsync import *\nwith Timeline('x') as t:\n  for n in range(1, 9):\n    t.create_fence(n).close()"
    command = [sys.executable, "-m", "linuxsync.cli", "trace", "record", "-o", str(file), "--", sys.executable, "-c"]
    subprocess.run([*command, code], check=True, capture_output=True, timeout=600)
    return file


def changed(line: str, folder: str) -> list[str]:
    """The paths of the files that a system call changes or opens for writing, as strace -y prints it.

    Args:
        folder: what a path begins in that strace prints alone.
    """
    name, _, arguments = line.partition("(")
    arguments = re.sub(r"\) += (?!.*\) += ).*", "", arguments)  # without the result
    found = list(PLACE.finditer(arguments))
    places = [str(Path(one[1] or folder, one[2] or one[3] or one[4] or "")) for one in found]
    if name in OPENS.split(","):
        flags = arguments[found[0].end() :] if found else "O_RDWR"
        return places[:1] if re.search("O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)", flags) else []
    if name in OF_DESCRIPTOR.split(","):
        return [one[1] or one[4] for one in found[:1]]
    if name in FIRST.split(","):
        return places[:1]
    return places[-1:] if name in SECOND.split(",") else places if name in BOTH.split(",") else []


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ('openat(AT_FDCWD</here>, "x", O_RDONLY|O_CLOEXEC) = 3</here/x>', []),
        ('openat(5</there>, "x", O_RDWR) = -1 EACCES (Permission denied)', ["/there/x"]),
        ('openat(5</there>(deleted), "x", O_WRONLY <unfinished ...>', ["/there/x"]),
        ('openat(AT_FDCWD</here>, "/O_RDWR", O_RDONLY) = 3</O_RDWR>', []),
        (r'openat(AT_FDCWD</here>, "a\"b, (c) = 1", O_WRONLY|O_CREAT, 0666) = 3</here/a>', [r"/here/a\"b, (c) = 1"]),
        ('openat2(5</there>, "x", {flags=O_RDWR, resolve=0}, 24) = 3</there/x>', ["/there/x"]),
        ('open("x", O_RDONLY|O_TRUNC) = 3</here/x>', ["/here/x"]),
        ('creat("/x", 0666) = 3</x>', ["/x"]),
        ('unlinkat(4</there>, "x", 0) = 0', ["/there/x"]),
        ('mkdirat(AT_FDCWD</here>, "/x", 0777) = 0', ["/x"]),
        ('renameat(4</there>, "x", 5</other>, "y") = 0', ["/there/x", "/other/y"]),
        ('rename("x", "/y") = 0', ["/here/x", "/y"]),
        ('link("x", "/y") = 0', ["/y"]),
        ('linkat(4</there>, "x", 5</other>, "y", 0) = 0', ["/other/y"]),
        ('symlinkat("x", 4</there>, "y") = 0', ["/there/y"]),
        ("ftruncate(4</there/x>, 3) = 0", ["/there/x"]),
        ("fchmod(4</there/x>, 0600) = 0", ["/there/x"]),
        ('mknod("/dev/x", S_IFCHR|0600, makedev(0x1, 0x3)) = 0', ["/dev/x"]),
        ('fsetxattr(4</there/x>, "user.a", "1", 1, 0) = 0', ["/there/x"]),
        ('setxattr("x", "user.a", "1", 1, 0) = 0', ["/here/x"]),
        ("utimensat(4</there/x>, NULL, NULL, 0) = 0", ["/there/x"]),
        ('execve("/bin/true", ["true"], 0x7ffe /* 20 vars */) = 0', []),
        ("<... openat resumed>) = 3</there/x>", []),
    ],
)
def test_changes_are_recognized(line: str, paths: list[str]) -> None:
    """By whichever call, and wherever the path begins."""
    assert changed(line, "/here") == paths


def traced(folder: Path, words: list[str], *calls: str, terminal: int | None = None) -> list[tuple[str, str]]:
    """The system calls of these kinds that a command makes: the pid, and the call.

    Args:
        terminal: what its stdin and stdout are.
    """
    log = folder / "strace"
    command = [
        "strace",
        "-f",
        "-y",
        "-qqq",
        "-s",
        "256",
        "-e",
        "signal=none",
        "-e",
        f"trace={','.join(calls)}",
        "-o",
        log,
    ]
    done = subprocess.run(
        [*map(str, command), sys.executable, "-m", "linuxsync.cli", *words],
        cwd=folder,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm"},
    )
    assert done.returncode in (0, 1) and not re.match("Usage|Error", done.stderr), done.stderr
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    return [(pid, call.lstrip()) for pid, _, call in lines]


class Row(NamedTuple):
    """What the table says of a command: what stands in backquotes in its third column, and the last one."""

    command: str
    writes: list[str]
    besides: str


def rows() -> list[Row]:
    """The table, a row for each of its commands."""
    found = []
    for line in (ROOT / "SECURITY.md").read_text().splitlines():
        if line.startswith("| `"):
            commands, _, writes, besides = (cell.strip() for cell in line.split("|")[1:-1])
            names = re.findall(r"`([^`]+)`", commands)
            found += [Row(name, re.findall(r"`([^`]+)`", writes), besides) for name in names]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_written(
    command: str, recorded: Path, tmp_path: Path, keep: Callable, fence: SyncFile, heap: DmaHeap
) -> None:
    """A command opens nothing for writing but what the table says, and does none of what is never done."""
    keep(heap.alloc(4096))
    (tmp_path / "recorded").write_bytes(recorded.read_bytes())
    words = command.replace("HERE", str(tmp_path)).split()
    if command.startswith("show"):
        words += [str(os.getpid()), str(fence.fileno())]
    calls = traced(tmp_path, words, FILES, NEVER, OTHERS, "%network")
    lines = [line for _, line in calls]
    assert any(line.startswith("openat(AT_FDCWD<") for line in lines)  # strace saw it
    # A memfd is its own.
    files = [one.replace("HERE", str(tmp_path)).replace("~", str(Path.home())) for one in COMMANDS[command]]
    allowed = [*files, "/dev/null", "/memfd:*"]
    written = {path for line in lines for path in changed(line, str(tmp_path))}
    strange = [path for path in written if not any(fnmatch(path, one) or fnmatch(path, f"{one}/*") for one in allowed)]
    assert not strange
    for one in files:
        if one.startswith(str(tmp_path)):  # whole or not at all: the file beside it is written, too
            assert any(fnmatch(path, one) for path in written), one
            assert "*" in one or Path(one).exists()
    assert harm(calls) == []
    assert not [line for line in lines if SOCKETS.match(line)]
    besides = " ".join(row.besides for row in rows() if is_of(command, row.command))
    for said, call in SAID.items():
        done = any(map(call.match, lines))
        # Whether a duplicate must be taken depends on what there is to be seen.
        assert done == (said in besides) or (said == "duplicate" and not done), said
    started = {match[1] for line in lines if (match := STARTED.match(line))}
    assert started - {Path(sys.executable).name, "cat"} == set(re.findall(r"starts `(\w+)`", besides))


def harm(calls: list[tuple[str, str]]) -> list[str]:
    """Those of the calls that no command makes."""
    never = re.compile(rf"(?:{NEVER.replace(',', '|')})\(")
    # A cat that reads a file of debugfs, and gets nowhere, is its own.
    own = re.compile(rf"kill\((?:{'|'.join({pid for pid, _ in calls})})(?:<[^>]*>)?, ")
    return [line for _, line in calls if never.match(line) and not own.match(line)]


def test_top_on_a_terminal(tmp_path: Path, fence: SyncFile) -> None:
    """It writes nothing either, and its sockets are a pair that nobody else can reach."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 40, 0, 0))  # so little that nobody need read it
        calls = traced(tmp_path, ["top", "-n", "1"], FILES, NEVER, "%network", terminal=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    lines = [line for _, line in calls]
    assert [match[1] for line in lines if (match := SOCKETS.match(line))] == ["socketpair"]
    assert {path for line in lines for path in changed(line, str(tmp_path))} <= {"/dev/null"}
    assert harm(calls) == []


def test_every_row_is_tried() -> None:
    """The table and this file say the same."""
    said: dict[str, set[str]] = {}
    for row in rows():
        said.setdefault(row.command, set()).update(row.writes)
    assert "vm" in said  # tests/host/test_vm_runner.py
    tried: dict[str, set[str]] = {}
    for command, writes in COMMANDS.items():
        name = next(row for row in sorted(said, key=len, reverse=True) if is_of(command, row))
        tried.setdefault(name, set()).update("FILE" if one.startswith("HERE/") else one for one in writes)
    assert tried == {name: writes for name, writes in said.items() if name not in ("vm", "metrics --listen")}


def every_option(command: click.Command, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Each option of a command and of all below it: whose it is, and its names."""
    for option in command.params:
        if isinstance(option, click.Option):
            yield name, {*option.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from every_option(below, f"{name} {word}".strip())


def test_every_option_is_thought_of() -> None:
    """One that may change what a command does stands in COMMANDS: a new one is put there, or among the others."""
    listed = {
        (name, word) for table in (HARMLESS, ELSEWHERE) for name, words in table.items() for word in words.split()
    }
    there = set()
    for name, names in every_option(main):
        there |= {(whose, word) for whose in (name, "") for word in names}
        tried = any(names & {*command.split()} for command in COMMANDS if is_of(command, name))
        assert tried or any((whose, word) in listed for whose in (name, "") for word in names), (name, names)
    assert listed <= there


def is_of(command: str, row: str) -> bool:
    """Whether a command is one of a row of the table."""
    row = row.replace(" -o FILE", "").replace(" FILE", "")
    return all(word in command.split() for word in row.split()) and command.startswith(row.split(" ")[0])


def test_listens_on_loopback(tmp_path: Path) -> None:
    """`metrics --listen PORT` can be reached from this machine alone."""
    program = [sys.executable, "-m", "linuxsync.cli", "metrics", "--listen", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            port = int(re.search(r":(\d+)", said)[1])
            listening = [line.split()[1] for name in ("tcp", "tcp6") for line in sockets(name) if " 0A " in line]
            assert [one for one in listening if one.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
        finally:
            server.terminate()
            server.communicate(timeout=60)


def sockets(kind: str) -> list[str]:
    """Lines of /proc/net; nothing without that protocol."""
    path = Path("/proc/self/net", kind)
    return path.read_text().splitlines()[1:] if path.exists() else []
