"""The commands of linuxsync as data: what click knows of them, for the site and the man pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from linuxsync.cli import main


@dataclass(frozen=True)
class Block:
    """A part of a text.

    Attributes:
        heading: what stands above it: "Columns", "Examples"; "" for a paragraph.
        lines: its lines; of a paragraph one, which may be wrapped.
    """

    heading: str
    lines: list[str]

    @property
    def verbatim(self) -> bool:
        """Whether its lines are to be kept as they are."""
        return len(self.lines) > 1 or bool(self.heading)

    @property
    def entries(self) -> list[tuple[str, str]]:
        """Of a list of columns, each name and what it says; else nothing."""
        found = [re.fullmatch(r"([A-Z0-9_]+) +(\S.*)", line) for line in self.lines]
        return [(one[1], one[2]) for one in found if one] if all(found) else []


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is typed: "linuxsync trace record".
        click: what click has.
        context: in which it would run.
    """

    name: str
    click: click.Command
    context: click.Context

    @property
    def page(self) -> str:
        """The name of its man page."""
        return self.name.replace(" ", "-")

    @property
    def summary(self) -> str:
        """What it does, in a line without a full stop."""
        return self.click.get_short_help_str(200).rstrip(".")

    @property
    def usage(self) -> str:
        """What follows its name."""
        return " ".join(self.click.collect_usage_pieces(self.context))

    @property
    def text(self) -> list[Block]:
        """What --help says of it, above the options."""
        return list(blocks(self.click.help or ""))

    @property
    def options(self) -> list[tuple[str, str]]:
        """Each option with what it takes, and what it does."""
        records = (one.get_help_record(self.context) for one in self.click.get_params(self.context))
        return [record for record in records if record and record[1]]

    @property
    def epilog(self) -> list[Block]:
        """What --help says below the options."""
        return list(blocks(self.click.epilog or ""))

    @property
    def commands(self) -> list[Command]:
        """The commands below it, in the order of --help."""
        if not isinstance(self.click, click.Group):
            return []
        names = self.click.list_commands(self.context)
        found = ((name, self.click.get_command(self.context, name)) for name in names)
        return [below(self, name, one) for name, one in found if one is not None and not one.hidden]


def blocks(text: str) -> Iterator[Block]:
    """The paragraphs of a help text; those that begin with a backspace are not to be wrapped."""
    parts = re.split(r"\n{2,}", inspect.cleandoc(text).partition("\f")[0])
    for part in parts if text else []:
        lines = part.strip("\n").split("\n")
        if lines[0].strip() != "\b":
            yield Block("", [" ".join(line.strip() for line in lines)])
            continue
        del lines[0]
        heading = lines.pop(0).rstrip(":") if lines[0].endswith(":") else ""
        yield Block(heading, inspect.cleandoc("\n" + "\n".join(lines)).split("\n"))


def below(parent: Command, name: str, one: click.Command) -> Command:
    """A command of a group."""
    return Command(f"{parent.name} {name}", one, context_of(one, name, parent.context))


def context_of(one: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """In which it would run."""
    return click.Context(one, info_name=name, parent=parent, **one.context_settings)


def every_command() -> list[Command]:
    """All of them, each group before what is in it."""

    def walk(one: Command) -> Iterator[Command]:
        yield one
        for each in one.commands:
            yield from walk(each)

    return list(walk(Command("linuxsync", main, context_of(main, "linuxsync"))))
