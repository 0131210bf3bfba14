"""What people run: the README's example, the demo, the benchmarks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def output(*arguments: str, stderr: str = "") -> str:
    """What a Python of its own prints; it must end with 0 and say nothing else on stderr, no ResourceWarning either."""
    command = [sys.executable, "-W", "always", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, stderr)
    return run.stdout


def test_readme_example() -> None:
    """The README's example prints what the README shows."""
    readme = (ROOT / "README.md").read_text()
    example, shown = re.search(r"```python\n(.*?)```.*?prints\n\n```\n(.*?)```", readme, re.DOTALL).groups()
    # Which descriptor and which fence context it is depends on what ran before.
    assert re.sub(r"\d+", "N", output("-c", example)) == re.sub(r"\d+", "N", shown)


def test_demo() -> None:
    """The story has three frames, each of which waits for what it should, and a crash that nobody hangs on."""
    story = output("-m", "linuxsync.demo")
    assert re.findall(r"^Frame (\d) may be shown", story, re.MULTILINE) == ["1", "2", "3"]
    last = re.findall(r"returned after (\d+\.\d) ms; (\w+) was the last", story)
    # The GPU needs 300 ms a frame; the second frame stays on the screen for 700 ms.
    assert [name for _, name in last] == ["gpu", "gpu", "display"]
    assert all(50 < float(waited) < 2000 for waited, _ in last)
    assert "-2 ENOENT" in story
    assert story.count("FenceError: [Errno 2]") == 2


def test_benchmarks() -> None:
    """Every benchmark runs in all three languages; --json has every figure and --check speaks through the status."""
    result = json.loads(output("-m", "benchmarks", "--rounds", "1", "--json", "-", stderr="round 1 of 1\n"))
    assert {figure["name"] for figure in result["benchmarks"]} >= {
        "status",
        "info-256",
        "merge",
        "wait_all-1000",
        "wake",
    }
    for figure in result["benchmarks"]:
        assert all(len(figure[who]) == 1 and figure[who][0] > 0 for who in ("c", "linuxsync", "plain"))
    unknown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "-k", "nothing like it"], cwd=ROOT, capture_output=True, check=False
    )
    assert unknown.returncode == 2
