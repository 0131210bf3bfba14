"""Recordings made to take all time or memory: each is read by a process of its own, which has little of both."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from trace_files import START, block, event, format_of, meta, page, parts, recording

from linuxsync.trace.file import DENSEST, HEAD, LARGEST, join_pages

WHOLE = recording()
MEMORY = 600 << 20  # bytes of address space, on top of what an interpreter has
SECONDS = 20


def events_of(*chosen: bytes) -> bytes:
    """A page block's content: these events, as often as fit into it, each a nanosecond after the one before."""
    longest = max(len(one) for one in chosen) + 20
    return join_pages([(0, 1, page([(START + at, chosen[at % len(chosen)]) for at in range(LARGEST // longest - 1)]))])


def numbered(name: str, tid: int, driver: str, line: str) -> bytes:
    """A page block's content: an event for each of 20,000 fences."""
    return join_pages(
        [(0, 1, page([(START + n, event(name, tid, driver, line, 7, n)) for n in range(20_000)]))],
    )


def costly() -> dict[str, bytes]:
    """Files of some MiB that are made to take all time or memory there is."""
    first, about, _pages, names, end = parts(WHOLE)
    fence = ("vgem", "unbound", 7, 1)
    many = format_of(12, [(f"u8 a{n}", 1, 0) for n in range(30_000)])
    overlapping = "ID: 12\n" + "".join(
        f"\tfield:u8 {name};\toffset:0;\tsize:1;\tsigned:0;\n"
        for name in ("common_type", "common_flags", "common_pid", *(f"a{n}" for n in range(30_000)))
    )
    texts = format_of(12, [(f"{TEXT_FIELD} a{n}", 4, 0) for n in range(2000)])
    long_text = struct.pack("=HBBi", 12, 0, 0, 1) + b"".join(
        struct.pack("=I", 8008 + n | 50_000 << 16) for n in range(2000)
    )
    tiny = struct.pack("=HBBi", 12, 0, 0, 1)
    lines = [event("dma_fence_init", 1, "sw_sync", f"line {n}", n, 1) for n in range(20_000)]
    inc = event("sync_timeline", 1, "line 5", 1)
    poll, done = event("sys_enter_poll", 5, 7), event("sys_exit_poll", 5, 7, 1)
    wait, waited = (event(f"dma_fence_wait_{what}", 5, *fence) for what in ("start", "end"))
    other = event("dma_fence_wait_end", 5, "vgem", "unbound", 8, 1)

    def of(content: bytes, **more: Any) -> bytes:
        return recording(meta(**more) if more else None, content)

    def with_blocks(*contents: tuple[bytes, bytes]) -> bytes:
        return first + about + b"".join(block(*one) for one in contents) + names + end

    return {
        "a word without end": first
        + block(b"meta", json.dumps(meta(events={"x/y": "ID: 12\nfield:" + "x" * 1_000_000})).encode(), 0),
        "a page of words": recording(meta(pages="field:" + "x" * 1_000_000)),
        "fields without end": of(events_of(struct.pack("=HBBi", 12, 0, 0, 1) + bytes(30_000)), events={"x/y": many}),
        "overlapping fields": of(events_of(tiny), events={"x/y": overlapping}),
        "overlapping texts": of(
            join_pages([(0, 0, page([(START, long_text + bytes(50_000)) for _ in range(60)]))]), events={"x/y": texts}
        ),
        "fences with one number": with_blocks(
            (b"page", events_of(event("dma_fence_init", 1, *fence))),
            (b"page", events_of(event("dma_fence_enable_signal", 1, *fence))),
        ),
        "signals of one number": with_blocks(
            (b"page", events_of(event("dma_fence_init", 1, *fence), event("dma_fence_signaled", 1, *fence)))
        ),
        "timelines and INC": with_blocks(
            (b"page", join_pages([(0, 1, page([(START + n, one) for n, one in enumerate(lines)]))])),
            (b"page", events_of(inc)),
        ),
        "waits that do not end": with_blocks(
            (b"page", events_of(wait)), (b"page", events_of(other)), (b"page", events_of(wait, waited))
        ),
        "a poll for everything": with_blocks(
            (b"page", join_pages([(0, 1, page([(START, poll)]))])),
            (b"page", numbered("dma_fence_enable_signal", 5, "vgem", "unbound")),
            (b"page", numbered("dma_fence_enable_signal", 5, "vgem", "unbound")),
            (b"page", join_pages([(0, 1, page([(START + 30_000, done)]))])),
        ),
        "processors without end": with_blocks(
            (
                b"page",
                join_pages(
                    [
                        (0, cpu, page([(START + cpu, event("dma_fence_signaled", cpu, "vgem", "unbound", 7, cpu))]))
                        for cpu in range(20_000)
                    ]
                ),
            ),
            (b"page", events_of(poll, done)),
        ),
        "a container of everything": with_blocks(
            (
                b"page",
                join_pages(
                    [(0, 1, page([(START, event("dma_fence_enable_signal", 5, "dma_fence_array", "u", 1, 1))]))]
                ),
            ),
            (b"page", numbered("dma_fence_enable_signal", 5, "vgem", "unbound")),
        ),
        "brackets": first + about + b"".join(block(b"comm", b"[" * LARGEST, 0) for _ in range(3)),
        "a bomb": first + about + HEAD.pack(b"page", LARGEST, 1 << 12, 0) + zlib.compress(bytes(1 << 28)),
        "a bomb with a checksum": first + about + bomb(LARGEST),
        "a bomb that hides": first + about + bomb(DENSEST * 1000),
        "lists": first + about + block(b"comm", b"[" + b"[]," * 1_300_000 + b"[]]", 0),
    }


TEXT_FIELD = "__data_loc char[]"


def bomb(size: int) -> bytes:
    """A block of 256 MiB that says that it has a size which it may have."""
    stored = zlib.compress(bytes(1 << 28), 9)
    return HEAD.pack(b"page", size, len(stored), zlib.crc32(stored)) + stored


READ = """
import resource, sys
from linuxsync.trace import TraceError, load
# How much there is of it before: an interpreter with threads of a library may have reserved a lot.
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
try:
    trace = load(sys.argv[1])
except TraceError as error:
    print("error", error)
else:
    print("read", trace.events, len(trace.fences), trace.damage)
"""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name.replace(" ", "-"))
        for name in (
            "a word without end",
            "a page of words",
            "fields without end",
            "overlapping fields",
            "overlapping texts",
            "fences with one number",
            "signals of one number",
            "timelines and INC",
            "waits that do not end",
            "a poll for everything",
            "processors without end",
            "a container of everything",
            "brackets",
            "a bomb",
            "a bomb with a checksum",
            "a bomb that hides",
            "lists",
        )
    ],
)
def test_costly_files(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    """What is made to take all time or memory takes a little of both."""
    path = tmp_path / "trace"
    path.write_bytes(files[name])
    assert len(files[name]) < 14 << 20
    done = subprocess.run(
        [sys.executable, "-c", READ, path, str(MEMORY), str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=30 * SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    assert done.stdout.startswith(("error ", "read "))
    assert done.stdout.count("\n") == 1
    assert ("no block" in done.stdout or "is damaged" in done.stdout) == ("bomb" in name)  # else it was not tried


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Those of ``costly()``."""
    return costly()
