"""The parsers of debugfs, with text as kernels print it, and the reader that can't get stuck."""

import os
import time
from pathlib import Path

import pytest

from linuxsync.inspect import debugfs
from linuxsync.inspect.debugfs import ListedBuffer, ListedFence, ListedTimeline, Point, parse_bufinfo, parse_sync_info

HEAD = "\nDma-buf Objects:\nsize    \tflags   \tmode    \tcount   \texp_name\tino     \tname\n"
ROW = "00004096\t00000002\t00080007\t00000001\tsystem\t00000002\t"
NO_DEVICES = "\tAttached Devices:\nTotal 0 devices attached\n\n"

# Linux 6.12, dma_buf/bufinfo.
BUFINFO = f"""{HEAD}\
00303104\t00080002\t00080007\t00000003\tsystem\t00000001\tcamera
\tkernel fence:virtio_gpu controlq seq 18446744073709551615 signalled
\twrite fence:sw_sync gpu 0 seq 4 unsignalled
\tread fence:fencedev a seq 3 b seq 5 unsignalled
\tAttached Devices:
\tvgem
\t0000:00:02.0
Total 2 devices attached

12884901888\t00080002\t00080007\t00000001\tdrm\t4294967296\t<none>
\tAttached Devices:
Total 0 devices attached


Total 2 objects, 12885204992 bytes
"""


def listed(name, fences=(), devices=()):
    return ListedBuffer(2, 4096, 1, "system", name, tuple(fences), tuple(devices))


def parse(text):
    return parse_bufinfo(os.fsencode(text))


def test_bufinfo():
    """Every field of every row."""
    assert parse(BUFINFO) == (
        [
            ListedBuffer(
                1,
                303104,
                3,
                "system",
                "camera",
                (
                    ListedFence("kernel", "virtio_gpu", "controlq", 2**64 - 1, True),
                    ListedFence("write", "sw_sync", "gpu 0", 4, False),
                    ListedFence("read", "fencedev", "a seq 3 b", 5, False),
                ),
                ("vgem", "0000:00:02.0"),
            ),
            ListedBuffer(2**32, 12 << 30, 1, "drm", None, (), ()),
        ],
        0,
    )


def test_bufinfo_of_newer_kernels():
    """dma_fence_describe says the context first, and no names of what has signaled (Linux 6.17 and later)."""
    fences = "\twrite fence:64:1 gfx 0.0.0 amdgpu unsignalled\n\tread fence:7:12   signalled\n"
    expected = [ListedFence("write", "amdgpu", "gfx 0.0.0", 1, False), ListedFence("read", "", "", 12, True)]
    for name in ("", "fb", "a name"):
        assert parse(f"{HEAD}{ROW}{name}\n{fences}{NO_DEVICES}") == ([listed(name, expected)], 0)


@pytest.mark.parametrize(
    "name",
    [
        "two\nlines",
        "\n\n",
        "tab\tand\r",
        "\udcff\x1b[2J",
        "x\n\tAttached Devices:\n\tevil",
        "\nTotal 0 devices attached\n\n",
        "\n\tAttached Devices:\n",
        "12345678901234567890123456789\n\n",
        "<none> ",
        "\u2028\x85\x0b\x0c",
    ],
)
def test_names_of_buffers(name):
    """A name may have anything in it that a line of the kernel's has, and the rows around it are found all the same."""
    rest = "\twrite fence:sw_sync t seq 1 unsignalled\n\tAttached Devices:\n\tvgem\nTotal 1 devices attached\n\n"
    row = f"{ROW}{name}\n{rest}"
    plain = f"{ROW}plain\n{NO_DEVICES}"
    expected = listed(name, [ListedFence("write", "sw_sync", "t", 1, False)], ["vgem"])
    assert parse(HEAD + plain + row + plain) == ([listed("plain"), expected, listed("plain")], 0)


def test_timelines_with_line_breaks_in_a_buffer():
    """They are whole."""
    fences = "\tread fence:sw_sync a\n\nb seq 2 unsignalled\n\tread fence:sw_sync \udcff seq 3 signalled\n"
    expected = [ListedFence("read", "sw_sync", "a\n\nb", 2, False), ListedFence("read", "sw_sync", "\udcff", 3, True)]
    assert parse(f"{HEAD}{ROW}n\n{fences}{NO_DEVICES}") == ([listed("n", expected)], 0)


@pytest.mark.parametrize("text", ["", HEAD, f"{HEAD}\nTotal 0 objects, 0 bytes\n"])
def test_no_buffers(text):
    """None, and nothing was lost."""
    assert parse(text) == ([], 0)


def test_rows_in_another_form_are_counted():
    """What is cut off or not as it should be is left out, and the rest is not."""
    strange = f"{ROW}x\n\tsome fence: of a kernel to come\n{NO_DEVICES}"
    wrong = f"{ROW}x\n\tAttached Devices:\n\tvgem\nTotal 3 devices attached\n\n"
    fine = f"{ROW}fine\n{NO_DEVICES}"
    assert parse(HEAD + strange + fine + wrong + fine + ROW) == ([listed("fine")] * 2, 3)


