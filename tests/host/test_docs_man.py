"""The man pages: one for each command, as click has it now, with nothing for troff to complain about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from linuxsync.cli import main

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/man"
PAGES = sorted(FOLDER.glob("*.1"))


def names_of(command: click.Command, name: str) -> set[str]:
    """The pages that a command and those below it are to have."""
    found = {f"{name}.1"}
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for each in command.list_commands(context):
            one = command.get_command(context, each)
            assert one is not None
            found |= names_of(one, f"{name}-{each}")
    return found


def test_every_command() -> None:
    """Every command has one, and nothing else has."""
    assert {page.name for page in PAGES} == names_of(main, "linuxsync")


def test_current(tmp_path: Path) -> None:
    """They are what the generator makes of the commands now: `python docs/extensions/man.py` writes them."""
    code = "import sys, man, pathlib; man.FOLDER = pathlib.Path(sys.argv[1]); man.write()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT / "docs/extensions", check=True, timeout=60)
    assert {page.name: page.read_text() for page in PAGES} == {
        page.name: page.read_text() for page in tmp_path.iterdir()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_groff(page: Path) -> None:
    """groff has no warning, of whatever kind."""
    run = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", str(page)], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout + run.stderr == ""


def test_mandoc() -> None:
    """Neither has mandoc; but for the date, which a page of no release has not."""
    run = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *map(str, PAGES)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in run.stdout.splitlines() if "missing date" not in line]
    assert (said, run.stderr) == ([], "")


def test_rendered() -> None:
    """A page shows its options and columns as they are typed."""
    page = FOLDER / "linuxsync-ps.1"
    run = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", str(page)], capture_output=True, text=True, timeout=60, check=True
    )
    text = run.stdout
    assert "linuxsync-ps - list sync_files: their fences, and who holds them" in text
    assert "-o, --output TEXT" in text
    assert "HOLDERS" in text.partition("COLUMNS")[2]
    assert "linuxsync-trace(1)" in text.partition("SEE ALSO")[2]
