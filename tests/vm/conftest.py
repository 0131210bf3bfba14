"""Fixtures of the tests that need a real sw_sync."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import TypeVar

import pytest

from linuxsync import OwnedFd, Timeline, sw_sync

pytest.register_assert_rewrite("kernel_words")

Owned = TypeVar("Owned", bound=OwnedFd)


@cache
def what_is_missing() -> str:
    """Why there is no sw_sync here; nothing if there is."""
    try:
        sw_sync.find()
    except OSError as error:
        return str(error)
    return ""


def pytest_runtest_setup() -> None:
    """Skip everything in this folder where there is no sw_sync."""
    if what_is_missing():
        pytest.skip(f"needs sw_sync, run it with vm/run test: {what_is_missing()}")


@pytest.fixture
def keep() -> Iterator[Callable[[Owned], Owned]]:
    """A function that takes an object, gives it back and closes it when the test is over."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def timeline(keep: Callable[[Timeline], Timeline]) -> Timeline:
    """A new timeline, at 0."""
    return keep(Timeline())


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open a few thousand descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
