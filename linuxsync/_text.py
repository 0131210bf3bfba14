"""Words for people, from names that somebody else has chosen."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ["duration", "matches", "plain"]


def plain(name: str) -> str:
    r"""A name with everything in it escaped that a terminal might obey or hide: ``\n``, ``\x1b``, ``\xff``, ``\u202e``.

    What is no UTF-8 comes as the byte it is. A backslash is doubled, so that no name can look like another's escapes.
    """
    return "".join(one if one.isprintable() and one != "\\" else escaped(one) for one in name)


def escaped(one: str) -> str:
    """A character as Python would write it; an undecodable byte as that byte."""
    code = ord(one)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(one)[1:-1]


def duration(ns: int | None) -> str:
    """Nanoseconds as people say them, three digits or so; "-" for None."""
    if ns is None:
        return "-"
    seconds = ns / 1e9
    for limit, unit, scale in ((1e-3, "us", 1e6), (1, "ms", 1e3), (120, "s", 1), (7200, "min", 1 / 60)):
        if abs(seconds) < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 3600:.3g} h" if seconds < 172800 else f"{seconds / 86400:.3g} d"


def matches(patterns: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether a name is one of those asked for, with * and ?; any is, if none is asked for."""
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
