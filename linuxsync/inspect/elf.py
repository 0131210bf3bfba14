"""elf: which function of a program or library an address is in, by its symbol tables. No debug information is read."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from typing import BinaryIO

__all__ = ["Symbols"]

HEADER = struct.Struct("=16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("=IIQQQQQQ")
SECTION = struct.Struct("=IIQQQQIIQQ")
SYMBOL = struct.Struct("=IBBHQQ")
PT_LOAD, SHT_SYMTAB, SHT_DYNSYM = 1, 2, 11
STT_FUNC, STT_GNU_IFUNC = 2, 10
# A file may claim anything, and whoever asks root's tools to read it need not even have the bytes on a disk. What these
# allow takes some tenths of a second; the largest libraries have a quarter of it.
MOST_BYTES = 32 << 20  # of all that is read of a file
MOST_SYMBOLS = 1 << 18
MOST_SECTIONS = 4096
MOST_SEGMENTS = 1024
MOST_NAME = 512  # bytes; of a longer one the rest is left out
MOST_ALIASES = 16  # names of one place among which the plainest is looked for


class Symbols:
    """The functions in a 64-bit ELF file of this machine; of any other file none, and of one that claims too much.

    Attributes:
        spent: how many bytes of the file were read; what is kept takes about as many.

    Threads: any number.
    """

    def __init__(self, file: BinaryIO, most: int = MOST_BYTES) -> None:
        """Read them.

        Args:
            file: open for reading, at any place.
            most: bytes to read; a table that is larger than what is left of them is left out.
        Raises:
            OSError: it can't be read.
        """
        self.spent = 0
        self._file, self._most = file, min(most, MOST_BYTES)
        self._segments: list[tuple[int, int, int]] = []
        self._starts, self._sizes, self._names = array("Q"), array("Q"), array("Q")
        self._strings = b""
        self._decoded: dict[int, str] = {}
        found: list[tuple[int, int, int]] = []
        try:
            for table, strings in self._tables():
                self._add(table, strings, found)
        except (struct.error, ValueError):
            pass  # no such file, or one that is cut off
        del self._file
        found.sort()
        for start, size, name in found:
            self._starts.append(start)
            self._sizes.append(size)
            self._names.append(name)

    def _tables(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Where the symbols are and their names: of the program for the linker at run time, and all, at most."""
        header = HEADER.unpack(self._part(0, HEADER.size))
        if header[0][:6] != b"\x7fELF\x02" + (b"\x01" if sys.byteorder == "little" else b"\x02"):
            return []
        if header[10] > MOST_SEGMENTS or header[12] > MOST_SECTIONS:
            return []
        for kind, _, offset, address, _, size, _, _ in SEGMENT.iter_unpack(
            self._part(header[5], header[10] * SEGMENT.size)
        ):
            if kind == PT_LOAD:
                self._segments.append((offset, size, address))
        sections = list(SECTION.iter_unpack(self._part(header[6], header[12] * SECTION.size)))
        found = {
            section[1]: (section[4:6], sections[section[6]][4:6])
            for section in sections
            if section[1] in (SHT_SYMTAB, SHT_DYNSYM) and section[6] < len(sections)
        }
        return [found[kind] for kind in (SHT_DYNSYM, SHT_SYMTAB) if kind in found]

    def _add(self, table: tuple[int, int], strings: tuple[int, int], found: list[tuple[int, int, int]]) -> None:
        """Find the functions of a table, and keep the names; not if that is too much."""
        if table[1] + strings[1] > self._most - self.spent or table[1] // SYMBOL.size + len(found) > MOST_SYMBOLS:
            return
        symbols, names = self._part(*table), self._part(*strings)
        at = len(self._strings)
        self._strings += names + b"\0"
        found += [
            (value, size, at + name)
            for name, info, _, defined, value, size in SYMBOL.iter_unpack(symbols)
            if info & 15 in (STT_FUNC, STT_GNU_IFUNC) and defined and size and name < len(names)
        ]

    def _part(self, offset: int, size: int) -> bytes:
        """A part of the file, all of it."""
        if size > self._most - self.spent or offset >= 1 << 63:
            raise ValueError("larger than any such table or file")
        self._file.seek(offset)
        data = self._file.read(size)
        self.spent += len(data)
        if len(data) < size:
            raise ValueError("cut off")
        return data

    def address(self, offset: int) -> int | None:
        """Return the address, before relocation, of a place in the file; None if it is not one that gets loaded."""
        for start, size, address in self._segments:
            if start <= offset < start + size:
                return address + offset - start
        return None

    def function(self, address: int) -> str | None:
        """Return the name of the function at an address; None if no symbol covers it."""
        end = bisect_right(self._starts, address)
        if not end:
            return None
        begin = max(bisect_left(self._starts, self._starts[end - 1]), end - MOST_ALIASES)
        # Of several names for one place the plain one: ioctl, not __ioctl.
        names = [self._name(at) for at in range(begin, end) if address < self._starts[at] + self._sizes[at]]
        return min(filter(None, names), key=plainness, default=None)

    def _name(self, at: int) -> str:
        """The name of a symbol; of most nobody ever asks."""
        if at not in self._decoded:
            begin = self._names[at]
            text = self._strings[begin : begin + MOST_NAME].partition(b"\0")[0]
            self._decoded[at] = text.decode("utf-8", "surrogateescape")
        return self._decoded[at]


def plainness(name: str) -> tuple[int, str]:
    """What the better one of two names has less of."""
    return len(name) - len(name.lstrip("_")), name
