from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Row = TypeVar("_Row")

def json_rows(
    columns: list[tuple[str, str | Callable[[_Row], Any]]], rows: Iterable[_Row], write: Callable[[str], object]
) -> None: ...
