"""A linuxsync that is built in another way than the checkout's: with other flags, or for another Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from checkout import ROOT, copy_tracked

MODULES = sorted(f"linuxsync._native.{path.stem}" for path in ROOT.glob("native/*.pyx"))

# Plugins of pytest: that no module was one of the checkout, and that all of native/ were there.
ONLY_THESE = """
import sys
from pathlib import Path

def pytest_sessionfinish():
    here = str(Path(__file__).parent)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    wrong = {name: file for name, file in files.items() if name.split(".")[0] == "linuxsync" and here not in str(file)}
    assert "linuxsync._native.fd" in files and not wrong, wrong
"""
ALL_OF_THEM = f"""
import sys

def pytest_sessionfinish():
    assert not set({MODULES}) - set(sys.modules), set({MODULES}) - set(sys.modules)
"""


def run(command: list[str], limit: float, **more: str) -> subprocess.CompletedProcess[str]:
    """Run something to its end."""
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=limit, check=False
    )


def build(folder: Path, *options: str, python: str = sys.executable, **variables: str) -> Path:
    """Install the files that git knows into a folder of their own, compiled with these variables; takes a minute."""
    copy_tracked(folder / "checkout")
    (folder / "checkout/setup.cfg").write_text("[build_ext]\nparallel = 2\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--target", str(folder / "lib")]
    done = run([*pip, str(folder / "checkout"), *options], 900, **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder / "lib/only_these.py").write_text(ONLY_THESE)
    (folder / "lib/all_of_them.py").write_text(ALL_OF_THEM)
    return folder / "lib"


def pytest_with(lib: Path, python: str = sys.executable) -> list[str]:
    """Start pytest so that these modules come before those of the checkout, which it has first in its path."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "only_these", "-o", f"pythonpath={lib} . tests/vm {lib}"]
    return [python, "-m", "pytest", *options]


def guest(command: list[str], limit: float, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run something in a guest."""
    given = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return run(["vm/run", "--quiet", "--timeout", str(limit), *options, *given, "--", *command], limit + 60)


def extension(folder: Path, name: str, code: str, python: str = sys.executable, flags: str = "") -> None:
    """Compile a module of one file into a folder."""
    ask = "import sysconfig; print(sysconfig.get_path('include'), sysconfig.get_config_var('EXT_SUFFIX'))"
    include, suffix = run([python, "-c", ask], 60).stdout.split()
    (folder / f"{name}.c").write_text(code)
    command = ["gcc", *flags.split(), f"-I{include}", "-shared", "-fPIC", f"{folder / name}.c"]
    built = run([*command, "-o", f"{folder / name}{suffix}"], 120)
    assert built.returncode == 0, built.stderr
