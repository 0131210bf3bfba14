"""The fixture fence_trace: a test's fences are recorded, and if it fails a page of them is kept where people look."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ..trace import Recording, recording
from ..trace.page import html
from .features import in_guest, needed

RECORDING = pytest.StashKey[Recording]()
FAILED = pytest.StashKey[bool]()


@contextmanager
def recorded(request: pytest.FixtureRequest) -> Iterator[Recording]:
    """Record until the fixture is torn down."""
    with needed(request, "tracefs"):
        recorder = recording(pids=None if in_guest() else [os.getpid()], syscalls=True)
        made = recorder.__enter__()
    request.node.stash[RECORDING] = made
    try:
        yield made
    finally:
        recorder.__exit__(None, None, None)


class Attaching:
    """Puts the page on the last report of a test that failed; where tests run."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A text: that is what xdist carries from one process to another."""
        report = yield
        item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
        if report.when == "teardown":
            made = item.stash.get(RECORDING, None)
            if made is not None and item.stash[FAILED]:
                report.linuxsync_trace = html(made.trace)
                report.linuxsync_fences = len(made.fences)
        return report
