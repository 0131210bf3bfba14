"""Python's search for circles of garbage, which takes its time where much is made and nothing is thrown away."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_search_for_circles"]


@contextmanager
def no_search_for_circles() -> Iterator[None]:
    """Have none until the block ends: it would look at everything that was made, again and again."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()
