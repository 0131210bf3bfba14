"""The arrows of the design: uapi.h <- native <- objects <- what is built on them; vm stands alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A module may import from its own rank or below; of the objects only those listed, which stand on one another.
RANKS = {
    "errors": 0,
    "_text": 0,
    "_collector": 0,
    "_native": 1,
    "_fd": 2,
    "_wait": 3,
    "_uapi": 2,
    "_mounts": 2,
    "_proc": 2,
    "_ring_buffer": 2,
    "_tracefs": 3,
}
OBJECTS = {
    "sync_file": set(),
    "sw_sync": {"sync_file"},
    "dma_buf": {"sync_file"},
    "dma_heap": {"dma_buf"},
    "udmabuf": {"dma_buf"},
    "_gem": {"dma_buf"},
    "_udev": set(),
    "drm": {"_gem", "_udev", "dma_buf", "sync_file"},
    "vgem": {"drm"},
    "syncobj": {"drm", "sync_file"},
    "_modes": {"drm"},
    "kms": {"_modes", "drm", "sync_file"},
    "_coherence": {"sync_file"},
    "ddi": {"_coherence", "dma_buf", "sync_file"},
    "fencedev": {"_coherence", "ddi", "dma_buf", "sync_file"},
}
OBJECT_RANK, TOP_RANK = 4, 5
NATIVE = {
    "xioctl": set(),
    "uapi": set(),
    "fd": {"xioctl"},
    "raw": {"xioctl"},
    "cpu_access": {"fd", "wait", "xioctl", "uapi"},
    "dma_buf": {"cpu_access", "fd", "sync_file", "wait", "xioctl", "uapi"},
    "ddi": {"cpu_access", "fd", "wait", "xioctl", "uapi"},
    "drm": {"fd", "xioctl"},
    "gem": {"drm", "fd", "xioctl", "uapi"},
    "kms": {"drm", "fd", "gem", "xioctl", "uapi"},
    "vgem": {"drm", "fd", "xioctl", "uapi"},
    "syncobj": {"drm", "fd", "sync_file", "wait", "xioctl", "uapi"},
    "wait": {"fd", "xioctl"},
    "processes": {"fd", "sync_file", "xioctl"},
    "pidfd": {"fd", "processes", "sync_file", "uapi", "wait", "xioctl"},
    "table": {"processes"},
    "ring_buffer": set(),
    "tracefs": {"fd"},
    "sync_file": {"fd", "wait", "xioctl", "uapi"},
    "sw_sync": {"fd", "sync_file", "xioctl", "uapi"},
}


def rank(module: str) -> int:
    return OBJECT_RANK if module in OBJECTS else RANKS.get(module, TOP_RANK)


def imports(path: Path) -> set[str]:
    """The modules of linuxsync that a file imports, as names below linuxsync, type-checking ones left out."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:  # an `if TYPE_CHECKING` block is not at this level
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (node.module or "").split(".")[0]
            found |= {base} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "linuxsync":
            found |= {(node.module or "").split(".")[1]} if "." in (node.module or "") else {"__init__"}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("linuxsync.")}
    return found


MODULES = sorted(path for path in (ROOT / "linuxsync").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_python_imports_point_down(path: Path) -> None:
    """Nothing is imported from a higher layer, and objects only from the objects that they are made of."""
    for imported in imports(path):
        if path.stem in OBJECTS and imported in OBJECTS:
            assert imported in OBJECTS[path.stem], f"{path.stem} must not know {imported}"
        else:
            assert rank(imported) < rank(path.stem) or rank(path.stem) == TOP_RANK, f"{path.stem} imports {imported}"


PACKAGED = sorted((ROOT / "linuxsync").glob("*/*.py"))
# What a package of linuxsync may import of its siblings.
ON_TOP = {
    "inspect": set(),
    "trace": set(),
    "cli": {"inspect", "trace", "vm"},
    "pytest_plugin": {"inspect", "trace"},
}


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_packages_stand_on_objects(path: Path) -> None:
    """What is built on the objects imports those, and of what is built like it only what lies below."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            base = (node.module or "").split(".")[0]
            for imported in {base} if base else {alias.name for alias in node.names}:
                assert rank(imported) < TOP_RANK or imported in ON_TOP[path.parent.name], f"{path} imports {imported}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not any(name.split(".")[0] == "linuxsync" for name in names), path


@pytest.mark.parametrize("path", sorted((ROOT / "native").glob("*.p[yx][xd]")), ids=lambda path: path.name)
def test_native_imports_point_down(path: Path) -> None:
    """C-level imports follow the same order, and Python-level ones reach errors only."""
    text = path.read_text()
    cimported = set(re.findall(r"^from (?:linuxsync\._native\.)?(\w+) cimport", text, re.MULTILINE))
    ours = cimported & set(NATIVE) - {path.stem}
    assert ours <= NATIVE[path.stem]
    assert set(re.findall(r"^\s*(?:from|import) linuxsync\.(\w+)", text, re.MULTILINE)) <= {"errors", "_native"}


def test_each_native_module_has_one_importer() -> None:
    """linuxsync/X.py alone imports native/X; everybody else goes through it."""
    for path in MODULES + PACKAGED:
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("_native"):
                parts = (node.module or "").split(".")
                twins = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
                assert twins == {"raw" if path.stem == "_uapi" else path.stem.lstrip("_")}


def test_vm_stands_alone() -> None:
    """vm imports nothing of linuxsync but itself: relative imports of one level only."""
    for path in (ROOT / "vm").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path.name
                assert (node.module or "").split(".")[0] != "linuxsync", path.name
            elif isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "linuxsync" for alias in node.names), path.name


def test_system_calls_have_one_place_each() -> None:
    """ioctl(2) is issued in xioctl.pxd, poll(2) in wait.pyx, close(2) and dup in fd.pyx, and select nowhere."""
    homes = {r"\bint ioctl\(": "xioctl.pxd", r"\bint p?poll\(|c_poll \"": "wait.pyx", r"\"close\"": "fd.pyx"}
    for pattern, home in homes.items():
        assert {p.name for p in (ROOT / "native").glob("*.p[yx][xd]") if re.search(pattern, p.read_text())} == {home}
    for path in MODULES + PACKAGED:
        assert not re.search(r"\bos\.(close|dup)\b|\bimport select\b|fcntl\.ioctl", path.read_text()), path.name
