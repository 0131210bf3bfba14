"""linuxsync show: everything known about one object."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..errors import OURS
from ..inspect import (
    Descriptor,
    HeldBuffer,
    HeldSyncFile,
    HeldSyncobj,
    Kind,
    Scan,
    dma_bufs,
    fence_timelines,
    named_timelines,
    open_files,
    owed_by,
    polled,
    scan,
    sync_files,
    syncobj_files,
    waiters,
)
from ..sync_file import FenceInfo
from .bufs import Line, fences, show_fences, size
from .bufs import holders as holders_of_buffer
from .bufs import show_holders as show_holders_of_buffer
from .ps import show_holders
from .stuck import owed_json, show_owners, show_waiters, waiter_json
from .text import duration, plain, status
from .timelines import as_json

__all__ = ["show"]

DEVICES = {Kind.DRM, Kind.SW_SYNC, Kind.FENCEDEV}
GENERIC = {"pos", "flags", "mnt_id", "ino"}  # what any fdinfo has
PROC = re.compile(r"/proc/(\d+)/fd/(\d+)/?")


@dataclass(frozen=True)
class Fact:
    """Something about an object: as JSON has it, and in lines for people."""

    name: str
    value: Any
    lines: list[str]


def fact(name: str, value: Any, line: str | None = None) -> Fact:
    """One that is a line."""
    return Fact(name, value, [("-" if value is None else str(value)) if line is None else line])


@click.command(short_help="Show everything known about one object")
@click.option("--confirm", is_flag=True, help="Poll fences, and ask sw_sync timelines for their names by a fence.")
@click.option("-J", "--json", "as_json_", is_flag=True, help="Print JSON, for programs.")
@click.argument("what", nargs=-1, required=True, metavar="PID FD | INO | PATH")
def show(what: tuple[str, ...], confirm: bool, as_json_: bool) -> None:
    """Show everything known about one object: a descriptor of a process, a dma-buf by its inode number, or a file.

    Which that is: PID FD, two numbers; INO, one number, as `linuxsync bufs` prints it; PATH, /proc/PID/fd/FD, or a
    device like /dev/dri/renderD128, of which every open file is shown. With --confirm the kernel is asked in ways that
    it notices: a poll enables the signaling of a fence, and says for sure whether it has signaled.

    Exit status: 0; 1 if there is no such object.
    """
    look = scan()
    try:
        found = [*objects(what, look, confirm)]
    except OSError as error:
        raise click.ClickException(f"{' '.join(what)}: {error.strerror}") from None
    if as_json_:
        unseen = [{"what": one.what, "count": one.count, "why": one.why} for one in look.unseen]
        shown = [{one.name: one.value for one in each} for each in found]
        print(json.dumps({"objects": shown, "unseen": unseen}, indent=1))
    else:
        for at, each in enumerate(found):
            if at:
                print()
            print_facts(each)
        for one in look.unseen:
            print(f"linuxsync: {one.count} {one.what} not seen: {one.why}", file=sys.stderr)
    if not found:
        raise click.ClickException(f"{plain(' '.join(what))}: nothing here that is about fences or buffers")


def objects(what: tuple[str, ...], look: Scan, confirm: bool) -> Iterator[list[Fact]]:
    """What is known of each that is meant."""
    if len(what) == 1 and (there := PROC.fullmatch(what[0])):
        what = (there[1], there[2])
    if all(word.isdecimal() for word in what) and len(what) <= 2:
        if len(what) == 1:
            yield from (of_buffer(held, look) for held in dma_bufs(look) if held.ino == int(what[0]))
            return
        pid, fd = map(int, what)
        if pid not in look.processes:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        yield from (of(one, look, confirm) for one in look.descriptors if (one.process.pid, one.fd) == (pid, fd))
        return
    if len(what) != 1:
        raise click.UsageError("that is neither PID FD, nor INO, nor one PATH")
    node = Path(what[0]).stat()
    meant = [
        one for one in look.descriptors if one.kind in (Kind.DRM, Kind.SW_SYNC, Kind.FENCEDEV) and is_at(one, node)
    ]
    for holders in open_files(meant):
        yield of(holders[0], look, confirm)


def is_at(one: Descriptor, node: os.stat_result) -> bool:
    """Whether a descriptor is of that file, or of that device by another name."""
    try:
        found = Path("/proc", str(one.process.pid), "fd", str(one.fd)).stat()
    except OSError as error:
        if error.errno in OURS:
            raise
        return False
    if stat.S_ISCHR(node.st_mode):
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == node.st_rdev
    return os.path.samestat(found, node)


def of(one: Descriptor, look: Scan, confirm: bool) -> list[Fact]:
    """What is known of the object behind a descriptor."""
    if one.kind is Kind.SYNC_FILE:
        for held in sync_files(look):
            if one in held.holders:
                return of_sync_file(held, look, confirm)
    elif one.kind is Kind.DMA_BUF:
        for buffer in dma_bufs(look):
            if any(one.process == holder.process and one.fd in holder.fds for holder in buffer.holders):
                return of_buffer(buffer, look)
    elif one.kind is Kind.SYNCOBJ_FILE:
        for syncobj in syncobj_files(look):
            if one in syncobj.holders:
                return of_syncobj(syncobj, look)
    elif one.kind is Kind.SW_SYNC:
        return of_timeline(one, look, confirm)
    return of_device(one, look)


def common(holders: tuple[Descriptor, ...], look: Scan) -> list[Fact]:
    """Holders and waiters."""
    lines = [show_holders([one]) for one in holders] or ["none"]
    return [Fact("holders", as_json(holders), lines), waiting(holders, look)]


def waiting(holders: Iterable[Descriptor], look: Scan) -> Fact:
    """The threads that wait for one of these descriptors."""
    numbers = {(holder.process.pid, holder.fd) for holder in holders}
    found = [waiter_json(one) for one in waiters(look) if any((one.process.pid, fd) in numbers for fd in one.fds)]
    return listing("waiters", found, lambda one: show_waiters([one]))


def of_fences(found: tuple[FenceInfo, ...]) -> Fact:
    """Each fence in something."""
    return Fact(
        "fences",
        [
            {
                "driver": one.driver_name,
                "timeline": one.obj_name,
                "status": one.status,
                "timestamp_ns": one.timestamp_ns or None,
            }
            for one in found
        ],
        [
            f"{one.driver_name} {one.obj_name} {status(one.status)}"
            + (f" at {one.timestamp_ns / 1e9:.9f} s" if one.timestamp_ns else "")
            for one in found
        ]
        or ["none"],
    )


def of_sync_file(held: HeldSyncFile, look: Scan, confirm: bool) -> list[Fact]:
    """A sync_file."""
    info = (polled(held) if confirm else None) or held.info
    doubt = "" if info.status or confirm else ", as far as is known without a poll (--confirm)"
    facts = [
        fact("kind", Kind.SYNC_FILE.value),
        fact("name", info.name),
        fact("status", info.status, status(info.status) + doubt),
        fact("since", held.age_ns, duration(held.age_ns)),
        of_fences(info.fences),
    ]
    if confirm:
        owed = [owed_json(one) for one in owed_by(look, info)]
        lines = [f"{one['driver']} {one['timeline']}: {show_owners([one])}" for one in owed]
        facts.append(Fact("owed", owed, lines or ["nothing"]))
    return facts + common(held.holders, look)


def of_buffer(held: HeldBuffer, look: Scan) -> list[Fact]:
    """A dma-buf."""
    line = Line(held, complete=True)
    its_fences, its_holders = fences(line), holders_of_buffer(line)
    descriptors = [
        one
        for one in look.of(Kind.DMA_BUF)
        if any(one.process == holder.process and one.fd in holder.fds for holder in held.holders)
    ]
    return [
        fact("kind", Kind.DMA_BUF.value),
        fact("ino", held.ino),
        fact("name", held.name),
        fact("exporter", held.exporter),
        fact("size", held.size, size(held.size)),
        fact("share", held.share, size(held.share)),
        listing("devices", None if held.devices is None else list(held.devices), str),
        listing("fences", its_fences, lambda one: show_fences([one])),
        listing("holders", its_holders, lambda one: show_holders_of_buffer([one])),
        waiting(descriptors, look),
    ]


def listing(name: str, found: list[Any] | None, line: Callable[[Any], str]) -> Fact:
    """A list, a line each; None where it could not be told."""
    return Fact(name, found, ["not known"] if found is None else [line(one) for one in found] or ["none"])


def of_syncobj(held: HeldSyncobj, look: Scan) -> list[Fact]:
    """A syncobj."""
    return [
        fact("kind", Kind.SYNCOBJ_FILE.value),
        fact("status", held.status, "-" if held.status is None else status(held.status)),
        fact("signaled", held.signaled),
        fact("submitted", held.submitted),
        of_fences(held.fences or ()),
        *common(held.holders, look),
    ]


def of_timeline(one: Descriptor, look: Scan, confirm: bool) -> list[Fact]:
    """A sw_sync timeline: the kernel tells its name only through a fence."""
    named = [(name, holders) for name, holders in (named_timelines(look) if confirm else ()) if one in holders]
    rows = fence_timelines(look, [])
    name = named[0][0] if named else next((row.obj_name for row in rows if row.sure and one in row.descriptors), None)
    listed = [each for row in rows if row.driver_name == "sw_sync" and row.obj_name == name for each in row.sw_sync]
    alike = "" if len(listed) < 2 else f" ({len(listed)} timelines have this name)"
    return [
        fact("kind", one.kind.value),
        fact("name", name, "not known without a fence of it (--confirm)" if name is None else name),
        listing("values", [each.value for each in listed], lambda value: f"{value}{alike}"),
        listing(
            "pending",
            [[point.seqno for point in each.points if point.state == "active"] for each in listed],
            lambda points: ",".join(map(str, points)) or "-",
        ),
        *common(next(holders for holders in open_files(look.of(one.kind)) if one in holders), look),
    ]


def of_device(one: Descriptor, look: Scan) -> list[Fact]:
    """A device's open file, and what its driver has to say of it."""
    try:
        text = os.fsdecode(Path("/proc", str(one.process.pid), "fdinfo", str(one.fd)).read_bytes())
    except OSError as error:
        if error.errno in OURS:
            raise
        text = ""
    said = dict(line.split(":", 1) for line in text.split("\n") if ":" in line)
    own = {key: value.strip() for key, value in said.items() if key not in GENERIC}
    return [
        fact("kind", one.kind.value),
        fact("path", one.link),
        Fact("fdinfo", own, [f"{key}: {value}" for key, value in own.items()] or ["none"]),
        *common(next(holders for holders in open_files(look.of(one.kind)) if one in holders), look),
    ]


def print_facts(facts: list[Fact]) -> None:
    """The name of each, and its lines below each other."""
    width = max(len(one.name) for one in facts)
    for one in facts:
        for at, line in enumerate(one.lines):
            print(f"{one.name if at == 0 else '':<{width}}  {plain(line)}")
