"""What the kernel under the tests offers, for tests that assert what each kernel does."""

from __future__ import annotations

from functools import cache

from linuxsync.inspect import State, examine


@cache
def offers(name: str) -> bool:
    """Whether the probe calls it ok; test_features.py asserts that the probe is right."""
    (found,) = (one for one in examine() if one.name == name)
    return found.state is State.OK
