"""Pages that are written from the code below what they say themselves: commands, requests, the pytest plugin."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from command_pages import of_every_command, plain
from docstrings import named, public
from sphinx.application import Sphinx

from linuxsync import pytest_plugin

ROOT = Path(__file__).parents[2]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what is here."""
    app.connect("source-read", add)
    return {"parallel_read_safe": True}


def add(app: Sphinx, name: str, source: list[str]) -> None:
    """Add to a page what it is about."""
    made = {"reference/commands": of_every_command, "reference/requests": requests, "reference/pytest": plugin}
    if name in made:
        source[0] += made[name]()


def declared() -> Iterator[str]:
    """Every request that the code issues, by the name that the kernel has for it."""
    for path, pattern in (
        ("native/uapi.pxd", r"const unsigned long (\w+)"),
        ("linuxsync/_uapi.py", r"^(\w+) = IO\w*\("),
    ):
        for name in re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE):
            # LS_ is in front of what we declare ourselves, for a struct of another size than the header's.
            yield re.sub(r"^LS_IOCTL_", "DRM_IOCTL_", name).removesuffix("_B").replace("DRM_IOCTL_UDMABUF", "UDMABUF")


def requests() -> str:
    """A table of requests, and of what issues each: that whose docstring names it."""
    users: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for short, full in sorted(public().items(), key=lambda one: (one[1], len(one[0]))):
        what = named(full)
        doc = "" if isinstance(what, type) else getattr(what, "__doc__", None) or ""
        if doc in seen:  # a method that a class has from another
            continue
        seen.add(doc)
        for name in set(re.findall(r"\b[A-Z][A-Z0-9_]{5,}\b", doc)):
            users[name].append(f"{full}|{short}")
    lines = ["", "| request | linuxsync |", "|---|---|"]
    for name in dict.fromkeys(declared()):
        aliases = {name, f"{name}_B", name.removeprefix("DRM_IOCTL_"), name.removeprefix("DRM_IOCTL_SYNCOBJ_")}
        found = [user for alias in sorted(aliases, key=len, reverse=True) for user in users.get(alias, ())]
        links = [f"{{py:obj}}`{short} <{full}>`" for full, _, short in (one.partition("|") for one in found)]
        lines.append(f"| `{name}` | {', '.join(dict.fromkeys(links)) or '(inside)'} |")
    return "\n".join(lines) + "\n"


class Options:
    """What the plugin tells pytest of its options and ini values."""

    def __init__(self) -> None:
        self.options: list[tuple[str, str]] = []
        self.values: list[tuple[str, str]] = []

    def getgroup(self, *_: str) -> Options:
        """A group of options."""
        return self

    def addoption(self, name: str, metavar: str = "", help: str = "", **_: object) -> None:
        """An option."""
        self.options.append((f"{name} {metavar}".strip(), help))

    def addini(self, name: str, help: str, **_: object) -> None:
        """A value of the ini file."""
        self.values.append((name, help))


def plugin() -> str:
    """Its fixtures, with their docstrings, its options and ini values, and its marker."""
    options = Options()
    pytest_plugin.pytest_addoption(options)  # type: ignore[arg-type]
    parts = ["\n## Fixtures\n\n"]
    for name, what in vars(pytest_plugin).items():
        if "fixture" in type(what).__name__.lower() or hasattr(what, "_pytestfixturefunction"):
            parts.append(f"({name})=\n`{name}`\n: {markdown(inspect.getdoc(what) or '')}\n\n")
    parts += ["## Marker\n\n", f"`{pytest_plugin.MARKER.partition(':')[0]}`\n: "]
    parts.append(markdown(pytest_plugin.MARKER.partition(": ")[2]) + "\n\n")
    for title, found in (("Options", options.options), ("Values of the ini file", options.values)):
        parts.append(f"## {title}\n\n")
        parts += [f"`{name}`\n: {plain(said)}\n\n" for name, said in found]
    return "".join(parts)


def markdown(doc: str) -> str:
    """A docstring of some paragraphs, indented as the text of a definition."""
    return re.sub(r"``([^`]+)``", r"`\1`", doc).replace("\n", "\n  ")
