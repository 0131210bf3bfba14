"""table: what all commands that list something have in common. One list of columns makes header, --help and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click
from rich.cells import cell_len

from .._native.table import json_rows
from ..inspect import Unseen
from .completion import columns as completing_columns
from .text import plain

__all__ = ["Column", "Table"]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column.

    Attributes:
        name: its header, in capitals; in JSON in small letters.
        help: what it says, for --help.
        value: of a row, as JSON has it: the name of its attribute, or a function of the row.
        show: the value for people; None to write it as it is.
        right: whether numbers stand below each other.
        extra: not shown unless -o asks for it.
    """

    name: str
    help: str
    value: str | Callable[[Row], Any]
    show: Callable[[Any], str] | None = None
    right: bool = False
    extra: bool = False

    def of(self, row: Row) -> Any:
        """What JSON has."""
        return getattr(row, self.value) if isinstance(self.value, str) else self.value(row)

    def text(self, row: Row) -> str:
        """The cell, harmless to a terminal."""
        value = self.of(row)
        if self.show is not None:
            return plain(self.show(value))
        return "-" if value is None or value == "" else plain(str(value))


@dataclass(frozen=True)
class Output:
    """What the options of a table ask for."""

    as_json: bool
    columns: str
    no_headings: bool
    raw: bool


class Table(Generic[Row]):
    """The columns of a command, and the options -J, -o, -n and -r, which mean what they mean in util-linux."""

    def __init__(self, name: str, columns: Sequence[Column[Row]]) -> None:
        self.name = name
        self.columns = {column.name: column for column in columns}

    @property
    def help(self) -> str:
        """The columns, for the end of --help."""
        width = max(11, *(len(name) + 1 for name in self.columns))
        lines = [f"  {column.name:<{width}}{column.help}" for column in self.columns.values()]
        return "\b\nColumns:\n" + "\n".join(lines)

    def options(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a click command: its function gets ``output``."""

        def wrapped(as_json: bool, columns: str, no_headings: bool, raw: bool, **others: Any) -> Any:
            return command(output=Output(as_json, columns, no_headings, raw), **others)

        wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
        wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in (
            click.option("-r", "--raw", is_flag=True, help="Columns with one blank between them, for awk."),
            click.option("-n", "--noheadings", "no_headings", is_flag=True, help="No header."),
            click.option(
                "-o",
                "--output",
                "columns",
                default="",
                shell_complete=completing_columns(self.columns),
                help="Columns, A,B,C; +A adds to the usual ones.",
            ),
            click.option("-J", "--json", "as_json", is_flag=True, help="JSON, with all columns unless -o is given."),
        ):
            option(wrapped)
        return wrapped

    def choose(self, output: Output) -> list[Column[Row]]:
        """The columns that -o names."""
        usual = [column for column in self.columns.values() if not column.extra]
        words = [word for word in output.columns.removeprefix("+").upper().split(",") if word]
        if unknown := [word for word in words if word not in self.columns]:
            raise click.BadParameter(
                f"no such column: {unknown[0]}; there are {', '.join(self.columns)}", param_hint="--output"
            )
        named = [self.columns[word] for word in words]
        if not named:
            return [*self.columns.values()] if output.as_json else usual
        return [*usual, *(column for column in named if column not in usual)] if output.columns[0] == "+" else named

    def print(
        self, rows: Iterable[Row], output: Output, unseen: Iterable[Unseen] = (), more: Mapping[str, Any] | None = None
    ) -> None:
        """Print them; what could not be seen goes to stderr, or into the JSON, and so does what else a command has."""
        chosen = self.choose(output)
        missed = list(unseen)
        if output.as_json:
            # Bytes that are no UTF-8 are surrogates, which ASCII JSON has a way to write.
            write = sys.stdout.write
            write(f'{{\n "{self.name}": ')
            json_rows([(column.name.lower(), column.value) for column in chosen], rows, write)
            for name, found in (more or {}).items():
                write(f',\n "{name}": {json.dumps(found)}')
            write(',\n "unseen": ')
            json_rows([("what", "what"), ("count", "count"), ("why", "why")], missed, write)
            write("\n}\n")
            return
        cells = [[column.text(row) for column in chosen] for row in rows]
        if not output.no_headings:
            cells.insert(0, [column.name for column in chosen])
        if output.raw:
            lines = [" ".join(cell.replace(" ", "\\x20") or "-" for cell in line) for line in cells]
        else:
            widths = [max((cell_len(line[at]) for line in cells), default=0) for at in range(len(chosen))]
            lines = [aligned(line, widths, chosen) for line in cells]
        for line in lines:
            print(line)
        for one in missed:
            print(f"linuxsync: {one.count} {one.what} not seen: {one.why}", file=sys.stderr)


def aligned(line: Sequence[str], widths: Sequence[int], columns: Sequence[Column[Any]]) -> str:
    """One line, with two blanks between columns and none at its end."""
    padded = []
    for cell, width, column in zip(line, widths, columns, strict=True):
        blanks = " " * (width - cell_len(cell))
        padded.append(blanks + cell if column.right else cell + blanks)
    return "  ".join(padded).rstrip()
