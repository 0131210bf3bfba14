"""The functions of programs and libraries, by their symbol tables; no file makes it read or keep more than it may."""

import ctypes
import io
import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from linuxsync.inspect.elf import (
    HEADER,
    MOST_BYTES,
    MOST_NAME,
    MOST_SECTIONS,
    MOST_SEGMENTS,
    MOST_SYMBOLS,
    SECTION,
    SEGMENT,
    SYMBOL,
    Symbols,
)

ORDER = b"\x01" if sys.byteorder == "little" else b"\x02"
FUNC = 2
SYMTAB, STRTAB, DYNSYM = 2, 3, 11


def elf(sections, contents=b"", segments=((0, 1 << 40, 0),)):
    """A file with these (type, offset in the contents, size, link); the contents come first."""
    at = HEADER.size + len(contents)
    header = HEADER.pack(
        b"\x7fELF\x02" + ORDER + b"\x01", 3, 62, 1, 0, at, at + len(segments) * 56, 0, 64, 56, len(segments), 64,
        len(sections), 0,
    )  # fmt: skip
    return b"".join(
        [
            header,
            contents,
            *(SEGMENT.pack(1, 5, offset, address, 0, size, size, 4096) for offset, size, address in segments),
            *(
                SECTION.pack(0, kind, 0, 0, HEADER.size + offset, size, link, 0, 8, 24)
                for kind, offset, size, link in sections
            ),
        ]
    )


def symbol(name, start, size=16, info=FUNC):
    """A defined one."""
    return SYMBOL.pack(name, info, 0, 1, start, size)


def program(symbols, strings, kind=SYMTAB):
    """A file with one table of symbols."""
    table = b"".join(symbols)
    return elf([(kind, 0, len(table), 1), (STRTAB, len(table), len(strings), 0)], table + strings)


def read(data):
    return Symbols(io.BytesIO(data))


def test_what_nm_tells(tmp_path):
    """Of a program of the compiler's: all functions, from the first byte to the last."""
    source, built = tmp_path / "two.c", tmp_path / "two"
    source.write_text("static int helper(int a) { return a + 1; }\nint main(int a, char **b) { return helper(a); }\n")
    subprocess.run([os.environ.get("CC", "cc"), "-O0", "-o", str(built), str(source)], check=True)
    with built.open("rb") as file:
        symbols = Symbols(file)
    told = subprocess.run(["nm", "-S", str(built)], check=True, capture_output=True, text=True).stdout
    functions = [line.split() for line in told.splitlines() if line.split()[-1] in ("helper", "main")]
    assert len(functions) == 2
    for start, size, _, name in functions:
        first, behind = int(start, 16), int(start, 16) + int(size, 16)
        assert [symbols.function(address) for address in (first, behind - 1)] == [name, name]


def test_names():
    """The plain one of several for a place, whole unless it is very long, and bytes whatever they are."""
    strings = b"\0__ioctl\0ioctl\0\xff\0" + b"x" * 5000 + b"\0"
    long = strings.index(b"x")
    found = read(program([symbol(1, 0), symbol(9, 0), symbol(15, 16), symbol(long, 32), symbol(0, 48)], strings))
    assert found.function(8) == "ioctl"
    assert found.function(16) == "\udcff"
    assert found.function(32) == "x" * MOST_NAME
    assert found.function(48) is None and found.function(64) is None
    assert read(program([symbol(1, 0), symbol(10**6, 0)], b"\0a\0")).function(0) == "a"


def test_both_tables():
    """What the dynamic linker has and what the debugger has, each with its own strings."""
    dynamic, all_ = symbol(1, 0), symbol(1, 16)
    contents = dynamic + all_ + b"\0one\0" + b"\0two\0"
    sections = [(SYMTAB, 24, 24, 2), (DYNSYM, 0, 24, 3), (STRTAB, 53, 5, 0), (STRTAB, 48, 5, 0)]
    found = read(elf(sections, contents))
    assert (found.function(0), found.function(16)) == ("one", "two")
    # A table that is too large is left out, and the other one stays.
    sections[0] = (SYMTAB, 24, 24 * (MOST_SYMBOLS + 1), 2)
    found = read(elf(sections, contents))
    assert (found.function(0), found.function(16)) == ("one", None)


