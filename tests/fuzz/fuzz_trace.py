"""Recordings: a TraceError, or a trace that hangs together.

An input is a file; or, for else no change would get past the checksums, blocks that are made into one: a letter for the
kind, two bytes for the length, and what they have before compression.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from harness import instrumented, run

with instrumented("linuxsync.trace", "linuxsync._ring_buffer"):
    from linuxsync.trace import TraceError
    from linuxsync.trace.file import HEAD, MAGIC
    from linuxsync.trace.load import read
    from linuxsync.trace.tracks import fence_span

KINDS = {ord("m"): b"meta", ord("p"): b"page", ord("c"): b"comm", ord("e"): b"end "}


def file_of(data: bytes) -> bytes:
    """A file with these blocks."""
    made, at = MAGIC, 0
    while at + 3 <= len(data):
        kind, size = struct.unpack_from("<BH", data, at)
        content = data[at + 3 : at + 3 + size]
        stored = zlib.compress(content, 0)
        made += HEAD.pack(KINDS.get(kind, b"what"), len(content), len(stored), zlib.crc32(stored)) + stored
        at += 3 + size
    return made


def one(data: bytes) -> None:
    try:
        trace = read(BytesIO(data if data.startswith(MAGIC) else file_of(data)))
    except TraceError as error:
        assert str(error)
        return
    assert all(isinstance(said, str) and said for said in trace.damage)
    assert trace.start_ns <= trace.end_ns
    for fence in trace.fences:
        assert fence in fence.timeline.fences
        assert fence_span(trace, fence)[0] >= 0


if __name__ == "__main__":
    run(one)
