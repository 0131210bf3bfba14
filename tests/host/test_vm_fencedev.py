"""The fence device's module is built for the guest's kernel once, without a warning, and by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from linuxsync.vm import fencedev
from linuxsync.vm import kernel as kernels

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0


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
    start = time.monotonic()
    assert fencedev.module(alone) == first
    assert time.monotonic() - start < 1
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


def test_by_hand_and_without_a_warning(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """As the README says it, with W=1; `make clean` leaves what was there."""
    for path in fencedev.sources():
        shutil.copyfile(path, tmp_path / path.name)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    make = ["make", "-C", str(tmp_path), f"KERNEL={kernel.extmod}"]
    done = subprocess.run([*make, "W=1"], capture_output=True, text=True, timeout=LIMIT, env=env, check=False)
    assert done.returncode == 0 and (tmp_path / "fencedev.ko").exists(), done.stderr
    assert not re.search("warning|error", done.stdout + done.stderr, re.IGNORECASE)
    subprocess.run([*make, "clean"], capture_output=True, timeout=LIMIT, env=env, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in fencedev.sources()}
