"""Boots a guest around one command, and brings back its output and its exit status.

virtme-ng does the booting; this module is the thin part around it that makes the result trustworthy:

- the command's stdout and stderr are apart from each other and from the guest's console;
- the exit status comes over a channel of our own, so that a lost guest is never mistaken for a failing command;
- one deadline holds for everything, and whatever ends the run, no QEMU is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import console, kvm
from .kernel import Kernel, cache_home
from .pump import Pump

PACKAGE = Path(__file__).resolve().parent
LOGS_KEPT = 20
# A guest that has not reached the command by then never will: under TCG on a loaded machine it takes 70 with kmemleak.
BOOT_LIMIT = 300.0
LIMIT = 1800.0  # for all of it, unless told otherwise
# After the command has ended, the guest only has to power off.
POWEROFF_LIMIT = 60.0

ENVIRONMENT = ("PATH", "VIRTUAL_ENV", "HOME", "LANG", "TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "CI")
ENVIRONMENT_PREFIXES = ("LC_", "LINUXSYNC_", "PYTHON")
# virtme's init hides these with file systems of the guest's own.
HIDDEN = ("/run", "/var/run", "/var/tmp", "/var/cache", "/var/log", "/var/lib/apt", "/var/lib/private", "/dev/shm")


class GuestLost(Exception):  # noqa: N818, it is no error of the command
    """The guest did not come up, crashed, or ran out of time; what the command did is not known or not to be trusted.

    Attributes:
        reason: what happened, one sentence.
        console_log: the kept console log.
        tail: its last lines.
    """

    def __init__(self, reason: str, console_log: Path, tail: str) -> None:
        """See the attributes."""
        super().__init__(reason)
        self.reason = reason
        self.console_log = console_log
        self.tail = tail

    def tell(self) -> None:
        """Say it on stderr."""
        if self.tail:
            note("the console's last lines:")
            print(self.tail, file=sys.stderr)
        note(self.reason)
        note(f"console log: {self.console_log}")


@dataclass(frozen=True)
class Settings:
    """How a guest is booted.

    Attributes:
        kernel: what to boot.
        timeout: seconds for everything from the start of QEMU to the end of the output.
        kvm: use KVM; False is TCG, QEMU's emulation.
        rw: folders of the host that the guest may write.
        cpus: virtual CPUs.
        memory: as QEMU's -m takes it.
        append: more kernel arguments.
        devices: more devices, each as QEMU's -device takes it.
        cwd: the command's working directory, the same path on both sides.
        env: what is added to the environment that the command gets anyway.
        quiet: say nothing on stderr unless something is wrong.
        fencedev: the fence device's module, which the guest loads, if there is one.
        strict: a warning of the kernel's loses the guest, from its boot until it is off.
        judges: but not one during the command's tests, which judge it themselves (console.BEGIN).
    """

    kernel: Kernel
    timeout: float = LIMIT
    kvm: bool = False
    rw: tuple[Path, ...] = ()
    cpus: int = 2
    memory: str = "1G"
    append: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False
    fencedev: Path | None = None
    strict: bool = False
    judges: bool = False


def note(text: str) -> None:
    """One line of our own on stderr, told apart from the command's by its beginning."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str], settings: Settings, *, stdin: int | None = 0, stdout: int = 1, stderr: int = 2) -> int:
    """Run one command in a fresh guest and return its exit status.

    Args:
        command: program and arguments.
        stdin, stdout, stderr: fds of the host that the command's are connected to; a stdin of None is empty.

    Raises:
        GuestLost: the guest did not come up, panicked, oopsed, powered off too early, or the time was up.
    """
    deadline = time.monotonic() + settings.timeout
    with run_folder() as folder:
        write_scripts(folder, settings, command)
        script = shlex.join(["sh", str(PACKAGE / "guest.sh"), str(folder)])
        guest = Guest(folder, settings, deadline)
        try:
            status = guest.run(["--script-sh", script], stdin, stdout, stderr)
        except GuestLost:
            raise
        except BaseException:
            # Interrupted: the log may say what the guest was busy with.
            note(f"console log: {keep_log(folder)}")
            raise
        text = console.read(folder / "console.log")
        if said := console.panic(text) or console.oops(text):
            raise lost(folder, f"the guest's kernel is broken: {said.strip()}")
        if guest.taint & (console.TAINT_DIE | console.TAINT_BAD_PAGE):
            raise lost(folder, "the guest's kernel oopsed while the command ran")
        said = console.mistake(console.outside(text) if settings.judges else text)
        if settings.strict and (said or (guest.taint & console.TAINT_WARN and not settings.judges)):
            where = ", outside of all tests" if settings.judges else ""
            raise lost(folder, f"the guest's kernel found a mistake{where}: {said or 'a warning, see its log'}")
        said = console.report(console.read(folder / "console.log", guest.up_at or 0))
        if said or guest.taint & console.TAINT_WARN:
            warned = console.warnings(console.read(folder / "console.log", guest.up_at or 0))
            note(f"the guest's kernel printed a warning while the command ran (console log: {keep_log(folder)}):")
            print(warned, file=sys.stderr, flush=True)
        return status


