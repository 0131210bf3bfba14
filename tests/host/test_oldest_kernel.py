"""The oldest Linux that linuxsync and the fence device are for: every test runs there but those of what it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from linuxsync.vm.bootstrap import OLDEST
from linuxsync.vm.kernel import Kernel
from processes import OLDEST_LACKS, environment, kept_logs

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 5400.0


def collect(lacking: Iterable[str]) -> tuple[int, int]:
    """How many tests there are where some features are missing, and how many are left out, by pytest itself."""
    options = [f"--lacking={name}" for name in lacking]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, "tests/vm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True, cwd=ROOT)
    if whole := re.search(r"^(\d+) tests collected in ", done.stdout, re.MULTILINE):
        return int(whole[1]), 0
    (found,) = re.findall(r"^(\d+)/\d+ tests collected \((\d+) deselected\) in ", done.stdout, re.MULTILINE)
    return int(found[0]), int(found[1])


def test_everything(cache: Path, oldest: Kernel) -> None:
    """All of tests/vm passes in one boot but what is about syncobjs, and the kernel warns of nothing."""
    everything, none = collect(())
    wanted, left_out = collect(OLDEST_LACKS)
    assert (none, wanted + left_out) == (0, everything)
    options = ["--kernel", OLDEST, "--timeout", str(LIMIT)]
    command = [sys.executable, "-m", "linuxsync.vm", *options, "test", "-q", "tests/vm"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment(cache), cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"vm: booting Linux {OLDEST}." in done.stderr
    assert re.search(rf"^{wanted} passed, {left_out} deselected in ", done.stdout, re.MULTILINE), done.stdout
    # The log of a run is kept when the kernel has warned.
    assert kept_logs(cache) == []


def test_what_is_left_out() -> None:
    """Deadlines leave no test out: each asserts what a kernel without them answers. Syncobjs do, and udmabufs a few."""
    assert collect({"set_deadline"})[1] == 0
    syncobjs = collect({"syncobj", "timeline_syncobj", "syncobj_eventfd"})[1]
    udmabufs = collect({"udmabuf_vmap", "udmabuf_pinned"})[1]
    assert syncobjs > 10 * udmabufs > 0
    assert collect(OLDEST_LACKS)[1] == syncobjs + udmabufs
