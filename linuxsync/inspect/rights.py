"""rights: what doctor says of this user, and of what others' processes may be asked."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .._fd import OwnedFd
from .._mounts import mounts
from ..errors import OURS
from .findings import VM, Finding, look_as_root, missing, ok, root_says, unknown
from .pidfd import PidFd, same_file

CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


def of_pidfd() -> Finding:
    """Asked of this process itself."""
    name = "pidfd_getfd"
    try:
        with PidFd.open(os.getpid()) as process, process.get(OwnedFd, process.fileno()):
            return ok(name, "it answers: fences of other processes can be looked at")
    except OSError as error:
        return refused(name, error, "Linux 5.6 brought it")


def of_kcmp() -> Finding:
    """Asked of this process itself."""
    name = "kcmp"
    try:
        with OwnedFd._taking(os.open, "/", os.O_PATH | os.O_CLOEXEC) as any_file:
            one = (os.getpid(), any_file.fileno())
            same_file(one, one)
        return ok(name, "it answers: what several processes hold is one line")
    except OSError as error:
        return refused(name, error, "the kernel was built without CONFIG_KCMP")


def refused(name: str, error: OSError, lacking: str) -> Finding:
    """A system call that the kernel lacks, or that somebody has forbidden."""
    if error.errno == errno.ENOSYS:
        return missing(name, f"{lacking}, or a seccomp filter hides it", VM)
    if error.errno in (errno.EPERM, errno.EACCES):
        return missing(name, "a seccomp filter or security module forbids it, as containers do", None)
    raise error


def of_root() -> Finding:
    """Whether all descriptors are shown."""
    if os.geteuid() == 0:
        return ok("root", "effective uid 0")
    return missing("root", "an ordinary user: descriptors of other users' processes are not shown", look_as_root())


def of_ptrace() -> Finding:
    """Whose descriptors may be duplicated."""
    name = "ptrace"
    scope = yama()
    if scope == 3:
        return missing(name, "kernel.yama.ptrace_scope is 3: no fence of another process, until the next boot", None)
    if has_capability(CAP_SYS_PTRACE):
        return ok(name, "CAP_SYS_PTRACE: fences of all processes can be looked at")
    if scope == 0:
        return ok(name, "fences of this user's processes can be looked at")
    if scope is None:
        return unknown(name, "kernel.yama.ptrace_scope can't be read", look_as_root())
    whose = "none" if scope == 2 else "only descendants"
    why = f"kernel.yama.ptrace_scope is {scope}: of other processes' fences {whose} can be looked at"
    return missing(name, why, root_says("sysctl kernel.yama.ptrace_scope=0"))


def yama() -> int | None:
    """kernel.yama.ptrace_scope, 0 for a kernel without; None if it can't be read."""
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        return None


def has_capability(number: int) -> bool:
    """Whether this thread has a capability in effect."""
    found = re.search(rb"^CapEff:\s*([0-9a-f]+)$", Path("/proc/thread-self/status").read_bytes(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def of_hidepid() -> Finding:
    """Whether /proc shows other users' processes at all."""
    name = "hidepid"
    options = next((options for place, options in reversed(mounts("proc")) if place == Path("/proc")), "")
    found = re.search(r"(?:^|,)hidepid=([^,]+)", options)
    if found is None or found[1] in ("0", "off"):
        return ok(name, "/proc shows all processes")
    if has_capability(CAP_SYS_PTRACE):
        return ok(name, f"hidepid={found[1]}, which does not concern who has CAP_SYS_PTRACE")
    why = f"/proc is mounted with hidepid={found[1]}: it does not show other users' processes, or their descriptors"
    return missing(name, why, root_says("mount -o remount,hidepid=0 /proc"))
