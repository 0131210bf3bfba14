from typing import Any

from typing_extensions import disjoint_base

from .fd import OwnedFd

@disjoint_base
class DmaHandle:
    _watch: Any
    def _publish_and_hold(self, buffer: OwnedFd, access: int, length: int) -> None: ...
    def _fetch_and_drop(self) -> None: ...
    def sync(self, type: int, offset: int = 0, length: int = 0) -> None: ...
