"""Damaged, cut off and hostile recordings: an error, or a trace that says what is wrong with it, and nothing else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_files import (
    END,
    FORMATS,
    HEADER_PAGE,
    NAMES,
    START,
    block,
    format_of,
    happened,
    meta,
    page,
    parts,
    recording,
)

from linuxsync.trace import Trace, TraceError, load
from linuxsync.trace.file import HEAD, LARGEST, MAGIC, join_pages
from linuxsync.trace.load import read
from linuxsync.trace.page import html
from linuxsync.trace.perfetto import perfetto
from linuxsync.trace.svg import svg
from linuxsync.trace.tracks import fence_span

WHOLE = recording()


def outcome(file: bytes) -> Trace | str:
    """The trace, or why there is none, in a line. Anything else that is raised ends the test."""
    try:
        trace = read(BytesIO(file))
    except TraceError as error:
        assert str(error)
        return str(error)
    assert all(isinstance(said, str) and said for said in trace.damage)
    assert trace.start_ns <= trace.end_ns
    for fence in trace.fences:
        assert fence in fence.timeline.fences
        assert fence_span(trace, fence)[0] >= 0
    return trace


def is_said(file: bytes) -> bool:
    """Whether it is said that a file is damaged."""
    found = outcome(file)
    return isinstance(found, str) or bool(found.damage)


def test_a_whole_one() -> None:
    """The file that the others are made of has no damage, and the events that were put in."""
    trace = outcome(WHOLE)
    assert isinstance(trace, Trace)
    assert trace.damage == []
    assert trace.events == len(happened()) == 13
    assert [(fence.name, fence.init_ns, fence.signal_ns) for fence in trace.fences] == [
        ("sw_sync-frames7-1", START + 100, START + 410),
        ("vgem-unbound8-1", START + 200, None),
    ]
    assert sorted((wait.call, wait.start_ns, wait.end_ns) for wait in trace.waits) == [
        ("dma_fence_wait", START + 320, START + 420),
        ("poll", START + 300, START + 450),
    ]
    assert trace.threads[301].process == "weston \udcff"
    assert (len(trace.vblanks), len(trace.others), trace.lost) == (1, 1, 0)


def test_cut_off_at_every_byte() -> None:
    """However much is missing is said, and what was whole is there."""
    blocks = parts(WHOLE)
    whole = [len(b"".join(blocks[:count])) for count in range(1, len(blocks) + 1)]
    for size in range(len(WHOLE)):
        found = outcome(WHOLE[:size])
        if size < whole[1]:
            assert isinstance(found, str), size
        else:
            assert isinstance(found, Trace), size
            assert found.damage, size
            assert found.events == (13 if size >= whole[2] else 0)


def test_every_bit_wrong() -> None:
    """A bit that is another one is noticed, wherever it is."""
    for at in range(len(WHOLE)):
        for bit in range(8) if at < 120 or at > len(WHOLE) - 120 else (at % 8,):
            file = bytearray(WHOLE)
            file[at] ^= 1 << bit
            assert is_said(bytes(file)), (at, bit)


@pytest.mark.parametrize("tag", [b"pagf", b"", b"meta", b"\xff\n\x1b["])
def test_blocks_of_no_known_kind(tag: bytes) -> None:
    """A block that nobody knows, or in a place that is not its own, is not passed over in silence."""
    first, about, pages, names, end = parts(WHOLE)
    assert is_said(first + about + block(tag, b"{}") + pages + names + end)


def test_blocks_in_another_order() -> None:
    """Blocks that come twice, or not where they belong, are read or refused."""
    first, about, pages, names, end = parts(WHOLE)
    assert isinstance(outcome(first + about + names + pages + end), Trace)
    assert isinstance(outcome(first + about + pages + pages + names + names + end + end), Trace)
    assert isinstance(outcome(first + about + end + names + pages), Trace)
    assert isinstance(outcome(first + pages + about + names + end), str)
    assert isinstance(outcome(first + end), str)
    assert isinstance(outcome(first), str)
    assert isinstance(outcome(WHOLE + WHOLE), Trace)
    assert is_said(WHOLE + WHOLE)
    assert is_said(WHOLE + b"\0")


@pytest.mark.parametrize("file", [b"", b"\0" * 100, b"linuxsync trace 2\n", MAGIC[:-1], b"\x1f\x8b\x08" * 50])
def test_other_files(file: bytes) -> None:
    """What is no recording is called that."""
    assert outcome(file) == "not a recording of linuxsync trace record"


@pytest.mark.parametrize("size", [0, 1, LARGEST, LARGEST + 1, (1 << 32) - 1])
@pytest.mark.parametrize("stored", [0, 1, LARGEST, (1 << 32) - 1])
def test_lengths_that_are_not_true(size: int, stored: int) -> None:
    """A length is no reason to wait for bytes that are not there, or to allocate them."""
    first, about, *_ = parts(WHOLE)
    content = zlib.compress(b"{}")
    assert is_said(first + about + HEAD.pack(b"page", size, stored, zlib.crc32(content)) + content)
    assert is_said(first + HEAD.pack(b"meta", size, stored, zlib.crc32(content)) + content)


def test_more_than_was_said() -> None:
    """What is compressed is longer or shorter than its head has it, has no end, or something behind its end."""
    first, about, *_ = parts(WHOLE)
    content = zlib.compress(b"x" * 1000)
    for size, stored in [(999, content), (1001, content), (1000, content[:-1]), (1000, content + b"\0"), (5, b"hello")]:
        head = HEAD.pack(b"page", size, len(stored), zlib.crc32(stored))
        assert is_said(first + about + head + stored), (size, stored)


ODD: list[Any] = [None, True, -1, 0, 1.5, 1 << 70, "", "x", "\ud800", [], [1], ["x"], [[]], {}, {"x": 1}, {"x": "y"}]


@pytest.mark.parametrize("name", meta())
def test_meta_of_other_types(name: str) -> None:
    """Each field of the first block may be anything, or missing."""
    for value in [*ODD, {"-1": "x"}, {"\u0663": "x"}, {"\u00b2": "x"}, {"9" * 5000: "x"}]:
        outcome(recording(meta(**{name: value})))
    found = meta()
    del found[name]
    assert isinstance(outcome(recording(found)), str)


@pytest.mark.parametrize("name", ["end_ns", "lost", "ioctls", "kernel", "events", "probes"])
def test_end_of_other_types(name: str) -> None:
    """Each field of the last block too, and those that it should not have."""
    for value in ODD:
        outcome(recording(end=END | {name: value}))
    assert is_said(recording(end={}))


def test_blocks_of_other_types() -> None:
    """A block of JSON may be any JSON, or none."""
    first, about, pages, names, end = parts(WHOLE)
    for content in [*(json.dumps(odd).encode() for odd in ODD), b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000]:
        for tag in (b"meta", b"page", b"comm", b"end"):
            outcome(first + block(tag, content) + about + pages + names + end)
            outcome(first + about + block(tag, content, 0) + pages + names + end)
    outcome(first + about + block(b"end", b'{"end_ns": ' + b"9" * 100_000 + b', "lost": 0}', 0))


def test_names_of_other_types() -> None:
    """Names of threads may be anything."""
    for odd in ODD:
        for at in range(3):
            said = list(NAMES["301"])
            said[at] = odd
            found = outcome(recording(names={"301": said}))
            assert isinstance(found, Trace)
            thread = found.threads[301]
            assert isinstance(thread.comm, str)
            # bool is an int to Python, and a number of a process is one that there can be.
            assert thread.pid is None or (type(thread.pid) is int and 0 <= thread.pid < 1 << 31)
        outcome(recording(names={"301": odd}))
    for number in ("", "-1", "x", "\u0663", "\u00b2", "9" * 20, " 1", "1_0"):
        assert isinstance(outcome(recording(names={number: NAMES["301"]})), Trace)


@pytest.mark.parametrize("byteorder", ["", "middle", "big\n\x1b[2J\ud800"])
def test_words_of_the_file_in_an_error(byteorder: str) -> None:
    """What a file says of itself can't write a second line, move the cursor, or be unprintable."""
    said = outcome(recording(meta(byteorder=byteorder)))
    assert isinstance(said, str)
    assert said.isprintable()


