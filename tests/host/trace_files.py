"""Files of recordings as the recorder writes them, of events that nobody's kernel had, for what reads them."""

from __future__ import annotations

import struct
import sys
import zlib
from io import BytesIO
from typing import Any

from linuxsync.trace.file import DENSEST, HEAD, MAGIC, Writer, join_pages

START = 5_000_000_000

HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
# What each event has after the common fields: kind, name, bytes, signed.
FENCE = [
    ("__data_loc char[] driver", 4, 0),
    ("__data_loc char[] timeline", 4, 0),
    ("unsigned int context", 4, 0),
    ("unsigned int seqno", 4, 0),
]
EVENTS: dict[str, tuple[int, list[tuple[str, int, int]]]] = {
    "dma_fence/dma_fence_init": (1, FENCE),
    "dma_fence/dma_fence_enable_signal": (2, FENCE),
    "dma_fence/dma_fence_signaled": (3, FENCE),
    "dma_fence/dma_fence_destroy": (4, FENCE),
    "dma_fence/dma_fence_wait_start": (5, FENCE),
    "dma_fence/dma_fence_wait_end": (6, FENCE),
    "sync_trace/sync_timeline": (7, [("__data_loc char[] name", 4, 0), ("u32 value", 4, 0)]),
    "syscalls/sys_enter_poll": (8, [("int __syscall_nr", 4, 1)]),
    "syscalls/sys_exit_poll": (9, [("int __syscall_nr", 4, 1), ("long ret", 8, 1)]),
    "sched/sched_waking": (10, [("pid_t pid", 4, 1)]),
    "drm/drm_vblank_event": (11, [("int crtc", 4, 1), ("unsigned int seq", 4, 0)]),
    "gpu_scheduler/drm_run_job": (12, [("__data_loc char[] ring", 4, 0), ("u64 id", 8, 0)]),
}
NUMBERS = {name.rpartition("/")[2]: number for name, (number, _) in EVENTS.items()}
TEXT = "__data_loc"


def format_of(number: int, fields: list[tuple[str, int, int]]) -> str:
    """What tracefs has in an event's format."""
    common = [("unsigned short common_type", 2, 0), ("unsigned char common_flags", 1, 0)]
    common += [("unsigned char common_preempt_count", 1, 0), ("int common_pid", 4, 1)]
    lines, at = [f"name: it\nID: {number}\nformat:"], 0
    for kind, size, signed in [*common, *fields]:
        lines.append(f"\tfield:{kind};\toffset:{at};\tsize:{size};\tsigned:{signed};")
        at += size
    return "\n".join(lines) + "\n"


FORMATS = {name: format_of(number, fields) for name, (number, fields) in EVENTS.items()}


def event(name: str, tid: int, *values: int | str, flags: int = 0) -> bytes:
    """An event's fields, as the kernel lays them out: texts come last, and where each is comes first."""
    number = NUMBERS[name]
    fields = next(fields for one, fields in EVENTS.values() if one == number)
    fixed, texts = struct.pack("=HBBi", number, flags, 0, tid), b""
    behind = len(fixed) + sum(size for _, size, _ in fields)
    for (kind, size, signed), value in zip(fields, values, strict=True):
        if kind.startswith(TEXT):
            text = str(value).encode("utf-8", "surrogateescape") + b"\0"
            fixed += struct.pack("=I", behind + len(texts) | len(text) << 16)
            texts += text
        else:
            fixed += int(value).to_bytes(size, sys.byteorder, signed=bool(signed))
    return fixed + texts


def page(events: list[tuple[int, bytes]], lost: int | None = None) -> bytes:
    """A page of the trace buffer, which may be longer than real ones."""
    now = events[0][0] if events else START
    content = bytearray()
    for ns, fields in events:
        delta, now = ns - now, ns
        content += struct.pack("=II", 30 | (delta & 0x7FFFFFF) << 5, delta >> 27)
        fields += bytes(-len(fields) % 4)
        content += struct.pack("=II", 0, len(fields) + 4) + fields
    used = len(content) | (0 if lost is None else 3 << 30)
    first = events[0][0] if events else START
    return struct.pack("=QQ", first, used) + bytes(content) + (b"" if lost is None else struct.pack("=Q", lost))


def meta(**more: Any) -> dict[str, Any]:
    """The first block."""
    return {
        "kernel": "6.12.0",
        "machine": "made",
        "command": "made up",
        "byteorder": sys.byteorder,
        "pages": HEADER_PAGE,
        "events": FORMATS,
        "start_ns": START,
        "wall_ns": 1_700_000_000_000_000_000,
        "syscalls": True,
        "ioctls": {"3223872707": "SYNCOBJ_WAIT"},
        "probes": [],
        "by_pid": False,
    } | more


END = {"end_ns": START + 10_000, "lost": 0}
NAMES = {"201": ["client", 201, "client"], "301": ["compositor", 300, "weston \udcff"]}


def happened() -> list[tuple[int, bytes]]:
    """A frame: a fence that signals, is waited for in a system call and in the kernel, and one that does not."""
    one, other = ("sw_sync", "frames", 7, 1), ("vgem", "unbound", 8, 1)
    return [
        (START + at, fields)
        for at, fields in [
            (100, event("dma_fence_init", 201, *one)),
            (200, event("dma_fence_init", 201, *other)),
            (300, event("sys_enter_poll", 301, 7)),
            (310, event("dma_fence_enable_signal", 301, *one)),
            (320, event("dma_fence_wait_start", 401, *one)),
            (400, event("sync_timeline", 201, "frames", 0)),
            (410, event("dma_fence_signaled", 201, *one)),
            (411, event("sched_waking", 201, 301)),
            (420, event("dma_fence_wait_end", 401, *one)),
            (450, event("sys_exit_poll", 301, 7, 1)),
            (500, event("dma_fence_destroy", 201, *one)),
            (600, event("drm_vblank_event", 0, 0, 5, flags=8)),
            (700, event("drm_run_job", 202, "gfx", 1 << 63)),
        ]
    ]


def block(tag: bytes, content: bytes, level: int = 1) -> bytes:
    """A block, whatever is in it."""
    stored = zlib.compress(content, level)
    if len(content) > DENSEST // 2 * len(stored):
        stored = zlib.compress(content, 0)
    return HEAD.pack(tag.ljust(4), len(content), len(stored), zlib.crc32(stored)) + stored


def recording(first: Any = None, pages: bytes | None = None, names: Any = NAMES, end: Any = END) -> bytes:
    """A file."""
    stream = BytesIO()
    writer = Writer(stream)
    writer.write_json("meta", meta() if first is None else first)
    writer.write("page", join_pages([(0, 1, page(happened()))]) if pages is None else pages)
    writer.write_json("comm", names)
    if end is not None:
        writer.write_json("end", end)
    return stream.getvalue()


def parts(file: bytes) -> list[bytes]:
    """A file in pieces: what says that it is one, and its blocks."""
    found, at = [file[: len(MAGIC)]], len(MAGIC)
    while at < len(file):
        size = HEAD.size + HEAD.unpack_from(file, at)[2]
        found.append(file[at : at + size])
        at += size
    return found
