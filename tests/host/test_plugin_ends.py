"""pytest --linuxsync-vm beside pytest-cov, where guests can't begin, and where they are to end."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT
from guest_runs import run, runs_left, start
from processes import assert_nothing_left, processes_of

TRIVIAL = "def test_it(): pass\n"
MEASURED = """
import os


def halves(number):
    if os.environ.get("LINUXSYNC_VM"):
        return number / 2
    return "not in the guest"
"""


@pytest.fixture
def read_only_project() -> Iterator[Path]:
    """One that the guest can't write, as those are that are not in /tmp."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        yield Path(folder)


@pytest.mark.parametrize("data_file", [".coverage", "build/data"])
def test_coverage(data_file: str, read_only_project: Path, cache: Path) -> None:
    """pytest-cov tells which lines ran in the guest, and leaves on this side what it leaves without one."""
    project = read_only_project
    (project / "halving.py").write_text(MEASURED)
    (project / "test_it.py").write_text("import halving\n\ndef test_it(): assert halving.halves(4) == 2\n")
    (project / ".coveragerc").write_text(f"[run]\ndata_file = {data_file}\n")
    before = {*project.iterdir()}
    status, printed = run(project, cache, "--cov=halving", "--cov-report=json", "-p", "no:cacheprovider")
    assert status == 0, printed
    found = json.loads((project / "coverage.json").read_text())["files"]["halving.py"]
    assert found["executed_lines"] == [2, 5, 6, 7]
    assert found["missing_lines"] == [8]
    assert {*project.iterdir()} - before == {project / "coverage.json", project / Path(data_file).parts[0]}


def test_stderr(project: Path, cache: Path) -> None:
    """What is said where nothing is captured comes with the name of the test."""
    (project / "test_it.py").write_text(
        "import os\n"
        "def test_says(): os.write(2, b'one\\ntwo\\n')\n"
        "def test_is_silent(): pass\n"
        "def test_says_more(): os.write(2, b'three\\n')\n"
    )
    status, printed = run(project, cache, "-s")
    assert status == 0, printed
    said = "test_it.py::test_says:\n  one\n  two\ntest_it.py::test_says_more:\n  three\n="
    assert re.search(rf"^=+ stderr of the guests =+\n{re.escape(said)}", printed, re.MULTILINE), printed


def test_a_name_that_is_not_there(project: Path, cache: Path) -> None:
    """pytest's own words, and its status for wrong usage."""
    (project / "test_it.py").write_text(TRIVIAL)
    status, printed = run(project, cache, "test_it.py::test_that")
    assert status == pytest.ExitCode.USAGE_ERROR, printed
    assert (
        f"ERROR: not found: {project / 'test_it.py'}::test_that\n(no match in any of [<Module test_it.py>])" in printed
    )


def test_what_fails_in_each_guest(project: Path, cache: Path) -> None:
    """One that fails before it has found the tests is not booted a second time."""
    (project / "test_it.py").write_text(TRIVIAL)
    (project / "conftest.py").write_text("import os\nif 'LINUXSYNC_VM' in os.environ: raise RuntimeError('not here')\n")
    status, printed = run(project, cache)
    assert status == pytest.ExitCode.USAGE_ERROR, printed
    assert printed.count("node down: ") == 1
    assert "replacing crashed worker" not in printed
    assert "ERROR: pytest ended in the guest before it had found the tests: " in printed
    assert "RuntimeError: not here" in printed


WAYS = {
    # To all, as a terminal does, or to pytest alone, as those do who stop a job.
    "Ctrl-C": (os.killpg, signal.SIGINT),
    "SIGINT": (os.kill, signal.SIGINT),
    "SIGTERM": (os.kill, signal.SIGTERM),
    "SIGHUP to all": (os.killpg, signal.SIGHUP),
}
MOMENTS = {"while it boots": "configfile: ", "in a test": "[1 item]"}


@pytest.mark.parametrize(
    ("way", "moment"),
    [*((way, "in a test") for way in WAYS), ("Ctrl-C", "while it boots"), ("SIGTERM", "while it boots")],
)
def test_interrupted(way: str, moment: str, project: Path, cache: Path) -> None:
    """pytest ends at once with its status for that, and when it has ended nothing is left."""
    (project / "test_long.py").write_text("import time\ndef test_long(): time.sleep(1000)\n")
    with start(project, cache, "-v") as process:
        try:
            assert process.stdout is not None
            said = ""
            while MOMENTS[moment] not in said or not any("qemu" in one for one in processes_of(cache)):
                line = process.stdout.readline() if MOMENTS[moment] not in said else ""
                assert line or MOMENTS[moment] in said, said
                said += line
            tell, number = WAYS[way]
            tell(process.pid, number)
            rest, _ = process.communicate(timeout=120)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert_nothing_left(cache)
    assert runs_left(cache) == []
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said + rest
    assert "KeyboardInterrupt" in rest


def test_killed(project: Path, cache: Path) -> None:
    """Who kills pytest ends the guest, too; what is left of the folder is removed by the next run."""
    (project / "test_it.py").write_text("import time\ndef test_it(): time.sleep(1000)\n")
    with start(project, cache) as process:
        assert process.stdout is not None
        while "[1 item]" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
    assert_nothing_left(cache)
    assert [name for name in runs_left(cache) if name.startswith("pytest-")]
    (project / "test_it.py").write_text(TRIVIAL)
    status, printed = run(project, cache)
    assert status == 0, printed
