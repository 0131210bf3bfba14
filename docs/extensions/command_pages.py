"""The reference of the commands, as Markdown, from what click knows of them."""

from __future__ import annotations

import re

from commands import Block, Command, every_command


def plain(text: str) -> str:
    """Text in which nothing means something to Markdown."""
    return re.sub(r"([\\`*_<>{}\[\]#~$@|])", r"\\\1", text)


def of_block(block: Block) -> str:
    """A paragraph, or what is to be kept as it is."""
    if not block.verbatim:
        return f"{plain(block.lines[0])}\n\n"
    heading = f"{block.heading}:\n\n" if block.heading else ""
    if block.entries:
        return heading + "".join(f"`{name}`\n: {plain(said)}\n\n" for name, said in block.entries)
    return heading + "```text\n" + "\n".join(block.lines) + "\n```\n\n"


def of_command(one: Command) -> str:
    """Its section."""
    parts = [f"\n## {one.name}\n\n```text\n{one.name} {one.usage}\n```\n\n"]
    parts += map(of_block, one.text)
    for each in one.commands:
        parts.append(f"- [{each.name}](#{each.page}): {plain(each.summary)}\n")
    parts.append(f"\n```{{program}} {one.name}\n```\n\n")
    for names, said in one.options:
        parts.append(f"```{{option}} {names.replace(' / ', ', ')}\n\n{plain(said)}\n```\n\n")
    parts += map(of_block, one.epilog)
    return "".join(parts)


def of_every_command() -> str:
    """All of them."""
    return "".join(of_command(one) for one in every_command())