def shell(settings: Settings) -> int:
    """An interactive root shell in a guest, on this terminal, without a time limit."""
    with run_folder() as folder:
        program = [os.environ.get("SHELL", "/bin/sh")]
        if Path(program[0]).name == "bash":
            # Many a .bashrc puts something else first in PATH.
            path = shlex.quote(settings.env.get("PATH", os.defpath))
            (folder / "bashrc").write_text(f"[ ! -f ~/.bashrc ] || . ~/.bashrc\nPATH={path}\n")
            program += ["--rcfile", str(folder / "bashrc"), "-i"]
        write_scripts(folder, settings, program)
        start = folder / "shell"
        script = shlex.join(["sh", str(PACKAGE / "guest.sh"), str(folder), "shell"])
        start.write_text(f"#!/bin/sh\nexec {script}\n")
        start.chmod(0o755)
        # The kernel shares the terminal here: only its errors are wanted.
        command = virtme_command(folder, settings, ["--shell", str(start), "--kopt=loglevel=4"])
        # QEMU reads the terminal itself: it stays in our process group, and Ctrl-C belongs to the guest.
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with subprocess.Popen(command, env=virtme_environment(folder, console_log=None)) as process:
                return process.wait()
        finally:
            signal.signal(signal.SIGINT, old)


class Guest:
    """One run of virtme-run, from its start until nothing of it is left."""

    def __init__(self, folder: Path, settings: Settings, deadline: float) -> None:
        """Nothing runs yet."""
        self.folder = folder
        self.settings = settings
        self.deadline = deadline
        self.status: int | None = None
        self.taint = 0
        self.up_at: int | None = None
        self._received = b""

    def run(self, arguments: Sequence[str], stdin: int | None, stdout: int, stderr: int) -> int:
        """Boot, pump, wait; returns the command's status or raises GuestLost."""
        ours, theirs = socket.socketpair()
        report = ["-chardev", f"socket,id=linuxsync,fd={theirs.fileno()}"]
        report += ["-device", "virtserialport,name=linuxsync.report,chardev=linuxsync"]
        command = virtme_command(self.folder, self.settings, [*(f"-q={word}" for word in report), *arguments])
        with ours, theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=virtme_environment(self.folder, self.folder / "console.log"),
                # Its own session, and so a process group that can be killed as a whole.
                start_new_session=True,
            )
            theirs.close()
            assert process.stdin and process.stdout and process.stderr
            try:
                pump = Pump(process.stdin, stdin, {process.stdout: stdout, process.stderr: stderr})
                what = f"booting Linux {self.settings.kernel.version} under {'KVM' if self.settings.kvm else 'TCG'}"
                with progress(what, self.settings.quiet) as up:
                    self._follow(ours, pump, up)
                self._end(process, pump)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if pump.broken:
            # Whoever read our stdout has gone; a command on the host would have died of SIGPIPE.
            pump.finish(time.monotonic() + 1)
            return 128 + signal.SIGPIPE
        assert self.status is not None
        return self.status

    def _follow(self, channel: socket.socket, pump: Pump, up: contextlib.ExitStack) -> None:
        """Read the report channel until QEMU closes it, by exiting."""
        boot_deadline = min(self.deadline, time.monotonic() + BOOT_LIMIT)
        off_deadline = self.deadline
        channel.setblocking(True)
        while not pump.broken:
            now = time.monotonic()
            limit = boot_deadline if self.up_at is None else min(self.deadline, off_deadline)
            if now >= limit:
                if self.status is not None:
                    note(
                        f"the guest did not power off within {POWEROFF_LIMIT:g} s of the command's end, and was killed"
                    )
                    return
                raise self._timed_out()
            # Short, because a broken pump cannot wake us.
            channel.settimeout(min(limit - now, 0.25))
            try:
                data = channel.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                return
            if not data:
                return
            self._received += data
            while b"\n" in self._received:
                line, self._received = self._received.split(b"\n", 1)
                words = line.split()
                if words == [b"up"]:
                    up.close()
                    self.up_at = log_size(self.folder)
                elif words[:1] == [b"exit"] and len(words) == 4:
                    self.status = int(words[1])
                    self.taint = int(words[3]) & ~int(words[2])
                    off_deadline = time.monotonic() + POWEROFF_LIMIT
                    channel.sendall(b"\n")

    def _end(self, process: subprocess.Popen[bytes], pump: Pump) -> None:
        """After QEMU: the rest of the output, and what is to be said if there was no report."""
        if pump.broken:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not pump.finish(self.deadline) and not pump.broken:
            raise lost(self.folder, f"the command's output was not read within {self.settings.timeout:g} s")
        if self.status is not None or pump.broken:
            return
        text = console.read(self.folder / "console.log")
        if said := console.panic(text) or console.oops(text):
            raise lost(self.folder, f"the guest's kernel panicked: {said.strip()}")
        if self.up_at is None:
            raise lost(self.folder, "the guest did not come up")
        raise lost(self.folder, "the guest powered off before the command had ended")

    def _timed_out(self) -> GuestLost:
        if self.up_at is not None:
            return lost(self.folder, f"the command did not end within {self.settings.timeout:g} s (--timeout)")
        text = console.read(self.folder / "console.log")
        limit = min(BOOT_LIMIT, self.settings.timeout)
        why = f": {said.strip()}" if (said := console.panic(text) or console.oops(text)) else ""
        return lost(self.folder, f"the guest did not come up within {limit:g} s{why}")


