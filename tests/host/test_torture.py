"""``vm/run torture``: a short round in every run of the tests, and that its table would tell what went wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from linuxsync.vm import tests
from processes import environment

LIMIT = 2400.0
# What is short enough for every run: sweeps but for the longest, all storms of signals, most limits, some kills. The
# models have a round in tests/vm, and the nightly workflow leaves nothing out.
SHORT = (
    "faults and not (kms or drm or many or look) or signals or emfile or enfile or many_threads or two_recorders "
    "or producers or consumers or (test_commands and (leaks or record))"
)
# One test that leaves a descriptor of a buffer, and one in which a fault is injected and does harm.
BROKEN = """
from linuxsync import DmaHeap
from tests.torture.faults import covers

pytest_plugins = ["tests.torture.faults_plugin"]
LEFT = []

def test_leaves_something():
    with DmaHeap() as heap:
        LEFT.append(heap.alloc(4096))

@covers("DmaHeap.alloc")
def test_goes_on_without_memory(sweep):
    def alloc():
        with DmaHeap() as heap:
            try:
                heap.alloc(4096).close()
            except MemoryError:
                pass

    sweep(alloc)
"""


def torture(cache: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """Run it, and read its table."""
    command = [sys.executable, "-m", "linuxsync.vm", "torture", "-q", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(cache), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    table = done.stdout.rpartition(" torture ")[2]
    rows = re.findall(r"^([a-z]+(?: [a-z]+)?) +([\d,]+)$", table, re.MULTILINE)
    return done, {name: int(value.replace(",", "")) for name, value in rows}


def test_a_short_round(cache: Path) -> None:
    """On the debug kernel: whatever is made to fail or killed, nothing is lost and no detector speaks."""
    done, table = torture(cache, "--minutes", "0.3", "-k", SHORT)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-3000:]
    assert table.keys() == {
        "operations",
        "faults injected",
        "faults survived",
        "bad inputs",
        "killed",
        "objects leaked",
        "kernel splats",
    }
    assert "memory orphaned   not looked for" in done.stdout
    kinds = dict(re.findall(r"(fail\w+) ([\d,]+)", done.stdout))
    assert kinds.keys() == {"failslab", "fail_page_alloc", "fail_usercopy"}, kinds
    assert table["operations"] > 1_000
    assert table["faults injected"] == table["faults survived"] > 600
    assert table["bad inputs"] > 300
    assert table["killed"] > 5
    assert table["objects leaked"] == table["kernel splats"] == 0


def test_what_goes_wrong_is_told(cache: Path, tmp_path: Path) -> None:
    """A leak and a fault that nobody tells of fail their tests, and are in the table."""
    (tmp_path / "test_broken.py").write_text(BROKEN)
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "tests.torture.conftest"]
    done, table = torture(cache, *config, str(tmp_path / "test_broken.py"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ERROR" in done.stdout and "swallowed: nobody said" in done.stdout
    assert table["objects leaked"] >= 1
    assert table["faults injected"] == table["faults survived"] + 1 > 1


def test_fuzzed_inputs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the harnesses tried on the host comes back with pytest's status; one of them is enough to show that."""
    monkeypatch.setattr(tests, "ON_THE_HOST", ("test_fuzz.py",))
    status, inputs = tests.torture_on_the_host(0.1, ["-q", "-k", "undocumented and debugfs"], ROOT)
    assert status == 0
    assert inputs > 100
