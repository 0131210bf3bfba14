from array import array
from collections.abc import Iterable
from types import TracebackType
from typing import Literal, Protocol, SupportsIndex, TypeVar, overload

from typing_extensions import disjoint_base

from .drm import DrmDevice
from .sync_file import SyncFile

_SyncFile = TypeVar("_SyncFile", bound=SyncFile)
_Self = TypeVar("_Self", bound="Syncobj")

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

@disjoint_base
class Syncobj:
    def __init__(self, device: DrmDevice, handle: SupportsIndex) -> None: ...
    @classmethod
    def create(cls: type[_Self], device: DrmDevice, signaled: bool = False) -> _Self: ...
    @classmethod
    def from_fd(cls: type[_Self], device: DrmDevice, fd: SupportsIndex | _HasFileno) -> _Self: ...
    @property
    def device(self) -> DrmDevice: ...
    @property
    def handle(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self: _Self) -> _Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __del__(self) -> None: ...
    def to_fd(self) -> int: ...
    def signal(self, point: int | None = None) -> None: ...
    def reset(self) -> None: ...
    def query(self) -> int: ...
    def query_last_submitted(self) -> int: ...
    def wait(
        self,
        timeout: float | None = None,
        point: int | None = None,
        wait_for_submit: bool = False,
        wait_available: bool = False,
        deadline_ns: int | None = None,
    ) -> None: ...
    @overload
    @staticmethod
    def wait_many(
        objs: Iterable[Syncobj],
        points: Iterable[int] | None = None,
        timeout: float | None = None,
        all: Literal[True] = True,
        wait_for_submit: bool = False,
        wait_available: bool = False,
        deadline_ns: int | None = None,
    ) -> None: ...
    @overload
    @staticmethod
    def wait_many(
        objs: Iterable[Syncobj],
        points: Iterable[int] | None = None,
        timeout: float | None = None,
        *,
        all: Literal[False],
        wait_for_submit: bool = False,
        wait_available: bool = False,
        deadline_ns: int | None = None,
    ) -> int: ...
    @overload
    @staticmethod
    def wait_many(
        objs: Iterable[Syncobj],
        points: Iterable[int] | None = None,
        timeout: float | None = None,
        all: bool = True,
        wait_for_submit: bool = False,
        wait_available: bool = False,
        deadline_ns: int | None = None,
    ) -> int | None: ...
    @staticmethod
    def query_many(objs: Iterable[Syncobj], last_submitted: bool = False) -> array[int]: ...
    def _export_sync_file(self, point: int, kind: type[_SyncFile]) -> _SyncFile: ...
    def _import_sync_file(self, fence: SyncFile, point: int) -> None: ...
    def _transfer(self, src: Syncobj, src_point: int, dst_point: int) -> None: ...
    def _check_fence(self, point: int) -> None: ...
    def _eventfd(self, point: int | None, fd: SupportsIndex | _HasFileno, wait_available: bool) -> None: ...

def takes_points(device: DrmDevice) -> bool: ...
