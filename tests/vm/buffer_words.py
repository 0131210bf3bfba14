"""The kernel's interface to buffers once more, told by nobody else; see kernel_words.py.

Structs and request numbers as in include/uapi/linux/dma-buf.h, dma-heap.h and udmabuf.h, the text of debugfs bufinfo,
and what a kprobe sees of START and END.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ioctl_opt import IOW, IOWR
from kernel_words import answer

from linuxsync import Access, DmaBuf

PAGE = mmap.PAGESIZE
READ, WRITE, RW, START, END = 1, 2, 3, 0, 4


class Sync(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64)]


class SyncFileOf(ctypes.Structure):
    """struct dma_buf_export_sync_file and struct dma_buf_import_sync_file."""

    _fields_ = [("flags", ctypes.c_uint32), ("fd", ctypes.c_int32)]


class Alloc(ctypes.Structure):
    _fields_ = [
        ("len", ctypes.c_uint64),
        ("fd", ctypes.c_uint32),
        ("fd_flags", ctypes.c_uint32),
        ("heap_flags", ctypes.c_uint64),
    ]


class Create(ctypes.Structure):
    _fields_ = [
        ("memfd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    ]


class CreateList(ctypes.Structure):
    """The head; items of the layout of Create follow, with padding in place of the flags."""

    _fields_ = [("flags", ctypes.c_uint32), ("count", ctypes.c_uint32)]


SYNC = IOW(ord("b"), 0, Sync)
SET_NAME_A = IOW(ord("b"), 1, ctypes.c_uint32)
SET_NAME_B = IOW(ord("b"), 1, ctypes.c_uint64)
EXPORT = IOWR(ord("b"), 2, SyncFileOf)
IMPORT = IOW(ord("b"), 3, SyncFileOf)
ALLOC = IOWR(ord("H"), 0, Alloc)
CREATE = IOW(ord("u"), 0x42, Create)
CREATE_LIST = IOW(ord("u"), 0x43, CreateList)


def raw_sync(fd: int, flags: int) -> int:
    """DMA_BUF_IOCTL_SYNC: 0 or -errno."""
    return answer(fd, SYNC, Sync(flags))


def raw_export(fd: int, flags: int) -> int:
    """DMA_BUF_IOCTL_EXPORT_SYNC_FILE: the new descriptor or -errno."""
    data = SyncFileOf(flags=flags, fd=-1)
    result = answer(fd, EXPORT, data)
    return data.fd if result == 0 else result


def raw_import(fd: int, flags: int, fence: int) -> int:
    """DMA_BUF_IOCTL_IMPORT_SYNC_FILE: 0 or -errno."""
    return answer(fd, IMPORT, SyncFileOf(flags=flags, fd=fence))


def raw_alloc(heap: int, length: int, fd: int = 0, fd_flags: int = 0o2000002, heap_flags: int = 0) -> int:
    """DMA_HEAP_IOCTL_ALLOC: the new descriptor or -errno. Never ask for much: the kernel has no bound."""
    assert length <= 1 << 26 or length > (1 << 64) - PAGE
    data = Alloc(len=length, fd=fd, fd_flags=fd_flags, heap_flags=heap_flags)
    result = answer(heap, ALLOC, data)
    return data.fd if result == 0 else result


@dataclass(frozen=True)
class Listed:
    """A buffer as debugfs bufinfo shows it; the fences as (usage, timeline, sequence number, signalled)."""

    size: int
    count: int
    exporter: str
    ino: int
    name: str
    fences: tuple[tuple[str, str, int, bool], ...]


def peek(buf: DmaBuf, count: int = 1) -> bytes:
    """The first bytes, read by nobody's view."""
    with buf.mmap(Access.READ) as mapped:
        return mapped[:count]


def bufinfo() -> dict[int, Listed]:
    """Debugfs dma_buf/bufinfo by inode number, read as ``dma_buf_debug_show`` writes it."""
    text = Path("/sys/kernel/debug/dma_buf/bufinfo").read_text()
    found: dict[int, Listed] = {}
    for line in text.splitlines():
        if row := re.fullmatch(r"(\d{8,})\t[0-9a-f]{8}\t[0-9a-f]{8}\t(\d{8})\t(\S+)\t(\d{8,})\t(.*)", line):
            last = int(row[4])
            found[last] = Listed(int(row[1]), int(row[2]), row[3], last, row[5], ())
        elif fence := re.fullmatch(r"\t(kernel|write|read) fence:\S+ (.+) seq (\d+) (un)?signalled", line):
            old = found[last]
            fences = (*old.fences, (fence[1], fence[2], int(fence[3]), not fence[4]))
            found[last] = Listed(old.size, old.count, old.exporter, old.ino, old.name, fences)
    total = re.search(r"^Total (\d+) objects", text, re.MULTILINE)
    assert total is not None and int(total[1]) == len(found), text
    return found


def sysfs_buffers() -> dict[int, tuple[str, int]]:
    """Exporter and size by inode number, as /sys/kernel/dmabuf/buffers has them (until Linux 6.18)."""
    found: dict[int, tuple[str, int]] = {}
    for entry in Path("/sys/kernel/dmabuf/buffers").iterdir():
        try:
            found[int(entry.name)] = (entry / "exporter_name").read_text().strip(), int((entry / "size").read_text())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # it has gone since it was listed
                raise
    return found


TRACING = Path("/sys/kernel/tracing")


class Seen(list):
    """What the kernel was asked for: "START READ" and the like, in order; filled when the block is over."""


def tell_tracing(file: str, text: str) -> None:
    """Write one line; opened by hand because a file object that appends seeks first, which tracefs refuses."""
    fd = os.open(TRACING / file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, text.encode() + b"\n")
    finally:
        os.close(fd)


# What START and END call in the exporters; dma_buf_end_cpu_access itself is inlined where it is called.
PROBES = {
    "begin_heap": "system_heap_dma_buf_begin_cpu_access",
    "end_heap": "system_heap_dma_buf_end_cpu_access",
    "begin_udmabuf": "begin_cpu_udmabuf",
    "end_udmabuf": "end_cpu_udmabuf",
}


@cache
def probe() -> None:
    """Put a kprobe on each of them, until this process ends."""
    for name, function in PROBES.items():
        tell_tracing("kprobe_events", f"p:buffer_words/{name} {function} direction=$arg2:s32")
    tell_tracing("events/buffer_words/enable", "1")
    atexit.register(unprobe)


def unprobe() -> None:
    tell_tracing("events/buffer_words/enable", "0")
    for name in PROBES:
        tell_tracing("kprobe_events", f"-:buffer_words/{name}")


@contextmanager
def syncs() -> Iterator[Seen]:
    """Record every START and END of a heap or udmabuf in the system."""
    seen = Seen()
    probe()
    (TRACING / "trace").write_text("")
    try:
        yield seen
    finally:
        directions = {"0": "RW", "1": "WRITE", "2": "READ"}
        for line in (TRACING / "trace").read_text().splitlines():
            if found := re.search(r" (begin|end)_\w+: \(.*\) direction=(\d)", line):
                seen.append({"begin": "START ", "end": "END "}[found[1]] + directions[found[2]])
