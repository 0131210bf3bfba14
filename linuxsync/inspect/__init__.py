"""Who holds which fences and buffers on this machine, as /proc, pidfds and debugfs tell it; nothing of it is changed.

``scan()`` looks once at the descriptors of all processes. From what it returns, ``sync_files`` makes a list of fences,
and so on. A process that ends meanwhile is left out, and what this user may not see is counted in ``Scan.unseen``.
"""

from .buffers import BufferFence, BufferHolder, HeldBuffer, ProcessBuffers, by_process, dma_bufs
from .deadlocks import Deadlock, Step, deadlocks
from .debugfs import ListedTimeline, Point
from .doctor import examine
from .fences import HeldSyncFile, open_files, sync_files
from .findings import Finding, State
from .gauges import Gauge, gauges
from .leaks import FEWEST, Growth, Sample, Table, growth, moments, sample
from .owed import Owed, named_timelines, owed_by
from .pidfd import PidFd, same_file
from .processes import Descriptor, Kind, Process, Scan, Unseen, scan
from .stacks import Frame, Origin, Stacks, record_stacks
from .stuck import StuckFence, polled, stuck_fences
from .syncobjs import HeldSyncobj, syncobj_files
from .tally import Sort, tally
from .timelines import HeldTimeline, fence_timelines
from .waiters import Waiter, waiters
from .watch import Activity, Watch, names_by_process

__all__ = [
    "FEWEST",
    "Activity",
    "BufferFence",
    "BufferHolder",
    "Deadlock",
    "Descriptor",
    "Finding",
    "Frame",
    "Gauge",
    "Growth",
    "HeldBuffer",
    "HeldSyncFile",
    "HeldSyncobj",
    "HeldTimeline",
    "Kind",
    "ListedTimeline",
    "Origin",
    "Owed",
    "PidFd",
    "Point",
    "Process",
    "ProcessBuffers",
    "Sample",
    "Scan",
    "Sort",
    "Stacks",
    "State",
    "Step",
    "StuckFence",
    "Table",
    "Unseen",
    "Waiter",
    "Watch",
    "by_process",
    "deadlocks",
    "dma_bufs",
    "examine",
    "fence_timelines",
    "gauges",
    "growth",
    "moments",
    "named_timelines",
    "names_by_process",
    "open_files",
    "owed_by",
    "polled",
    "record_stacks",
    "same_file",
    "sample",
    "scan",
    "stuck_fences",
    "sync_files",
    "syncobj_files",
    "tally",
    "waiters",
]
