"""What stands in the memory of a process that waits: struct pollfd, fd_set, the structs of DRM's and dma-buf's ioctls.

The first 48 bytes are the arguments of the system call, and all of an input is the memory.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress

from harness import instrumented, run

with instrumented("linuxsync.inspect.waiters"):
    from linuxsync.inspect.waiters import MOST, has_limit, is_for_writing, polled, selected, syncobjs_of
    from linuxsync.syncobj import TIMELINE_WAIT, WAIT

CALLS = ("poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2")


def one(data: bytes) -> None:
    if len(data) < 48:
        return
    arguments = list(struct.unpack_from("=6Q", data))

    def read(address: int, size: int) -> bytes:
        assert 0 <= size <= MOST * 8
        if size and address >= len(data):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data[address : address + size]

    for call in CALLS:
        assert has_limit(call, arguments) in (False, True)
    with suppress(OSError):
        assert all(fd >= 0 for fd in polled(read, arguments[0], arguments[1] & 0xFFFFFFFF))
    with suppress(OSError):
        assert all(0 <= fd < MOST for fd in selected(read, arguments[0] & 0xFFFFFFFF, arguments[1:4]))
    # look_at() takes a struct that is cut off for one that is not there.
    with suppress(OSError, struct.error):
        is_for_writing(arguments, read)
    for request in (arguments[1], WAIT, TIMELINE_WAIT):
        with suppress(OSError, struct.error):
            found, _ = syncobjs_of([arguments[0], request, *arguments[2:]], read)
            assert len(found) <= MOST


if __name__ == "__main__":
    run(one)
