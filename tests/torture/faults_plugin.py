"""The fixture ``sweep``, and the table of what came of all faults, which is printed at the end."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from linuxsync.pytest_plugin.kernel_log import known
from tests.torture.faults import Injector, Row, Sweep
from tests.torture.faults_claims import Claims

JSON = "LINUXSYNC_FAULTS_JSON"
COLUMNS = ("faults", "enomem", "efault", "memory_error", "other", "nevertheless", "answers_lost")
ROWS: list[Row] = []


@pytest.fixture
def sweep(request: pytest.FixtureRequest, tally: Any) -> Iterator[Sweep]:
    """A function that makes every allocation and copy in an operation fail in turn; see ``Sweep.__call__``.

    Each name that the test covers must have been called in one; if a parameter is a part of some names, those.
    """
    chosen = getattr(getattr(request.node, "callspec", None), "id", "")
    names = request.function.covers
    row = Row(request.function.row + (f" [{chosen}]" if chosen else ""))
    claims = Claims([name for name in names if {*name.split(".")} & {*chosen.split("-")}] or names)
    injector = Injector(known(request.config))
    try:
        yield Sweep(injector, row, tally, claims)
        assert row.faults, "no fault came in it"
        assert claims.called == claims.names, f"never called: {', '.join(sorted(claims.names - claims.called))}"
    finally:
        injector.close()
        ROWS.append(row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not ROWS:
        return
    terminalreporter.section("faults")
    kinds: Counter[str] = sum((row.kinds for row in ROWS), Counter())
    width = max(len(row.operation) for row in ROWS)
    total = Row("all of them")
    terminalreporter.write_line(f"{'':<{width}}" + "".join(f"{name.replace('_', ' '):>14}" for name in COLUMNS))
    for row in [*ROWS, total]:
        numbers = [getattr(row, name) for name in COLUMNS]
        terminalreporter.write_line(f"{row.operation:<{width}}" + "".join(f"{number or '':>14}" for number in numbers))
        for name, number in zip(COLUMNS, numbers, strict=True):
            setattr(total, name, getattr(total, name) + number)
    terminalreporter.write_line(", ".join(f"{name} {number:,}" for name, number in kinds.most_common()))
    if where := os.environ.get(JSON):
        Path(where).write_text(json.dumps([{**asdict(row), "notes": sorted(row.notes)} for row in ROWS], indent=1))
