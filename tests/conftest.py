"""What holds for every test: none leaves a descriptor behind, and where a VM is required none is skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linuxsync.vm import console

collect_ignore = ["adopter"]  # somebody else's project, which tests/host/test_adopter.py runs
REQUIRED = os.environ.get("LINUXSYNC_REQUIRE_VM", "") not in ("", "0")


def list_open_files() -> dict[int, str]:
    """Every descriptor of this process and what /proc says it is."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            pass  # the one that listed the folder
    return found


@pytest.fixture
def open_files() -> Callable[[], dict[int, str]]:
    """A function that lists the descriptors which are open now, for tests that look in the middle."""
    return list_open_files


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """Fail a test after which other descriptors are open than before it."""
    before = list_open_files()
    yield
    after = list_open_files()
    left = {fd: target for fd, target in after.items() if before.get(fd) != target}
    lost = {fd: target for fd, target in before.items() if after.get(fd) != target}
    if left or lost:
        pytest.fail(f"descriptors left open: {left}; closed although not the test's: {lost}", pytrace=False)


def mark(text: str) -> None:
    """Write to the log of the guest's kernel, so that ``vm/run`` knows which of its reports no test has judged."""
    if os.environ.get("LINUXSYNC_VM"):
        Path("/dev/kmsg").write_text(f"{text}\n")  # without a newline it waits for what may come to continue it


def pytest_sessionstart() -> None:
    """The plugin looks at the log already."""
    mark(console.BEGIN)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """The plugin still does, once more."""
    mark(console.END)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"LINUXSYNC_REQUIRE_VM is set, so nothing may be skipped. {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report
