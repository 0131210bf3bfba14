"""debugfs: what the kernel prints of sw_sync timelines (sync/info) and of all dma-bufs (dma_buf/bufinfo).

Names in that text are somebody's choice, line breaks included. One that imitates the lines around it can't always be
told from them; what fits nowhere is left out and counted.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from dataclasses import dataclass

from .._fd import may_open
from .._mounts import mounts

__all__ = ["ListedBuffer", "ListedFence", "ListedTimeline", "Point", "parse_bufinfo", "parse_sync_info", "read"]

TIME_LIMIT = 2.0

SYNC_INFO = re.compile(rb"objs:\n-+\n(.*)fences:\n-+\n.*", re.DOTALL)
# No number has more digits than one of 64 bits: what is longer is none, and would take long to find out about.
NUMBER = rb"-?\d{1,20}"
LINE = rb"  fence [a-z]{1,16}(?:@\d{1,20}\.\d{9})?: %s / %s\n" % (NUMBER, NUMBER)
# A timeline's name is a thread's, of at most 15 bytes.
TIMELINE = re.compile(rb"(.{0,15}?): (%s)\n((?:%s)*)\n" % (NUMBER, LINE), re.DOTALL)
POINT = re.compile(rb"  fence ([a-z]{1,16})(?:@(\d{1,20})\.(\d{9}))?: (%s) / %s\n" % (NUMBER, NUMBER))

ROW = re.compile(rb"(?<!\d)(\d{8,20})\t[0-9a-f]{8,16}\t[0-9a-f]{8,16}\t(-?\d{8,20})\t([^\t\n]{0,255})\t(\d{8,20})\t")
DEVICES = rb"\tAttached Devices:\n(?:\t[^\n]*\n)*Total \d{1,9} devices attached\n\n"
# Each ends where first one more or the devices follow. (?=(...))\N takes that and tries no other: for what fits nowhere
# there would be more ways to divide the lines among fences than anybody has time for.
USE = rb"\t(?:kernel|write|read) fence:"
REST = (
    rb"\n((?:(?=(%s.{0,255}?signalled\n(?=%s|%s)))\3)*)"
    rb"\tAttached Devices:\n((?:\t[^\n]*\n)*)Total (\d{1,9}) devices attached\n\n" % (USE, USE, DEVICES)
)
# A name has at most 31 bytes. Most are one line; the others come second, so that no short one swallows what follows it.
BLOCKS = [re.compile(rb"(%s)%s" % (name, REST), re.DOTALL) for name in (rb"[^\n]{0,31}", rb".{0,31}")]
# At first "DRIVER TIMELINE seq N", later "CONTEXT:N TIMELINE DRIVER", without the names once it has signaled.
FENCE = re.compile(
    rb"\t(kernel|write|read) fence:(?:(\S*) (.{0,199}?) seq (\d{1,20})|\d{1,20}:(\d{1,20}) (.{0,199}?) (\S*))"
    rb" (un)?signalled\n",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Point:
    """A fence of a sw_sync timeline.

    Attributes:
        seqno: where on the timeline (int, ``u64`` printed as signed).
        state: "active", "signaled" or "error".
        timestamp_ns: when it signaled or failed (CLOCK_MONOTONIC); None before.
    """

    seqno: int
    state: str
    timestamp_ns: int | None


@dataclass(frozen=True, slots=True)
class ListedTimeline:
    """A sw_sync timeline as debugfs sync/info has it.

    Attributes:
        name: of the thread that opened it, at that moment (os.fsdecode).
        value: where it is (int, signed 32-bit).
        points: its fences that had not signaled when it was last advanced, in ascending order.
    """

    name: str
    value: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class ListedFence:
    """A fence of a buffer as debugfs dma_buf/bufinfo has it.

    Attributes:
        usage: "kernel", "write" or "read".
        driver_name: who made it; "" for one that has signaled, in newer kernels.
        obj_name: its timeline (os.fsdecode); likewise.
        seqno: where on that timeline (int, ``u64``).
        signaled: whether it has; a failed one has too.
    """

    usage: str
    driver_name: str
    obj_name: str
    seqno: int
    signaled: bool


@dataclass(frozen=True, slots=True)
class ListedBuffer:
    """A dma-buf as debugfs dma_buf/bufinfo has it.

    Attributes:
        ino: its inode number.
        size: bytes.
        count: references to its open file, by descriptors, mappings and devices.
        exporter: who made it.
        name: what it was named (os.fsdecode); None if nobody has.
        fences: of devices that move, write or read it.
        devices: those that are attached to it.
    """

    ino: int
    size: int
    count: int
    exporter: str
    name: str | None
    fences: tuple[ListedFence, ...]
    devices: tuple[str, ...]


def parse_sync_info(text: bytes) -> tuple[list[ListedTimeline], int]:
    """Return the sw_sync timelines in debugfs sync/info, and how many pieces of it were not understood.

    Mirrors ``sync_info_debugfs_show`` (drivers/dma-buf/sync_debug.c).
    """
    whole = SYNC_INFO.fullmatch(text)
    if whole is None:
        return [], 1
    found, lost, at = [], 0, 0
    body = whole[1]
    while at < len(body):
        timeline = TIMELINE.match(body, at)
        if timeline is None:
            lost += 1
            end = body.find(b"\n\n", at)
            at = len(body) if end < 0 else end + 2
            continue
        at = timeline.end()
        points = tuple(
            Point(int(seqno), state.decode(), int(seconds) * 10**9 + int(ns) if seconds else None)
            for state, seconds, ns, seqno in POINT.findall(timeline[3])
        )
        found.append(ListedTimeline(os.fsdecode(timeline[1]), int(timeline[2]), points))
    return found, lost


def parse_bufinfo(text: bytes) -> tuple[list[ListedBuffer], int]:
    """Return the buffers in debugfs dma_buf/bufinfo, and how many rows of it were not understood.

    Mirrors ``dma_buf_debug_show`` (drivers/dma-buf/dma-buf.c) and ``dma_fence_describe``.
    """
    found, lost, at = [], 0, 0
    while row := ROW.search(text, at):
        block = next((b for form in BLOCKS if (b := form.match(text, row.end())) and counts(b)), None)
        if block is None:
            lost += 1
            at = row.end()
            continue
        at = block.end()
        fences = tuple(
            ListedFence(
                usage.decode(),
                os.fsdecode(driver or new_driver),
                os.fsdecode(timeline or new_timeline),
                int(seqno or new_seqno),
                not un,
            )
            for usage, driver, timeline, seqno, new_seqno, new_timeline, new_driver, un in FENCE.findall(block[2])
        )
        name = None if block[1] == b"<none>" else os.fsdecode(block[1])
        devices = tuple(os.fsdecode(line[1:]) for line in block[4].split(b"\n")[:-1])
        found.append(ListedBuffer(int(row[4]), int(row[1]), int(row[2]), os.fsdecode(row[3]), name, fences, devices))
    return found, lost


def counts(block: re.Match[bytes]) -> bool:
    """Whether there are as many devices as it says."""
    return block[4].count(b"\n") == int(block[5])


def read(path: str, limit: float = TIME_LIMIT) -> bytes:
    """Return what a file in debugfs says, read in another process so that ours can't get stuck in it.

    Reading dma_buf/bufinfo takes the lock of each buffer in turn, which a driver in trouble may never give back.

    Args:
        path: below where debugfs is mounted: "dma_buf/bufinfo".
        limit: seconds to wait for it.
    Raises:
        FileNotFoundError: debugfs is not mounted, or has no such file.
        PermissionError: it is not for this user.
        TimeoutError: it was not read in time.
        OSError: EMFILE; ENOMEM; EIO, it could not be read.
    """
    places = [place for place, _ in mounts("debugfs")]
    if not places:
        raise FileNotFoundError(errno.ENOENT, "debugfs is not mounted: mount -t debugfs none /sys/kernel/debug")
    for place in places:
        file = place / path
        try:
            file.stat()
        except FileNotFoundError:
            continue
        return read_file(str(file), limit)
    raise FileNotFoundError(errno.ENOENT, "this kernel's debugfs has no such file", str(places[0] / path))


def read_file(path: str, limit: float) -> bytes:
    """What a file says, read by cat(1)."""
    if not may_open(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    process = subprocess.Popen(
        ["cat", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            text, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                pass  # not even that ends it; whoever waits for it would not end either
            raise TimeoutError(errno.ETIME, f"not read within {limit:g} s: a driver keeps a lock", path) from None
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        raise OSError(errno.EIO, "could not be read", path)
    return text
