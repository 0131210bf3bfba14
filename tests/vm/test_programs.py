"""What people run: the README's example, the demo, the benchmarks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.code_blocks", "tests.documents")

from tests.code_blocks import ROOT, blocks, check_block, first_line, output  # noqa: E402

README = blocks(ROOT / "README.md")
SYNCOBJS = pytest.mark.linuxsync(requires=["syncobj", "timeline_syncobj"])


def test_readme_has_examples() -> None:
    """All that say what they print are found; the one that does not is a list of calls."""
    text = (ROOT / "README.md").read_text()
    assert len(README) == text.count("```python") - 1 == 9


@pytest.mark.parametrize(
    ("example", "shown"),
    [pytest.param(*one, marks=SYNCOBJS if "syncobj" in one[0].lower() else ()) for one in README],
    ids=first_line,
)
def test_readme_example(example: str, shown: str, tmp_path: Path) -> None:
    """The README's examples print what the README shows."""
    check_block(example, shown, tmp_path)


def test_demo() -> None:
    """The story has three frames, each of which waits for two timelines, and a crash that nobody hangs on."""
    story = output("-m", "linuxsync.demo")
    assert re.findall(r"^Frame (\d) may be shown", story, re.MULTILINE) == ["1", "2", "3"]
    # Which of the two is the last depends on how fast the machine tells the story.
    assert len(re.findall(r"returned after \d+\.\d ms; (?:gpu|display) was the last", story)) == 3
    assert "-2 ENOENT" in story
    assert story.count("FenceError: [Errno 2]") == 2


@SYNCOBJS
def test_benchmarks(fence_device_module: None) -> None:
    """Every benchmark runs in all three languages, and --json has every figure."""
    result = json.loads(output("-m", "benchmarks", "--rounds", "1", "--json", "-", stderr="round 1 of 1\n"))
    assert {figure["name"] for figure in result["benchmarks"]} >= {
        "status",
        "info-256",
        "merge",
        "wait_all-1000",
        "wake",
        "bracket",
        "ddi",
        "cpu_access",
        "cpu_access-16",
        "export_import",
        "syncobj_wait",
        "syncobj_wait-256",
        "syncobj_query",
        "syncobj_query-256",
        "prime",
        "submit",
        "chain-16",
    }
    for figure in result["benchmarks"]:
        assert all(len(figure[who]) == 1 and figure[who][0] > 0 for who in ("c", "linuxsync", "plain"))
    unknown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "-k", "nothing like it"], cwd=ROOT, capture_output=True, check=False
    )
    assert unknown.returncode == 2


CHECK = """
import dataclasses, sys
from benchmarks import __main__, cases
cases.CASES[:] = [dataclasses.replace(case, max_vs_c=float(sys.argv[1])) for case in cases.CASES if case.name == "poll"]
__main__.main(["-k", "poll", "--check", "--rounds", "1"])
"""


@pytest.mark.parametrize(("bound", "verdict", "status"), [("0", "missed", 1), ("1000", "met", 0)])
def test_benchmarks_are_checked(bound: str, verdict: str, status: int) -> None:
    """--check speaks through the exit status, and the table has the same verdict."""
    command = [sys.executable, "-c", CHECK, bound]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == status
    assert verdict in run.stdout.split()
    assert ("Error: missed: poll(0)" in run.stderr) == (status == 1)
