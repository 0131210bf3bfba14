from dataclasses import dataclass
from typing import TypeVar, final

from .fd import OwnedFd

_SyncFile = TypeVar("_SyncFile", bound=SyncFile)

@final
@dataclass(frozen=True)
class FenceInfo:
    driver_name: str
    obj_name: str
    status: int
    flags: int
    timestamp_ns: int

@final
@dataclass(frozen=True)
class SyncFileInfo:
    name: str
    status: int
    flags: int
    fences: tuple[FenceInfo, ...]

class SyncFile(OwnedFd):
    def info(self) -> SyncFileInfo: ...
    @property
    def status(self) -> int: ...
    def poll(self, timeout: float | None = 0.0) -> bool: ...
    def wait(self, timeout: float | None = None) -> None: ...
    def merge(
        self: _SyncFile, other: SyncFile, *others: SyncFile, name: str = "", strict: bool = False
    ) -> _SyncFile: ...
    def set_deadline(self, deadline_ns: int) -> None: ...

def merge(fences: list[_SyncFile], name: str = "", strict: bool = False) -> _SyncFile: ...
