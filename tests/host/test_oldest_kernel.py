"""The oldest Linux that the fence device is for: its module runs there, and what that kernel lacks, it says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from linuxsync.vm.bootstrap import OLDEST
from linuxsync.vm.kernel import Kernel
from processes import environment, kept_logs

ROOT = Path(__file__).resolve().parents[2]
PARTS = [
    *sorted(ROOT.glob("tests/vm/test_fencedev*.py")),
    ROOT / "tests/vm/test_ddi.py",
    ROOT / "tests/vm/test_sync_file.py",
]
LIMIT = 600.0


def count_tests() -> int:
    """How many there are, by what pytest finds here, where no kernel leaves any out."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *map(str, PARTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True, cwd=ROOT)
    (count,) = re.findall(r"^(\d+) tests collected in ", done.stdout, re.MULTILINE)
    return int(count)


def test_fence_device(cache: Path, oldest: Kernel) -> None:
    """All of its tests pass in one boot, those of ddi and sync_file too, and the kernel warns of nothing."""
    command = [sys.executable, "-m", "linuxsync.vm", "--kernel", OLDEST, "test", "-q", *map(str, PARTS)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment(cache), cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"vm: booting Linux {OLDEST}." in done.stderr
    assert re.search(rf"^{count_tests()} passed in ", done.stdout, re.MULTILINE), done.stdout
    # The log of a run is kept when the kernel has warned.
    assert kept_logs(cache) == []
