"""Every public name has a docstring that says what STYLE asks for: see "Habits" of CONTRIBUTING.md.

What can be told by reading is tested: a sentence first, every attribute, what may be raised, what of the kernel it is,
what threads may do. Whether it is true, the other tests say.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from public_names import MODULES, Public, every_fixture, every_public_name

from linuxsync import Timeline
from linuxsync.inspect import ListedTimeline, Point, Table

ROOT = Path(__file__).resolve().parents[2]
# An ioctl, a man page, a file that the kernel has, or the source that does it.
OF_THE_KERNEL = re.compile(
    r"\b[a-z_0-9]+\([1-9][A-Z]?\)"  # poll(2), ddi_dma_sync(9F)
    r"|\b[A-Z_]*IOC(?:TL)?_[A-Z_0-9]+\b|\bUDMABUF_CREATE\b|\b(?:VGEM_FENCE|SW_SYNC)_[A-Z_]+\b"
    r"|\bdrivers/|/proc\b|/sys\b|/dev\b|\bdebugfs\b|\btracefs\b|\btrace instance\b|\btracepoints?\b|\budev\b"
)
# An exception, wherever it is spoken of.
RAISED = re.compile(r"\bRaises\b|\b[A-Z]\w*(?:Error|Expired)\b")

# What computes with what others have asked the kernel for, or is about the object alone.
NOT_THE_KERNEL = {
    "linuxsync.FenceError.of",
    "linuxsync.OwnedFd.detach",
    "linuxsync.OwnedFd.fileno",
    "linuxsync.DmaBuf.detach",
    "linuxsync.ddi.DmaHandle.device_reads",
    "linuxsync.ddi.DmaHandle.device_writes",
    "linuxsync.ddi.strict",
    "linuxsync.inspect.Scan.miss",
    "linuxsync.inspect.Scan.of",
    "linuxsync.inspect.Stacks.origins",
    "linuxsync.inspect.Watch.update",
    "linuxsync.inspect.by_process",
    "linuxsync.inspect.deadlocks",
    "linuxsync.inspect.gauges",
    "linuxsync.inspect.growth",
    "linuxsync.inspect.moments",
    "linuxsync.inspect.names_by_process",
    "linuxsync.inspect.tally",
    "linuxsync.trace.Chains.of",
    "linuxsync.trace.Chosen.fences_of",
    "linuxsync.trace.Chosen.insist",
    "linuxsync.trace.Chosen.means",
    "linuxsync.trace.Latency.of",
    "linuxsync.trace.Recording.latency",
    "linuxsync.trace.Spread.of",
    "linuxsync.trace.changes",
    "linuxsync.trace.compare",
    "linuxsync.trace.critical_chain",
    "linuxsync.trace.latency",
    "linuxsync.trace.process_statistics",
    "linuxsync.trace.slowest",
    "linuxsync.trace.timeline_statistics",
}
# What has an answer for everything that it is given.
NEVER_REFUSED = {
    "linuxsync.DmaHeap.names",
    "linuxsync.FenceError.of",
    "linuxsync.ddi.ddi_dma_alloc_handle",
    "linuxsync.drm.Watch.close",
    "linuxsync.drm.Watch.stop",
    "linuxsync.inspect.Scan.miss",
    "linuxsync.inspect.Scan.of",
    "linuxsync.inspect.Stacks.collect",
    "linuxsync.inspect.Stacks.origins",
    "linuxsync.inspect.by_process",
    "linuxsync.inspect.deadlocks",
    "linuxsync.inspect.gauges",
    "linuxsync.inspect.growth",
    "linuxsync.inspect.moments",
    "linuxsync.inspect.names_by_process",
    "linuxsync.inspect.open_files",
    "linuxsync.inspect.tally",
    "linuxsync.trace.Chains.of",
    "linuxsync.trace.Chosen.fences_of",
    "linuxsync.trace.Chosen.means",
    "linuxsync.trace.Latency.of",
    "linuxsync.trace.Live.lost",
    "linuxsync.trace.Live.read",
    "linuxsync.trace.Spread.of",
    "linuxsync.trace.changes",
    "linuxsync.trace.compare",
    "linuxsync.trace.critical_chain",
    "linuxsync.trace.process_statistics",
    "linuxsync.trace.slowest",
    "linuxsync.trace.timeline_statistics",
}


def distinct() -> list[Public]:
    """All names; a method that classes have in common comes once, by the first name."""
    found: dict[tuple[str, str], Public] = {}
    for one in sorted(every_public_name(), key=lambda one: not one.name.startswith("linuxsync.OwnedFd")):
        found.setdefault((one.member if one.of else one.name, one.doc if one.of and not one.is_data else one.name), one)
    return list(found.values())


NAMES = distinct()
CALLS = [one for one in NAMES if one.is_call]


def name_of(one: Public) -> str:
    """What a test is called."""
    return one.name.removeprefix("linuxsync.")


def test_there_are_names() -> None:
    """The list is not empty by mistake: every module is there, and what is compiled as well."""
    names = {one.name for one in NAMES}
    assert {f"linuxsync.{module}".rstrip(".") for module in MODULES} <= names
    assert {"linuxsync.SyncFile.merge", "linuxsync.SyncFile.status", "linuxsync.inspect.PidFd.fences"} <= names
    assert len(names) > 500


@pytest.mark.parametrize("one", [one for one in NAMES if not one.is_data and not one.is_value], ids=name_of)
def test_sentence(one: Public) -> None:
    """It has a docstring, which begins with a sentence, all of it on the first line."""
    assert re.match(r"``|[A-Z0-9]|[a-z_]+:|[a-z]\w+ ", one.doc), one.doc
    assert re.search(r"\.(?:\s|$)", one.doc.split("\n")[0]), one.doc.split("\n")[0]


@pytest.mark.parametrize("one", [one for one in NAMES if one.is_value], ids=name_of)
def test_constant(one: Public) -> None:
    """It is told of where it is assigned."""
    assert one.member in constants_of(one.module.__name__)


@cache
def constants_of(module: str) -> set[str]:
    """The constants of a module that have a string after them; of a package those of its modules."""
    path = Path(import_module(module).__file__ or "")
    found = set()
    for source in path.parent.glob("*.py") if path.name == "__init__.py" else [path]:
        body = ast.parse(source.read_text()).body
        for assigned, after in pairwise(body):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if said and isinstance(assigned, ast.Assign):
                found |= {target.id for target in assigned.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("one", [one for one in NAMES if one.is_data], ids=name_of)
def test_attribute(one: Public) -> None:
    """The docstring of its class, or of a base, has it under Attributes."""
    assert one.of is not None
    docs = [inspect.cleandoc(base.__dict__.get("__doc__") or "") for base in one.of.__mro__]
    entry = rf"^Attributes:\n(?:.*\n)*? {{4}}(?:\w+, )*{one.member}(?:, \w+)*: "
    assert any(re.search(entry, doc, re.MULTILINE) for doc in docs)


@pytest.mark.parametrize("one", CALLS, ids=name_of)
def test_raises(one: Public) -> None:
    """It says what it raises, by exception, or is one of those that refuse nothing."""
    assert bool(RAISED.search(one.doc)) == (one.name not in NEVER_REFUSED), one.doc


@pytest.mark.parametrize("one", CALLS, ids=name_of)
def test_kernel(one: Public) -> None:
    """It says which ioctl, system call or file of the kernel it is about, or is one of those that talk to none."""
    assert bool(OF_THE_KERNEL.search(one.doc)) == (one.name not in NOT_THE_KERNEL), one.doc


@pytest.mark.parametrize("one", [one for one in NAMES if one.is_class and not one.is_unchanging], ids=name_of)
def test_threads(one: Public) -> None:
    """The class, or its base, says what threads may do."""
    assert any(re.search(r"\bThreads: ", base.__dict__.get("__doc__") or "") for base in one.what.__mro__)


@pytest.mark.parametrize("path", sorted((ROOT / "vm").glob("*.py")), ids=lambda path: path.stem)
def test_the_guest(path: Path) -> None:
    """linuxsync.vm exports no names, its front door being a command; what its modules have for each other says as much.

    Of the options of that command --help tells.
    """
    for name, node in documented(ast.parse(path.read_text()), path.stem):
        doc = ast.get_docstring(node) or ""
        assert re.search(r"[.:](?:\s|$)", doc.split("\n")[0]), f"{name}: {doc}"
        fields = [one.target.id for one in getattr(node, "body", ()) if is_field(one)]
        if isinstance(node, ast.ClassDef) and name != "command.Options":
            for field in fields:
                assert re.search(rf"^ {{4}}(?:\w+, )*{field}(?:, \w+)*: ", doc, re.MULTILINE), f"{name}.{field}"


def documented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, ast.Module | ast.ClassDef | Any]]:
    """A module or class, and what in it has a name that others may use."""
    yield name, node
    for one in node.body:
        if isinstance(one, ast.ClassDef) and not one.name.startswith("_"):
            yield from documented(one, f"{name}.{one.name}")
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            yield f"{name}.{one.name}", one


def is_field(node: ast.AST) -> bool:
    """Whether it is a public attribute of a dataclass."""
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_"


def named_in(one: Public) -> Iterator[type]:
    """The classes of linuxsync that its annotations name."""
    what = getattr(one.what, "fget", None) or getattr(one.what, "__func__", one.what)
    module = sys.modules.get(getattr(what, "__module__", None) or "")
    for annotation in (getattr(what, "__annotations__", None) or {}).values():
        for word in re.findall(r"[A-Za-z_]\w*", getattr(annotation, "__name__", str(annotation))):
            named = getattr(module, word, None)
            if inspect.isclass(named) and named.__module__.startswith("linuxsync") and not word.startswith("_"):
                yield named


def test_there_are_fixtures() -> None:
    """Those of the README are."""
    assert {"sw_sync_timeline", "dma_buf", "vgem", "vkms", "syncobj_device", "fence_device"} <= set(every_fixture())
    assert {"fence_leak_check", "fence_trace"} <= set(every_fixture())


@pytest.mark.parametrize(("name", "doc"), every_fixture().items(), ids=every_fixture())
def test_fixture(name: str, doc: str) -> None:
    """It says in a sentence what a test gets or what becomes of it: pytest --fixtures shows the first line."""
    first, _, rest = doc.partition("\n")
    assert re.match(r"[A-Z].*[.:]", first), first
    assert not rest or rest.startswith("\n"), "the first line is what pytest --fixtures shows"


def test_what_is_named_is_public() -> None:
    """Whoever reads the type of an attribute, an argument or a result can import it, and click it in the reference."""
    public = {one.what for one in NAMES if one.is_class}
    assert {Table, ListedTimeline, Point, Timeline} <= public
    assert {named for one in every_public_name() for named in named_in(one)} <= public


def test_exceptions_exist() -> None:
    """Nothing is excused that is not there."""
    assert {one.name for one in CALLS} >= NOT_THE_KERNEL | NEVER_REFUSED
