"""The kernel's log during each test: a test that makes the kernel warn has not passed.

Every line is looked at once: what is printed while a test runs counts for that test, in the phase in which it came;
what came after the test before, for the next one, which says so; what comes after the last, for the whole run.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from .._fd import OwnedFd

MOST = 60  # lines
KEY = "linuxsync_kernel_log"
WARNED = pytest.StashKey[str]()
PASSING = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
# Warnings and BUGs (kernel/panic.c, lib/bug.c), sanitizers, lockdep (their headings are of both kinds), oopses of x86
# and arm64, hung tasks, stalls.
ALARMING = re.compile(
    r"-+\[ cut here \]-+|\bWARNING: |\bBUG: |kernel BUG at |\bUBSAN: |\bOops\b|Internal error: "
    r"|general protection fault|Unable to handle kernel |INFO: task .* blocked for more than |INFO: rcu\w* "
    r"|INFO: trying to register non-static key|soft lockup|hard LOCKUP|Kernel panic|kmemleak: \d+ new suspected"
)


# Where the report of a WARN_ON begins and ends, and what of it alarms, in the words of older and newer kernels.
BEGINS, ENDS = "[ cut here ]", "[ end trace "
OF_REPORT = re.compile(r"\[ cut here \]|\bWARNING: (CPU: \d|\S+:\d+ at )")
STAMP, NUMBER = re.compile(r"^\[ *[\d.]+\] "), re.compile(r"\b(?:0x[0-9a-f]+|\d+)\b")
LOST = "... lines were lost: the log's buffer was too small"
IGNORE = "linuxsync_kernel_log_ignore"


def known(config: pytest.Config) -> list[re.Pattern[str]]:
    """What reports to leave out, by the ini."""
    try:
        return [re.compile(pattern) for pattern in config.getini(IGNORE)]
    except re.error as error:
        raise pytest.UsageError(f"{IGNORE}: {error.pattern!r} is none: {error}") from None


class KernelLog(OwnedFd):
    """The kernel's log from now on, as /dev/kmsg has it (Documentation/ABI/testing/dev-kmsg)."""

    def __init__(self) -> None:
        self._take(os.open, "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.fileno(), 0, os.SEEK_END)

    def lines(self) -> list[tuple[bool, str]]:
        """Return what was printed since the last call: whether the kernel itself did, and the line with its time."""
        found: list[tuple[bool, str]] = []
        while True:
            try:
                record = os.read(self.fileno(), 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:  # the buffer has gone round: some lines were overwritten
                found.append((True, LOST))
                continue
            head, _, text = record.decode(errors="replace").partition(";")
            priority, _, stamp = head.split(",")[:3]
            seconds = f"[{int(stamp) / 1e6:12.6f}] "
            # What programs write there has another facility than 0.
            found.append((int(priority) >> 3 == 0, seconds + text.partition("\n")[0]))


def without(ignored: Sequence[re.Pattern[str]], lines: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Leave out the reports in which a line matches; of those that two CPUs wrote at once, each needs one.

    Other detectors' reports have no such marks, and may come in the middle: what alarms in them is kept.
    """
    kept: list[tuple[bool, str]] = []
    report: list[tuple[bool, str]] = []
    begun = ended = 0
    for at, (by_kernel, line) in enumerate(lines):
        begun += by_kernel and BEGINS in line
        (report if begun else kept).append((by_kernel, line))
        ended += bool(begun) and by_kernel and ENDS in line
        if begun and (ended == begun or at == len(lines) - 1):
            others = report
            if known_reports(ignored, [text for told, text in report if told]) >= begun:
                others = [one for one in report if ALARMING.search(one[1]) and not OF_REPORT.search(one[1])]
            kept += others
            report, begun, ended = [], 0, 0
    return kept


def known_reports(ignored: Sequence[re.Pattern[str]], texts: Sequence[str]) -> int:
    """Of how many reports these are lines that match: of one that is there twice some line is, but for its numbers."""
    found: list[Counter[str]] = [Counter() for _ in ignored]
    for text in texts:
        for pattern, same in zip(ignored, found, strict=True):
            if pattern.search(text):
                same[NUMBER.sub("#", STAMP.sub("", text))] += 1
                break
    return sum(max(same.values(), default=0) for same in found)


def alarm(lines: list[tuple[bool, str]], ignored: Sequence[re.Pattern[str]] = ()) -> str:
    """The lines from the first on that alarms; nothing if none does."""
    lines = without(ignored, lines)
    for at, (by_kernel, line) in enumerate(lines):
        if by_kernel and ALARMING.search(line):
            shown = [text for _, text in lines[at:]]
            more = [f"... and {len(shown) - MOST} more lines"] if len(shown) > MOST else []
            return "\n".join(shown[:MOST] + more)
    return ""


class Watching:
    """Looks at the kernel's log before and after each phase of a test; where tests run."""

    def __init__(self, ignored: Sequence[re.Pattern[str]]) -> None:
        self.ignored = ignored
        try:
            self.log = KernelLog()
        except OSError as error:
            raise pytest.UsageError(f"linuxsync_kernel_log is on, and /dev/kmsg can't be read: {error}") from None
        self.last = "the start"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Nothing may have come since the last test, and nothing may come."""
        early = self.alarm()
        if early and not may_warn(item):
            item.stash[WARNED] = f"the kernel warned after {self.last} and before this test began:\n{early}"
            yield from refused(item.stash[WARNED])
        return (yield from self.phase(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Nothing may come."""
        return (yield from self.phase(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Nothing may come."""
        self.last = item.nodeid
        return (yield from self.phase(item, "teardown"))

    def alarm(self) -> str:
        """What alarms since the last call."""
        return alarm(self.log.lines(), self.ignored)

    def phase(self, item: pytest.Item, when: str) -> Generator[None, Any, Any]:
        """Fail after a phase during which the kernel warned; what failed anyway gets the lines as a section."""
        try:
            result = yield
        except (pytest.skip.Exception, pytest.xfail.Exception):
            self.judge(item, when)  # neither is a failure, and neither may hide one
            raise
        except (Exception, pytest.fail.Exception):
            if text := self.verdict(item, when):
                item.add_report_section(when, "kernel log", text.partition("\n")[2])
            raise
        self.judge(item, when)
        return result

    def judge(self, item: pytest.Item, when: str) -> None:
        """Fail if there is an alarm."""
        if text := self.verdict(item, when):
            pytest.fail(text, pytrace=False)

    def verdict(self, item: pytest.Item, when: str) -> str:
        """What is wrong with a phase, which its report is to say, too; nothing if nothing is."""
        text = self.alarm()
        if not text or may_warn(item):
            return ""
        during = "the test" if when == "call" else f"the test's {when}"
        item.stash[WARNED] = f"the kernel warned during {during}:\n{text}"
        return item.stash[WARNED]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A failure was expected, perhaps, but not this one."""
        report = yield
        text = item.stash.get(WARNED, "")
        item.stash[WARNED] = ""
        if text and hasattr(report, "wasxfail"):
            del report.wasxfail
            report.outcome, report.longrepr = "failed", text
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What comes now is nobody's, and yet not to be lost."""
        with self.log:
            text = self.alarm()
        if text:
            text = f"after {self.last}, the last test here:\n{text}"
            if hasattr(session.config, "workeroutput"):
                session.config.workeroutput[KEY] = text
            else:
                session.config.pluginmanager.getplugin("linuxsync_verdicts").late.append(text)


def refused(reason: str) -> Generator[None, Any, Any]:
    """Fail without letting the wrapped hook begin; as part of it, since a wrapper has to yield."""
    pytest.fail(reason, pytrace=False)
    yield


def may_warn(item: pytest.Item) -> bool:
    """Whether the test said that the kernel may."""
    return any(marker.kwargs.get("kernel_may_warn") for marker in item.iter_markers("linuxsync"))


class Verdicts:
    """Tells what the kernel said when no test was left to fail, in the process that people see."""

    def __init__(self) -> None:
        self.late: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has ended."""
        if text := getattr(node, "workeroutput", {}).get(KEY):
            self.late.append(text)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Such a run has not passed."""
        if self.late and session.exitstatus in PASSING:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        for text in self.late:
            terminalreporter.section("the kernel warned")
            terminalreporter.write_line(text)
