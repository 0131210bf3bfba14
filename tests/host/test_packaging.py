"""What a user installs: an sdist that holds everything, and a wheel built from it in isolation."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from linuxsync.vm.fencedev import sources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist made from the tracked files, and the wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "checkout"
    source.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    tracked = folder / "tracked.tar"
    subprocess.run(["tar", "-c", "--null", "-T", "-", "-f", str(tracked)], cwd=ROOT, input=files, check=True)
    subprocess.run(["tar", "-x", "-f", str(tracked)], cwd=source, check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(source)],
        check=True,
        timeout=300,
        capture_output=True,
    )
    return folder


def test_sdist_and_wheel_hold_what_they_need(built: Path) -> None:
    """The sdist has the sources, the wheel the modules, their types and the VM, and neither what belongs to a build."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {
        "native/uapi.h",
        "native/xioctl.pxd",
        "native/sync_file.pyx",
        "vm/run",
        "vm/kernel.config",
        "LICENSE",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {"linuxsync/py.typed", "linuxsync/_native/sync_file.pyi"} <= names
    vm = {path.name for path in (ROOT / "vm").iterdir() if path.is_file()}
    assert {f"linuxsync/vm/{name}" for name in vm} <= names
    module = {name for name in names if name.startswith("linuxsync/_native/fencedev/")}
    assert module == {f"linuxsync/_native/fencedev/{path.name}" for path in [*sources(), Path("COPYING")]}
    assert [name for name in names if name.startswith("linuxsync/_native/sw_sync.") and name.endswith(".so")]


def test_wheel_works_in_a_clean_environment(built: Path, tmp_path: Path) -> None:
    """Installed with nothing else around, it imports from where it was installed and talks to the kernel."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    wheel = str(next(built.glob("*.whl")))
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, timeout=300, cwd=tmp_path)
    code = (
        "import linuxsync, os\n"
        "print(linuxsync.__file__)\n"
        "try: linuxsync.SyncFile(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError as error: print(error.errno)\n"
        "from linuxsync.vm import fencedev\n"
        "print(len(fencedev.sources()))\n"
    )
    run = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    where, number, parts = run.stdout.split()
    assert where.startswith(str(environment))
    assert (number, int(parts)) == ("25", len(sources()))
