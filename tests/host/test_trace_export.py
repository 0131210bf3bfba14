"""linuxsync trace export: which part of a recording, into which file, and what is said if it can't be."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from made_trace import MS, START, made

from linuxsync.cli import failures, main, trace_export
from linuxsync.cli.selection import Selection
from linuxsync.trace import Event, Thread, Trace
from linuxsync.trace.part import part


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """What any file has in it."""
    trace = made(60)
    monkeypatch.setattr(trace_export, "opened", lambda path: trace)
    return trace


def export(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["trace", "export", *arguments])


def test_page_and_picture_are_written(recorded: Trace, tmp_path: Path) -> None:
    """Both at once; nothing is left beside them, and what was there is replaced, with its mode."""
    page, picture = tmp_path / "out.html", tmp_path / "out.svg"
    page.write_text("old")
    page.chmod(0o600)
    done = export("run.trace", "--html", str(page), "--svg", str(picture))
    assert (done.exit_code, done.output) == (0, "")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert picture.read_text().startswith("<svg ")
    assert sorted(tmp_path.iterdir()) == [page, picture]
    assert page.stat().st_mode & 0o777 == 0o600


def test_stdout_is_a_dash(recorded: Trace) -> None:
    done = export("run.trace", "--svg", "-")
    assert done.exit_code == 0
    assert done.stdout.startswith("<svg ")
    assert done.stdout.endswith("</svg>\n")


def test_a_pipe_by_its_name(recorded: Trace) -> None:
    """As of `--svg >(rsvg-convert)`: a link in /proc that leads to no file."""
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, ThreadPoolExecutor() as others:
        got = others.submit(pipe.read)
        try:
            done = export("run.trace", "--svg", f"/dev/fd/{writing}")
        finally:
            os.close(writing)
        assert (done.exit_code, done.output) == (0, "")
        assert got.result(120).startswith(b"<svg ")


def test_a_link_stays_one(recorded: Trace, tmp_path: Path) -> None:
    """What it leads to is replaced."""
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.svg", tmp_path / "b.svg"
    target.write_text("old")
    link.symlink_to(target)
    assert export("run.trace", "--svg", str(link)).exit_code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to make: --html OUT, --svg OUT or --perfetto OUT"),
        (["--html", "-", "--svg", "-"], "take a file each"),
        (["--svg", "-", "--from", "2", "--to", "1"], "--from 2 is not before --to 1"),
        (["--svg", "-", "--from", "nan"], "is not a number of seconds"),
    ],
)
def test_what_makes_no_sense_is_said(recorded: Trace, arguments: list[str], words: str) -> None:
    done = export("run.trace", *arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_failure_leaves_the_old_file(recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file is never seen, nor one beside it."""
    page = tmp_path / "out.html"
    page.write_text("old")

    def fails(self: Path, target: Path) -> Path:
        assert self.read_text().startswith("<!DOCTYPE html>")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fails)
    done = export("run.trace", "--html", str(page))
    assert done.exit_code == 2
    assert f"can't write {page}: No space left on device" in done.output
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_no_such_folder(recorded: Trace, tmp_path: Path) -> None:
    done = export("run.trace", "--svg", str(tmp_path / "no" / "out.svg"))
    assert done.exit_code == 2
    assert "No such file or directory" in done.output


