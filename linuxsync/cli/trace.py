"""linuxsync trace: what happened to fences, recorded and shown. One module per command, trace_COMMAND.py."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

__all__ = ["trace"]

COMMANDS = ["diff", "export", "live", "record", "report"]


class OnDemand(click.Group):
    """A group whose commands are imported when they are asked for: ps and the others need not wait for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return COMMANDS

    def get_command(self, ctx: click.Context, name: str) -> Any:
        """Import one; None if there is none of that name."""
        return getattr(import_module(f".trace_{name}", __package__), name) if name in COMMANDS else None


@click.group(cls=OnDemand)
def trace() -> None:
    """Record what happens to fences, and look at it afterwards.

    record writes a file, report says what is in it, diff what is slower than in another, and export makes pictures and
    what other tools open. live prints what happens at once.
    """
