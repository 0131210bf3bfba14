"""The code of docs/: each program prints what its page shows, and so does each command of root's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.code_blocks", "tests.documents")

from tests.code_blocks import blocks, check_block  # noqa: E402
from tests.documents import PAGES, ROOT, Session, files, follow, of_a_reader, sessions  # noqa: E402

PROGRAMS = [(page, number, *each) for page in PAGES for number, each in enumerate(blocks(page), 1)]
WITH_COMMANDS = [page for page in PAGES if sessions(page, "#")]


def name_of(value: object) -> str:
    """What a test of a page is called."""
    return str(value.relative_to(ROOT / "docs")) if isinstance(value, Path) else ""


def test_there_are_some() -> None:
    """The pages have been found."""
    assert len(PROGRAMS) >= 6
    assert len(WITH_COMMANDS) >= 2


@pytest.mark.parametrize(("page", "number", "example", "shown"), PROGRAMS, ids=name_of)
def test_program(page: Path, number: int, example: str, shown: str, tmp_path: Path) -> None:
    """A program prints what stands below it."""
    check_block(example, shown, tmp_path)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands(page: Path, tmp_path: Path) -> None:
    """The commands of a page, typed by root one after the other, print what stands below them."""
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    with Session(tmp_path, of_a_reader(os.environ)) as root:
        wrong = [difference for _, _, difference in follow(root, sessions(page, "#")) if difference]
    assert not wrong, "\n".join(wrong)
