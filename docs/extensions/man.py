"""The man pages of linuxsync's commands: `python docs/extensions/man.py` writes docs/man/."""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import version
from pathlib import Path

from commands import Block, Command, every_command

FOLDER = Path(__file__).parents[1] / "man"


def flow(text: str) -> str:
    """Text that may be wrapped, and is in the source too."""
    return "\n".join(map(escape, textwrap.wrap(text, 76, break_long_words=False, break_on_hyphens=False)))


def escape(text: str) -> str:
    """A line in which nothing means something to roff; a hyphen is one that can be typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^([.'])", r"\\&\1", text)


def bold(text: str) -> str:
    """What is typed as it stands."""
    return rf"\fB{escape(text)}\fR"


def option(names: str) -> str:
    """An option: names bold, what it takes in italics."""
    words = re.split(r"( / |, | )", names)
    marked = [bold(one) if one.startswith("-") else one if one in (" / ", ", ", " ") else italic(one) for one in words]
    return "".join(marked)


def italic(text: str) -> str:
    """What something else is typed for."""
    return rf"\fI{escape(text)}\fR"


def of_block(block: Block) -> list[str]:
    """A paragraph, a list of columns, or lines that are kept as they are."""
    if not block.verbatim:
        return [".PP", flow(block.lines[0])]
    heading = [f".SH {block.heading.upper()}"] if block.heading else [".PP"]
    if block.entries:
        return heading + [line for name, said in block.entries for line in (".TP", bold(name), flow(said))]
    return [*heading, ".RS 4" if not block.heading else "", ".EX", *map(escape, block.lines), ".EE"] + (
        [] if block.heading else [".RE"]
    )


def page(one: Command, others: list[str]) -> str:
    """A man page.

    Args:
        others: the names of all pages.
    """
    lines = [
        f'.TH {one.page.upper().replace("-", chr(92) + "-")} 1 "" "linuxsync {version("linuxsync")}" "User Commands"',
        ".ad l",
        ".SH NAME",
        rf"{escape(one.page)} \- {escape(one.summary[0].lower() + one.summary[1:])}",
        ".SH SYNOPSIS",
        f"{bold(one.name)} {escape(one.usage)}",
        ".SH DESCRIPTION",
    ]
    for block in one.text:
        lines += of_block(block)
    if one.commands:
        lines.append(".SH COMMANDS")
        for each in one.commands:
            lines += [".TP", rf"{bold(each.page)}(1)", escape(each.summary)]
    lines.append(".SH OPTIONS")
    for names, said in one.options:
        lines += [".TP", option(names), flow(said)]
    for block in one.epilog:
        lines += of_block(block)
    lines.append(".SH SEE ALSO")
    near = [name for name in others if name != one.page and is_near(name, one.page)]
    lines.append(",\n".join(rf"\%{bold(name)}(1)" for name in near))  # \% lest a name be cut in two
    # A request after .SH would start a paragraph that has begun already.
    text = "\n".join(line for line in lines if line)
    return re.sub(r"(\.SH [^\n]*\n)\.PP\n", r"\1", text) + "\n"


def is_near(name: str, own: str) -> bool:
    """Whether a page is of the group above, of its commands, or of those below."""
    group = own.rpartition("-")[0]
    return name in (group, "linuxsync") or name.rpartition("-")[0] in {own, group} - {""}


def pages() -> dict[str, str]:
    """Every man page, by the name of its file."""
    found = every_command()
    names = [one.page for one in found]
    return {f"{one.page}.1": page(one, names) for one in found}


def write() -> None:
    """Write all, and remove those of commands that are no more."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for left in set(FOLDER.glob("*.1")) - {FOLDER / name for name in wanted}:
        left.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write()