PAGES_OF = [
    "",
    "field: u64 timestamp; offset:0; size:8; signed:0;",
    HEADER_PAGE.replace("offset:16", "offset:0"),
    HEADER_PAGE.replace("offset:16", "offset:999999999"),
    HEADER_PAGE.replace("offset:8", "offset:999999999"),
    HEADER_PAGE.replace("offset:8", "offset:15"),
    HEADER_PAGE.replace("4080", "999999999"),
    HEADER_PAGE.replace("offset:8", "offset:" + "9" * 5000),
]


@pytest.mark.parametrize("text", PAGES_OF)
def test_page_formats(text: str) -> None:
    """Where things are in a page may be anywhere."""
    outcome(recording(meta(pages=text)))


EVENTS_OF = [
    "",
    "ID: 1",
    "ID: " + "9" * 50,
    FORMATS["dma_fence/dma_fence_init"].replace("offset:8", "offset:999999999"),
    FORMATS["dma_fence/dma_fence_init"].replace("offset:8", "offset:4"),
    FORMATS["dma_fence/dma_fence_init"].replace("offset:8", "offset:65530"),
    FORMATS["dma_fence/dma_fence_init"].replace("size:4", "size:8"),
    FORMATS["dma_fence/dma_fence_init"].replace("size:4", "size:0"),
    FORMATS["dma_fence/dma_fence_init"].replace("size:4", "size:999999999"),
    FORMATS["dma_fence/dma_fence_init"].replace("signed:0", "signed:1"),
    FORMATS["dma_fence/dma_fence_init"].replace("context", "driver"),
    format_of(1, [("u64 " + "context0", 8, 0), ("u64 seqno5", 8, 0), ("int count", 4, 1)]),
    format_of(1, [("u64 context0", 8, 1), ("u64 seqno0", 8, 1), ("s64 count", 8, 1), ("u64 seqno", 8, 1)]),
]
NAMES_OF = [
    *FORMATS,
    "probe/signal",
    "probe/array",
    "probe/chain",
    "syscalls/sys_enter_",
    "syscalls/sys_exit_",
    "syscalls/sys_enter_ \n",
    "syscalls/sys_exit_ioctl",
    "",
    "x",
]


