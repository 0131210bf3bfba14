"""Whether KVM runs a guest on this machine.

/dev/kvm may exist and open, and a guest may hang all the same (nested machines without vmx or svm). So a probe boots
our kernel under KVM for a moment, and its answer is remembered until the machine is booted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .kernel import Kernel, cache_home
from .make import say

PROBE_LIMIT = 15.0
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Answer:
    """Whether KVM works, and why one should believe it.

    Attributes:
        works: a guest ran under it.
        why: what was tried, or what is in its way.
    """

    works: bool
    why: str


def probe(kernel: Kernel) -> Answer:
    """The answer for this machine, from the cache where it is known."""
    if quick := impossible():
        return Answer(False, quick)
    file = cache_home() / "kvm.json"
    key = f"{machine()} {identity(kernel)}"
    try:
        known = json.loads(file.read_text())
        if known["key"] == key:
            return Answer(bool(known["works"]), str(known["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"trying KVM (once per boot of this machine, at most {PROBE_LIMIT:.0f} s)")
    answer = boots(kernel)
    say(answer.why)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"kvm.json.{os.getpid()}")
    new.write_text(json.dumps({"key": key, "works": answer.works, "why": answer.why}))
    new.replace(file)
    return answer


def impossible() -> str | None:
    """Why KVM cannot work, if that is known without trying."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    if not re.search(r"^flags\s*:.*\b(?:vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
        return "/dev/kvm opens, but the CPU has neither vmx nor svm"
    return None


def identity(kernel: Kernel) -> str:
    """Which kernel was tried: one that hangs says nothing about the next."""
    stat = kernel.image.stat()
    return f"{kernel.image} {stat.st_size} {stat.st_mtime_ns}"


def machine() -> str:
    """What the answer holds for: this boot of the machine, with this QEMU."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return hashlib.sha256((boot + version).encode()).hexdigest()


def qemu_version() -> tuple[int, int]:
    """Of the QEMU that will be used; (0, 0) where that can't be told."""
    with contextlib.suppress(OSError):
        said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
        if match := re.search(r"version (\d+)\.(\d+)", said):
            return int(match[1]), int(match[2])
    return 0, 0


def boots(kernel: Kernel) -> Answer:
    """Boot a kernel without a root under KVM; it has to say its name and to panic."""
    command = ["setpriv", "--pdeathsig", "KILL", QEMU, "-accel", "kvm", "-cpu", "host", "-m", "256M"]
    command += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel.image)]
    command += ["-append", "earlyprintk=serial,ttyS0,115200 console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PROBE_LIMIT
        )
    except subprocess.TimeoutExpired:
        return Answer(False, f"KVM does not work here: a guest was not done after {PROBE_LIMIT:.0f} s")
    if b"Linux version" in done.stdout and b"Kernel panic" in done.stdout:
        return Answer(True, "KVM works")
    said = done.stdout.decode("utf-8", "replace").strip().split("\n")[-1]
    return Answer(False, f"KVM does not work here: {said or f'QEMU ended with status {done.returncode}'}")
