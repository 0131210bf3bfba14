"""findings: how doctor says what it has found, and which command helps."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .._fd import may_open
from ..errors import OURS

__all__ = ["Finding", "State"]

VM = "linuxsync vm shell"  # whose kernel has all of it


class State(Enum):
    """Whether this user can use something now."""

    OK = "ok"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a machine offers, or does not.

    Attributes:
        name: of the thing; one DRM device is called ``drm:DRIVER``, and there may be several of a driver.
        state: whether this user can use it; unknown if that can't be told without doing something.
        why: how that is known, or why not.
        fix: the command that helps; None if nothing is wrong, or no command does.
    """

    name: str
    state: State
    why: str
    fix: str | None = None


def ok(name: str, why: str) -> Finding:
    return Finding(name, State.OK, why)


def missing(name: str, why: str, fix: str | None) -> Finding:
    return Finding(name, State.MISSING, why, fix)


def unknown(name: str, why: str, fix: str | None) -> Finding:
    return Finding(name, State.UNKNOWN, why, fix)


def root_says(command: str) -> str:
    """A command that takes root, for this user."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def look_as_root() -> str:
    """What helps where this user can't look."""
    return VM if os.geteuid() == 0 else "sudo linuxsync doctor"


def load(module: str) -> str:
    """What gives a module: loading it, if this kernel has it."""
    try:
        folder = Path("/lib/modules", os.uname().release)
        known = b"/%s.ko" % module.encode() in (folder / "modules.dep").read_bytes()
    except OSError as error:
        if error.errno in OURS:
            raise
        known = False
    return root_says(f"modprobe {module}") if known else VM


def of_node(name: str, path: Path, option: str, fix: str) -> Finding:
    """A device node to be read and written."""
    if not path.exists():
        return missing(name, f"no {path}: the module is not loaded, or the kernel lacks {option}", fix)
    if not may_open(path):
        return missing(name, f"{path} is not for this user", for_us(path))
    return ok(name, str(path))


def for_us(path: Path, wanted: str = "rw") -> str:
    """The command with which this user gets to open a node."""
    there = path.stat()
    bits = (0o040 if "r" in wanted else 0) | (0o020 if "w" in wanted else 0)
    if there.st_gid and there.st_mode & bits == bits:
        try:
            return f"sudo usermod -aG {grp.getgrgid(there.st_gid).gr_name} $USER"
        except KeyError:
            pass  # a group without a name
    return f"sudo setfacl -m u:$USER:{wanted} {path}"
