"""Programs of examples/: as modules in this process, and as programs of their own."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    """The module that a program is."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def started(name: str, *arguments: str) -> subprocess.Popen[str]:
    """The program in a Python of its own, which warns of what is left open."""
    command = [sys.executable, "-W", "always", str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def called(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """What main() of a program does with these arguments, in this process: its exit status, stdout and stderr.

    A Python of its own would take seconds to start, in a guest without KVM.
    """
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    before = signal.getsignal(signal.SIGINT)
    try:
        status = module.main()
    finally:
        signal.signal(signal.SIGINT, before)
    return status, *capfd.readouterr()


def helps(module: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What --help prints: all of the docstring, and the options."""
    with pytest.raises(SystemExit) as end:
        called(module, monkeypatch, capfd, "--help")
    assert end.value.code == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert module.__doc__ and module.__doc__.strip() in out
    return out
