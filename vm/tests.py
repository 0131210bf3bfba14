"""``vm/run test``: the host's tests on the host, the guest's in the guest, one exit status."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from . import runner
from .bootstrap import DEBUG, KERNEL, OLDEST, all_host_tests, oldest_is_tested
from .kernel import ensure, supported
from .matrix import show_matrix
from .pump import CHUNK, write_all

NOTHING_COLLECTED = 5
# Seconds, beyond the minutes that are asked for, that the parts take which end by themselves.
TORTURE_ITSELF = 1800.0
# Seconds in which pytest ends when it is told to, with the guests of its tests.
STOP_LIMIT = 60.0
# Tests on the host that run with those of the guest, so that these take about as long as all others.
BESIDE = ("test_torture.py", "test_sanitizers.py")
# Those that torture has on the host, and the part of its time that the first of them has; a variable says how much.
ON_THE_HOST = ("test_fuzz.py", "test_sanitizers.py")
FUZZED, FUZZ_SECONDS = 0.1, "LINUXSYNC_FUZZ_SECONDS"


def run_tests(arguments: Sequence[str], settings: Callable[[], runner.Settings], checkout: Path) -> int:
    """Run both phases, or those to which the named test paths belong, and return the worst status."""
    host, guest = phases(arguments, checkout)
    # Before all else, so that a kernel that there is not is told at once.
    in_the_guest = None if guest is None else of_guest(settings(), checkout)
    statuses = []
    if host is not None:
        if all_host_tests(arguments):
            build_kernels()
        runner.note("tests on the host")
        statuses.append(on_the_host(host, checkout))
    if guest is not None and in_the_guest is not None:
        runner.note("tests in the guest")
        statuses.append(runner.run(in_guest(guest), in_the_guest, stdin=None))
    return worst(statuses)


def run_all(options: Sequence[str], settings: Callable[[], runner.Settings], checkout: Path) -> int:
    """Run both phases at the same time, for each keeps but one CPU busy, and return the worst status.

    Args:
        options: those before the word ``test``.
    """
    settings()
    build_kernels()
    folder = checkout / "tests/host"
    here = ["test", str(folder), *(f"--ignore={folder / name}" for name in BESIDE)]
    beside = ["test", *(str(folder / name) for name in BESIDE), str(checkout / "tests/vm")]
    runner.note("tests on the host, and in the guest at the same time; what those say comes after")
    return worst(run_beside([*options, *here], [*options, *beside]))


def run_beside(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Run two command lines of ours at the same time, and return their statuses.

    What the second one says is kept while the first one runs, and comes then. That of one that nobody listens to any
    more is 128 + SIGPIPE.

    Raises:
        OSError: what the second one said can't be kept or passed on; both have been ended.
    """
    ours = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-I", "-m", "linuxsync.vm"]
    with (
        tempfile.TemporaryFile() as kept,
        subprocess.Popen([*ours, *second], stdin=subprocess.DEVNULL, stdout=kept, stderr=kept) as later,
        subprocess.Popen([*ours, *first]) as now,
    ):
        try:
            now.wait()
            pass_on(kept.fileno(), later)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                # The terminal has told them as well, and they are busy with that.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    now.wait(STOP_LIMIT)
            for process in (now, later):
                process.terminate()
            if isinstance(error, BrokenPipeError):
                return [128 + signal.SIGPIPE]
            raise
    return [now.returncode, later.returncode]


def pass_on(kept: int, writer: subprocess.Popen[bytes]) -> None:
    """Write to our stdout what a process has written into a file, and what it still does, until it has ended."""
    at = 0
    while True:
        ended = writer.poll() is not None
        # The position in the file is the writer's.
        while data := os.pread(kept, CHUNK, at):
            write_all(1, data)
            at += len(data)
        if ended:
            return
        time.sleep(0.2)


def on_the_host(arguments: Sequence[str], checkout: Path, env: Mapping[str, str] | None = None) -> int:
    """Run pytest here, with more variables than ours, and return its status."""
    command = [sys.executable, "-m", "pytest", *arguments]
    with subprocess.Popen(
        command, cwd=checkout, env={**os.environ, **(env or {})}, preexec_fn=heed_interrupts
    ) as process:
        try:
            return process.wait()
        except BaseException as error:
            # SIGINT ends its tests, and they the guests that they have started. A terminal has sent it already.
            if not isinstance(error, KeyboardInterrupt):
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_LIMIT)
            process.kill()
            raise


