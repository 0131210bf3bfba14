"""tracefs: the formats of events and pages, the list of probes and the names of threads."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from harness import instrumented, run, stretched

with instrumented("linuxsync._ring_buffer", "linuxsync._tracefs"):
    from linuxsync._ring_buffer import Format, PageFormat
    from linuxsync._tracefs import comms_in, probes_in


def one(data: bytes) -> None:
    for text in stretched(data):
        words = os.fsdecode(text)
        with suppress(KeyError):
            form = PageFormat.parse(words)
            assert form.commit >= 0 and form.data >= 0 and form.size >= form.data
        with suppress(ValueError):
            event = Format.parse(words)
            for name, field in event.fields.items():
                assert re.fullmatch(r"\w+", name) and field.offset >= 0 and field.size >= 0
                assert isinstance(event.get(data, name), int)
                assert len(event.addresses(data, name, 16)) <= 16
        assert all(re.fullmatch(r"\w+", word) for probe in probes_in(words) for word in probe)
        assert all(0 <= tid < 10**9 and "\n" not in comm for tid, comm in comms_in(text).items())


if __name__ == "__main__":
    run(one)
