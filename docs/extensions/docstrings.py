"""Our docstrings for Sphinx: sections as Google has them, signatures from the stubs of what is compiled, and links."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.nodes import make_refnode

NATIVE = Path(__file__).parents[2] / "native"
MODULES = ("", "ddi", "drm", "errors", "fencedev", "inspect", "kms", "sw_sync", "trace", "udmabuf", "vgem")
# What has a meaning to type checkers only, and what is not told of elsewhere: an object with fileno().
TYPES = {"Buffer", "CpuAccess", "HasFileno", "_HasFileno", "Self"}
# Made by a function and by nobody else: their constructor is no business of the reader's.
MADE = re.compile(r"\b[Mm]ade by ``|`` makes it\b|\bmakes it\.")


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what is here."""
    correct_annotations()
    tell_constructors()
    app.connect("autodoc-process-signature", signature_of)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("missing-reference", find_name)
    return {"parallel_read_safe": True}


@cache
def stubs() -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """What the stubs say of what is compiled, by Class, Class.method or function."""
    found: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    for path in sorted(NATIVE.glob("*.pyi")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = node
            elif isinstance(node, ast.ClassDef):
                found[node.name] = node
                found |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def correct_annotations() -> None:
    """Have compiled dataclasses say int, where Cython says cython.int."""
    for module in ("sync_file", "processes"):
        native = import_module(f"linuxsync._native.{module}")
        for name, stub in stubs().items():
            cls = getattr(native, name, None)
            if isinstance(stub, ast.ClassDef) and "__annotations__" in vars(cls or object):
                fields = [one for one in stub.body if isinstance(one, ast.AnnAssign)]
                cls.__annotations__.update({ast.unparse(one.target): ast.unparse(one.annotation) for one in fields})


def signature_of(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """The signature that a stub has, where Cython's own has C types in it; none for what one does not call."""
    if isinstance(obj, type) and MADE.search(obj.__doc__ or ""):
        # One that is compiled shows none, and Sphinx can't take "none" for an answer there.
        return ("", None) if isinstance(obj.__init__, FunctionType) else None
    qualified = getattr(getattr(obj, "__func__", obj), "__qualname__", "")
    names = (".".join(name.split(".")[-2:]), qualified, name.rpartition(".")[2])
    stub = next((stubs()[one] for one in names if one in stubs()), None)
    if isinstance(stub, ast.ClassDef):
        fields = [one for one in stub.body if isinstance(one, ast.AnnAssign)]
        return (f"({', '.join(ast.unparse(one) for one in fields)})", None) if stub.decorator_list and fields else None
    compiled = type(getattr(obj, "__func__", obj)).__name__
    if stub is None or compiled not in ("cython_function_or_method", "builtin_function_or_method"):
        return None
    arguments = ast.parse(ast.unparse(stub)).body[0].args  # a copy  # type: ignore[attr-defined]
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    result = ast.unparse(stub.returns) if stub.returns else None
    return re.sub(r"\b_(\w+)", r"\1", f"({ast.unparse(arguments)})"), result and re.sub(r"\b_(\w+)", r"\1", result)


def tell_constructors() -> None:
    """Give classes that are made by compiled code the signature that their stubs have."""
    for full in public().values():
        cls = named(full)
        if not isinstance(cls, type) or isinstance(cls.__init__, FunctionType) or MADE.search(cls.__doc__ or ""):
            continue
        made = next((stubs()[one] for base in cls.__mro__ if (one := f"{base.__name__}.__init__") in stubs()), None)
        if isinstance(made, ast.FunctionDef):
            scope: dict[str, Any] = {}
            text = f"from __future__ import annotations\ndef made({ast.unparse(made.args)}): ..."
            exec(text, scope)
            whole = inspect.signature(scope["made"])
            with suppress(TypeError):  # one that is compiled itself has it in its docstring
                cls.__signature__ = whole.replace(parameters=[*whole.parameters.values()][1:])  # type: ignore[attr-defined]


def named(full: str) -> Any:
    """What has this full name."""
    what: Any = import_module("linuxsync")
    for part in full.split(".")[1:]:
        what = getattr(what, part, None)
    return what


@cache
def public() -> dict[str, str]:
    """Full names of what our docstrings name, by what they call it: SyncFile.merge, ddi.strict, ddi_dma_sync."""
    found: dict[str, str] = {}
    for short in MODULES:
        module = import_module(f"linuxsync.{short}".rstrip("."))
        for name in module.__all__:
            what = getattr(module, name)
            if getattr(what, "__all__", None):
                continue
            full = found.setdefault(name, f"{module.__name__}.{name}")
            found.setdefault(f"{short}.{name}".lstrip("."), full)
            for member in dir(what) if isinstance(what, type) else ():
                if not member.startswith("_") and not hasattr(Exception, member):
                    found.setdefault(f"{name}.{member}", f"{full}.{member}")
    return found


def read_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make sections of Args and Raises, and links of ``SyncFile.merge`` and the like."""
    if isinstance(obj, type):
        # What autodoc finds for itself gets its line there.
        told, wanted = attributes_of(lines)
        for each in [one for one in told if one not in found_in(obj)]:
            wanted += [f".. attribute:: {each}", "", *(f"   {line}" for line in told[each]), ""]
    else:
        cls, _, member = name.rpartition(".")
        wanted = list(lines) if any(lines) else described(cls, member)
    # Of a property napoleon would take what stands before a colon for its type.
    kind = "method" if what in ("property", "attribute", "data") else what
    config = Config(napoleon_use_rtype=False, napoleon_use_ivar=True)
    found = GoogleDocstring(wanted, config, app, kind, name, obj, options).lines()
    for at, line in enumerate(found):
        linked = re.sub(r"``([A-Za-z_]\w*(?:\.\w+)+|[A-Z]\w+|[a-z]+_[a-z_]+)(\(\))?``", link, line)
        found[at] = re.sub(r"(^|(?<=\. ))(Threads|Mirrors)(?=:? )", r"**\2**", linked)
    lines[:] = found


def attributes_of(lines: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """What the section Attributes of a docstring says of each, and the docstring without it."""
    found: dict[str, list[str]] = {}
    without: list[str] = []
    current: list[str] | None = None
    for line in lines:
        if line == "Attributes:":
            current = []
        elif current is None or (line and not line.startswith("    ")):
            current = None
            without.append(line)
        elif entry := re.match(r"    ((?:\w+, )*\w+): (.*)", line):
            current = [entry[2]]
            found |= dict.fromkeys(entry[1].split(", "), current)
        else:
            current.append(line.strip())
    return found, without


def found_in(cls: type) -> set[str]:
    """The names that autodoc finds in a class of ours: with a value, or with a type."""
    ours = [vars(base) for base in cls.__mro__ if base.__module__.startswith("linuxsync")]
    return {name for one in ours for name in [*one, *one.get("__annotations__", {})]}


def described(full: str, member: str) -> list[str]:
    """What the docstring of a class, or of a base of it, says of an attribute."""
    module, _, name = full.rpartition(".")
    cls = getattr(sys.modules.get(module), name, object)
    for base in getattr(cls, "__mro__", ()):
        found, _ = attributes_of(prepare_docstring(vars(base).get("__doc__") or ""))
        if member in found:
            return found[member]
    return []


def link(found: re.Match[str]) -> str:
    """A reference, if it is a public name and not one of the kernel's."""
    full = public().get(found[1].removeprefix("linuxsync."))
    return found[0] if full is None else f":py:obj:`{found[1]}{found[2] or ''} <{full}>`"


def find_name(app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.TextElement) -> nodes.Node | None:
    """Where a name without its module leads; Python's own are known, and lead nowhere."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    words = [word for word in re.split(r"[\s,|\[\]()]+|\bor\b", target) if word]
    if words and all(is_pythons(word) for word in words):
        return contnode
    objects = env.domains.python_domain.objects
    full = public().get(target.removeprefix("linuxsync.")) or public().get(target.rpartition(".")[2])
    entry = objects.get(full or f"linuxsync.{target}")
    if entry is not None:
        return make_refnode(app.builder, node.get("refdoc"), entry.docname, entry.node_id, contnode, target)
    # "TypeError, FenceError": exceptions that are spoken of together.
    return contnode if words and all(is_pythons(word) or word in public() for word in words) else None


def is_pythons(name: str) -> bool:
    """Whether it is a name of Python, its library or its type checkers, or a type variable."""
    module, _, last = name.rpartition(".")
    if last in TYPES or hasattr(builtins, name) or name.partition(".")[0] in sys.stdlib_module_names:
        return True
    if module.startswith("linuxsync"):
        return isinstance(getattr(import_module(module), last, None), TypeVar)
    return any(hasattr(import_module(module), name) for module in ("typing", "collections.abc", "types", "enum"))
