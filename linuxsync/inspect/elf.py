"""elf: which function of a program or library an address is in, by its symbol tables. No debug information is read."""

from __future__ import annotations

import struct
import sys
from bisect import bisect_right
from typing import BinaryIO

__all__ = ["Symbols"]

HEADER = struct.Struct("=16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("=IIQQQQQQ")
SECTION = struct.Struct("=IIQQQQIIQQ")
SYMBOL = struct.Struct("=IBBHQQ")
PT_LOAD, SHT_SYMTAB, SHT_DYNSYM = 1, 2, 11
STT_FUNC, STT_GNU_IFUNC = 2, 10
MOST = 256 << 20  # bytes of a table; a file may claim anything


class Symbols:
    """The functions in a 64-bit ELF file of this machine; of any other file none.

    Threads: any number.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read them.

        Args:
            file: open for reading, at any place.
        Raises:
            OSError: it can't be read.
        """
        self._segments: list[tuple[int, int, int]] = []
        found: dict[int, tuple[int, str]] = {}
        try:
            for start, size, name in self._read(file):
                # Of several names for one place the plain one: ioctl, not __ioctl.
                if start not in found or plainness(name) < plainness(found[start][1]):
                    found[start] = (size, name)
        except (struct.error, ValueError):
            pass  # no such file, or one that is cut off
        self._starts = sorted(found)
        self._functions = [found[start] for start in self._starts]

    def _read(self, file: BinaryIO) -> list[tuple[int, int, str]]:
        header = HEADER.unpack(part(file, 0, HEADER.size))
        if header[0][:6] != b"\x7fELF\x02" + (b"\x01" if sys.byteorder == "little" else b"\x02"):
            return []
        for kind, _, offset, address, _, size, _, _ in SEGMENT.iter_unpack(
            part(file, header[5], header[10] * SEGMENT.size)
        ):
            if kind == PT_LOAD:
                self._segments.append((offset, size, address))
        sections = list(SECTION.iter_unpack(part(file, header[6], header[12] * SECTION.size)))
        found = []
        for section in sections:
            if section[1] in (SHT_SYMTAB, SHT_DYNSYM) and section[6] < len(sections):
                strings = part(file, *sections[section[6]][4:6])
                for name, info, _, defined, value, size in SYMBOL.iter_unpack(part(file, *section[4:6])):
                    if info & 15 in (STT_FUNC, STT_GNU_IFUNC) and defined and size:
                        text = strings[name : strings.index(b"\0", name)]
                        found.append((value, size, text.decode("utf-8", "surrogateescape")))
        return found

    def address(self, offset: int) -> int | None:
        """Return the address, before relocation, of a place in the file; None if it is not one that gets loaded."""
        for start, size, address in self._segments:
            if start <= offset < start + size:
                return address + offset - start
        return None

    def function(self, address: int) -> str | None:
        """Return the name of the function at an address; None if no symbol covers it."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._starts[at] + self._functions[at][0]:
            return None
        return self._functions[at][1]


def plainness(name: str) -> tuple[int, str]:
    """What the better one of two names has less of."""
    return len(name) - len(name.lstrip("_")), name


def part(file: BinaryIO, offset: int, size: int) -> bytes:
    """A part of a file, all of it."""
    if size > MOST or offset >= 1 << 63:
        raise ValueError("larger than any such table or file")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("cut off")
    return data
