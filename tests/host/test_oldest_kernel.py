"""The oldest Linux that linuxsync and the fence device are for: what it answers is tested, what it lacks is known."""

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
# What each run of the tests asks of that kernel: its requests, what it writes into its files, its tracepoints, and our
# module's requests. `vm/run matrix` runs all of tests/vm, where the commands and the documents take most of the time.
SUBJECTS = (
    *("sync_file", "sw_sync", "raw_ioctls", "merge", "wait", "deadline", "find", "features", "dma_*", "cpu_access"),
    *("udmabuf", "drm*", "gem", "prime", "vgem", "kms*", "syncobj*", "ddi", "fencedev", "fencedev_raw"),
    *("fencedev_buffers", "inspect_buffers", "inspect_fences", "inspect_timelines", "inspect_syncobjs"),
    *("inspect_waiters", "inspect_doctor", "trace_fences", "trace_syncobjs", "trace_waits"),
    *("kernel_selftests", "model_queues"),
)
# Storms and kills take their time, and tell more of us than of that kernel.
CHOSEN = ("-k", "not storm and not many_processes")


def collect(lacking: Iterable[str], words: Iterable[str] = ("tests/vm",)) -> tuple[int, int]:
    """How many tests there are where some features are missing, and how many are left out, by pytest itself."""
    options = [f"--lacking={name}" for name in lacking]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True, cwd=ROOT)
    if whole := re.search(r"^(\d+) tests collected in ", done.stdout, re.MULTILINE):
        return int(whole[1]), 0
    (found,) = re.findall(r"^(\d+)/\d+ tests collected \((\d+) deselected\) in ", done.stdout, re.MULTILINE)
    return int(found[0]), int(found[1])


def test_what_that_kernel_answers(cache: Path, oldest: Kernel) -> None:
    """Tests of that pass in one boot, but for those of what it lacks, and it warns of nothing."""
    found = {name: sorted((ROOT / "tests/vm").glob(f"test_{name}.py")) for name in SUBJECTS}
    assert all(found.values())
    paths = list(dict.fromkeys(str(path.relative_to(ROOT)) for files in found.values() for path in files))
    wanted, left_out = collect(OLDEST_LACKS, (*CHOSEN, *paths))
    options = ["--kernel", OLDEST, "--timeout", str(LIMIT)]
    command = [sys.executable, "-m", "linuxsync.vm", *options, "test", "-q", *CHOSEN, *paths]
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
    everything, none = collect(())
    assert none == 0
    assert collect(OLDEST_LACKS) == (everything - syncobjs - udmabufs, syncobjs + udmabufs)
