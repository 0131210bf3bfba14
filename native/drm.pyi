from typing import SupportsIndex, TypeVar

from typing_extensions import disjoint_base

from .fd import OwnedFd, _HasFileno

_Self = TypeVar("_Self", bound="DrmDevice")

@disjoint_base
class OpenFile: ...

@disjoint_base
class DrmDevice(OwnedFd):
    @classmethod
    def from_fd(cls: type[_Self], fd: SupportsIndex | _HasFileno) -> _Self: ...
    def dup(self: _Self) -> _Self: ...
    def _any_fd(self) -> int: ...
    def _same_file(self, other: DrmDevice) -> bool: ...
