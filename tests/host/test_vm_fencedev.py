"""The fence device's module is built for the guest's kernel once, and by hand; the kernel has nothing to say of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from linuxsync.vm import fencedev
from linuxsync.vm import kernel as kernels

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600.0


@pytest.fixture
def alone(kernel: kernels.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kernels.Kernel:
    """The kernel, in a folder where no module has been built yet; log files go there too."""
    assert kernel.modules and kernel.extmod
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "linuxsync").mkdir()
    return replace(kernel, modules=tmp_path / "kernel" / "lib" / "modules" / kernel.version)


def test_built_once_and_again_when_a_source_changes(
    alone: kernels.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies beside the kernel, under a name that says what it was made from, and nothing else does."""
    (tmp_path / "kernel").mkdir()
    first = fencedev.module(alone)
    assert first is not None and first.parent == tmp_path / "kernel" / "fencedev"
    built = first.stat()
    assert fencedev.module(alone) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (built.st_ino, built.st_mtime_ns)
    changed = tmp_path / "changed"
    shutil.copytree(ROOT / "native" / "fencedev", changed)
    with (changed / "main.c").open("a") as file:
        file.write("/* changed */\n")
    monkeypatch.setattr(fencedev, "PLACES", [changed])
    second = fencedev.module(alone)
    assert second is not None and {*first.parent.iterdir()} == {first, second}
    assert capsys.readouterr().err == ""


def test_what_cannot_be_built_is_said_and_no_error(
    alone: kernels.Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A guest without the device is still a guest; where there is nothing to build against nobody expects one."""
    (tmp_path / "kernel").mkdir()
    assert fencedev.module(replace(alone, extmod=None)) is None
    assert capsys.readouterr().err == ""
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "native" / "fencedev", broken)
    with (broken / "main.c").open("a") as file:
        file.write("#error out of order\n")
    monkeypatch.setattr(fencedev, "PLACES", [broken])
    assert fencedev.module(alone) is None
    said = capsys.readouterr().err
    assert said.startswith(f"vm: no fence device for Linux {alone.version}: make failed") and "out of order" in said
    assert [*(tmp_path / "kernel" / "fencedev").iterdir()] == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the module is made from, in a folder of its own."""
    for path in fencedev.sources():
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def make(kernel: kernels.Kernel, folder: Path, *words: str) -> str:
    """As the README says it: make in the module's folder, which has to succeed. What it and the compiler said."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-C", str(folder), f"KERNEL={kernel.extmod}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=env, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


WARNING = re.compile("warning|error", re.IGNORECASE)


def test_by_hand_and_without_a_warning(each_kernel: kernels.Kernel, copy: Path) -> None:
    """With all warnings that W=1 adds; `make clean` leaves what was there."""
    said = make(each_kernel, copy, "W=1")
    assert (copy / "fencedev.ko").exists() and not WARNING.search(said), said
    make(each_kernel, copy, "clean")
    assert {path.name for path in copy.iterdir()} == {path.name for path in fencedev.sources()}


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("static void unused(void) {}", "[-Wunused-function]"),
        ("void undeclared(void) {}", "[-Wmissing-prototypes]"),
    ],
)
def test_warning_is_seen(each_kernel: kernels.Kernel, copy: Path, wrong: str, found: str) -> None:
    """Those of every build, and those that only W=1 has, on 6.1."""
    with (copy / "main.c").open("a") as file:
        file.write(f"{wrong}\n")
    said = make(each_kernel, copy, "W=1")
    assert WARNING.search(said) and found in said


def checkpatch(kernel: kernels.Kernel, file: Path) -> str:
    """What the kernel's own script says of a file; it has no tree to look into, only what modules are built against."""
    command = ["perl", f"{kernel.extmod}/scripts/checkpatch.pl", "--no-tree", "--strict", "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    # It complains on stderr when a file that it reads is missing.
    assert done.stderr == ""
    return done.stdout


CODE = [path.name for path in fencedev.sources() if path.suffix in (".c", ".h")]


@pytest.mark.parametrize("name", CODE)
def test_checkpatch(each_kernel: kernels.Kernel, name: str) -> None:
    """It has nothing to say, however strict."""
    said = checkpatch(each_kernel, ROOT / "native" / "fencedev" / name)
    assert said.startswith("total: 0 errors, 0 warnings, 0 checks, "), said


def test_checkpatch_sees_what_is_wrong(each_kernel: kernels.Kernel, copy: Path) -> None:
    """An error, a warning, a word that only spelling.txt has, and a check that only --strict has."""
    with (copy / "main.c").open("a") as file:
        file.write("static int a=1; \nextern int b;\n/* accross */\nstatic u32 c = 1<<2;\n")
    said = checkpatch(each_kernel, copy / "main.c")
    for words in ("ERROR: trailing whitespace", "WARNING: externs should be", "'accross' may be misspelled", "CHECK: "):
        assert words in said
