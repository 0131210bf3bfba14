"""linuxsync ps on any machine, with or without fences: what it says is what /proc has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def held() -> set[tuple[int, int]]:
    """Process and number of every descriptor of a sync_file that this user may see."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for entry in folder.iterdir():
                if str(entry.readlink()) == "anon_inode:sync_file":
                    found.add((int(folder.parent.name), int(entry.name)))
        except OSError:
            pass  # not ours to see, or gone
    return found


def test_ps_tells_the_truth() -> None:
    """As many as there are, and an exit status of 1 where there is none."""
    command = [sys.executable, "-m", "linuxsync.cli", "ps", "-J"]
    before = held()
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    after = held()
    said = json.loads(done.stdout)
    listed = {(one["pid"], one["fd"]) for row in said["sync_files"] for one in row["holders"]}
    if not any(one["what"] == "sync_files" for one in said["unseen"]):
        assert before & after <= listed <= before | after
    assert done.returncode == (0 if listed else 1)
    assert done.stderr == b""
