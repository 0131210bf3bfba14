from typing import TypeVar

from typing_extensions import disjoint_base

from .fd import OwnedFd
from .sync_file import SyncFile

_SyncFile = TypeVar("_SyncFile", bound=SyncFile)

@disjoint_base
class Timeline(OwnedFd):
    @property
    def value(self) -> int | None: ...
    def inc(self, count: int = 1) -> None: ...
    def deadline_ns(self, fence: SyncFile) -> int: ...
    def _open(self, path: bytes, name: bytes | None) -> None: ...
    def _create_fence(self, value: int, kind: type[_SyncFile]) -> _SyncFile: ...
