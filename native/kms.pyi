from types import TracebackType
from typing import SupportsIndex, TypeVar

from typing_extensions import disjoint_base

from .gem import GemBuffer

_Self = TypeVar("_Self", bound="Framebuffer")

@disjoint_base
class Framebuffer:
    def __init__(
        self,
        gem: GemBuffer,
        width: SupportsIndex,
        height: SupportsIndex,
        pitch: SupportsIndex,
        offset: SupportsIndex,
        format: SupportsIndex,
    ) -> None: ...
    @property
    def id(self) -> int: ...
    @property
    def gem(self) -> GemBuffer: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self: _Self) -> _Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __del__(self) -> None: ...
