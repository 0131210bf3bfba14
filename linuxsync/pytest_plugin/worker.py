"""What the host is to hear of a worker of xdist in the guest, and does not hear from xdist."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

USAGE = "linuxsync_usage"


class InGuest:
    """Tells the host what is wrong with the arguments."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Tests are looked for by their names."""
        try:
            return (yield)
        except pytest.UsageError as error:
            workeroutput: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
            workeroutput[USAGE] = [str(each) for each in error.args]
            raise
