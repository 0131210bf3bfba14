"""The pages of failed tests, which come with their reports, possibly from a guest, and go to files."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

import pytest

FOLDER = "linuxsync-traces"
LONGEST = 150  # characters of a test's name in that of a file


class Pages:
    """Writes the pages; in the process that people see."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.made: Path | None = None
        self.taken: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where they go; made when the first one does."""
        if self.made is None:
            chosen = self.config.getoption("linuxsync_traces")
            cache = getattr(self.config, "cache", None)
            if chosen:
                self.made = self.config.invocation_params.dir / chosen
                self.made.mkdir(parents=True, exist_ok=True)
            elif cache is not None:
                self.made = cache.mkdir(FOLDER)
            else:
                self.made = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-"))
        return self.made

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the page off the report, and put its path there: for the terminal, and as a property for JUnit."""
        page = report.__dict__.pop("linuxsync_trace", None)
        if page is None:
            return
        count = report.__dict__.pop("linuxsync_fences")
        name = file_name(report.nodeid)
        if self.taken.setdefault(name, report.nodeid) != report.nodeid:
            name += f"-{hashlib.sha256(report.nodeid.encode()).hexdigest()[:8]}"  # of another test with like words
        path = self.folder / f"{name}.html"
        path.write_text(page, encoding="utf-8")
        # pytest shows sections of a teardown that passed if their names say so.
        title = "fence trace of setup, call and teardown"
        report.sections.append((title, f"{path}\n(a page for a browser; fences: {count})"))
        report.user_properties.append(("linuxsync_trace", str(path)))


def file_name(nodeid: str) -> str:
    """A test's name as a file's."""
    return re.sub(r"[^a-zA-Z0-9_.\[\]-]+", "-", nodeid.replace("::", "."))[-LONGEST:]
