"""What ``vm/run torture`` runs: all that could lose something, as long as it is told to, and one table at the end.

Each test here runs in the guest, whose kernel has its own detectors on (``--kernel debug``): a report of theirs fails
the test in which it came. After each test the kernel must keep what it kept before.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields

import pytest

from linuxsync import SyncFile, Timeline
from linuxsync.pytest_plugin.kernel_log import LOST, KernelLog, alarm, known

pytest.register_assert_rewrite("drm_words", "kernel_words", "fencedev_words", "buffer_words", "syncobj_words")

from drm_words import left_open  # noqa: E402

from tests.conftest import list_open_files  # noqa: E402
from tests.torture.faults import SETTLES  # noqa: E402

SHORT = 5.0  # seconds for a test without --minutes


@dataclass
class Tally:
    """What was done to the kernel and to linuxsync, and what came of it.

    Attributes:
        operations: calls that were to work, whatever came of them.
        faults_injected: allocations and copies that failed because they were told to.
        faults_survived: those after which the right exception came, nothing was lost and all went on.
        bad_inputs: calls that had to be refused, and were, and what parsers were given on the host.
        killed: processes that were killed in the middle of something.
        objects_leaked: descriptors, buffers, handles and fences that were left.
        kernel_splats: tests in which the kernel's detectors reported something.
        memory_orphaned: what kmemleak found; None where it is off.
    """

    operations: int = 0
    faults_injected: int = 0
    faults_survived: int = 0
    bad_inputs: int = 0
    killed: int = 0
    objects_leaked: int = 0
    kernel_splats: int = 0
    memory_orphaned: int | None = None

    def lines(self) -> Iterator[str]:
        """The table."""
        for field in fields(self):
            value = getattr(self, field.name)
            said = "not looked for (--append kmemleak=on)" if value is None else f"{value:>14,}"
            yield f"{field.name.replace('_', ' '):<18}{said}"


TALLY = Tally()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long."""
    parser.addoption("--minutes", type=float, metavar="N", help="share out N minutes among the tests that can go on")
    parser.addoption("--inputs", type=int, default=0, metavar="N", help="what parsers were given on the host, as bad")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Know how many share the time, of those that were chosen."""
    config.stash[SHARES] = sum("duration" in getattr(item, "fixturenames", ()) for item in items)


SHARES = pytest.StashKey[int]()


@pytest.fixture
def duration(pytestconfig: pytest.Config) -> float:
    """Seconds that this test may go on."""
    minutes = pytestconfig.getoption("--minutes")
    return SHORT if minutes is None else minutes * 60 / pytestconfig.stash[SHARES]


@pytest.fixture(scope="session")
def tally() -> Tally:
    """What is counted, and told at the end."""
    return TALLY


@pytest.fixture
def timeline() -> Iterator[Timeline]:
    """An empty one."""
    with Timeline() as made:
        yield made


@pytest.fixture
def fence(timeline: Timeline) -> Iterator[SyncFile]:
    """An active one, its timeline's first."""
    with timeline.create_fence(1) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """No descriptor here, and no buffer, DRM file, framebuffer or fence in the kernel; what is, counts as leaked."""
    before, files = left_open(), list_open_files()
    with KernelLog() as log:
        yield
        lines = log.lines()
        TALLY.kernel_splats += bool(alarm(lines, known(pytestconfig)))
        assert not any(text == LOST for _, text in lines), "the kernel's log has gone round (log_buf_len)"
    gc.collect()
    deadline = time.monotonic() + SETTLES
    while (after := left_open()) != before and time.monotonic() < deadline:
        time.sleep(0.02)
    left = {fd: what for fd, what in list_open_files().items() if files.get(fd) != what}
    TALLY.objects_leaked += len(left) + (after != before)
    assert (after, left) == (before, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was done."""
    TALLY.bad_inputs += config.getoption("--inputs")
    terminalreporter.section("torture")
    for line in TALLY.lines():
        terminalreporter.write_line(line)
