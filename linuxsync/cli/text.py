"""text: words for people, from names that somebody else has chosen."""

from __future__ import annotations

from errno import errorcode

from .._text import duration, plain

__all__ = ["duration", "plain", "status"]


def status(value: int) -> str:
    """A fence's status in words."""
    return {0: "active", 1: "signaled"}.get(value) or f"error {errorcode.get(-value, -value)}"
