from typing import TypeVar

from .fd import OwnedFd

_Owner = TypeVar("_Owner", bound=OwnedFd)

def wait_all(owners: list[_Owner], timeout: float | None = None) -> int | None: ...
def wait_any(owners: list[_Owner], timeout: float | None = None) -> _Owner | None: ...
