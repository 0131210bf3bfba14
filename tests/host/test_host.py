"""What a machine without sw_sync says, and what needs no fence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import linuxsync
from linuxsync import OwnedFd, SyncFile, Timeline, sw_sync
from linuxsync._mounts import mounted
from linuxsync._proc import process_of

ROOT = Path(__file__).resolve().parents[2]


def answer(code: str, *prefix: str) -> str:
    """What a fresh Python prints."""
    command = [*prefix, sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def test_public_names_are_all_there() -> None:
    """Every name of __all__ exists and says what it is for."""
    for name in linuxsync.__all__:
        assert getattr(linuxsync, name).__doc__, name


def test_what_is_imported_on_demand() -> None:
    """inspect and trace are attributes of the package, and their cost is paid by those who use them."""
    assert answer("import linuxsync, sys; print('linuxsync.trace' in sys.modules)") == "False"
    assert answer("import linuxsync; print(callable(linuxsync.trace.recording))") == "True"
    assert answer("import linuxsync; print(callable(linuxsync.inspect.scan))") == "True"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        linuxsync.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_every_public_method_is_documented() -> None:
    """A method that can be called has a docstring."""
    for kind in (OwnedFd, SyncFile, Timeline):
        for name in dir(kind):
            if not name.startswith("_"):
                assert getattr(kind, name).__doc__, f"{kind.__name__}.{name}"


FIND = "from linuxsync import sw_sync\ntry: print(sw_sync.find())\nexcept OSError as e: print(type(e).__name__, e)"


@pytest.fixture
def private_mounts() -> list[str]:
    """A command prefix that gives a command mounts of its own."""
    prefix = ["unshare", "--mount"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace to be had here: {tried.stderr.strip()}")
    return prefix


def test_debugfs_not_mounted(private_mounts: list[str]) -> None:
    """Without debugfs the error names the command that mounts it; nothing is mounted for you."""
    script = 'umount -a -t debugfs 2>/dev/null; exec "$@"'
    said = answer(FIND, *private_mounts, "sh", "-c", script, "sh")
    assert said.startswith("FileNotFoundError [Errno 2]")
    assert "mount -t debugfs" in said


def test_debugfs_anywhere_and_without_sw_sync(private_mounts: list[str], tmp_path: Path) -> None:
    """debugfs is found wherever it is mounted, blanks in the path included; a kernel without SW_SYNC is told apart."""
    elsewhere = tmp_path / "debug fs"
    elsewhere.mkdir()
    script = 'umount -a -t debugfs 2>/dev/null; mount -t debugfs none "$0" && exec "$@"'
    said = answer(FIND, *private_mounts, "sh", "-c", script, str(elsewhere))
    assert said == f"{elsewhere}/sync/sw_sync" or ("CONFIG_SW_SYNC" in said and str(elsewhere) in said)


def test_mounted_at_a_name_of_any_characters() -> None:
    """Only four are escaped in mountinfo: others that divide lines or words elsewhere are a part of the path."""
    assert mounted("debugfs", "25 22 0:7 / /a\\040b\rc\x85d rw - debugfs e rw,mode=700\n") == [
        (Path("/a b\rc\x85d"), "rw,mode=700")
    ]


def test_a_thread_named_like_a_line_of_its_status() -> None:
    """Is still this process's."""
    found = []

    def work() -> None:
        Path("/proc/thread-self/comm").write_bytes(b"a\rTgid:\t1")
        found.append(process_of(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [os.getpid()]


def test_not_root(private_mounts: list[str], tmp_path: Path) -> None:
    """An ordinary user is told that root is what is missing, not that the file is."""
    tmp_path.chmod(0o755)
    script = 'mount -t debugfs none "$0" && exec "$@"'
    # Privileges are dropped after the imports: the interpreter may lie in root's home.
    code = (
        "import os\nfrom linuxsync import sw_sync\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    ) + FIND.split("\n", 1)[1]
    said = answer(code, *private_mounts, "sh", "-c", script, str(tmp_path))
    assert said.startswith("PermissionError [Errno 13]")
    assert "root" in said


def test_available_agrees_with_find() -> None:
    """available() is True exactly where Timeline() works."""
    try:
        Timeline().close()
        works = True
    except OSError:
        works = False
    assert sw_sync.available() is works


def test_wrong_path_is_the_kernels_answer(tmp_path: Path) -> None:
    """A path that is no sw_sync file is refused, and the descriptor that was opened for it is closed again."""
    with pytest.raises(FileNotFoundError) as missing:
        Timeline(path=str(tmp_path / "none"))
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(OSError, match="not a sw_sync timeline") as wrong:
        Timeline(path="/dev/null")
    assert wrong.value.errno == errno.ENOTTY


def test_demo_without_sw_sync_says_what_to_do() -> None:
    """The demo on a machine that lacks sw_sync ends with one clear line and the command that has everything."""
    if sw_sync.available():
        pytest.skip("this machine has sw_sync")
    run = subprocess.run(
        [sys.executable, "-m", "linuxsync.demo"], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 1
    assert "vm/run demo" in run.stderr
    assert "Traceback" not in run.stderr
