"""The file of a recording: a line that says what it is, then compressed blocks, each with its length and checksum.

Numbers of a block's head are little endian. A block is written in one go when it is full or a second old, so a recorder
that is killed loses what came after its last block, and no more. What a block has:

    meta  JSON: the machine, how its trace buffer and its events are laid out, what was asked for; the first one
    page  pages of the kernel's trace buffer as they were read, each after its stream, its CPU and its length
    comm  JSON: names of threads, and their processes
    end   JSON: when the recording was over, and what was lost; the last one
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

__all__ = ["MAGIC", "TraceError", "Writer", "blocks", "from_json", "join_pages", "split_pages"]

MAGIC = b"linuxsync trace 1\n"
"""What a recording begins with."""
HEAD = struct.Struct("<4sIII")  # what it has, bytes before and after compression, CRC-32 of the latter
PAGE_HEAD = struct.Struct("<HHI")  # stream, CPU, bytes
LARGEST = 4 << 20  # bytes of a block before compression
# Such a ratio is no recording's, but that of a file which wants our memory.
DENSEST = 64
QUICK = 1  # of zlib's levels: the recorder competes with what it records


class TraceError(ValueError):
    """This is no recording, or one that can't be understood."""


class Writer:
    """Writes a recording.

    Attributes:
        size: bytes so far.

    Threads: of one only.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._failed: OSError | None = None
        self.size = 0
        self._put(MAGIC)

    def write(self, tag: str, content: bytes) -> None:
        """Add a block.

        Args:
            content: at most 4 MiB.
        Raises:
            OSError: ENOSPC and what else write(2) says; the file then ends with the block before, and takes no more: a
                smaller one would find room, and hide that something is missing.
        """
        stored = zlib.compress(content, QUICK)
        if len(content) > DENSEST // 2 * len(stored):
            stored = zlib.compress(content, 0)
        self._put(HEAD.pack(tag.encode().ljust(4), len(content), len(stored), zlib.crc32(stored)) + stored)

    def write_json(self, tag: str, content: Any) -> None:
        """Add a block of JSON. Names may have bytes that are no UTF-8, as surrogates: ASCII JSON can write these."""
        self.write(tag, json.dumps(content).encode())

    def _put(self, data: bytes) -> None:
        if self._failed:
            raise self._failed
        left = memoryview(data)
        try:
            while left:  # what is not buffered may take a part only: a pipe, a serial line
                left = left[self._stream.write(left) :]
            self._stream.flush()
        except OSError as error:
            self._failed = error
            with suppress(OSError):  # a pipe can't be cut
                self._stream.truncate(self.size)
            raise
        self.size += len(data)


def blocks(stream: BinaryIO, damage: list[str]) -> Iterator[tuple[str, bytes]]:
    """Read a recording's blocks, up to the first that is damaged.

    Args:
        damage: what is wrong is added here.
    Raises:
        TraceError: it is no recording.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        raise TraceError("not a recording of linuxsync trace record")
    at = len(MAGIC)
    while head := stream.read(HEAD.size):
        if len(head) < HEAD.size:
            damage.append(f"cut off at byte {at + len(head)}: its last block is not whole, and left out")
            return
        tag, size, stored_size, checksum = HEAD.unpack(head)
        if size > LARGEST or stored_size > LARGEST + 4096 or size > DENSEST * stored_size:
            damage.append(f"what begins at byte {at} is no block: it and what follows are left out")
            return
        stored = stream.read(stored_size)
        if len(stored) < stored_size:
            damage.append(f"cut off at byte {at + len(head) + len(stored)}: its last block is not whole, and left out")
            return
        content = expanded(stored, size) if zlib.crc32(stored) == checksum else None
        if content is None:
            damage.append(f"the block at byte {at} is damaged: it and what follows are left out")
            return
        yield tag.decode("latin-1").rstrip(" "), content
        at += len(head) + stored_size


def expanded(stored: bytes, size: int) -> bytes | None:
    """What was compressed, if it has the size that is said; never more is allocated."""
    try:
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(stored, size + 1)
    except zlib.error:
        return None
    return content if len(content) == size and decompressor.eof else None


def from_json(content: bytes) -> Any:
    """Read a block of JSON.

    Raises:
        ValueError: it is something else, or too deep.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too many brackets") from None


def join_pages(pages: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Make the content of a block of pages, each with its stream and CPU."""
    return b"".join(PAGE_HEAD.pack(stream, cpu, len(page)) + page for stream, cpu, page in pages)


def split_pages(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Do the reverse.

    Raises:
        ValueError: it is something else.
    """
    at = 0
    while at < len(content):
        if at + PAGE_HEAD.size > len(content):
            raise ValueError("half a page")
        stream, cpu, size = PAGE_HEAD.unpack_from(content, at)
        at += PAGE_HEAD.size
        if size > len(content) - at:
            raise ValueError("half a page")
        yield stream, cpu, content[at : at + size]
        at += size
