"""``vm/run test``: the host's tests on the host, the guest's in the guest, one exit status."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import runner
from .bootstrap import DEBUG, KERNEL, OLDEST, all_host_tests, oldest_is_tested
from .kernel import ensure, supported
from .matrix import show_matrix

NOTHING_COLLECTED = 5
# Seconds, beyond the minutes that are asked for, that the parts take which end by themselves.
TORTURE_ITSELF = 1800.0
# Seconds in which pytest ends when it is told to, with the guests of its tests.
STOP_LIMIT = 5.0


def run_tests(arguments: Sequence[str], settings: Callable[[], runner.Settings], checkout: Path) -> int:
    """Run both phases, or those to which the named test paths belong, and return the worst status."""
    host, guest = phases(arguments, checkout)
    # Before all else, so that a kernel that there is not is told at once.
    in_the_guest = None if guest is None else of_guest(settings(), checkout)
    on_the_host = [sys.executable, "-m", "pytest", *(host or [])]
    if host is not None and all_host_tests(arguments):
        # No test has to wait until a kernel is built, and the progress is seen.
        supported()
        for name in (KERNEL, DEBUG, *([OLDEST] if oldest_is_tested() else [])):
            ensure(name)
    if guest is None or in_the_guest is None:
        runner.note("tests on the host")
        return worst([subprocess.run(on_the_host, cwd=checkout, check=False).returncode])
    if host is None:
        runner.note("tests in the guest")
        return worst([runner.run(in_guest(guest), in_the_guest, stdin=None)])
    return worst(run_beside(on_the_host, in_guest(guest), in_the_guest, checkout))


def run_beside(host: Sequence[str], guest: Sequence[str], settings: runner.Settings, checkout: Path) -> list[int]:
    """Run both phases at once, for each keeps one CPU busy; returns both statuses.

    The guest's output is kept until the host's tests have ended, and comes then.
    """
    runner.note("tests on the host, and at the same time in the guest; what those say comes after")
    ended = threading.Event()
    with tempfile.NamedTemporaryFile() as kept, subprocess.Popen(host, cwd=checkout) as process:
        teller = threading.Thread(target=tell_after, args=(process, Path(kept.name), ended))
        teller.start()
        try:
            settings = replace(settings, quiet=True)
            status = runner.run(guest, settings, stdin=None, stdout=kept.fileno(), stderr=kept.fileno())
            process.wait()
        except runner.GuestLost:
            # The host's tests are as good as before.
            process.wait()
            raise
        except BaseException:
            stop(process)
            raise
        finally:
            ended.set()
            teller.join()
    return [process.returncode, status]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End pytest in the way in which its tests end what they have started."""
    # Ctrl-C has told it already; it ignores SIGINT where a shell without job control has started us in the background.
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT)
            return


def tell_after(process: subprocess.Popen[bytes], output: Path, ended: threading.Event) -> None:
    """Wait for a process, then print what has been and is being written into a file until all has ended."""
    process.wait()
    with output.open("rb") as kept:
        runner.note("tests in the guest")
        while True:
            last = ended.is_set()
            shutil.copyfileobj(kept, sys.stdout.buffer)
            sys.stdout.flush()
            if last:
                return
            ended.wait(0.5)


def in_guest(arguments: Sequence[str]) -> list[str]:
    """The command that runs pytest in the guest, where the checkout is read-only."""
    return ["python", "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def of_guest(settings: runner.Settings, checkout: Path) -> runner.Settings:
    """The guest in which that is done: no test may be skipped there, and a warning fails the test it came in."""
    env = {**settings.env, "LINUXSYNC_REQUIRE_VM": "1", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}
    # Before a test reads what the kernel said of it, the log may not go round: detectors say a lot.
    append = (*settings.append, "log_buf_len=4M")
    return replace(settings, cwd=checkout, env=env, append=append, strict=False)


def run_everywhere(
    kernels: Sequence[str],
    arguments: Sequence[str],
    settings: Callable[[str], runner.Settings],
    checkout: Path,
    as_json: bool,
) -> int:
    """Run the guest's tests on each of several kernels, and print what these offer and how that went.

    Raises:
        ValueError: the named paths are of tests that run on the host.
    """
    _, guest = phases(arguments, checkout)
    if guest is None:
        raise ValueError("these tests run on the host, whatever the guest's kernel is")
    return show_matrix(kernels, in_guest(guest), lambda kernel: of_guest(settings(kernel), checkout), as_json)


def run_torture(minutes: float | None, arguments: Sequence[str], settings: runner.Settings, checkout: Path) -> int:
    """Run tests/torture, or the named ones of it, in the guest; returns pytest's status."""
    named = [word for word in arguments if not word.startswith("-") and (checkout / word.split("::")[0]).exists()]
    where = [] if named else ["tests/torture"]
    words = [*arguments, *where, *([] if minutes is None else [f"--minutes={minutes:g}"])]
    limit = max(settings.timeout, (minutes or 0) * 60 + TORTURE_ITSELF)
    return runner.run(in_guest(words), replace(of_guest(settings, checkout), timeout=limit), stdin=None)


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
