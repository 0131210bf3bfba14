"""From a file to a ``Trace``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .._collector import no_search_for_circles
from .build import build
from .decode import Pages
from .file import TraceError, blocks, from_json
from .model import Thread, Trace

__all__ = ["load", "read"]

I32, I64 = 2**31, 2**63


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a recording.

    What is damaged or cut off is left out, and ``Trace.damage`` says so.

    Args:
        path: a file of ``linuxsync trace record`` or ``recording(path)``.
    Raises:
        TraceError: it is no recording, or can't be understood.
        OSError: what open(2) and read(2) say.
    """
    with Path(path).open("rb") as stream:
        return read(stream)


def read(stream: BinaryIO) -> Trace:
    """Read a recording, as ``load()``, from an open file."""
    with no_search_for_circles():
        return understood(stream)


def understood(stream: BinaryIO) -> Trace:
    """The recording in a file."""
    damage: list[str] = []
    names: dict[int, Thread] = {}
    pages = trace = None
    meta: dict[str, Any] = {}
    end = None
    for tag, content in blocks(stream, damage):
        try:
            if pages is None or trace is None:
                if tag != "meta":
                    raise TraceError("a recording that does not begin with what it is of")
                meta = checked(from_json(content), META)
                pages = Pages(meta["pages"], meta["events"], meta["byteorder"])
                trace = begun(meta)
            elif tag == "page":
                pages.add(content)
            elif tag == "comm":
                add_names(names, from_json(content))
            elif tag == "end":
                end = checked(from_json(content), END)
            else:
                raise ValueError("its kind is not known, or not there where it is")
        except TraceError:
            raise
        except ValueError as error:
            if trace is None:
                raise TraceError(f"its meta block can't be understood: {error}") from None
            kind = f"a {tag} block" if tag in ("page", "comm", "end") else "a block"
            damage.append(f"{kind} can't be understood, and is left out from there: {error}")
    if pages is None or trace is None:
        raise TraceError("; ".join(["a recording without contents", *damage]))
    if end is None and not damage:
        damage.append("it has no end: its recorder was killed, and what came after the last block is missing")
    happened = pages.found
    trace.damage = damage
    trace.events = len(happened)
    trace.lost = max(pages.lost, end["lost"] if end else 0)
    last = max((one[0] for one in happened), default=trace.start_ns)
    build(happened, trace, names, {int(number): name for number, name in meta["ioctls"].items()}, meta["by_pid"])
    trace.end_ns = max(end["end_ns"] if end else last, last, trace.start_ns)
    return trace


META = {
    "kernel": str,
    "machine": str,
    "command": str,
    "byteorder": str,
    "pages": str,
    "events": dict,
    "start_ns": int,
    "wall_ns": int,
    "syscalls": bool,
    "ioctls": dict,
    "probes": list,
    "by_pid": bool,
}
END = {"end_ns": int, "lost": int}


def checked(found: Any, types: Mapping[str, type]) -> dict[str, Any]:
    """JSON, if it has what it is to have."""
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    for name, wanted in types.items():
        value = found.get(name)
        if type(value) is not wanted:
            raise ValueError(f"{name} is not what it is to be")
        if isinstance(value, int) and not -I64 <= value < I64:
            raise ValueError(f"{name} is out of range")
        if isinstance(value, dict) and not all(isinstance(one, str) for one in value.values()):
            raise ValueError(f"{name} is not what it is to be")
        if isinstance(value, list) and not all(isinstance(one, str) for one in value):
            raise ValueError(f"{name} is not what it is to be")
    if "ioctls" in types and not all(number.isdecimal() and len(number) < 12 for number in found["ioctls"]):
        raise ValueError("ioctls is not what it is to be")
    return found


def begun(meta: dict[str, Any]) -> Trace:
    """A trace without fences."""
    return Trace(
        meta["start_ns"],
        meta["start_ns"],
        kernel=meta["kernel"],
        machine=meta["machine"],
        command=meta["command"],
        wall_ns=meta["wall_ns"],
        syscalls=meta["syscalls"],
        probes=tuple(meta["probes"]),
    )


def add_names(names: dict[int, Thread], found: Any) -> None:
    """Note what threads are called; the last name of a thread is the one that it has here."""
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    for number, said in found.items():
        if not (isinstance(said, list) and len(said) == 3 and isinstance(said[0], str) and number.isdecimal()):
            raise ValueError("no names of threads")
        comm, pid, process = said
        if not ((pid is None or type(pid) is int) and isinstance(process, str | None) and len(number) < 10):
            raise ValueError("no names of threads")
        if pid is not None and not 0 <= pid < I32:
            raise ValueError("no names of threads")
        thread = names.setdefault(int(number), Thread(int(number), comm))
        thread.comm, thread.pid, thread.process = comm, pid or thread.pid, process or thread.process
