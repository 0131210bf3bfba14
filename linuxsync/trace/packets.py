"""packets: what a file of Perfetto is made of. Needs the Python package perfetto."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from io import BytesIO
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (  # type: ignore[import-untyped]
    TracePacket,
    TrackDescriptor,
)
from perfetto.trace_builder.proto_builder import TraceProtoBuilder  # type: ignore[import-untyped]

__all__ = ["I32", "U64", "Fact", "Lanes", "Packets", "shown", "within"]

PIECE = 4096  # packets that are objects at a time
MOST_TEXTS = 1 << 16  # texts that are written once and then have a number
I32, I64, U64 = (1 << 31) - 1, (1 << 63) - 1, (1 << 64) - 1
UNSHOWN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

# An argument of an event: its name, and what it is.
Fact = tuple[str, bool | int | str | list[str]]


class Packets:
    """Packets on their way into a file, of which a piece at a time are objects."""

    def __init__(self, stream: BytesIO) -> None:
        self.stream = stream
        self.builder = TraceProtoBuilder()
        self.held = 0
        self.tracks = 0
        self.names: dict[str, int] = {}
        self.texts: dict[str, int] = {}

    def flush(self) -> None:
        """Write what there is: Traces one after the other are a Trace."""
        self.stream.write(self.builder.serialize())
        self.builder, self.held = TraceProtoBuilder(), 0

    def packet(self) -> Any:
        """A TracePacket at the end of the file."""
        if self.held == PIECE:
            self.flush()
        self.held += 1
        packet = self.builder.add_packet()
        packet.trusted_packet_sequence_id = 1
        packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        return packet

    def track(self, name: str, parent: int | None = None, key: str | None = None, rank: int | None = None) -> int:
        """A track, by its number.

        Args:
            key: what it has in common with siblings that are to be drawn as one with it.
            rank: its place among its siblings.
        """
        return self.described(name, parent, key, rank).uuid  # type: ignore[no-any-return]

    def described(self, name: str, parent: int | None = None, key: str | None = None, rank: int | None = None) -> Any:
        """The TrackDescriptor of a track, for what ``track()`` has no argument for."""
        self.tracks += 1
        track = self.packet().track_descriptor
        track.uuid = self.tracks
        track.name = shown(name)
        track.child_ordering = TrackDescriptor.EXPLICIT
        # By default it would be drawn as one with a sibling of the same name, which is another timeline.
        track.sibling_merge_behavior = TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE
        if parent is not None:
            track.parent_uuid = parent
        if key is not None:
            track.sibling_merge_behavior = TrackDescriptor.SIBLING_MERGE_BEHAVIOR_BY_SIBLING_MERGE_KEY
            track.sibling_merge_key = key
        if rank is not None:
            track.sibling_order_rank = rank
        return track

    def event(self, ns: int, kind: int, track: int, name: str | None = None, facts: Iterable[Fact] = ()) -> Any:
        """A TrackEvent."""
        packet = self.packet()
        packet.timestamp = max(within(ns), 0)
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name is not None:
            event.name = shown(name)
        for key, value in facts:
            if value != []:
                self.note(packet, shown(key), value)
        return event

    def note(self, packet: Any, key: str, value: bool | int | str | list[str]) -> None:
        """Add an argument to the event of a packet."""
        note = packet.track_event.debug_annotations.add()
        number = self.names.get(key)
        if number is None:
            number = self.names[key] = len(self.names) + 1
            packet.interned_data.debug_annotation_names.add(iid=number, name=key)
        note.name_iid = number
        if isinstance(value, bool):
            note.bool_value = value
        elif isinstance(value, int) and 0 <= value <= U64:
            note.uint_value = value
        elif isinstance(value, int) and -I64 - 1 <= value < 0:
            note.int_value = value
        elif isinstance(value, list):
            for one in value:
                note.array_values.add().string_value = shown(one)
        else:
            text = shown(str(value))
            number = self.texts.get(text)
            if number is None and len(self.texts) < MOST_TEXTS:
                number = self.texts[text] = len(self.texts) + 1
                packet.interned_data.debug_annotation_string_values.add(iid=number, str=text.encode())
            if number is None:
                note.string_value = text
            else:
                note.string_value_iid = number


class Lanes:
    """The tracks of slices that overlap, as few as there can be."""

    def __init__(self, track: Callable[[], int]) -> None:
        self.track = track
        self.tracks = [track()]
        self.free = [0]
        self.busy: list[tuple[int, int]] = []

    def take(self, begin: int, end: int | None) -> int:
        """The track for the next slice in the order of their begin, which it has to itself until it ends."""
        while self.busy and self.busy[0][0] <= begin:
            heappush(self.free, heappop(self.busy)[1])
        if not self.free:
            self.tracks.append(self.track())
            heappush(self.free, len(self.tracks) - 1)
        lane = heappop(self.free)
        if end is not None:
            heappush(self.busy, (end, lane))
        return self.tracks[lane]


def shown(name: str) -> str:
    r"""A name as protobuf can hold it, and people see it: what is no UTF-8, or controls a terminal, as ``\xff``."""
    return UNSHOWN.sub(lambda one: escaped(ord(one[0])), name)


def escaped(code: int) -> str:
    """What stands for a character; for an undecodable byte, that byte."""
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def within(value: int) -> int:
    """The nearest number that fits into an int64."""
    return min(max(value, -I64), I64)
