"""The kernel's trace buffer in binary form, in which no process's name can pass for an event."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass

from ._native.ring_buffer import records

__all__ = ["Format", "PageFormat", "fields", "records"]

LONG = struct.Struct("=Q" if sys.maxsize > 2**32 else "=I")
# In a line of its own, and of limited length: one without end would be searched for ever.
FIELD = re.compile(
    r"^[ \t]*field:([^;\n]{1,200});[ \t]*offset:(\d{1,9});[ \t]*size:(\d{1,9});[ \t]*signed:([01]);", re.MULTILINE
)
NAME = re.compile(r"(\w+)(?:\[\w*\])?$")


@dataclass(frozen=True, slots=True)
class PageFormat:
    """Where in a page of the trace buffer what is, see ``records()``.

    Attributes:
        commit: where the number of its bytes is.
        data: where its events begin.
        size: of a page.
    """

    commit: int
    data: int
    size: int

    @classmethod
    def parse(cls, text: str) -> PageFormat:
        """Read what tracefs has in events/header_page.

        Raises:
            KeyError: it is something else.
        """
        found = fields(text)
        data = found["data"].offset
        return cls(found["commit"].offset, data, data + found["data"].size)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event: where it is, bytes, whether signed, and whether it says where in the event a text is."""

    offset: int
    size: int
    signed: bool
    text: bool


@dataclass(frozen=True, slots=True)
class Format:
    """Where the fields of an event are.

    Attributes:
        number: the event's, which is in the field common_type.
        fields: by name.
    """

    number: int
    fields: dict[str, Field]

    @classmethod
    def parse(cls, text: str) -> Format:
        """Read what tracefs has in events/GROUP/EVENT/format.

        Raises:
            ValueError: it is something else.
        """
        found = re.search(r"^ID: (\d{1,9})$", text, re.MULTILINE)
        if found is None:
            raise ValueError("no format of an event")
        return cls(int(found[1]), fields(text))

    def get(self, data: bytes, name: str) -> int:
        """Return the value of a field that is one number."""
        field = self.fields[name]
        return int.from_bytes(data[field.offset : field.offset + field.size], sys.byteorder, signed=field.signed)

    def addresses(self, data: bytes, name: str, most: int) -> tuple[int, ...]:
        """Return the values of a field that is an array of ``unsigned long``, as many as there are, at most `most`."""
        offset = self.fields[name].offset
        whole = min((len(data) - offset) // LONG.size, most) * LONG.size
        return tuple(value for (value,) in LONG.iter_unpack(data[offset : offset + whole]))


def fields(text: str) -> dict[str, Field]:
    """What an event's format, or header_page, says of each field."""
    found = {}
    for declared, offset, size, signed in FIELD.findall(text):
        name = NAME.search(declared)
        if name is not None:
            is_text = "__data_loc char[]" in declared[: name.start()]
            found[name[1]] = Field(int(offset), int(size), signed == "1", is_text)
    return found
