"""That what a test says it sweeps is called in what it sweeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from inspect import getattr_static, isclass
from types import ModuleType
from typing import Any

import pytest


class Watched:
    """An attribute of a class, of whatever kind, that tells when it is asked for."""

    def __init__(self, attribute: Any, tell: Callable[[], None]) -> None:
        self.attribute = attribute
        self.tell = tell

    def __get__(self, one: Any, cls: type) -> Any:
        """What the attribute says; a function without a class is called as itself."""
        self.tell()
        return self.attribute.__get__(one, cls) if hasattr(self.attribute, "__get__") else self.attribute


class Claims:
    """The names that a test claims, as imported but for "linuxsync.", and those that were called."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = set(names)
        self.called: set[str] = set()

    def call(self, name: str) -> None:
        """Note it, and its class where that is claimed, too."""
        self.called |= {name, name.rpartition(".")[0]} & self.names

    @contextmanager
    def watched(self, operation: Any) -> Iterator[None]:
        """Note what is called meanwhile; and the operation, where it is what a name stands for."""
        operation = operation.func if isinstance(operation, partial) else operation
        with pytest.MonkeyPatch.context() as patch:
            for name in self.names:
                holder, last = owner(name)
                if operation == getattr(holder, last) or bound(operation, holder, last):
                    self.call(name)
                elif isclass(holder):
                    self.watch(patch, [holder, *below(holder)], last, name)
                elif isclass(found := getattr(holder, last)):
                    self.watch(patch, [found], "__init__", name)
                else:
                    self.watch_function(patch, found, name)
            yield

    def watch(self, patch: pytest.MonkeyPatch, classes: list[type], member: str, name: str) -> None:
        """A member of classes, but of those in C, which nobody can change; they are bases of others."""
        for cls, attribute in [(cls, getattr_static(cls, member)) for cls in classes]:
            if cls.__flags__ & HEAP and not cls.__flags__ & IMMUTABLE:
                patch.setattr(cls, member, Watched(attribute, lambda: self.call(name)))

    def watch_function(self, patch: pytest.MonkeyPatch, function: Any, name: str) -> None:
        """A function, wherever it was imported."""

        def instead(*arguments: Any, **keywords: Any) -> Any:
            self.call(name)
            return function(*arguments, **keywords)

        for module in [*sys.modules.values()]:
            if isinstance(module, ModuleType) and module.__name__.startswith(("linuxsync", "tests.", "test_")):
                for local in [local for local, what in vars(module).items() if what is function]:
                    patch.setattr(module, local, instead)


# Py_TPFLAGS_HEAPTYPE and Py_TPFLAGS_IMMUTABLETYPE (Include/object.h).
HEAP, IMMUTABLE = 1 << 9, 1 << 8


def owner(name: str) -> tuple[Any, str]:
    """The module or class that has what is named, and its name there."""
    holder: Any = import_module("linuxsync")
    *path, last = name.split(".")
    for part in path:
        holder = getattr(holder, part) if hasattr(holder, part) else import_module(f"{holder.__name__}.{part}")
    return holder, last


def bound(operation: Any, holder: Any, last: str) -> bool:
    """Whether it is that method of some object."""
    one = getattr(operation, "__self__", None)
    return isclass(holder) and isinstance(one, holder) and operation == getattr(one, last)


def below(cls: type) -> Iterator[type]:
    """All subclasses."""
    for one in cls.__subclasses__():
        yield one
        yield from below(one)
