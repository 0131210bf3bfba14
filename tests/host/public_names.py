"""Every public name of linuxsync, for the tests which say that all of them are documented."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from linuxsync import pytest_plugin

MODULES = ("", "ddi", "drm", "errors", "fencedev", "inspect", "kms", "sw_sync", "trace", "udmabuf", "vgem")
# Classes of Python's own, of which a subclass has what it has.
VALUES = (BaseException, enum.Enum, int, tuple)
# Cython writes the signature above what we wrote.
SIGNATURE = re.compile(r"[\w.]+\(.*\)(?: -> .*)?\n+")


@dataclass(frozen=True)
class Public:
    """A public name.

    Attributes:
        name: as one would import it, and for a member what follows: linuxsync.SyncFile.merge.
        what: the object; of a member what its class has, a property say.
        of: the class whose member it is.
        module: the module that has it.
    """

    name: str
    what: Any
    of: type | None
    module: ModuleType

    @cached_property
    def member(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]

    @cached_property
    def doc(self) -> str:
        """Its docstring, that of the class it comes from where an overriding one has none; none of Python's."""
        if inspect.isclass(self.what):
            found = self.what.__dict__.get("__doc__")
        elif self.of is None:
            found = self.what.__doc__
        else:
            bases = (base for base in self.of.__mro__ if base.__module__.startswith("linuxsync"))
            docs = (getattr(getattr(base, self.member, None), "__doc__", None) for base in bases)
            found = next((doc for doc in docs if doc), None)
        return inspect.cleandoc(SIGNATURE.sub("", found or "", count=1))

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return inspect.isclass(self.what)

    @property
    def is_call(self) -> bool:
        """Whether it is a function or method."""
        return not self.is_class and (callable(self.what) or isinstance(self.what, (classmethod, staticmethod)))

    @property
    def is_value(self) -> bool:
        """Whether it is a constant."""
        return self.of is None and not self.is_class and not self.is_call and not isinstance(self.what, ModuleType)

    @property
    def is_data(self) -> bool:
        """Whether it is a member with a value and no code: its class's docstring tells of it, under Attributes."""
        return self.of is not None and (
            inspect.ismemberdescriptor(self.what)
            or (inspect.isgetsetdescriptor(self.what) and not self.what.__doc__)
            or not (self.is_call or hasattr(self.what, "__get__"))
        )

    @property
    def is_unchanging(self) -> bool:
        """Whether it is a class of values that nobody changes, which threads may thus share."""
        return self.is_class and (
            issubclass(self.what, VALUES)
            or (dataclasses.is_dataclass(self.what) and self.what.__dataclass_params__.frozen)
        )


def every_fixture() -> dict[str, str]:
    """The fixtures of the pytest plugin, which are public by their names alone, each with its docstring."""
    tree = ast.parse(Path(pytest_plugin.__file__).read_text())
    return {
        node.name: ast.get_docstring(node) or ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(each).startswith("pytest.fixture") for each in node.decorator_list)
    }


def members(cls: type, module: ModuleType, prefix: str) -> Iterator[Public]:
    """What a class has for its users, from wherever among linuxsync's classes."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("linuxsync")]
    names = {name for base in ours for name in [*vars(base), *getattr(base, "__annotations__", {})]}
    fields = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    for name in sorted({name for name in [*names, *fields] if not name.startswith("_")}):
        what = next((vars(base)[name] for base in ours if name in vars(base)), None)
        if not (issubclass(cls, enum.Enum) and name in cls.__members__):
            yield Public(f"{prefix}.{name}", what, cls, module)


def every_public_name() -> list[Public]:
    """All of them; what several modules export comes once, by the first name."""
    found: list[Public] = []
    seen: set[int] = set()
    for short in MODULES:
        full = f"linuxsync.{short}".rstrip(".")
        module = import_module(full)
        found.append(Public(full, module, None, module))
        for name in module.__all__:
            what = getattr(module, name)
            if isinstance(what, ModuleType) or (callable(what) and id(what) in seen):
                continue
            seen.add(id(what))
            found.append(Public(f"{full}.{name}", what, None, module))
            if inspect.isclass(what):
                found += members(what, module, found[-1].name)
    return found
