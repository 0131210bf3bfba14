"""Who holds which fences and buffers on this machine, as /proc, pidfds and debugfs tell it; nothing of it is changed.

``scan()`` looks once at the descriptors of all processes. From what it returns, ``sync_files`` makes a list of fences,
and so on. A process that ends meanwhile is left out, and what this user may not see is counted in ``Scan.unseen``.
"""

from .fences import HeldSyncFile, sync_files
from .pidfd import PidFd, same_file
from .processes import Descriptor, Kind, Process, Scan, Unseen, scan

__all__ = [
    "Descriptor",
    "HeldSyncFile",
    "Kind",
    "PidFd",
    "Process",
    "Scan",
    "Unseen",
    "same_file",
    "scan",
    "sync_files",
]
