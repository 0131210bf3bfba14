"""The tests of tests/vm/own_boot: in a guest whose devices do not see what the CPU writes, and which may warn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from processes import environment, kept_logs

# How many there are: that all of them are run is part of what is tested.
TESTS = 117
# The functions in which the kernel is expected to warn, each once.
WARNINGS = ["__alloc_pages_noprof", "drm_atomic_helper_wait_for_fences"]


def test_own_boot(cache: Path) -> None:
    """All of them pass, in one boot with --incoherent, and the kernel warns of nothing else."""
    command = [sys.executable, "-m", "linuxsync.vm", "--quiet", "--incoherent"]
    done = subprocess.run(
        [*command, "test", "-q", "tests/vm/own_boot"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env=environment(cache),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{TESTS} passed in ", done.stdout, re.MULTILINE), done.stdout
    (log,) = kept_logs(cache)
    assert re.findall(r"WARNING: .* at \S+ (\w+)\+", log.read_text(errors="replace")) == WARNINGS