@pytest.mark.parametrize("option", ["--svg", "--html", "--perfetto"])
def test_a_full_disk_is_2_as_everywhere(recorded: Trace, option: str) -> None:
    """1 is an answer of other commands."""
    done = export("run.trace", option, "/dev/full")
    assert (done.exit_code, done.output) == (2, "Error: can't write /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "Error: can't write {path}: Permission denied\n"),
        (errno.EDQUOT, "Error: can't write {path}: Disk quota exceeded\n"),
        (errno.EMFILE, "Error: this process may have no more descriptors, see ulimit -n: Too many open files\n"),
        (errno.EPIPE, ""),
    ],
)
def test_whatever_goes_wrong_is_2(
    recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """The file is named where it is the reason."""
    path = tmp_path / "out.svg"

    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", fails)
    monkeypatch.setattr(failures, "mute", lambda stream: None)
    done = export("run.trace", "--svg", str(path))
    assert (done.exit_code, done.output) == (2, said.format(path=path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_a_circle_of_links_are_no_files(recorded: Trace, tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for path in (tmp_path, circle, tmp_path / "\x1b[31m" / "out.svg"):
        done = export("run.trace", "--svg", str(path))
        assert done.exit_code == 2
        assert done.output.startswith("Error: can't write ")
        assert "\x1b" not in done.output
        assert done.output.count("\n") == 1


def test_without_perfetto_it_says_how_to_get_it(recorded: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read or written."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "perfetto"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "linuxsync.trace.perfetto", raising=False)
    monkeypatch.setitem(sys.modules, "perfetto", None)

    class Missing:
        """As where the package is not installed: its import fails, by its name."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "linuxsync.trace.perfetto":
                raise ModuleNotFoundError("No module named 'perfetto'", name="perfetto")

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    done = export("run.trace", "--perfetto", "-")
    assert done.exit_code == 2
    assert "pip install 'linuxsync[perfetto]'" in done.output


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A line about it, and no traceback; nor about one that is not there."""
    (tmp_path / "run.zip").write_bytes(b"PK")
    for name, why in (("run.zip", "not a recording of linuxsync"), ("none", "No such file or directory")):
        done = export(str(tmp_path / name), "--svg", str(tmp_path / "out.svg"))
        assert done.exit_code == 2
        assert done.output.startswith(f"Error: {tmp_path / name}: {why}")
        assert not (tmp_path / "out.svg").exists()


def test_filters_reach_the_page(recorded: Trace) -> None:
    """And the page says that it is a part."""
    done = export("run.trace", "--html", "-", "--driver", "sw_*", "--from", "0.1", "--to", "0.2")
    assert done.exit_code == 0
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', done.stdout)
    assert found is not None
    data = json.loads(found[1])
    assert data["about"]["part"] == "only sw_*, 0.1 s to 0.2 s"
    start, end = START + 100 * MS, START + 200 * MS
    alive = [one for one in recorded.timelines[0].fences if one.init_ns <= end and (one.signal_ns or end) >= start]
    assert data["fences"]["count"] == len(alive) > 4


def test_a_chosen_span_is_drawn_whole(recorded: Trace) -> None:
    """Without one the picture is of what has something."""
    recorded.end_ns += 100_000 * MS
    assert re.search(r"0\.000 s to [\d.]+ s of 101 s", export("run.trace", "--svg", "-").stdout)
    assert not re.search(r" s to [\d.]+ s of", export("run.trace", "--svg", "-", "--from", "0").stdout)


def test_help_teaches() -> None:
    done = export("--help")
    assert done.exit_code == 0
    assert "linuxsync trace export run.trace --html run.html" in done.output


def chosen(trace: Trace, **wanted: object) -> Trace:
    values: dict[str, object] = {"pids": None, "comms": (), "drivers": (), "timelines": (), **wanted}
    return trace_export.chosen(trace, Selection(**values), None, None)  # type: ignore[arg-type]


def test_everything_is_the_recording_itself() -> None:
    trace = made(3)
    assert chosen(trace) is trace


def test_a_driver_is_meant_with_its_fences_alone() -> None:
    """Links to others are gone, how many inputs there were is still known, and the whole is as it was."""
    trace = made(10)
    found = chosen(trace, drivers=("dma_fence_array",))
    assert [one.name for one in found.fences] == [one.name for one in trace.timelines[2].fences]
    assert {one.timeline for one in found.fences} == set(found.timelines)
    assert all(one.inputs == [] and one.input_count == 2 for one in found.fences)
    assert len(found.waits) == 10
    assert all(wait in fence.waits for wait in found.waits for fence in wait.fences)
    assert all(len(one.inputs) == 2 for one in trace.timelines[2].fences)
    assert chosen(trace, timelines=("frames",)).waits == []


def test_a_process_is_meant_with_what_it_made_and_waited_for() -> None:
    """By number or name; an interrupt that signaled in its place is not its doing."""
    trace = made(10)
    assert {one.context for one in chosen(trace, pids=(201,)).fences} == {7}
    compositor = chosen(trace, pids=(300,))
    assert len(compositor.fences) == 20
    assert len(compositor.waits) == 10
    assert len(chosen(trace, comms=("weston*",)).fences) == 20
    assert chosen(trace, comms=("<idle>",)).fences == []


def test_a_span_has_what_was_alive_in_it() -> None:
    """Whole, and nothing else; marks and events of that span."""
    trace = made(60)
    trace.others = [Event(START + 50 * MS, Thread(1, "x"), "e", {}), Event(START + 150 * MS, Thread(1, "x"), "e", {})]
    found = part(trace, start_ns=START + 100 * MS, end_ns=START + 200 * MS)
    assert (found.start_ns, found.end_ns) == (START + 100 * MS, START + 200 * MS)
    assert {one.name for one in found.fences} == {
        one.name
        for one in trace.fences
        if one.init_ns <= START + 200 * MS and (one.signal_ns or trace.end_ns) >= START + 100 * MS
    }
    assert all(START + 100 * MS <= one.ns <= START + 200 * MS for one in found.vblanks)
    assert len(found.others) == 1
    assert found.kernel == trace.kernel
    both = [one for one in found.fences if one.inputs]
    assert both
    assert all(copy in found.fences for one in both for copy in one.inputs)
    assert all(one in copy.outputs for one in both for copy in one.inputs)


def test_a_bug_is_not_hidden(recorded: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a missing package is told to be one."""
    monkeypatch.setitem(sys.modules, "linuxsync.trace.perfetto", None)
    with pytest.raises((ModuleNotFoundError, ImportError)):
        try:
            trace_export.to_protos()
        except click.ClickException:
            pytest.fail("told as a missing package")
