"""The tests that need a guest in which devices do not see at once what the CPU writes: they get a boot of their own."""

from __future__ import annotations

import re
import subprocess
import sys

# How many tests there are in tests/vm/incoherent: that they are all run is part of what is tested.
TESTS = 91


def test_staleness() -> None:
    """All of them pass, in one boot with swiotlb=force."""
    command = [sys.executable, "-m", "linuxsync.vm", "--quiet", "--append", "swiotlb=force"]
    done = subprocess.run(
        [*command, "test", "-q", "tests/vm/incoherent"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{TESTS} passed in ", done.stdout, re.MULTILINE), done.stdout
