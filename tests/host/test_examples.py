"""examples/: what each of them imports, that people find it, and the C client as a test of linuxsync vm test."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_they_use_what_users_have(path: Path) -> None:
    """The public names of linuxsync, and nothing of the checkout: so they run where a wheel is installed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "linuxsync":
            module = importlib.import_module(node.module)
            assert {alias.name for alias in node.names} <= set(module.__all__)
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("linuxsync")]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module and node.module.split(".")[0] not in ("native", "vm", "tests", "benchmarks")


def test_people_find_them() -> None:
    """The README leads to each of them, and to nothing else in there."""
    linked = set(re.findall(r"\]\(examples/([\w.-]+)\)", (ROOT / "README.md").read_text()))
    assert linked == {path.name for path in EXAMPLES.iterdir() if path.is_file()}


def test_the_client_in_the_guest(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """`linuxsync vm test` runs it in a guest, and passes on what it prints as subtests."""
    text = (EXAMPLES / "client.c").read_text()
    command = re.findall(r"^ \*\t(cc .*)$", text, re.MULTILINE)[0].split()
    subprocess.run([*command[:2], "-o", str(tmp_path / "client"), *command[4:]], cwd=ROOT, check=True, timeout=60)
    words = [sys.executable, "-m", "linuxsync.cli", "vm", "--quiet", "--timeout", "600", "test", "--junit", "out.xml"]
    done = subprocess.run([*words, "./client"], cwd=tmp_path, capture_output=True, text=True, timeout=660, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^ +ok \d+", done.stdout, re.MULTILINE)) == 24
    assert re.search(r"^ok 1 \./client #", done.stdout, re.MULTILINE)
    assert "what was written through vgem is read through the dma-buf" in (tmp_path / "out.xml").read_text()