def virtme_command(folder: Path, settings: Settings, more: Sequence[str]) -> list[str]:
    """The command line of virtme-run.

    Raises:
        ValueError: a path that virtme-ng cannot hand to the guest.
    """
    kernel = settings.kernel
    for path in [*settings.rw, settings.cwd]:
        if not re.fullmatch(r"[a-zA-Z0-9_+ /.-]+", str(path)):
            raise ValueError(f"virtme-ng takes letters, digits, blanks and _+/.- in a path, and not {path}")
    # The guest can't write there and need not see what the host changes meanwhile, so it may cache all of it without
    # asking again; Python starts twice as fast.
    flags = "rootflags=version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose"
    command = ["setpriv", "--pdeathsig", "KILL", str(Path(sys.executable).parent / "virtme-run")]
    # Modules are linked into place by guest.sh, which works for every place they can be in.
    command += ["--kimg", str(kernel.image), "--mods", "none", "--qemu-bin", str(PACKAGE / "qemu-wrapper")]
    command += [
        "--name",
        "linuxsync",
        "--force-9p",
        "--cpus",
        str(settings.cpus),
        "--memory",
        settings.memory,
        "--cwd",
        str(settings.cwd),
    ]
    if not settings.kvm:
        command += ["--disable-kvm"]
        # QEMU before 8.1 (deba78709ae8) can go on with a translation of code that another of its CPUs has changed
        # meanwhile, and a kernel from which probes are taken then meets a breakpoint that is not there: 6.1 does so for
        # ever, 6.12 oopses. So all CPUs that it emulates have one thread.
        command += ["-q=-accel", "-q=tcg,thread=single"] if kvm.qemu_version() < (8, 1) else []
    command += ["--overlay-rwdir=/tmp"]
    if not Path("/lib/modules").is_dir():
        command += ["--overlay-rwdir=/lib"]
    for path in settings.rw:
        command += [f"--rwdir={path.resolve()}"]
    needed = [folder, settings.cwd, PACKAGE, Path(sys.prefix), kernel.image.parent]
    for path in hidden_paths([*needed, *([settings.fencedev.parent] if settings.fencedev else [])]):
        command += [f"--rodir={path}"]
    # No CPU with five levels of page tables: while one is identified, a kernel takes itself for one with four, and
    # KASAN reports an interrupt that comes then. With "no5lvl" instead, the kernel goes by what the CPU could do where
    # it tells a canonical address, and a probe that follows a pointer to nowhere warns of a general protection fault.
    command += ["-q=-global", "-q=max-x86_64-cpu.la57=off"]
    for device in ("virtio-gpu-pci", *settings.devices):
        command += ["-q=-device", f"-q={device}"]
    for argument in [flags, "mitigations=off", "loglevel=7", *settings.append]:
        command += [f"--kopt={argument}"]
    return [*command, *more]