def test_addresses():
    """By the segments, also of a file without symbols."""
    found = read(elf([], segments=[(0, 100, 4096), (100, 50, 9000)]))
    assert [found.address(offset) for offset in (0, 99, 100, 149, 150)] == [4096, 4195, 9000, 9049, None]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        elf([])[:-1],
        elf([(SYMTAB, 0, 24, 7)]),
        elf([(SYMTAB, 0, 24, 0xFFFFFFFF)]),
        elf([(SYMTAB, 1 << 62, 24, 1), (STRTAB, 0, 0, 0)]),
        elf([(SYMTAB, (1 << 64) - 100, 24, 1), (STRTAB, 0, 0, 0)]),
        elf([(SYMTAB, 0, (1 << 64) - 1, 1), (STRTAB, 0, 0, 0)]),
        elf([(SYMTAB, 0, 25, 1), (STRTAB, 0, 8, 0)], bytes(64)),
    ],
)
def test_none(data):
    """Not an ELF file, one that is cut off, or one that points nowhere."""
    found = read(data)
    assert found.function(0) is None and found.function((1 << 64) - 1) is None


@pytest.fixture
def within():
    """The test takes no more than some seconds, and not much more memory than what is read, its own files included."""
    tracemalloc.start()
    before = time.process_time()
    yield
    took = time.process_time() - before
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 5 and peak < 6 * MOST_BYTES


def sparse(path, data, size):
    """A file that ends with a hole."""
    path.write_bytes(data)
    os.truncate(path, size)
    return path


@pytest.mark.usefixtures("within")
def test_many_tables_on_one_hole(tmp_path):
    """28 KB on a disk that claim 400 tables of 24 MiB: one of them is too much already, and so is one half as large."""
    for hole in (24 << 20, 12 << 20):
        data = elf([(SYMTAB, 1 << 20, hole, 400)] * 400 + [(STRTAB, 1 << 20, hole, 0)])
        with sparse(tmp_path / "hostile", data, 64 << 20).open("rb") as file:
            found = Symbols(file)
        assert found.spent < 100_000 and found.function(0) is None


@pytest.mark.usefixtures("within")
def test_many_symbols_in_one_long_string():
    """Each name goes on to the end of the string: none is looked at unless somebody asks."""
    strings = b"x" * (1 << 20)
    found = read(program([symbol(number, 16 * number) for number in range(6000)], strings))
    assert {found.function(16 * number) for number in range(6000)} == {"x" * MOST_NAME}


@pytest.mark.usefixtures("within")
def test_as_much_as_it_may():
    """The worst file that is read at all: all symbols at one place, of which few names are compared."""
    table = symbol(0, 0) * (MOST_SYMBOLS - 1)
    strings = b"x" * (MOST_BYTES - len(table) - 4096)
    found = read(program([table], strings))
    assert MOST_BYTES - 4096 < found.spent <= MOST_BYTES
    for address in range(16):
        assert found.function(address) == "x" * MOST_NAME


def test_many_headers():
    """More sections or segments than any linker makes."""
    assert read(program([symbol(1, 0)], b"\0a\0")).function(0) == "a"
    table = [(SYMTAB, 0, 24, 1), (STRTAB, 24, 3, 0)]
    contents = symbol(1, 0) + b"\0a\0"
    for sections, segments, name in (
        (MOST_SECTIONS, MOST_SEGMENTS, "a"),
        (MOST_SECTIONS + 1, 1, None),
        (2, MOST_SEGMENTS + 1, None),
    ):
        data = elf(table + [(0, 0, 0, 0)] * (sections - 2), contents, [(0, 4096, 0)] * segments)
        assert read(data).function(0) == name


def test_less_than_a_file_may_have():
    """Who reads many files has a limit for all of them."""
    data = program([symbol(1, 0)], b"\0a\0")
    enough = read(data).spent
    assert Symbols(io.BytesIO(data), enough).function(0) == "a"
    assert Symbols(io.BytesIO(data), enough - 1).function(0) is None
    assert Symbols(io.BytesIO(data), 0).spent == 0


def test_what_is_not_there_costs_nothing():
    """Files that claim more than they have take nothing from what is left for others."""
    data = elf([(SYMTAB, 0, 24 << 10, 1), (STRTAB, 0, 31 << 20, 0)])
    assert read(data).spent <= 2 * len(data)


def test_of_this_python():
    """The C library's own ioctl(), which programs of any kind call."""
    ioctl = ctypes.cast(ctypes.CDLL(None).ioctl, ctypes.c_void_p).value
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if int(start, 16) <= ioctl < int(end, 16):
                with open(line.split()[5], "rb") as file:
                    found = Symbols(file)
                place = found.address(ioctl - int(start, 16) + int(line.split()[2], 16))
                assert found.function(place) == "ioctl"
                return
    raise AssertionError("it is in no file")