def test_it_takes_no_longer_than_the_text():
    """Names that look like the beginning of everything do not make it slow."""
    text = HEAD + f"{ROW}\n\twrite fence:\n\tread fence:\n{NO_DEVICES}" * 2000
    start = time.process_time()
    assert parse(text)[1] in (0, 2000)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        # Each line may end at its own end or at that of one behind it.
        f"{HEAD}{ROW}x\n" + "\tread fence:a b seq 1 signalled\n" * 60 + "\tof a kernel to come\n",
        f"{HEAD}{ROW}x\n" + "\tread fence:signalled\n" * 60 + NO_DEVICES.replace("0 devices", "7 devices"),
        HEAD + ROW.replace("4096", "0" * 65536),
        HEAD + "0" * 65536 + "x",
        HEAD + ROW.replace("4096\t0", "4096\t" + "0" * 65536),
        HEAD + ROW + "x\n\tAttached Devices:\n" * 3000,
        HEAD + f"{ROW}x\n\tread fence:signalled\n\tAttached Devices:\n" * 3000,
    ],
    ids=["lines", "devices", "size", "digits", "flags", "nothing", "everything"],
)
def test_what_fits_nowhere_is_given_up_soon(text):
    """Also if there are many ways to read it, of which none is right; and a number that is no number is no error."""
    start = time.process_time()
    parse(text)
    parse_sync_info(b"objs:\n----\n%sfences:\n----\n" % text.encode())
    assert time.process_time() - start < 5


def test_lines_of_the_kernels_in_the_name_of_a_timeline():
    """A fence ends where one more or the devices come, and not where its timeline is called so."""
    name = "a seq 1 signalled\n\tAttached Dev"
    text = f"{HEAD}{ROW}x\n\tread fence:sw_sync {name} seq 2 unsignalled\n{NO_DEVICES}{ROW}y\n{NO_DEVICES}"
    found, lost = parse(text)
    assert ([one.name for one in found], lost) == (["x", "y"], 0)


@pytest.mark.parametrize("value", ["9" * 5000, "-" + "9" * 21])
def test_numbers_that_are_none(value):
    """What has more digits than any number is counted."""
    text = f"objs:\n----\nt: {value}\n\nu: 1\n  fence active: {value} / 1\n\nv: 1\n\nfences:\n----\n"
    assert parse_sync_info(text.encode()) == ([ListedTimeline("v", 1, ())], 2)


def test_sync_info():
    """Names with blanks, colons, line breaks and bytes; values below 0; fences of each state."""
    text = b"""objs:
--------------
gpu: 7
  fence active: 8 / 7
  fence active: 2147483655 / 7

a: b: -3
  fence error@39.897492741: 4 / -3
  fence signaled@0.000000001: -4 / -3
  fence active: 5 / -3

line
break\xff: 0

: 2

fences:
------
: 5

fences:
--------------
"""
    assert parse_sync_info(text) == (
        [
            ListedTimeline("gpu", 7, (Point(8, "active", None), Point(2147483655, "active", None))),
            ListedTimeline(
                "a: b",
                -3,
                (Point(4, "error", 39897492741), Point(-4, "signaled", 1), Point(5, "active", None)),
            ),
            ListedTimeline("line\nbreak\udcff", 0, ()),
            ListedTimeline("", 2, ()),
            ListedTimeline("fences:\n------\n", 5, ()),
        ],
        0,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"objs:\n--------------\nfences:\n--------------\n", ([], 0)),
        (b"", ([], 1)),
        (b"objs:\n--------------\n", ([], 1)),
        (b"objs:\n----\nt: x\n  what is this\n\nu: 1\n\nfences:\n----\n", ([ListedTimeline("u", 1, ())], 1)),
        (b"objs:\n----\nt: x\nfences:\n----\n", ([], 1)),
    ],
)
def test_sync_info_without_timelines(text, expected):
    """Nothing, or not what kernels print: that is counted."""
    assert parse_sync_info(text) == expected


def test_reading_has_a_limit(tmp_path):
    """A file that is never read to its end ends with TimeoutError, and whoever read it is gone."""
    os.mkfifo(tmp_path / "bufinfo")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="not read within"):
        debugfs.read_file(str(tmp_path / "bufinfo"), 3)  # seconds: to start who reads takes some of them
    assert time.monotonic() - start < 60
    assert Path("/proc/self/task", str(os.getpid()), "children").read_text() == ""


def test_reading(tmp_path):
    """The bytes; or the errno that says why not."""
    file = tmp_path / "info"
    file.write_bytes(b"\xff\0\n" * 100_000)
    assert debugfs.read_file(str(file), 120) == file.read_bytes()
    with pytest.raises(OSError, match="could not be read"):
        debugfs.read_file(str(tmp_path), 120)
