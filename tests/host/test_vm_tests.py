"""``vm/run test``: all tests, some on the host and some in the guest, at the same time."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT
from linuxsync.vm import kernel as kernels
from linuxsync.vm import runner, tests
from linuxsync.vm.command import guest_environment
from linuxsync.vm.tests import torture_on_the_host
from processes import assert_nothing_left, environment, processes_of

LIMIT = 600.0
# run_beside() with what main() does around every command: two command lines, apart by a lone /.
BESIDE = """
import sys, click
from linuxsync.vm.command import Guests
from linuxsync.vm.tests import run_beside, worst
at = sys.argv.index("/")
@click.group(cls=Guests)
def main(): pass
@main.command()
def both(): return worst(run_beside(sys.argv[1:at], sys.argv[at + 1 :]))
main(["both"])
"""
# Says when it began and when it ended.
SLOW = ["-q", "--", "sh", "-c", "date +%s; sleep 20; date +%s"]


def beside(first: list[str], second: list[str]) -> list[str]:
    """The command line."""
    return [sys.executable, "-c", BESIDE, *first, "/", *second]


@pytest.mark.parametrize(
    ("first", "second", "status", "said"),
    [
        (["-q", "--", "sh", "-c", "echo first; exit 3"], ["-q", "--", "echo", "second"], 3, "first\nsecond\n"),
        (["-q", "--timeout", "0.5", "--", "true"], ["-q", "--", "sh", "-c", "echo second; exit 3"], 69, "second\n"),
        (["-q", "--", "echo", "first"], ["nonsense"], 2, "first\nUsage: .*'nonsense'.*"),
        (
            ["test", "-q", "tests/host/test_seconds.py"],
            ["-q", "--", "echo", "second"],
            0,
            r".* passed in .*\nsecond\n",
        ),
    ],
    ids=["first_fails", "a_lost_guest", "second_fails", "tests"],
)
def test_order_and_status(first: list[str], second: list[str], status: int, said: str, cache: Path) -> None:
    """What the first says, then what the second does; the worse status of the two, whoever fails."""
    done = subprocess.run(
        beside(first, second),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=environment(cache),
        cwd=ROOT,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert re.fullmatch(said, done.stdout, re.DOTALL), done.stdout
    assert_nothing_left(cache)


def test_at_the_same_time(cache: Path) -> None:
    """Each begins before the other has ended."""
    done = subprocess.run(
        beside(SLOW, SLOW),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=True,
        env=environment(cache),
        cwd=ROOT,
    )
    first_began, first_ended, second_began, second_ended = map(int, done.stdout.split())
    assert first_began < second_ended and second_began < first_ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended(number: signal.Signals, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a guest nor that of a test on the host is left, whatever ends it; a test is interrupted by SIGINT."""
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(cache))
    first = ["test", "-q", "-p", "no:cacheprovider", "tests/host/test_vm_runner.py::test_timeout"]
    with subprocess.Popen(
        beside(first, ["-q", "--", "sleep", "1000"]), stdout=subprocess.DEVNULL, env=environment(cache), cwd=ROOT
    ) as run:
        try:
            # That of the test has a cache of its own.
            for folder in (cache / "linuxsync" / "runs", cache / "pytest-of-root"):
                end = time.monotonic() + LIMIT
                while not any(line.startswith("qemu-system") for line in processes_of(folder)):
                    assert run.poll() is None and time.monotonic() < end
                    time.sleep(0.1)
            run.send_signal(number)
            run.wait(LIMIT)
        finally:
            run.kill()
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert_nothing_left(cache)


def test_nobody_listens(cache: Path) -> None:
    """The second one is ended when there is no one to tell what it says."""
    command = beside(["-q", "--", "true"], ["-q", "--", "sh", "-c", "while echo more; do sleep 0.1; done"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(cache), cwd=ROOT) as run:
        assert run.stdout
        try:
            assert run.stdout.readline() == b"more\n"
            run.stdout.close()
            assert run.wait(LIMIT) == 128 + signal.SIGPIPE
        finally:
            run.kill()
    assert_nothing_left(cache)


@pytest.mark.parametrize(("passes", "status"), [("True", 0), ("False", 1)], ids=["pass", "fail"])
def test_torture_on_the_host(passes: str, status: int, tmp_path: Path) -> None:
    """Parsers have their share of the minutes, a tenth; their inputs are counted, and any failure is told."""
    here, harnesses = tmp_path / "tests/host", tmp_path / "tests/fuzz"
    for folder in (here, harnesses):
        folder.mkdir(parents=True)
    for name in ("fuzz_one.py", "fuzz_two.py", "harness.py"):
        (harnesses / name).touch()
    (here / "test_fuzz.py").write_text(
        "import os, pytest\n\n"
        "@pytest.mark.parametrize('inputs', [1000, 200])\n"
        "def test_one(inputs, record_property):\n"
        "    record_property('inputs', inputs + int(os.environ['LINUXSYNC_FUZZ_SECONDS']))\n"
    )
    (here / "test_sanitizers.py").write_text(f"def test_one(): assert {passes}\n")
    assert torture_on_the_host(2.0, ["-q"], tmp_path) == (status, 1200 + 2 * 6)


WARNS = r"""
#include <linux/module.h>
static int __init start(void)
{
	WARN(1, "linuxsync test warning\n");
	return -ENODEV;
}
module_init(start);
MODULE_LICENSE("GPL");
"""
TEST = """
import subprocess
import pytest

@pytest.mark.linuxsync(kernel_may_warn={may})
def test_loading():
    if {loads}:
        subprocess.run(["insmod", {module!r}], stderr=subprocess.DEVNULL)
"""


@pytest.fixture(scope="module")
def warns(kernel: kernels.Kernel, build_module: Callable[[kernels.Kernel, str], Path]) -> Path:
    """A module that makes the kernel warn when it is loaded."""
    return build_module(kernel, WARNS)


@pytest.mark.parametrize(
    ("where", "status"), [("boot", None), ("before", None), ("after", None), ("in it", 1), ("as expected", 0)]
)
def test_reports_outside_of_tests(
    where: str,
    status: int | None,
    cache: Path,
    kernel: kernels.Kernel,
    warns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a kernel with detectors they lose the guest (None), though all tests pass; tests judge those that they see."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    text = TEST.format(may=where == "as expected", loads=status is not None, module=str(warns))
    (tmp_path / "test_it.py").write_text(text)
    words = ["-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "tests.conftest"]
    pytest_ = shlex.join(tests.in_guest([*words, str(tmp_path / "test_it.py")]))
    load = f"insmod {warns} 2>/dev/null"
    script = {"before": f"{load}; exec {pytest_}", "after": f"{pytest_} && {{ {load}; true; }}"}.get(where, pytest_)
    guest = runner.Settings(kernel, env=guest_environment(), strict=True, fencedev=warns if where == "boot" else None)
    with (tmp_path / "said").open("wb") as said:
        out = said.fileno()
        try:
            ended = runner.run(["sh", "-c", script], tests.of_guest(guest, ROOT), stdin=None, stdout=out, stderr=out)
        except runner.GuestLost as lost:
            assert "found a mistake, outside of all tests: " in lost.reason
            ended = None
    printed = (tmp_path / "said").read_text()
    assert ended == status, printed
    assert ("1 failed" if status else "1 passed") in printed
    assert_nothing_left(cache)
