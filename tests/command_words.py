"""A command of linuxsync in this process, and what it answered."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from linuxsync.cli import main


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)


def linuxsync(*arguments: str) -> Said:
    """Run ``linuxsync`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(list(arguments), prog_name="linuxsync")
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return Said(end.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("a command ends with an exit status")
