"""pytest --linuxsync-vm in a project of a test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from processes import assert_nothing_left, environment

LIMIT = 1200.0


def start(project: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    """Start pytest in a project."""
    command = [sys.executable, "-m", "pytest", "--linuxsync-vm", "-p", "no:hypothesispytest", *options]
    env = {**environment(cache), "PYTEST_OF_OURS": "told"}
    env.pop("LINUXSYNC_REQUIRE_VM", None)
    return subprocess.Popen(
        command,
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(project: Path, cache: Path, *options: str) -> tuple[int, str]:
    """Run pytest in a project to its end; nothing of a guest may be left."""
    with start(project, cache, *options) as process:
        try:
            printed, _ = process.communicate(timeout=LIMIT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert_nothing_left(cache)
    assert runs_left(cache) == []
    return process.returncode, printed


def runs_left(cache: Path) -> list[str]:
    """The folders of runs that have not been removed."""
    return [folder.name for folder in (cache / "linuxsync" / "runs").iterdir()]
