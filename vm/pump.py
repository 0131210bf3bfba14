"""Moves the bytes between our caller's fds and QEMU's."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO

CHUNK = 1 << 16


class Pump:
    """Threads that copy stdin to the guest, and the guest's stdout and stderr to ours.

    QEMU never gets our own fds: it opens them a second time with O_TRUNC, which empties a file and fails on a socket.

    What the guest writes is taken at once and waits here for a slow reader: output that QEMU still holds when the guest
    powers off would be lost.

    Attributes:
        broken: our stdout or stderr has lost its reader.
    """

    def __init__(self, guest_stdin: IO[bytes], stdin: int | None, outputs: Mapping[IO[bytes], int]) -> None:
        """Start copying at once."""
        self.broken = False
        self._threads: list[threading.Thread] = []
        if stdin is None:
            guest_stdin.close()
        else:
            # Not waited for: it may sit in a read that never ends.
            threading.Thread(target=self._feed, args=(stdin, guest_stdin), daemon=True).start()
        for source, target in outputs.items():
            chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            self._start(self._read, source, chunks)
            self._start(self._write, chunks, target)

    def finish(self, deadline: float) -> bool:
        """Wait until everything has been written; False if the deadline came first."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _feed(self, source: int, sink: IO[bytes]) -> None:
        with contextlib.suppress(OSError), sink:
            while data := read(source):
                write_all(sink.fileno(), data)

    def _read(self, source: IO[bytes], chunks: queue.SimpleQueue[bytes]) -> None:
        with source:
            while data := os.read(source.fileno(), CHUNK):
                chunks.put(data)
        chunks.put(b"")

    def _write(self, chunks: queue.SimpleQueue[bytes], target: int) -> None:
        while data := chunks.get():
            try:
                write_all(target, data)
            except OSError:
                self.broken = True
                return


def read(fd: int) -> bytes:
    """Some bytes, or none at the end; also of an fd that somebody has made non-blocking."""
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            wait(fd, select.POLLIN)


def write_all(fd: int, data: bytes) -> None:
    """Every byte; also to an fd that somebody has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            wait(fd, select.POLLOUT)


def wait(fd: int, event: int) -> None:
    """Until the fd is ready."""
    poll = select.poll()
    poll.register(fd, event)
    poll.poll()