def heed_interrupts() -> None:
    """Heed SIGINT, also where a shell without job control has started us in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def build_kernels() -> None:
    """Build those that tests on the host boot: no test has to wait for that, and the progress is seen."""
    supported()
    for name in (KERNEL, DEBUG, *([OLDEST] if oldest_is_tested() else [])):
        ensure(name)


def in_guest(arguments: Sequence[str]) -> list[str]:
    """The command that runs pytest in the guest, where the checkout is read-only."""
    return ["python", "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def of_guest(settings: runner.Settings, checkout: Path) -> runner.Settings:
    """The guest in which that is done: no test may be skipped there, and a warning fails the test it came in.

    What a debug kernel's detectors report before the first test, or after the last, loses the guest.
    """
    env = {**settings.env, "LINUXSYNC_REQUIRE_VM": "1", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}
    # Before a test reads what the kernel said of it, the log may not go round: detectors say a lot.
    append = (*settings.append, "log_buf_len=4M")
    return replace(settings, cwd=checkout, env=env, append=append, judges=True)


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


def run_torture(
    minutes: float | None, arguments: Sequence[str], settings: runner.Settings, checkout: Path, *, limited: bool
) -> int:
    """Run what tries to break linuxsync, or the named ones of tests/torture; returns the worst status.

    Unless some of them were chosen, by paths or -k, first on the host: parsers are given whatever bytes, and native/ is
    built with sanitizers. Then in the guest: what commands may write, and tests/torture, whose table comes last and
    counts those inputs as well.

    Args:
        limited: the time limit was asked for, and holds for the guest; else it is as long as all of it takes.
    """
    guest = of_guest(settings, checkout)
    limit = settings.timeout if limited else max(settings.timeout, (minutes or 0) * 60 + TORTURE_ITSELF)
    statuses = []
    words = [torture_test(word, checkout) or word for word in arguments]
    chosen = any(torture_test(word, checkout) for word in arguments)
    if not chosen and not any(word.startswith("-k") for word in arguments):
        status, inputs = torture_on_the_host(minutes, arguments, checkout)
        statuses.append(status)
        words += ["tests/vm/test_security.py", f"--inputs={inputs}"]
        minutes = minutes and minutes * (1 - FUZZED)
        runner.note("what commands may write, and tests/torture, in the guest")
    if not chosen:
        words.append("tests/torture")
    if minutes is not None:
        words.append(f"--minutes={minutes:g}")
    return worst([*statuses, runner.run(in_guest(words), replace(guest, timeout=limit), stdin=None)])


def torture_on_the_host(minutes: float | None, arguments: Sequence[str], checkout: Path) -> tuple[int, int]:
    """Fuzz the parsers for their share of the time, and run with sanitizers: pytest's status, and how many inputs."""
    runner.note("parsers and sanitizers on the host")
    harnesses = len([*(checkout / "tests/fuzz").glob("fuzz_*.py")])
    seconds = {} if minutes is None else {FUZZ_SECONDS: str(math.ceil(minutes * 60 * FUZZED / harnesses))}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        words = [*arguments, *(f"tests/host/{name}" for name in ON_THE_HOST), f"--junit-xml={report}"]
        words += ["-o", "junit_family=xunit1"]  # the newer one has no properties of a test
        status = on_the_host(words, checkout, seconds)
        properties = ElementTree.parse(report).iter("property") if report.exists() else []
        return status, sum(int(one.get("value", "0")) for one in properties if one.get("name") == "inputs")


def torture_test(word: str, checkout: Path) -> str | None:
    """What pytest is to be given for a word that names something in tests/torture, or a file of tests elsewhere.

    Any other word may be an option's, like that of -k, and name a folder of the checkout only by chance.
    """
    path, test = place(word, checkout)
    if path and (path.is_relative_to(checkout / "tests/torture") or (path.suffix == ".py" and path.is_file())):
        return f"{path}{test}"
    return None


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
        path, test = place(word, checkout)
        full = f"{path}{test}"
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


def place(word: str, checkout: Path) -> tuple[Path | None, str]:
    """What tests/vm/test_x.py::test_y names, as seen from here or from the checkout, and its end; None: nothing."""
    name, colons, test = word.partition("::")
    if not name or name.startswith("-"):
        return None, ""
    paths = [path for path in (Path.cwd() / name, checkout / name) if path.exists()]
    return (paths[0].resolve() if paths else None), f"{colons}{test}"
