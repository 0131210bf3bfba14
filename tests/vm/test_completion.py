"""linuxsync completion: names of processes, drivers and timelines that there are now."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from linuxsync import SyncFile, Timeline


def completed(*words: str) -> list[str]:
    """What a shell is told that the last word may become."""
    env = os.environ | {
        "_LINUXSYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["linuxsync", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "import sys; sys.argv = ['linuxsync']; from linuxsync.cli import main; main(prog_name='linuxsync')"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True)
    assert run.stderr == ""
    return [line.removeprefix("plain,") for line in run.stdout.split()]


@pytest.fixture
def held(timeline: Timeline, fence: SyncFile) -> SyncFile:
    """A fence of this process."""
    return fence


def test_names(held: SyncFile, me: str) -> None:
    """Of processes and timelines that hold or make a fence now."""
    assert me in completed("ps", "--comm", "")
    assert completed("ps", "--pid", str(os.getpid())) == [str(os.getpid())]
    assert completed("ps", "--driver", "sw_") == ["sw_sync"]
    assert held.fences[0].obj_name in completed("ps", "--timeline", "")
    assert completed("ps", "--comm", "no such process") == []


def test_nothing_is_changed(held: SyncFile) -> None:
    """The fence is asked, and neither polled nor kept."""
    completed("ps", "--timeline", "")
    assert held.status == 0
