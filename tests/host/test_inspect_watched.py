"""linuxsync metrics and top on any machine: what they say where nothing is to be seen, and how they start."""

from __future__ import annotations

import json
import subprocess
import sys

LATE = ("prometheus_client", "rich.live", "rich.console", "http.server")


def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    command = [sys.executable, "-m", "linuxsync.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_metrics() -> None:
    """There are no fences, which is a number too; what could not be seen is one as well."""
    said = answer("metrics", "--pid", "1", "--no-processes")
    assert (said.returncode, said.stderr) == (0, "")
    for line in ('linuxsync_sync_files{status="active"} 0.0', 'linuxsync_descriptors{kind="sync_file"} 0.0'):
        assert line in said.stdout.splitlines()


def test_top() -> None:
    """Rows for nobody, twice."""
    said = answer("top", "-J", "-n", "2", "-d", "0.1", "--comm", "no such process")
    assert (said.returncode, said.stderr) == (0, "")
    assert [json.loads(line)["processes"] for line in said.stdout.splitlines()] == [[], []]


def test_what_only_some_commands_need_is_imported_by_them() -> None:
    """So that every command starts as fast as it can."""
    code = f"import sys, linuxsync.cli; print([name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
