"""Names that a process may give itself and its files, asked of the kernel: they come back as they are."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from harness import instrumented, run

with instrumented("linuxsync.inspect.processes"):
    from linuxsync._native.processes import HeldSyncFile, Kind, descriptors, process

    from linuxsync import SyncFileInfo

PR_SET_NAME = 15
libc = ctypes.CDLL(None, use_errno=True)


def one(data: bytes) -> None:
    comm, name = data[:15].partition(b"\0")[0], data[15:].replace(b"\0", b"").replace(b"/", b"")[:250]
    libc.prctl(PR_SET_NAME, ctypes.c_char_p(comm), 0, 0, 0)
    me = process(os.getpid())
    assert me.comm == os.fsdecode(comm)
    assert me.uid == os.getuid()
    if name not in (b"", b".", b".."):
        path = os.fsencode(FOLDER) + b"/sync/" + name
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            found = {each.fd: each for each in descriptors(me)}
            assert (fd in found) == (name == b"sw_sync")
            if fd in found:
                assert (found[fd].kind, found[fd].link) == (Kind.SW_SYNC, str(Path(f"/proc/self/fd/{fd}").readlink()))
        finally:
            os.close(fd)
            Path(os.fsdecode(path)).unlink()
    called = os.fsdecode(data[:31].partition(b"\0")[0])
    number = HeldSyncFile(SyncFileInfo(called, 0, 0, ()), (), 0).seqno
    assert number is None or number >= 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as FOLDER:
        Path(FOLDER, "sync").mkdir()
        run(one)
