"""``vm/run test``: the host's tests on the host, the guest's in the guest, one exit status."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import runner
from .bootstrap import KERNEL, OLDEST, all_host_tests, oldest_is_tested
from .kernel import ensure, supported

NOTHING_COLLECTED = 5


def run_tests(arguments: Sequence[str], settings: Callable[[], runner.Settings], checkout: Path) -> int:
    """Run both phases, or those to which the named test paths belong, and return the worst status."""
    host, guest = phases(arguments, checkout)
    statuses = []
    if host is not None:
        if all_host_tests(arguments):
            # No test has to wait until a kernel is built, and the progress is seen.
            supported()
            for version in (KERNEL, OLDEST) if oldest_is_tested() else (KERNEL,):
                ensure(version)
        runner.note("tests on the host")
        command = [sys.executable, "-m", "pytest", *host]
        statuses.append(subprocess.run(command, cwd=checkout, check=False).returncode)
    if guest is not None:
        runner.note("tests in the guest")
        chosen = settings()
        # The checkout is read-only there.
        env = {**chosen.env, "LINUXSYNC_REQUIRE_VM": "1", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}
        command = ["python", "-m", "pytest", "-p", "no:cacheprovider", *guest]
        statuses.append(runner.run(command, replace(chosen, cwd=checkout, env=env), stdin=None))
    return worst(statuses)


def worst(statuses: Sequence[int]) -> int:
    """One status for both phases; that one of them had no test to run is fine if the other had."""
    if any(status != NOTHING_COLLECTED for status in statuses):
        statuses = [status for status in statuses if status != NOTHING_COLLECTED]
    # A signal's negative status is the worst of all.
    return max((128 - status if status < 0 else status for status in statuses), default=NOTHING_COLLECTED)


def phases(arguments: Sequence[str], checkout: Path) -> tuple[list[str] | None, list[str] | None]:
    """Each phase's pytest arguments; None for a phase that has nothing to do."""
    others: list[str] = []
    host: list[str] = []
    guest: list[str] = []
    for word in arguments:
        # tests/vm/test_x.py::test_y, as seen from here or from the checkout.
        name = word.split("::")[0]
        paths = [p for p in (Path.cwd() / name, checkout / name) if p.exists()] if not name.startswith("-") else []
        path = paths[0].resolve() if name and paths else None
        full = f"{path}{word[len(name) :]}" if path else word
        if path and path.is_relative_to(checkout / "tests/host"):
            host.append(full)
        elif path and path.is_relative_to(checkout / "tests/vm"):
            guest.append(full)
        elif path == checkout / "tests":
            host.append(str(checkout / "tests/host"))
            guest.append(str(checkout / "tests/vm"))
        else:
            others.append(word)
    if not host and not guest:
        return ["tests/host", *others], ["tests/vm", *others]
    return ([*others, *host] if host else None), ([*others, *guest] if guest else None)
