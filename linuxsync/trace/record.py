"""Recording: the kernel's pages are moved to a file as they are, and understood when somebody reads it."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import BinaryIO

from .._proc import comm_of, process_of
from .._ring_buffer import PageFormat
from .._tracefs import INITIAL_PID_NAMESPACE, pid_namespace
from .file import Writer, join_pages
from .load import load, read
from .model import Fence, Timeline, Trace, Wait
from .source import IOCTLS, Source, source
from .statistics import Latency, Since, latency

__all__ = ["EVERY", "Recorder", "Recording", "recorder", "recording"]

BLOCK = 1 << 18  # bytes of pages
BLOCK_SECONDS = 1.0
MOST_ROUNDS = 1000  # of a thousand pages of each CPU, more than any buffer has
EVERY = 0.05
"""Seconds between two looks into the buffer of a recording: call ``Recorder.collect`` as often."""


class Recorder:
    """A recording that goes on. Made by ``recorder()``.

    Attributes:
        source: what it records.
        start_ns: since when, CLOCK_MONOTONIC.

    Threads: of one only.
    """

    def __init__(self, source: Source, stream: BinaryIO, syscalls: bool, command: str) -> None:
        self.source = source
        self.start_ns = time.monotonic_ns()
        source.go(True)  # before the file has anything: who sees that it has knows that it goes on
        self._writer = Writer(stream)
        self._pages: list[tuple[int, int, bytes]] = []
        self._held = 0
        self._names: dict[int, str] = {}
        self._ended = False
        self._pid = os.getpid()
        self._written = time.monotonic()
        machine = os.uname()
        self._writer.write_json(
            "meta",
            {
                "kernel": machine.release,
                "machine": machine.nodename,
                "command": command,
                "byteorder": sys.byteorder,
                "pages": (source.instance.root / "events/header_page").read_text(),
                "events": source.formats,
                "start_ns": self.start_ns,
                "wall_ns": time.time_ns() - time.monotonic_ns(),
                "syscalls": syscalls,
                "ioctls": {str(number): name for number, name in IOCTLS.items()},
                "probes": source.probes,
                "by_pid": source.by_pid,
            },
        )

    def collect(self) -> None:
        """Take what the kernel has recorded since the last call, and write it once there is enough of it, or a second.

        Raises:
            OSError: ENOSPC, EIO: of the file.

        Mirrors per_cpu/cpuN/trace_pipe_raw of the trace instance.
        """
        form = self.source.instance.pages
        for stream, cpu, page in self.source.read():
            trimmed = trim(page, form)
            self._pages.append((stream, cpu, trimmed))
            self._held += len(trimmed)
            if self._held >= BLOCK:
                self._write()
        if time.monotonic() - self._written >= BLOCK_SECONDS:
            self._write()

    def _write(self) -> None:
        pages, self._pages, self._held = self._pages, [], 0
        self._written = time.monotonic()
        if pages:
            self._writer.write("page", join_pages(pages))
            self._write_names({})

    def _write_names(self, processes: dict[int, int]) -> None:
        """Note the threads that are new: the kernel forgets names, and /proc has the living only.

        Args:
            processes: those of threads that have ended.
        """
        found = {}
        for tid, kept in self.source.instance.comms().items():
            if self._names.get(tid) != kept or tid in processes:
                self._names[tid] = kept
                comm, pid, name = process(tid)
                if pid is None:
                    pid = processes.get(tid)
                    name = self._names.get(pid or 0)
                found[str(tid)] = kept if comm is None else comm, pid, name
        if found:
            self._writer.write_json("comm", found)

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._writer.size

    def finish(self) -> None:
        """End the recording, and write what is left of it. Once is enough; in a forked child it does nothing.

        Raises:
            OSError: as ``collect``.

        Mirrors tracing_on of the trace instance.
        """
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        self.source.go(False)
        end = time.monotonic_ns()
        events, lost = self.source.count()
        for _ in range(MOST_ROUNDS):
            before = self._held + self._writer.size
            self.collect()
            if before == self._held + self._writer.size:
                break
        self._write()
        self._write_names(self.source.processes())
        self._writer.write_json("end", {"end_ns": end, "events": events, "lost": lost})


@contextmanager
def recorder(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    pids: Collection[int] | None = None,
    syscalls: bool = False,
    buffer: int | None = None,
    command: str = "",
) -> Iterator[Recorder]:
    """Record what happens to fences until the block ends, into a file.

    The trace instance, its probes and its buffer are this call's own, and gone at the end; those of a process that was
    killed are removed by the next call. ``Recorder.collect()`` has to be called often enough, 20 times a second say.

    Args:
        file: where to: a path, or what is open for writing bytes. A path is opened once all else is ready.
        pids: what these processes, their threads and children do; None: all. Signals and ends of fences are recorded
            whoever causes them.
        syscalls: also waits in poll(2), select(2), epoll_wait(2) and DRM's and dma-buf's ioctls, and wake-ups.
        buffer: KiB of the kernel's memory for each CPU (int > 0); None: 4096, and at most 256 MiB for all.
        command: what to say that was recorded.
    Raises:
        PermissionError: it takes root.
        FileNotFoundError: tracefs is not mounted, or this kernel has no such events.
        ProcessLookupError: there is none of these processes.
        OSError: ENOMEM, the buffer is too large; ENOSPC and others of the file.

    Mirrors Documentation/trace/ftrace.rst, "Instances".
    """
    with source(pids, syscalls, buffer) as made, opened(file) as stream:
        running = Recorder(made, stream, syscalls, command)
        try:
            yield running
        finally:
            running.finish()


class Recording:
    """What ``recording()`` records: a ``Trace`` once the block has ended.

    Threads: any, once it has ended.
    """

    def __init__(self) -> None:
        self._trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        """All of it.

        Raises:
            RuntimeError: it still goes on.
        """
        if self._trace is None:
            raise RuntimeError("the recording still goes on: ask when its with block has ended")
        return self._trace

    @property
    def fences(self) -> list[Fence]:
        """As ``Trace.fences``."""
        return self.trace.fences

    @property
    def timelines(self) -> list[Timeline]:
        """As ``Trace.timelines``."""
        return self.trace.timelines

    @property
    def waits(self) -> list[Wait]:
        """As ``Trace.waits``."""
        return self.trace.waits

    @property
    def lost(self) -> int:
        """How many events the kernel threw away; if there are any, what is here may be half of the truth."""
        return self.trace.lost

    def latency(
        self,
        since: Since = "init",
        *,
        driver: str | None = None,
        timeline: str | None = None,
        pid: int | None = None,
        comm: str | None = None,
    ) -> Latency:
        """Return how long fences took, or waits for them; see ``linuxsync.trace.latency()``.

        Raises:
            ValueError: as there.
            RuntimeError: it still goes on.
        """
        return latency(self.trace, since, driver=driver, timeline=timeline, pid=pid, comm=comm)


@contextmanager
def recording(
    path: str | os.PathLike[str] | None = None,
    *,
    pids: Collection[int] | None = None,
    syscalls: bool = False,
    buffer: int | None = None,
) -> Iterator[Recording]:
    """Record what happens to fences until the block ends, by whichever process.

    A thread collects what the kernel records meanwhile. An exception in the block ends the recording, which has what
    came before it; a child that is forked in the block and leaves it does not.

    Args:
        path: a file to keep the recording in, for ``linuxsync trace report``; None: keep none.
        pids, syscalls, buffer: as for ``recorder()``.
    Raises:
        OSError: as for ``recorder()``; in the end also what the thread met with, ENOSPC say.

    Mirrors the tracepoints dma_fence:* (include/trace/events/dma_fence.h), as ``linuxsync trace record``.
    """
    made = Recording()
    ours, begun = os.getpid(), False
    with temporary() if path is None else nullcontext(path) as file:
        try:
            with (
                recorder(file, pids=pids, syscalls=syscalls, buffer=buffer, command=shlex.join(sys.argv)) as running,
                collecting(running),
            ):
                begun = True
                yield made
        finally:
            if begun and os.getpid() == ours:  # a child that was forked in the block has no part in it
                made._trace = read_again(file)


def read_again(file: str | os.PathLike[str] | BinaryIO) -> Trace:
    """What was recorded."""
    if isinstance(file, (str, os.PathLike)):
        return load(file)
    file.seek(0)
    return read(file)


@contextmanager
def collecting(running: Recorder) -> Iterator[None]:
    """Collect in a thread of its own."""
    over = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not over.wait(EVERY):
                running.collect()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collect, name="linuxsync.trace")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def opened(file: str | os.PathLike[str] | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """What is to be written to; what is open already is left so."""
    # What a buffer of Python's can't write it keeps, and tries again: a full disk would leave half a block.
    return open(file, "wb", buffering=0) if isinstance(file, (str, os.PathLike)) else nullcontext(file)


def temporary() -> AbstractContextManager[BinaryIO]:
    """A file without a name."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except FileNotFoundError:
        # To a process that has no descriptor left, too, tempfile says that it has no folder that can be used.
        with open(os.devnull, "rb"):
            raise


def trim(page: bytes, form: PageFormat) -> bytes:
    """A page without what lies past its events, but for the count of lost ones, which may stand there."""
    used = int.from_bytes(page[form.commit : form.commit + 4], sys.byteorder) & ((1 << 30) - 1)
    return page[: form.data + used + 8]


def process(tid: int) -> tuple[str, int, str] | tuple[None, None, None]:
    """A thread's name, its process and the name of that, if it still lives and its number is one of ours."""
    if pid_namespace() != INITIAL_PID_NAMESPACE:
        return None, None, None
    pid = process_of(tid)
    if pid is None:
        return None, None, None
    try:
        return comm_of(tid), pid, comm_of(pid)
    except OSError:
        return None, None, None
