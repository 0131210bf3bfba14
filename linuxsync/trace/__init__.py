"""What happened to every fence between two moments: recorded by the kernel's tracepoints, read as objects.

``linuxsync trace record`` makes a recording, and ``load()`` reads it: a ``Trace`` with its fences, timelines and waits.
``recording()`` does both around a block of code. ``latency()``, ``timeline_statistics()`` and ``process_statistics()``
say how long fences took, ``critical_chain()`` why one took so long, ``compare()`` what is slower in another recording.
"""

from .chain import Chains, Link, critical_chain, slowest
from .choice import Chosen
from .compare import Change, Comparison, Spread, changes, compare
from .file import MAGIC, TraceError
from .live import Live, Seen, live_events
from .load import load
from .model import Event, Fence, Thread, Timeline, Trace, Vblank, Wait
from .record import EVERY, Recorder, Recording, recorder, recording
from .statistics import (
    Latency,
    ProcessStatistics,
    TimelineStatistics,
    Waiter,
    latency,
    process_statistics,
    timeline_statistics,
)

__all__ = [
    "EVERY",
    "MAGIC",
    "Chains",
    "Change",
    "Chosen",
    "Comparison",
    "Event",
    "Fence",
    "Latency",
    "Link",
    "Live",
    "ProcessStatistics",
    "Recorder",
    "Recording",
    "Seen",
    "Spread",
    "Thread",
    "Timeline",
    "TimelineStatistics",
    "Trace",
    "TraceError",
    "Vblank",
    "Wait",
    "Waiter",
    "changes",
    "compare",
    "critical_chain",
    "latency",
    "live_events",
    "load",
    "process_statistics",
    "recorder",
    "recording",
    "slowest",
    "timeline_statistics",
]
