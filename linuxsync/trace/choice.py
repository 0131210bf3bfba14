"""Which part of a recording is meant: by driver, timeline and process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .._text import matches
from .model import Fence, Thread, Timeline, Trace, Wait

__all__ = ["Chosen"]

NAMED = 20  # timelines or threads that a message lists


class Chosen:
    """The timelines, fences and waits of a recording that are meant. Patterns are those of fnmatch; none: everything.

    A fence is meant if its timeline is, and the thread that made it; a wait if its thread is, and the timeline of a
    fence that it was for.

    Threads: any number.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        drivers: Iterable[str] = (),
        timelines: Iterable[str] = (),
        pids: Iterable[int] = (),
        comms: Iterable[str] = (),
    ) -> None:
        """Say what is meant.

        Args:
            drivers, timelines: what these are called.
            pids: of processes; a thread whose process is not known has its own number.
            comms: what threads, or their processes, are called.
        """
        self.trace = trace
        self._drivers, self._timelines = tuple(drivers), tuple(timelines)
        self._pids, self._comms = frozenset(pids), tuple(comms)
        self._all_timelines = not self._drivers and not self._timelines
        self._all_threads = not self._pids and not self._comms
        self._known: dict[Thread, bool] = {}
        self.timelines = [one for one in trace.timelines if self._means_timeline(one)]
        self._among = set(self.timelines)

    def insist(self) -> Chosen:
        """Return it if there is anything that can be meant.

        Raises:
            ValueError: the recording has no such timeline or no such thread at all; it says which there are. So a name
                that is written wrongly does not look like one of which there is nothing bad to say.
        """
        if not self._all_timelines and not self.timelines:
            asked = ", ".join([*(f"driver {one!r}" for one in self._drivers), *map(repr, self._timelines)])
            raise ValueError(
                f"no timeline is {asked}; {there(f'{one.driver} {one.name}' for one in self.trace.timelines)}"
            )
        threads = self.trace.threads.values()
        if not self._all_threads and not any(map(self.means, threads)):
            asked = ", ".join([*(f"pid {one}" for one in sorted(self._pids)), *map(repr, self._comms)])
            raise ValueError(
                f"no thread is of {asked}; {there(f'{one.process or one.comm} {pid_of(one)}' for one in threads)}"
            )
        return self

    def means(self, thread: Thread | None) -> bool:
        """Whether a thread is meant; one that is not known is if all are."""
        if thread is None or self._all_threads:
            return self._all_threads
        if thread not in self._known:
            names = {thread.comm, thread.process or thread.comm}
            self._known[thread] = (not self._pids or pid_of(thread) in self._pids) and matches(self._comms, names)
        return self._known[thread]

    def fences_of(self, timeline: Timeline) -> list[Fence]:
        """The fences of a timeline that are meant."""
        return timeline.fences if self._all_threads else [one for one in timeline.fences if self.means(one.creator)]

    @property
    def waits(self) -> Iterator[tuple[Wait, set[Timeline]]]:
        """The waits that are meant, and which timelines that are meant each was for."""
        for wait in self.trace.waits:
            if self.means(wait.thread):
                found = {fence.timeline for fence in wait.fences} & self._among
                if found or self._all_timelines:
                    yield wait, found

    def _means_timeline(self, timeline: Timeline) -> bool:
        return matches(self._drivers, [timeline.driver]) and matches(self._timelines, [timeline.name])


def pid_of(thread: Thread) -> int:
    """The process of a thread; its own number where that is not known."""
    return thread.tid if thread.pid is None else thread.pid


def there(names: Iterable[str]) -> str:
    """What there is instead, each once."""
    each = [*dict.fromkeys(names)]
    more = f" and {len(each) - NAMED} more" if len(each) > NAMED else ""
    return f"there are {', '.join(map(repr, each[:NAMED]))}{more}" if each else "there is none"
