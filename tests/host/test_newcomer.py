"""Somebody who has never seen this installs it and follows the tutorial: its commands, one by one, and what they print.

Nothing is inherited but the kernel that was built: an empty environment and home, a folder outside of the checkout, and
the sources as they are tracked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import copy_tracked

pytest.register_assert_rewrite("tests.documents")

from tests.documents import ROOT, Session, blocks, files, follow, sessions, typed  # noqa: E402

TUTORIAL = ROOT / "docs/tutorial.md"


def nothing_inherited(home: Path) -> dict[str, str]:
    """An environment with the kernels that were built, and with what pip has been told of this machine's network."""
    told = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    return told | {
        "PATH": f"{Path(sys.base_prefix, 'bin')}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(home),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CI": "1",  # nobody is there to be asked before packages are installed
    }


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Session]:
    """A shell in a folder that has the sources, and the files of the tutorial."""
    folder, home = tmp_path / "work", tmp_path / "home"
    sources = folder / "linuxsync"
    home.mkdir()
    copy_tracked(sources)
    for name, text in files(TUTORIAL).items():
        (folder / name).write_text(text)
    with Session(folder, nothing_inherited(home)) as shell:
        yield shell


def test_tutorial(newcomer: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of the tutorial prints what the tutorial shows; the man pages are there as well."""
    total, wrong = 0.0, []
    consoles = [block for block in blocks(TUTORIAL) if block.language == "console"]
    told = {each.command: block.before for block in consoles for each in typed(block) if not each.shown}
    for command, seconds, difference in follow(newcomer, sessions(TUTORIAL, "$")):
        total += seconds
        # Whoever sees nothing for so long, and was not told, thinks that it hangs.
        if seconds > 45 and "minute" not in told.get(command, "minute"):
            wrong.append(f"{command} says nothing for {seconds:.0f} s, and the page does not tell that it takes long\n")
        wrong += [difference] if difference else []
        with capsys.disabled():
            print(f"\n{seconds:6.1f} s  $ {command}", end="")
    with capsys.disabled():
        print(f"\n{total:6.1f} s  all of it")
    assert not wrong, "\n".join(wrong)
    assert (tmp_path / "work/fences/share/man/man1/linuxsync-ps.1").exists()
