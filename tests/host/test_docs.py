"""The code of docs/ that runs on the machine, and that none of it is run by nobody."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.code_blocks", "tests.documents")

from tests.code_blocks import blocks as programs  # noqa: E402
from tests.code_blocks import check_block  # noqa: E402
from tests.documents import PAGES, ROOT, Block, Session, blocks, files, follow, indented, matches, of_a_reader, sessions  # noqa: E402

TUTORIAL = ROOT / "docs/tutorial.md"  # tests/host/test_newcomer.py follows that
WITH_COMMANDS = [page for page in PAGES if page != TUTORIAL and sessions(page, "$")]
# Directives of the site, none of which is code of ours, but what is included from a file, whose test that is.
NOT_CODE = {"{toctree}", "{eval-rst}", "{literalinclude}"}


def name_of(page: Path) -> str:
    """What a test of a page is called."""
    return str(page.relative_to(ROOT / "docs"))


def test_there_are_pages() -> None:
    """They have been found."""
    assert len(PAGES) >= 20
    assert len(WITH_COMMANDS) >= 2
    assert sessions(TUTORIAL, "$")


def runs(one: Block, page: Path) -> bool:
    """Whether somebody runs a block, or it is what is compared then."""
    if one.language.split(" ")[0] in NOT_CODE:
        return True
    if one.file:
        # A file that no command names is one that nobody looks at.
        return any(one.file in each.command for prompt in "$#" for each in sessions(page, prompt))
    if one.language == "console":
        return one.text.startswith(("$ ", "# "))
    texts = programs(page)
    if one.language == "python":
        return any(one.text == example for example, _ in texts)
    return one.language == "" and any(one.text == shown for _, shown in texts)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run(page: Path) -> None:
    """No block is of a kind that nobody runs, and what is included is there."""
    for one in blocks(page):
        assert runs(one, page), f"{one.name}: nobody runs this {one.language or 'block without a language'}"
    for name in re.findall(r"^```\{literalinclude\} (\S+)", page.read_text(), re.MULTILINE):
        assert (page.parent / name).is_file()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_no_block_is_indented(page: Path) -> None:
    """Code stands in a fence that says what it is, or it would be run by nobody."""
    assert indented(page) == []


def test_an_indented_block_is_found(tmp_path: Path) -> None:
    """Wherever Markdown takes it for code; not in a list, where it is text, nor in a fence."""
    page = tmp_path / "page.md"
    page.write_text("Text:\n\n    ls\n\n- One:\n\n      cat\n\n- Two\n\n    of two lines\n\n```\n    ls\n```\n\n\trm\n")
    assert indented(page) == ["page.md:3", "page.md:7", "page.md:17"]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands(page: Path, tmp_path: Path) -> None:
    """The commands of a page, typed one after the other, print what stands below them."""
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    with Session(tmp_path, of_a_reader(os.environ)) as shell:
        wrong = [difference for _, _, difference in follow(shell, sessions(page, "$")) if difference]
    assert not wrong, "\n".join(wrong)


def test_comparison() -> None:
    """What is compared: text, lines, and that something is there; not widths and times."""
    shown = "COMM  STATE\n weston  active 12.5 ms\n...\nend"
    assert matches("  COMM STATE\n weston  active 7 s\nx\ny\nend\n", shown)
    assert matches("COMM STATE\nweston active 2 us\nend", shown)
    assert not matches("COMM STATE\nweston active 2 us\nx\n", shown)
    assert not matches("COMM STATE\nsway active 2 us\nend", shown)
    assert not matches("warning\nCOMM STATE\nweston active 2 us\nend", shown)
    assert matches("a: because of this; b", "a: ...; b")
    assert not matches("a: because of\nthis; b", "a: ...; b")
    assert not matches("something", "")


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("SyncFile(7)", "SyncFile(10)"),
        ("point 2 of Syncobj(DrmDevice(6), 1)", "point 2 of Syncobj(DrmDevice(11), 1)"),
        ("fd 13: sync_file 'sw_sync-frame14-1'", "fd 9: sync_file 'sw_sync-frame6-1'"),
        ("compositor 84:7, for client 9 to signal", "compositor 1084:12, for client 83 to signal"),
        ("<Recording object at 0x7f7fff9932d0>", "<Recording object at 0x7fb2c1a0>"),
        ("1 passed in 12.45s", "1 passed in 61.02s (0:01:01)"),
        ("signaled at 7.814338457 s", "signaled at 81.1 s"),
        ("booting Linux 6.12.117 under TCG", "booting Linux 6.12.48 under KVM"),
        ("Python 3.11.7, pytest-9.2.0", "Python 3.14.0rc1, pytest-8.0"),
        ("x-cp311-cp311-linux_x86_64.whl", "x-cp310-cp310-linux_x86_64.whl"),
        ("  77 by sync_file_create < main", "  80 by sync_file_create < main"),
        ("PID  COUNT  LIMIT    RATE\n 83     92   1024  17.1/s", "PID  COUNT  LIMIT  RATE\n9999  1  1024  3/s"),
        ("vkms CRTC:38-crtc-0 1", "vkms CRTC:41-crtc-0 1"),
    ],
)
def test_what_differs_from_run_to_run(printed: str, shown: str) -> None:
    """Descriptors, pids, addresses, times, rates, contexts, versions, and counts of what goes on, are no difference."""
    assert matches(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("1 1 1", "1 1 0"),
        ("[-2, -2] 1", "[-2, -2] -2"),
        ("[Errno 62] SyncFile(7)", "[Errno 110] SyncFile(7)"),
        ("SyncFile(7) had not signaled after 0.1 s", "SyncFile(7) had not signaled after 0.5 s"),
        ("of Syncobj(DrmDevice(6), 1)", "of Syncobj(DrmDevice(6), 2)"),
        ("fd 13: sync_file 'sw_sync-frame14-1'", "fd 13: sync_file 'sw_sync-frame14-2'"),
        ("sync_file frame 7", "sync_file frame 8"),
        ("1 passed, 1 skipped in 12.45s", "2 passed, 1 skipped in 12.45s"),
        ("SKIPPED [1] test_frame.py:1:", "SKIPPED [1] test_frame.py:2:"),
        ("booting Linux 6.12.117", "booting Linux 6.1.117"),
        ("not ok 2 false # exit status 1, 0.02 s", "not ok 2 false # exit status 2, 0.02 s"),
        ("2560 1228800", "2560 1228801"),
        ("0xff00", "0xff01"),
        ("b'\\x00\\x01'", "b'\\x00\\x00'"),
        ("PID  COUNT  LIMIT\n 83     92   1024", "PID  COUNT  LIMIT\n 83     92   4096"),
        ("PID  COUNT\n 83     92\n\n3 more", "PID  COUNT\n 83     92\n\n4 more"),
        ("vkms CRTC:38-crtc-0 1", "vkms CRTC:38-crtc-1 1"),
    ],
)
def test_a_wrong_number_is_noticed(printed: str, shown: str) -> None:
    """A status, errno, count, size, seqno, line or exit status that a page has wrong is a difference."""
    assert matches(shown, shown)
    assert not matches(printed, shown)


def test_a_wrong_number_below_a_program_is_noticed(tmp_path: Path) -> None:
    """So is one that a program of a page does not print."""
    program = "import errno\nprint(errno.ETIME, 'Timeline(4)')\n"
    check_block(program, "62 Timeline(3)\n", tmp_path)
    with pytest.raises(AssertionError):
        check_block(program, "110 Timeline(3)\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("$ true", 0),
        ("$ false", 1),
        ("$ (exit 3)\n$ echo $?\n3", 0),
        ("$ (exit 3)\n$ echo $?\n4", 1),
        ("$ echo $?\n0\n$ false", 1),
        ("$ printf 'no end of a line'; exit_is_not=1\nno end of a line", 0),
        ("$ echo '1 failed, 2 passed in 0.1s'; (exit 1)\n1 failed, 2 passed in 7.00s", 0),
        ("$ echo '== 1 error in 0.1s =='; (exit 2)\n== 1 error in 0.1s ==", 1),
        ("$ echo '1 failed in 0.1s'\n1 failed in 0.1s", 1),
        ("$ echo '2 passed in 0.1s'; false\n2 passed in 0.1s", 1),
    ],
)
def test_exit_status(text: str, wrong: int, tmp_path: Path) -> None:
    """A command ends with 0, or as its page shows it, by `echo $?` or by pytest's counts."""
    page = tmp_path / "page.md"
    page.write_text(f"```console\n{text}\n```\n")
    with Session(tmp_path, of_a_reader(os.environ)) as shell:
        differences = [difference for _, _, difference in follow(shell, sessions(page, "$")) if difference]
    assert len(differences) == wrong, differences


def test_kinds(tmp_path: Path) -> None:
    """A block that nobody runs is found: another language, a program without its output, a file without a command."""
    page = tmp_path / "page.md"
    for text in (
        "```sh\nls\n```\n",
        "```\nls\n```\n",
        "```python\nprint(1)\n```\n",
        "```console\nls\n```\n",
        "```{code-block} python\n:caption: a.py\n\nprint(1)\n```\n\n```console\n$ python b.py\n```\n",
    ):
        page.write_text(text)
        assert not all(runs(one, page) for one in blocks(page)), text
    page.write_text("```python\nprint(1)\n```\n\nprints\n\n```\n1\n```\n")
    assert all(runs(one, page) for one in blocks(page))


def test_readme_leads_here() -> None:
    """The README says that there is more, and where."""
    assert "(docs/tutorial.md)" in (ROOT / "README.md").read_text()
