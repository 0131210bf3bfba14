"""linuxsync trace report: its tables, JSON and CSV say one thing, and that is what the recording has."""

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from made_trace import made
from rich.cells import cell_len
from test_trace_chain import recordings as any_recordings
from trace_words import MS, holding, line, recording, wait

from linuxsync import trace as recordings
from linuxsync.cli.text import duration
from linuxsync.trace import Thread, Trace, critical_chain, slowest
from tests.command_words import linuxsync

HOSTILE = 'a,b\n"\x1b[31m\udcff\u202e'


@pytest.fixture
def said(monkeypatch):
    """A report of a recording, with options."""

    def report(trace, *options):
        holding(monkeypatch, FILE=trace)
        return linuxsync("trace", "report", "FILE", *options)

    return report


def cells(text, title):
    """The lines of a table, each as a dict; its cells have two blanks between them."""
    lines = iter(text.splitlines())
    assert any(line == f"{title}:" for line in lines), text
    header = next(lines)
    names = header.split()
    found = []
    for row in lines:
        if not row or row.startswith("Longest wait"):
            break
        found.append(dict(zip(names, [one for one in row.split("  ") if one], strict=True)))
    return [{name: cell.strip() for name, cell in row.items()} for row in found]


def test_table_json_and_csv(said):
    """The same numbers, three times."""
    trace = made(300)
    text, document, rows = said(trace), said(trace, "--json").json, said(trace, "--csv")
    assert (text.status, text.err, rows.status, rows.err) == (0, "", 0, "")
    in_csv = [*csv.DictReader(io.StringIO(rows.out))]
    in_table = cells(text.out, "Timelines")
    until = {"": "From init to signal", "e_": "From enable_signal to signal", "w_": "Waits"}
    assert len(document["timelines"]) == len(in_csv) == len(in_table) == 3
    for row, line_, cell in zip(document["timelines"], in_csv, in_table, strict=True):
        for name, value in row.items():
            if name == "errors":
                assert line_[name] == " ".join(f"{error}:{count}" for error, count in value.items())
            elif name != "waiters" and not name.endswith("times"):
                assert line_[name] == ("" if value is None else str(value)), name
        assert cell["COUNT"] == str(row["count"])
        assert cell["NEVER"] == str(row["never"]) == "1"
        assert cell["ERRORS"] == (", ".join(f"{error} x{count}" for error, count in row["errors"].items()) or "-")
        for prefix, title in until.items():
            if row[prefix + "p50"] is not None:
                (one,) = [one for one in cells(text.out, title) if one["TIMELINE"] == row["timeline"]]
                for name in ("p50", "p90", "p99", "max"):
                    assert one[name.upper()] == duration(row[prefix + name])
    assert document["recording"]["fences"] == 900
    assert [one["name"] for one in document["processes"]] == ["weston <b>&\"'", "client"]
    assert [one["PROCESS"] for one in cells(text.out, "Processes")] == ["weston <b>&\"'", "client"]
    (waiter,) = document["timelines"][2]["waiters"]
    (shown,) = cells(text.out, "Who waited")
    assert shown["THREAD"] == f"{waiter['comm']} {waiter['tid']}" == "compositor 301"
    assert shown["BLOCKED"] == duration(waiter["blocked_ns"])
    assert document["processes"][0]["longest"]["call"] == "poll"


def test_all_times_are_whole_nanoseconds(said):
    """Nothing but the rate is a float."""

    def floats(value, name=""):
        if isinstance(value, dict):
            return {one for key, inner in value.items() for one in floats(inner, key)}
        if isinstance(value, list):
            return {one for inner in value for one in floats(inner, name)}
        return {name} if isinstance(value, float) else set()

    assert floats(said(made(50), "--json").json) == {"rate"}


def test_width(said):
    """No table is wider than 80 cells, with names as drivers give them."""
    lines = said(made(300), "--histogram").out.splitlines()
    assert max(cell_len(line) for line in lines if not line.startswith("Longest wait")) <= 80


