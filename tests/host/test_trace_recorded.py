"""From a recording of the guest to what people look at: page, picture, Perfetto's file, all of the same fences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace as Protos
from playwright.sync_api import sync_playwright

from linuxsync import trace

ROOT = Path(__file__).resolve().parents[2]
SCENE = """
import threading, time
from linuxsync import Timeline
with Timeline("render <1>") as render, Timeline("overlay") as overlay:
    for value in range(1, 31):
        with render.create_fence(value) as one, overlay.create_fence(value) as two, one | two as both:
            waiter = threading.Thread(target=both.wait)
            waiter.start()
            time.sleep(0.02)  # until that waits
            render.inc()
            time.sleep(0.05 if value == 20 else 0.002)
            overlay.inc()
            waiter.join()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``linuxsync trace record`` wrote in the guest."""
    made = tmp_path_factory.mktemp("recorded") / "frames.trace"
    record = ["linuxsync", "trace", "record", "--syscalls", "-o", "-", "--", "python", "-c", SCENE]
    command = [sys.executable, "-m", "linuxsync.vm", "--quiet", "--", *record]
    with made.open("wb") as stream:
        subprocess.run(command, stdout=stream, timeout=1200, check=True, cwd=ROOT)
    return made


def linuxsync(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "linuxsync.cli", "trace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_report_knows_the_slow_one(file: Path) -> None:
    """Which frame was late, for whom it was waited, and that two timelines and their merges are all there is."""
    said = linuxsync("report", "--json", str(file))
    assert (said.returncode, said.stderr) == (0, "")
    report = json.loads(said.stdout)
    counts = {row["timeline"]: row["count"] for row in report["timelines"]}
    assert counts == {"render <1>": 30, "overlay": 30, "unbound": 30}
    recorded = trace.load(file)
    slowest = trace.slowest(recorded)
    assert slowest is not None
    assert slowest.latency_ns is not None
    assert slowest.latency_ns > 50_000_000
    (merged,) = [one for one in recorded.fences if one.inputs and one.inputs[0].seqno == 20]
    links = trace.critical_chain(recorded, merged)
    assert (links[-1].what, links[-1].fence) == ("merged", merged)
    assert links[-2].fence is merged.inputs[1]
    assert max(links, key=lambda link: link.duration_ns).what == "work"
    waits = [wait for wait in recorded.waits if wait.woken_by is not None and wait.woken_by.inputs]
    assert len({wait.thread.tid for wait in waits}) > 20


def test_diff_with_itself(file: Path) -> None:
    """Nothing is slower."""
    said = linuxsync("diff", str(file), str(file), "--fail-if-slower")
    assert said.returncode == 0
    assert "slower" not in said.stdout.replace("SLOWER", "")


def test_all_of_it_is_in_each_export(file: Path, tmp_path: Path) -> None:
    """As many fences in the page and for Perfetto as were recorded; the browser complains of nothing."""
    page, picture, protos = tmp_path / "it.html", tmp_path / "it.svg", tmp_path / "it.pftrace"
    done = linuxsync("export", str(file), "--html", str(page), "--svg", str(picture), "--perfetto", str(protos))
    assert (done.returncode, done.stderr) == (0, "")
    recorded = trace.load(file)
    assert {"render <1>", "overlay"} <= {line.name for line in recorded.timelines}
    assert "render &lt;1&gt;" in picture.read_text()
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    packets = Protos.FromString(protos.read_bytes()).packet
    begun = [one.track_event.name for one in packets if one.track_event.type == one.track_event.TYPE_SLICE_BEGIN]
    assert {begun.count(fence.name) for fence in recorded.fences} == {1}
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        shown = browser.new_page()
        shown.set_default_timeout(120_000)
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(page.as_uri())
        assert len(shown.evaluate("window.linuxsyncTrace.find('seqno:20')")) >= 2
        assert re.search(rf"\b{len(recorded.fences)} fences", shown.inner_text("body"))
        browser.close()
    assert complaints == []