def virtme_environment(folder: Path, console_log: Path | None) -> dict[str, str]:
    """The environment of virtme-run and of QEMU."""
    # Its temporary files go away with the folder, whatever ends it.
    env = {**os.environ, "TMPDIR": str(folder)}
    env.pop("LINUXSYNC_CONSOLE", None)
    if console_log:
        env["LINUXSYNC_CONSOLE"] = str(console_log)
    return env


def hidden_paths(needed: Sequence[Path]) -> list[Path]:
    """Those of the needed folders that the guest would not see without a mount of their own."""
    found: list[Path] = []
    for path in needed:
        hidden = any(path.is_relative_to(top) for top in HIDDEN)
        if hidden and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def guest_environment(settings: Settings) -> dict[str, str]:
    """The environment of the command: a few variables of ours, and what the caller adds."""
    env = {k: v for k, v in os.environ.items() if k in ENVIRONMENT or k.startswith(ENVIRONMENT_PREFIXES)}
    if not any(PACKAGE.is_relative_to(path.resolve()) for path in settings.rw):
        env["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**env, **settings.env}


def write_scripts(folder: Path, settings: Settings, command: Sequence[str]) -> None:
    """What guest.sh reads from the run's folder."""
    modules = settings.kernel.modules
    linked = modules is not None and modules.parent.resolve() != Path("/lib/modules").resolve()
    values = {"modules": modules if linked else "", "fencedev": settings.fencedev or ""}
    lines = [f"linuxsync_{name}={shlex.quote(str(value))}\n" for name, value in values.items()]
    (folder / "settings.sh").write_text("".join(lines))
    exports = [f"export {shlex.quote(f'{k}={v}')}" for k, v in guest_environment(settings).items() if k.isidentifier()]
    cwd = shlex.quote(str(settings.cwd))
    lines = [*exports, f"cd -- {cwd} || exit 69", f"exec {shlex.join(command)}"]
    (folder / "command.sh").write_text("\n".join(lines) + "\n", errors="surrogateescape")


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one run, which the guest can see; it and those of runs that were killed are removed."""
    runs = cache_home() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    # One at a time sweeps and makes its folder: between the making and the locking it looks like one that was left.
    with locked(runs, wait=True):
        for stale in runs.iterdir():
            with contextlib.suppress(OSError), locked(stale):
                shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=runs, prefix=time.strftime("%Y%m%d-%H%M%S-")))
        held = contextlib.ExitStack()
        held.enter_context(locked(folder))
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock that says that a folder is in use; BlockingIOError if another process does, unless told to wait."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def log_size(folder: Path) -> int:
    """How much the guest's console has written."""
    try:
        return (folder / "console.log").stat().st_size
    except FileNotFoundError:
        return 0


def keep_log(folder: Path) -> Path:
    """Move the console log to where it outlives the run, and drop all but the latest of those."""
    logs = cache_home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    kept = logs / f"{folder.name}.log"
    if (folder / "console.log").exists():
        shutil.move(folder / "console.log", kept)
    elif not kept.exists():
        kept.write_text("")
    for old in sorted(logs.glob("*.log"))[:-LOGS_KEPT]:
        old.unlink(missing_ok=True)
    return kept


def lost(folder: Path, reason: str) -> GuestLost:
    """The exception for a guest that is lost, with its console log kept."""
    kept = keep_log(folder)
    return GuestLost(reason, kept, console.tail(console.read(kept)))


@contextlib.contextmanager
def progress(what: str, quiet: bool) -> Iterator[contextlib.ExitStack]:
    """Say what is going on until the yielded stack is closed: a spinner on a terminal, else one line."""
    with contextlib.ExitStack() as stack:
        if not quiet:
            if sys.stderr.isatty():
                from rich.console import Console

                stack.enter_context(Console(stderr=True).status(f"{what} ..."))
            else:
                note(f"{what} ...")
        yield stack
