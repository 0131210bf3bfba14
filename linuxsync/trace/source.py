"""What a recording is made from: trace instances of our own, with the events of fences that this kernel has."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from .._proc import threads
from .._tracefs import Instance, private_instance
from ..dma_buf import SYNC
from ..syncobj import TIMELINE_WAIT, WAIT

__all__ = ["IOCTLS", "Source", "source"]

# What is about the processes that are asked for, and what may happen in any context: a fence of theirs is signaled by
# others, an interrupt, a timer.
OF_PROCESSES = (
    "dma_fence/dma_fence_init",
    "dma_fence/dma_fence_emit",
    "dma_fence/dma_fence_enable_signal",
    "dma_fence/dma_fence_wait_start",
    "dma_fence/dma_fence_wait_end",
    "sync_trace/sync_timeline",
)
OF_ALL = ("dma_fence/dma_fence_signaled", "dma_fence/dma_fence_destroy", "gpu_scheduler/*", "drm/drm_vblank_event*")
CALLS = ("poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2", "ioctl")
# The structs of syncobj waits have grown by 8 bytes, and where their request numbers say so both ways are meant.
SIZES = {WAIT: ("SYNCOBJ_WAIT", (32, 40)), TIMELINE_WAIT: ("SYNCOBJ_TIMELINE_WAIT", (40, 48))}
IOCTLS = {3 << 30 | size << 16 | number: name for number, (name, sizes) in SIZES.items() for size in sizes}
IOCTLS[SYNC] = "DMA_BUF_IOCTL_SYNC"
MOST_INPUTS = 16  # of one array that a probe reads
# Where struct dma_fence has what no tracepoint tells. If a kernel has it elsewhere, that shows: what a probe saw has to
# be what the tracepoint after it says, and to be a fence of the recording (see build.py).
CONTEXT, SEQNO, ERROR = 32, 40, 60
PROBES = {
    "signal": (
        "dma_fence_signal_timestamp_locked",
        f"context=+{CONTEXT}($arg1):u64 seqno=+{SEQNO}($arg1):u64 error=+{ERROR}($arg1):s32 at=$arg2:s64",
    ),
    "array": (
        "dma_fence_array_create",
        "count=$arg1:s32 "
        + " ".join(
            f"context{at}=+{CONTEXT}(+{8 * at}($arg2)):u64 seqno{at}=+{SEQNO}(+{8 * at}($arg2)):u64"
            for at in range(MOST_INPUTS)
        ),
    ),
    "chain": (
        "dma_fence_chain_init",
        f"seqno=$arg4:u64 context0=+{CONTEXT}($arg2):u64 seqno0=+{SEQNO}($arg2):u64"
        f" context1=+{CONTEXT}($arg3):u64 seqno1=+{SEQNO}($arg3):u64",
    ),
}
OF_ALL_PROBES = {"signal"}


class Source:
    """Trace instances whose events are those of fences. Made by ``source()``.

    Attributes:
        formats: of its events, by "GROUP/EVENT"; those of probes by "probe/NAME".
        probes: the names of those that could be set.

    Threads: of one only.
    """

    def __init__(self, instances: Sequence[Instance], syscalls: bool, buffer: int | None) -> None:
        self._instances = instances
        self.probes: tuple[str, ...] = ()
        for instance in instances:
            instance.set("tracing_on", "0")
            instance.set("trace_clock", "mono")
            instance.set("buffer_size_kb", str(buffer or usual_buffer()))
            instance.set("options/record-tgid", "1")
        self.formats = self._enable(syscalls)

    @property
    def instance(self) -> Instance:
        """The first of them."""
        return self._instances[0]

    @property
    def by_pid(self) -> bool:
        """Whether only some processes are meant."""
        return len(self._instances) > 1

    def go(self, on: bool) -> None:
        """Begin to record, or end."""
        for instance in self._instances:
            instance.set("tracing_on", str(int(on)))

    def _enable(self, syscalls: bool) -> dict[str, str]:
        """Enable the events that this kernel has; returns their formats."""
        ours, anybodys = self._instances[0], self._instances[-1]
        found: dict[str, str] = {}
        for pattern in (*OF_PROCESSES, *OF_ALL):
            for folder in sorted(anybodys.path.glob(f"events/{pattern}")):
                name = f"{folder.parent.name}/{folder.name}"
                found[name] = (folder / "format").read_text()
                (ours if name in OF_PROCESSES else anybodys).set(f"events/{name}/enable", "1")
        if "dma_fence/dma_fence_init" not in found:
            raise FileNotFoundError(
                errno.ENOENT,
                "this kernel has no dma_fence events: it takes CONFIG_FTRACE=y and CONFIG_DMA_SHARED_BUFFER=y",
            )
        for name, (function, arguments) in PROBES.items() if sys.maxsize > 2**32 else ():
            instance = anybodys if name in OF_ALL_PROBES else ours
            try:
                instance.add_probe("p", name, function, arguments)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # not a place for a probe, or no such event
                    raise
                continue
            found[f"probe/{name}"] = (instance.root / "events" / instance.name / name / "format").read_text()
            instance.set(f"events/{instance.name}/{name}/enable", "1")
            self.probes += (name,)
        if syscalls:
            found |= self._enable_syscalls(ours, anybodys)
        return found

    def _enable_syscalls(self, ours: Instance, anybodys: Instance) -> dict[str, str]:
        found = {}
        for name in (f"syscalls/sys_{edge}_{call}" for call in CALLS for edge in ("enter", "exit")):
            folder = ours.path / "events" / name
            if folder.exists():
                found[name] = (folder / "format").read_text()
                if name.endswith("enter_ioctl"):
                    ours.set(f"events/{name}/filter", " || ".join(f"cmd == {number}" for number in IOCTLS))
                ours.set(f"events/{name}/enable", "1")
        if not found:
            raise FileNotFoundError(errno.ENOENT, "this kernel has no events of system calls: CONFIG_FTRACE_SYSCALLS=y")
        waking = "sched/sched_waking"
        found[waking] = (anybodys.path / "events" / waking / "format").read_text()
        anybodys.set(f"events/{waking}/enable", "1")
        return found

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """Return the pages since the last call, each with the number of its instance and its CPU."""
        for stream, instance in enumerate(self._instances):
            for cpu, page in instance.read_pages():
                yield stream, cpu, page

    def count(self) -> tuple[int, int]:
        """Return how many events there were until now, and how many of them were lost."""
        events = lost = 0
        for instance in self._instances:
            for file in instance.path.glob("per_cpu/cpu*/stats"):
                text = file.read_text()
                stats = dict(re.findall(r"^([a-z ]+): (\d+)$", text, re.MULTILINE))
                gone = sum(int(stats.get(name, 0)) for name in ("overrun", "commit overrun", "dropped events"))
                events += int(stats["entries"]) + int(stats["read events"]) + gone
                lost += gone
        return events, lost

    def processes(self) -> dict[int, int]:
        """Return which process each thread belonged to, also where both have ended, as far as the kernel noted it."""
        try:
            text = (self.instance.root / "saved_tgids").read_text()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return {}
        return {int(tid): int(pid) for tid, pid in re.findall(r"^(\d+) (\d+)$", text, re.MULTILINE)}


@contextmanager
def source(pids: Collection[int] | None, syscalls: bool, buffer: int | None) -> Iterator[Source]:
    """Make one, which does not record yet, and remove it with all that belongs to it when the block ends.

    Args, Raises: see ``recorder()``.
    """
    with ExitStack() as stack:
        instances = [stack.enter_context(private_instance()) for _ in range(1 if pids is None else 2)]
        if pids is not None:
            everyone = [tid for pid in pids for tid in threads(pid)]
            if not everyone:
                raise ProcessLookupError(errno.ESRCH, f"no process {', '.join(map(str, pids))}")
            instances[0].set("options/event-fork", "1")
            instances[0].set("set_event_pid", " ".join(map(str, everyone)))
        yield Source(instances, syscalls, buffer)


def usual_buffer() -> int:
    """KiB of a CPU."""
    return max(1024, min(4096, (256 << 10) // (os.cpu_count() or 1)))
