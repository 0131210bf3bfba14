"""KTAP, the kernel's own format of test results (Documentation/dev-tools/ktap.rst): read, and made into JUnit's XML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from xml.etree import ElementTree

VERSION = re.compile(r"K?TAP version \d+$")
PLAN = re.compile(r"1\.\.(\d+)(?:\s*#.*)?$")
_RESULT = re.compile(r"(not )?ok\b(?:\s+(\d+))?(?:\s*-\s|\s+|$)((?:\\.|[^#\\])*)(?:#\s*(.*))?$")
# What XML 1.0 can't hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Outcome = Literal["passed", "failed", "skipped"]


@dataclass
class Result:
    """What was said of one test.

    Attributes:
        name: of the test, or "test N".
        outcome: an expected failure (TODO, XFAIL) is "skipped", as it is in JUnit's XML.
        why: what stood behind the #: a skip's reason, a failure's.
        output: the lines before it that are about it.
    """

    name: str
    outcome: Outcome
    why: str = ""
    output: list[str] = field(default_factory=list)


def parse(line: str) -> Result | None:
    """A line that tells a result; None for any other."""
    match = _RESULT.match(line.rstrip())
    if match is None:
        return None
    failed, number, name, rest = match.groups(default="")
    directive = re.match(r"(SKIP|TODO|XFAIL)\w*\b[:\s]*", rest, re.IGNORECASE)
    outcome: Outcome = "skipped" if directive else "failed" if failed else "passed"
    why = rest[directive.end() :] if directive else rest
    return Result(name.strip().replace("\\#", "#") or f"test {number}".strip(), outcome, why.strip())


def speaks(line: str) -> bool:
    """Whether a program whose first line is this one prints TAP or KTAP."""
    line = line.strip()
    return bool(VERSION.match(line) or PLAN.match(line) or parse(line))


@dataclass
class Program:
    """What a program's run has said so far, and in the end its own result.

    Attributes:
        subtests: the results that it printed, in their order.
        result: its own; None until it has ended.
        seconds: how long it ran.
    """

    subtests: list[Result] = field(default_factory=list)
    result: Result | None = None
    seconds: float = 0.0


class Report:
    """Reads what ``programs`` prints, line by line: each program a result, its subtests two blanks further in."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.programs: list[Program] = []
        self.planned = 0
        self._open = Program()
        self._lines: list[str] = []

    def feed(self, line: str) -> None:
        """Take one more line, without its end."""
        if line.startswith("  "):
            if result := parse(line[2:]):
                result.output, self._lines = self._lines, []
                self._open.subtests.append(result)
            elif not PLAN.match(line[2:]) and not VERSION.match(line[2:]):
                self._lines.append(line[2:])
        elif plan := PLAN.match(line):
            self.planned = int(plan[1])
        elif result := parse(line):
            if duration := re.search(r"(?:^|, )([\d.]+) s$", result.why):
                self._open.seconds = float(duration[1])
            result.output, self._lines = self._lines, []
            self._open.result = result
            self.programs.append(self._open)
            self._open = Program()
        elif not VERSION.match(line):
            self._lines.append(line.removeprefix("# "))

    def lost(self, name: str, why: str) -> None:
        """Say of a program that the guest was lost while it ran, or before."""
        self._open.result = Result(name, "failed", why, self._lines)
        self.programs.append(self._open)
        self._open, self._lines = Program(), []

    def failed(self) -> bool:
        """Whether a program failed, or did not come to its turn."""
        return len(self.programs) < self.planned or any(
            one.result is None or one.result.outcome == "failed" for one in self.programs
        )

    def junit(self) -> bytes:
        """All of it as JUnit's XML: a suite for each program, a case for each of its subtests, or for itself."""
        root = ElementTree.Element("testsuites", name="linuxsync vm test")
        for program in self.programs:
            assert program.result is not None
            cases = list(program.subtests)
            # A program may fail and none of its subtests: by its exit status, or a warning of the kernel.
            if not cases or (program.result.outcome == "failed" and all(one.outcome != "failed" for one in cases)):
                cases.append(program.result)
            suite = ElementTree.SubElement(root, "testsuite", name=clean(program.result.name))
            suite.set("tests", str(len(cases)))
            suite.set("failures", str(sum(one.outcome == "failed" for one in cases)))
            suite.set("skipped", str(sum(one.outcome == "skipped" for one in cases)))
            suite.set("errors", "0")
            suite.set("time", f"{program.seconds:.3f}")
            for case in cases:
                element = ElementTree.SubElement(
                    suite, "testcase", classname=clean(program.result.name), name=clean(case.name)
                )
                if len(cases) == 1:
                    element.set("time", f"{program.seconds:.3f}")
                if case.outcome != "passed":
                    kind = "failure" if case.outcome == "failed" else "skipped"
                    told = ElementTree.SubElement(element, kind, message=clean(case.why))
                    told.text = clean("\n".join(case.output)) if case.outcome == "failed" else None
                elif case.output:
                    ElementTree.SubElement(element, "system-out").text = clean("\n".join(case.output))
        ElementTree.indent(root)
        return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def clean(text: str) -> str:
    """A text without what XML can't hold."""
    return _NO_XML.sub("\ufffd", text)
