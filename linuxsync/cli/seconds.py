"""seconds: the type of options that say for how long, in all commands the same."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["Seconds"]

DAY = 86400.0


class Seconds(click.FloatRange):
    """A number of seconds, finite: ``type=Seconds(0.05)``."""

    name = "seconds"

    def __init__(self, least: float = 0.0, most: float = DAY) -> None:
        """Say which are taken.

        Args:
            least: so many are taken, and fewer are not.
            most: likewise more; a day.
        """
        super().__init__(least, most)
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Make it a float, or say what it takes; nan, which is in no range and out of none, isn't taken."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self.least <= number <= self.most:
            day = ", a day" if self.most == DAY else ""
            self.fail(f"{value!r} is not a number of seconds from {self.least:g} to {self.most:g}{day}", param, ctx)
        return number
