from dataclasses import dataclass
from enum import Enum
from typing import final

from .sync_file import SyncFileInfo

class Kind(Enum):
    SYNC_FILE = "sync_file"
    SYNCOBJ_FILE = "syncobj_file"
    DMA_BUF = "dma_buf"
    DRM = "drm"
    SW_SYNC = "sw_sync"
    FENCEDEV = "fencedev"

@final
@dataclass(frozen=True)
class Process:
    pid: int
    comm: str
    uid: int

@final
@dataclass(frozen=True)
class Descriptor:
    process: Process
    fd: int
    kind: Kind
    link: str

@final
@dataclass(frozen=True)
class HeldSyncFile:
    info: SyncFileInfo
    holders: tuple[Descriptor, ...]
    looked_ns: int
    @property
    def name(self) -> str: ...
    @property
    def num_fences(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def driver_names(self) -> list[str]: ...
    @property
    def obj_names(self) -> list[str]: ...
    @property
    def seqno(self) -> int | None: ...
    @property
    def age_ns(self) -> int | None: ...

def process(pid: int) -> Process: ...
def descriptors(process: Process) -> list[Descriptor]: ...
