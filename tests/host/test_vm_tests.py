"""``vm/run test``: tests on the host and in the guest at the same time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from checkout import ROOT
from processes import assert_nothing_left, environment, processes_of

LIMIT = 600.0


def command(*arguments: str, options: Sequence[str] = ()) -> list[str]:
    """The command line of a run of some tests."""
    return [sys.executable, "-m", "linuxsync.vm", *options, "test", "-q", "-p", "no:cacheprovider", *arguments]


@pytest.mark.parametrize(
    ("options", "host", "guest", "status", "said"),
    [
        ([], "", "", 0, r"\d+ passed in .*^1 passed in "),
        ([], "::nowhere", "", 4, r"no tests ran in .*^1 passed in "),
        ([], "", "::nowhere", 4, r"\d+ passed in .*^no tests ran in "),
        (["--timeout", "3"], "", "", 69, r"\d+ passed in "),
    ],
    ids=["both", "host_fails", "guest_fails", "guest_is_lost"],
)
def test_at_the_same_time(options: list[str], host: str, guest: str, status: int, said: str, cache: Path) -> None:
    """What the host's tests say, then what the guest's do; the worse status of the two, whoever fails."""
    words = [f"tests/vm/test_sw_sync.py{guest or '::test_it_is_found'}", f"tests/host/test_seconds.py{host}"]
    done = subprocess.run(
        command(*words, options=options),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=environment(cache),
        cwd=ROOT,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert re.search(rf"^{said}", done.stdout, re.MULTILINE | re.DOTALL), done.stdout
    assert_nothing_left(cache)


def test_terminated(cache: Path) -> None:
    """Neither the guest nor that of a test on the host is left."""
    slow = ["tests/host/test_vm_runner.py::test_timeout", "tests/vm/test_trace_record.py"]
    run = subprocess.Popen(
        command(f"--basetemp={cache}/tests", *slow),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(cache),
        cwd=ROOT,
    )
    with run:
        end = time.monotonic() + LIMIT
        for folder in (cache / "linuxsync" / "runs", cache / "tests"):
            while not any(re.match("qemu-system", line) for line in processes_of(folder)) and time.monotonic() < end:
                assert run.poll() is None, run.communicate()
                time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=LIMIT)
    assert run.returncode == 128 + signal.SIGTERM
    assert_nothing_left(cache)