def test_chain(said):
    """Of the slowest, of a fence by its name, of a timeline by its."""
    trace = made(100)
    worst = slowest(trace)
    chain = said(trace, "--json").json["chain"]
    assert chain["fence"] == worst.name
    assert [one["what"] for one in chain["links"]] == [one.what for one in critical_chain(trace, worst)]
    assert chain["links"][0]["from_ns"] == chain["init_ns"]
    assert chain["links"][-1]["to_ns"] == chain["signal_ns"]
    merged = trace.timelines[2].fences[4]
    out = said(trace, "--chain", merged.name).out
    assert f"Why {merged.name} took {duration(merged.latency_ns)}:" in out
    assert f"client 201 was at work, for {merged.inputs[0].name}" in out
    assert f"{merged.name} followed the last of its inputs" in out
    found = said(trace, "--json", "--chain", "CRTC*").json["chain"]
    assert (found["timeline"], [one["what"] for one in found["links"]]) == ("CRTC:crtc-0", ["interrupt"])
    pending = said(trace, "--chain", trace.fences[-1].name)
    assert "has not signaled:" in pending.out
    wrong = said(trace, "--chain", "frmaes")
    assert (wrong.status, wrong.out) == (2, "")
    assert "no fence and no timeline is called frmaes; timelines are CRTC:crtc-0, frames, unbound" in wrong.err


def test_a_long_chain(said):
    """Two threads that play ball: its beginning and its end are printed, and all of it is in JSON."""
    one, other = Thread(1, "one", 1), Thread(2, "other", 2)
    timeline = line("sw_sync", "ball", [100 * MS + at * 1000 for at in range(200)])
    trace = recording(timeline)
    for fence in timeline.fences:
        fence.init_ns = 0
        fence.signal_ns = fence.seqno * MS
        fence.signaler = (one, other)[fence.seqno % 2]
        wait(trace, (other, one)[fence.seqno % 2], (fence.seqno - 1) * MS, fence.signal_ns + 5, fence)
    links = said(trace, "--json").json["chain"]["links"]
    assert len(links) == 399
    out = said(trace).out.splitlines()
    at = out.index("(the first and last 20 of 399 links; --json has all)")
    assert len(out) == at + 2 + 40


def test_histogram(said):
    """A bar for each bucket; the longest is the one with most, and nothing that is there is without one."""
    trace = recording(line("a", "b", [1500] * 1000 + [9_000_000]))
    lines = said(trace, "--histogram").out.splitlines()
    at = lines.index("a b 1:")
    assert lines[at + 1] == f"   1.5 us to    2 us     1000  {'█' * 40}"
    assert lines[at + 2] == "     2 us to    3 us        0"
    assert [one.strip() for one in lines if " ms to " in one][-1].split() == ["7", "ms", "to", "10", "ms", "1", "▏"]
    assert "█" not in said(trace).out


def test_selection(said):
    """By timeline and by process; a name that is nowhere is an error."""
    trace = made(50)
    document = said(trace, "--json", "--timeline", "CRTC*").json
    assert [one["timeline"] for one in document["timelines"]] == ["CRTC:crtc-0"]
    assert document["chain"]["timeline"] == "CRTC:crtc-0"
    by_client = said(trace, "--json", "--comm", "client").json
    assert [one["timeline"] for one in by_client["timelines"]] == ["frames"]
    assert [one["name"] for one in by_client["processes"]] == ["client"]
    wrong = said(trace, "--driver", "i915")
    assert (wrong.status, wrong.out) == (2, "")
    assert "FILE: no timeline is driver 'i915'; there are 'sw_sync frames', 'vkms CRTC:crtc-0'" in wrong.err


def test_what_is_lost_stands_on_top(said):
    """And on stderr; the exit status says nothing of it."""
    trace = made(50)
    trace.lost, trace.damage = 12345, ["the last block is cut off\x1b[2J"]
    done = said(trace)
    assert done.status == 0
    assert done.out.splitlines()[0].startswith("LOST: 12,345 events: ")
    assert done.out.splitlines()[1] == r"DAMAGED: the last block is cut off\x1b[2J"
    assert "linuxsync: FILE: 12345 events lost: " in done.err
    assert "linuxsync: FILE: damaged: the last block is cut off\\x1b[2J" in done.err
    document = said(trace, "--json").json
    assert document["unseen"][0]["count"] == document["recording"]["lost"] == 12345
    assert document["recording"]["damage"] == trace.damage
    assert said(trace, "--csv").err == done.err


