"""The files of this checkout, as others get them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> set[str]:
    """What git knows."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(files.split("\0")) - {""}


def copy_tracked(folder: Path) -> None:
    """Put the files that git knows, as they are now, into a new folder."""
    folder.mkdir(parents=True)
    files = "\0".join(sorted(tracked())).encode()
    pack = ["tar", "-c", "--null", "-T", "-"]
    with subprocess.Popen(pack, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as packed:
        assert packed.stdin
        with subprocess.Popen(["tar", "-x"], cwd=folder, stdin=packed.stdout) as unpacked:
            packed.stdin.write(files)
            packed.stdin.close()
    assert packed.returncode == unpacked.returncode == 0