@pytest.mark.parametrize("text", EVENTS_OF)
def test_event_formats(text: str) -> None:
    """Each event may have any format, also with the content of another one."""
    for name in NAMES_OF:
        outcome(recording(meta(events=FORMATS | {name: text})))
        outcome(recording(meta(events={name: text})))


@pytest.mark.parametrize("call", ["", " ", "\n", "poll poll", "dma_fence_wait"])
def test_names_of_system_calls(call: str) -> None:
    """A system call may be called anything."""
    renamed = {name.replace("poll", call): text for name, text in FORMATS.items()}
    assert isinstance(outcome(recording(meta(events=renamed))), Trace)


def test_pages_that_are_none() -> None:
    """Pages that are too short, and events that reach out of them, are said."""
    good = page(happened())
    for at in range(0, len(good), 3):
        assert is_said(recording(pages=join_pages([(0, 0, good[:at])]))), at
    content = join_pages([(0, 0, good)])
    for at in range(1, len(content), 3):
        assert is_said(recording(pages=content[:at])), at
    for used in (1 << 29, (1 << 30) - 1, (1 << 31) | (1 << 29), (1 << 64) - 1):
        assert is_said(recording(pages=join_pages([(0, 0, struct.pack("=QQ", START, used) + good[16:])])))
    for size in (0, 3, 5, 1 << 20, (1 << 32) - 1):
        record = struct.pack("=QQII", START, 12, 0, size) + bytes(4)
        assert is_said(recording(pages=join_pages([(0, 0, record)]))), size


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=1500, deadline=None)
def test_wrong_bytes_with_right_checksums(changes: list[tuple[int, int]], which: int) -> None:
    """Bytes that are wrong before they were compressed have a right checksum: they are read, or said to be wrong."""
    first, *blocks = parts(WHOLE)
    tag, *_ = HEAD.unpack_from(blocks[which])
    content = bytearray(zlib.decompress(blocks[which][HEAD.size :]))
    for at, value in changes:
        content[at % len(content)] = value
    blocks[which] = block(tag, bytes(content))
    outcome(first + b"".join(blocks))