@pytest.mark.parametrize("trace", [Trace(5, 5), recording(line("a", "b", [7]), end=0)], ids=["none", "one"])
def test_few_fences(said, trace):
    """No fence, one fence, and no time."""
    for options in ([], ["--histogram"], ["--json"], ["--csv"], ["-o", "count"]):
        done = said(trace, *options)
        assert (done.status, done.err) == (0, ""), options
    count = len(trace.fences)
    assert f"{count} fence{'' if count == 1 else 's'} on " in said(trace).out
    assert len(said(trace, "--csv").out.splitlines()) == 1 + count
    assert said(trace, "--json").json["chain"] is None or count


def test_hostile_names(said):
    """They obey no one: escaped in tables and CSV, where a row stays a line, and exact in JSON."""
    bad = Thread(7, HOSTILE, 8, HOSTILE)
    trace = recording(line(HOSTILE, HOSTILE, [5, None], thread=bad))
    wait(trace, bad, 10, None, trace.fences[1]).call = HOSTILE
    trace.command = trace.machine = trace.kernel = HOSTILE
    texts = [said(trace, *options) for options in ([], ["--histogram"], ["--csv"], ["--chain", trace.fences[1].name])]
    for done in texts:
        assert done.status == 0
        done.out.encode()
        assert all(one.isprintable() for one in done.out.replace("\n", ""))
    assert len(texts[2].out.splitlines()) == 2
    (row,) = csv.reader(io.StringIO(texts[2].out.splitlines()[1]))
    assert row[0] == row[1] == 'a,b\\n"\\x1b[31m\\xff\\u202e'
    document = said(trace, "--json").json
    assert document["timelines"][0]["driver"] == document["processes"][0]["name"] == HOSTILE
    assert said(trace, "--timeline", HOSTILE, "--comm", HOSTILE).status == 0
    said(trace, "--chain", "\x1b[2J").err.encode()
    assert "\x1b" not in said(trace, "--chain", "\x1b[2J").err + said(trace, "--timeline", "\x1b").err


def test_the_usual_file(monkeypatch):
    """What record writes is what report reads."""
    holding(monkeypatch, **{"linuxsync.trace": made(5)})
    assert "15 fences on 3 timelines" in linuxsync("trace", "report").out


def test_options_that_do_not_go_together(said):
    """Said before the file is read."""
    for options in (["--csv", "-J"], ["--csv", "-o", "count"], ["--csv", "--histogram"], ["-r", "--chain", "x"]):
        assert said(None, *options).status == 2
    assert "no such column" in said(None, "-o", "nothing").err
    assert said(made(9), "-o", "timeline,p50", "-n").out.splitlines()[1] == "CRTC:crtc-0  1.95 ms"


def test_a_file_that_is_not_there(monkeypatch):
    """Or none: one line, and 2."""

    def load(path):
        raise {
            "gone": FileNotFoundError(2, "No such file or directory"),
            "bad": recordings.TraceError("no recording\n"),
        }[path.name]

    monkeypatch.setattr(recordings, "load", load)
    for command in (["report"], ["diff", "gone"]):
        done = linuxsync("trace", *command, "gone")
        assert (done.status, done.out, done.err) == (2, "", "Error: gone: No such file or directory\n")
    assert linuxsync("trace", "report", "bad").err == "Error: bad: no recording\\n\n"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_recordings())
def test_any_recording(said, trace):
    """However little sense a recording makes, there is a report, and a difference of it and itself."""
    trace.threads[1].pid = None
    for options in (["--histogram"], ["--json"], ["--csv"], ["--chain", "gpu"]):
        assert said(trace, *options).status == 0
    for options in ([], ["--json"], ["--csv"], ["--fail-if-slower"]):
        done = linuxsync("trace", "diff", "FILE", "FILE", *options)
        assert (done.status, done.err) == (0, "")


def test_help():
    """It shows how."""
    out = linuxsync("trace", "report", "--help").out
    assert "linuxsync trace report FILE --timeline 'CRTC*' --histogram\n" in out
    assert "E_P99" in out
