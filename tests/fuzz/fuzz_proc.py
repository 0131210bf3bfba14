"""/proc: maps, mountinfo, and the fdinfo of buffers and epolls; what is not understood is left out."""

from __future__ import annotations

import os

from harness import instrumented, run, stretched

with instrumented(
    "linuxsync.inspect.buffers", "linuxsync.inspect.stacks", "linuxsync.inspect.waiters", "linuxsync._mounts"
):
    from linuxsync._mounts import mounted
    from linuxsync.inspect.buffers import FDINFO, mappings_in
    from linuxsync.inspect.stacks import programs_in
    from linuxsync.inspect.waiters import targets_in


def one(data: bytes) -> None:
    for text in stretched(data):
        words = os.fsdecode(text)
        assert all(ino >= 0 and b":" in device for device, ino in mappings_in(text))
        assert all(start >= 0 and end >= 0 and path[0] == "/" for start, end, _, path in programs_in(words))
        assert all(fd >= 0 and events >= 0 for fd, events in targets_in(text))
        assert all(str(place) and "\n" not in options for place, options in mounted("debugfs", words))
        found = FDINFO.match(text)
        assert found is None or (int(found[1]) >= 0 and int(found[2]) >= 0)


if __name__ == "__main__":
    run(one)