@given(st.lists(st.tuples(st.sampled_from(range(13)), st.integers(0, 400), st.integers(0, 40)), max_size=60))
@settings(max_examples=500, deadline=None)
def test_events_in_any_order(chosen: list[tuple[int, int, int]]) -> None:
    """Events may come in any order and number, of any numbers and texts: there is a trace of them."""
    events = []
    for which, ns, wrong in chosen:
        fields = bytearray(happened()[which][1])
        if wrong > 3:  # behind the event's number
            fields[wrong % len(fields)] ^= wrong
        events.append((START + ns, bytes(fields)))
    found = outcome(recording(pages=join_pages([(0, 0, page([one])) for one in events])))
    assert isinstance(found, Trace)


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_any_bytes_in_a_page(content: bytes) -> None:
    """Any bytes are a page, or are said to be none."""
    outcome(recording(pages=join_pages([(0, 0, content)])))
    outcome(recording(pages=join_pages([(0, 0, struct.pack("=QQ", START, len(content)) + content)])))
    outcome(recording(pages=content))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    ),
    st.sampled_from(["first", "names", "end"]),
)
@settings(max_examples=500, deadline=None)
def test_any_json(content: Any, which: str) -> None:
    """Any JSON where another one belongs."""
    outcome(recording(**{which: content}))


def test_loss_is_counted() -> None:
    """What pages say was overwritten before them adds up, however much that is."""
    pages = [(0, 0, page(happened(), lost=7)), (0, 1, page([], lost=(1 << 64) - 1))]
    found = outcome(recording(pages=join_pages(pages)))
    assert isinstance(found, Trace)
    assert found.lost >= 7


def test_not_files(tmp_path: Path) -> None:
    """What can't be opened or read is an OSError, as ever."""
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(TraceError):
        load("/dev/zero")
    with pytest.raises(TraceError):
        load("/dev/null")


HOSTILE = meta(command="\x1b[2J\n\ud800</script><script>", kernel="\udcff\n", machine="\x00")
FILES = {
    "nothing": b"",
    "something else": b"\x7fELF" * 100,
    "half a meta block": WHOLE[:100],
    "a hostile word": recording(meta(byteorder="big\n\x1b[2J\ud800")),
    "no JSON": MAGIC + block(b"meta", b"["),
}
USABLE = {"cut off": WHOLE[:-30], "hostile names": recording(HOSTILE)}
COMMANDS = {
    "report": ["report", "FILE"],
    "report --json": ["report", "--json", "FILE"],
    "report --csv": ["report", "--csv", "FILE"],
    "diff": ["diff", "FILE", "FILE"],
    "export --html": ["export", "FILE", "--html", "-"],
    "export --svg": ["export", "FILE", "--svg", "-"],
    "export --perfetto": ["export", "FILE", "--perfetto", "-"],
}


def ran(command: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    """A command, run on a file."""
    arguments = [str(path) if one == "FILE" else one for one in COMMANDS[command]]
    return subprocess.run(
        [sys.executable, "-m", "linuxsync.cli", "trace", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_what_is_no_recording(command: str, tmp_path: Path) -> None:
    """A command that can't read its file says so in one line that hides nothing, and exits with 2."""
    path = tmp_path / "trace"
    for file in FILES.values():
        path.write_bytes(file)
        done = ran(command, path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.decode().rstrip("\n").isprintable()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_damaged_recordings(command: str, tmp_path: Path) -> None:
    """A command shows what there is of a recording, and says on stderr what is wrong with it."""
    path = tmp_path / "trace"
    for name, file in USABLE.items():
        path.write_bytes(file)
        done = ran(command, path)
        assert done.returncode == 0, done.stderr
        assert (b"damaged: cut off at byte" in done.stderr) == (name == "cut off")
        assert b"\x1b" not in done.stderr
        assert done.stderr.decode().replace("\n", "").isprintable()


@given(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_outputs_of_wrong_bytes(changes: list[tuple[int, int]]) -> None:
    """Whatever was read, there is a page, a picture and a file of Perfetto of it, and a repr that is not endless."""
    content = bytearray(join_pages([(0, 1, page(happened()))]))
    for at, value in changes:
        content[at % len(content)] = value
    found = outcome(recording(pages=bytes(content)))
    assert isinstance(found, Trace)
    assert html(found, "").startswith("<!")
    assert svg(found).startswith("<")
    assert perfetto(found)
    assert len(repr(found)) < 100_000
