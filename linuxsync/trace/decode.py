"""From pages of the trace buffer to what happened, one tuple an event: millions of objects would take too long."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

from .._ring_buffer import Format, PageFormat, records
from .file import TraceError, split_pages

__all__ = ["HARDIRQ", "Happened", "Pages", "What"]


class What:
    """What happened, and what the last five of a tuple then are."""

    INIT, EMIT, ENABLE, SIGNALED, DESTROY, WAIT_START, WAIT_END = range(7)  # driver, timeline, context, seqno
    INC = 7  # name, value
    PROBE_SIGNAL = 8  # context, seqno, error, at
    PROBE_INPUTS = 9  # count or None, seqno or None, ((context, seqno), ...)
    ENTER = 10  # call, number of the ioctl or 0
    EXIT = 11  # call, what it returned
    WAKING = 12  # thread
    VBLANK = 13  # CRTC, sequence, and when it was if the kernel says so
    OTHER = 14  # name, fields


# ns, what, thread, CPU, flags, and what the kind has.
Happened: TypeAlias = tuple[Any, ...]
HARDIRQ = 0x08 | 0x10 | 0x40  # of flags: an interrupt, a soft one, an NMI (TRACE_FLAG_*)

FENCE_EVENTS = {
    "dma_fence/dma_fence_init": What.INIT,
    "dma_fence/dma_fence_emit": What.EMIT,
    "dma_fence/dma_fence_enable_signal": What.ENABLE,
    "dma_fence/dma_fence_signaled": What.SIGNALED,
    "dma_fence/dma_fence_destroy": What.DESTROY,
    "dma_fence/dma_fence_wait_start": What.WAIT_START,
    "dma_fence/dma_fence_wait_end": What.WAIT_END,
}
CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"}
CODES |= {(size, True): code.lower() for (size, _), code in CODES.items()}
COMMON = ("common_type", "common_flags", "common_pid")
MOST_INPUTS = 64
LONGEST_TEXT = 4096
MOST_FIELDS = 300

Decoder: TypeAlias = Callable[[int, int, bytes], Happened]


class Pages:
    """Reads pages as a recording's meta block describes them.

    Attributes:
        found: what happened, in the order in which it was read.
        lost: how many events pages say were overwritten, at least.

    Threads: of one only.
    """

    def __init__(self, pages: str, formats: dict[str, str], byteorder: str) -> None:
        """Prepare.

        Args:
            pages: tracefs' events/header_page.
            formats: events/GROUP/EVENT/format by "GROUP/EVENT".
            byteorder: "little" or "big", as sys.byteorder.
        Raises:
            TraceError: that is not what they have.
        """
        self.found: list[Happened] = []
        self.lost = 0
        if byteorder not in ("little", "big"):
            raise TraceError("its meta block has no order of bytes")
        if byteorder != sys.byteorder:
            raise TraceError(f"made on a machine with {byteorder} endian numbers, which this one does not have")
        self._texts: dict[bytes, str] = {}
        self._decoders: dict[int, Decoder] = {}
        try:
            self._form = PageFormat.parse(pages)
            for name, text in formats.items():
                form = Format.parse(text)
                refuse_costly(form)
                self._decoders[form.number] = self._decoder(name, form)
        except (KeyError, ValueError, struct.error) as error:
            raise TraceError(f"its meta block describes no events: {error!r}") from None

    def add(self, content: bytes) -> None:
        """Read a block of pages.

        Raises:
            ValueError: it is none.
        """
        for _, cpu, page in split_pages(content):
            self.add_page(cpu, page)

    def add_page(self, cpu: int, page: bytes) -> None:
        """Read a page of a CPU.

        Raises:
            ValueError: it is none.
        """
        decoders, append = self._decoders, self.found.append
        number = struct.Struct("=H").unpack_from
        lost, events = records(page, self._form.commit, self._form.data)
        self.lost += lost
        try:
            for ns, data in events:
                decoder = decoders.get(number(data)[0])
                if decoder is not None:
                    append(decoder(ns, cpu, data))
        except struct.error:
            raise ValueError("an event that is shorter than its fields") from None

    def _decoder(self, name: str, form: Format) -> Decoder:
        """A function that makes a tuple of an event."""
        if name in FENCE_EVENTS:
            return self._fence(FENCE_EVENTS[name], form)
        if name == "sync_trace/sync_timeline":
            return self._named(What.INC, form, "name", "value")
        if name == "probe/signal":
            return self._numbers(What.PROBE_SIGNAL, form, "context", "seqno", "error", "at")
        if name == "probe/array":
            return self._inputs(form, "count")
        if name == "probe/chain":
            return self._inputs(form, "seqno")
        if name.startswith("syscalls/sys_enter_"):
            return self._call(What.ENTER, name.removeprefix("syscalls/sys_enter_"), form, "cmd")
        if name.startswith("syscalls/sys_exit_"):
            return self._call(What.EXIT, name.removeprefix("syscalls/sys_exit_"), form, "ret")
        if name == "sched/sched_waking":
            return self._numbers(What.WAKING, form, "pid")
        if name == "drm/drm_vblank_event":
            return self._numbers(What.VBLANK, form, "crtc", "seq", *(["time"] if "time" in form.fields else []))
        return self._other(name.rpartition("/")[2], form)

    def _unpacker(self, form: Format, *names: str) -> Callable[[bytes], tuple[Any, ...]]:
        """What reads the common fields and these, in their order, at once if they lie in it."""
        wanted = [(name, form.fields[name]) for name in (*COMMON, *names)]
        if [field.offset for _, field in wanted] == sorted({field.offset for _, field in wanted}):
            code, at = "=", 0
            for _, field in wanted:
                if field.offset < at or field.offset > 1 << 16:
                    raise ValueError("fields that overlap")
                code += f"{field.offset - at}x{CODES[field.size, field.signed]}"
                at = field.offset + field.size
            return struct.Struct(code).unpack_from
        if max(field.offset for _, field in wanted) > 1 << 16:
            raise ValueError("fields beyond any page")
        each = [(struct.Struct("=" + CODES[field.size, field.signed]), field.offset) for _, field in wanted]
        return lambda data: tuple(one.unpack_from(data, offset)[0] for one, offset in each)

    def _text(self, data: bytes, place: int) -> str:
        """The text that __data_loc tells of: the lower half is where, the upper its length with the NUL."""
        start = place & 0xFFFF
        raw = data[start : start + min(place >> 16, LONGEST_TEXT)]
        text = self._texts.get(raw)
        if text is None:
            text = self._texts[raw] = raw.split(b"\0")[0].decode("utf-8", "surrogateescape")
        return text

    def _fence(self, what: int, form: Format) -> Decoder:
        unpack, texts, text_of = self._unpacker(form, "driver", "timeline", "context", "seqno"), self._texts, self._text

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, driver, timeline, context, seqno = unpack(data)
            # Most names have been seen before; the call would cost as much as the rest.
            at = driver & 0xFFFF
            name = texts.get(data[at : at + (driver >> 16)])
            at = timeline & 0xFFFF
            line = texts.get(data[at : at + (timeline >> 16)])
            return (
                ns,
                what,
                tid,
                cpu,
                flags,
                text_of(data, driver) if name is None else name,
                text_of(data, timeline) if line is None else line,
                context,
                seqno,
            )

        return decode

    def _named(self, what: int, form: Format, name: str, number: str) -> Decoder:
        unpack, text_of = self._unpacker(form, name, number), self._text

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, place, value = unpack(data)
            return ns, what, tid, cpu, flags, text_of(data, place), value

        return decode

    def _numbers(self, what: int, form: Format, *names: str) -> Decoder:
        unpack = self._unpacker(form, *names)

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, *values = unpack(data)
            return (ns, what, tid, cpu, flags, *values)

        return decode

    def _inputs(self, form: Format, first: str) -> Decoder:
        most = sum(f"context{at}" in form.fields and f"seqno{at}" in form.fields for at in range(MOST_INPUTS))
        names = [f"{part}{at}" for at in range(most) for part in ("context", "seqno")]
        unpack = self._unpacker(form, first, *names)

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, number, *values = unpack(data)
            inputs = list(zip(values[::2], values[1::2], strict=True))
            count, seqno = (number, None) if first == "count" else (None, number)
            return ns, What.PROBE_INPUTS, tid, cpu, flags, count, seqno, inputs if count is None else inputs[:count]

        return decode

    def _call(self, what: int, call: str, form: Format, number: str) -> Decoder:
        if number not in form.fields:
            unpack = self._unpacker(form)
            return lambda ns, cpu, data: (ns, what, unpack(data)[2], cpu, 0, call, 0)
        read = self._unpacker(form, number)

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, value = read(data)
            return ns, what, tid, cpu, flags, call, value

        return decode

    def _other(self, name: str, form: Format) -> Decoder:
        """Any event: its numbers and texts."""
        fields = {
            field: place
            for field, place in form.fields.items()
            if not field.startswith("common_") and (place.size, place.signed) in CODES
        }
        unpack, text_of = self._unpacker(form, *fields), self._text

        def decode(ns: int, cpu: int, data: bytes) -> Happened:
            _, flags, tid, *values = unpack(data)
            said = {
                field: text_of(data, value) if place.text else value
                for (field, place), value in zip(fields.items(), values, strict=True)
            }
            return ns, What.OTHER, tid, cpu, flags, name, said

        return decode


def refuse_costly(form: Format) -> None:
    """Refuse an event that has more to read than bytes: it would take memory without end.

    Raises:
        ValueError: it has.
    """
    places = sorted((field.offset, field.size) for field in form.fields.values())
    if len(places) > MOST_FIELDS or any(at + size > after for (at, size), (after, _) in pairwise(places)):
        raise ValueError("too many fields, or some that overlap")
