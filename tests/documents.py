"""The code of the pages of docs/: what kinds of blocks there are, and whether what was printed is what is shown.

Every fenced block is run by somebody:

- ``python``, then "prints", then a block without a language: a program and its output, see tests/code_blocks.py.
- ``console``: lines with ``$`` are typed on the machine, those with ``#`` by root in the guest; below each is what
  comes. All such blocks of a page are one session, in one folder.
- any language with ``:caption: NAME``: the file of that name in that folder, written before the session begins.

Code that is indented by four blanks is of no kind, and nobody runs it: `indented` finds it.

What a page shows is compared with what comes, word by word and number by number: counts, statuses, errnos, sizes. Not
compared is what differs from run to run, see VARYING and VARYING_COLUMNS: descriptors, pids, addresses, durations and
rates, fence contexts, versions of what others release. In a console one or more blanks stand for any, ``...`` for any
text, and on a line of its own for any lines.

A command of a console has to end with 0, unless its page shows another status to those who read it:

- ``$ echo $?`` is typed next, and the status stands below that. It is compared as all that is shown.
- The last line shown is pytest's, with tests that failed or errors: then it is 1.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "man" not in path.parts)
ASK = "echo $?"
FAILED = re.compile(r"\b\d+ (?:failed|errors?)\b.* in [\d.]+s")
VARYING = [
    (re.compile(expression, re.MULTILINE), word)
    for expression, word in (
        (r"\x1b\[[0-9;?]*[a-zA-Z]", ""),
        (r"\b0x[0-9a-f]{6,}\b", "ADDRESS"),
        (r"\b(SyncFile|Timeline|DmaBuf|DmaHeap|DrmDevice|VgemDevice|FenceDevice)\(\d+", r"\1(FD"),
        (r"\bfd \d+", "fd FD"),
        # What the processes of the pages are called, as PID:FD has no other mark.
        (r"\b(client|compositor) \d+:\d+", r"\1 PID:FD"),
        (r"\b(client|compositor) \d+", r"\1 PID"),
        # A fence is named by its driver, timeline, context and seqno; contexts count all fences since the start.
        (r"\bsw_sync-(\S*?)\d+-(?=\d)", r"sw_sync-\1CONTEXT-"),
        (r"\bCRTC:\d+", "CRTC:ID"),
        (r"^(\s*)\d+ by (?=\w+ <)", r"\1COUNT by "),
        (r"\bLinux (\d+\.\d+)\.\d+", r"Linux \1.PATCH"),
        (r"\b(Python )3\.\d+\.\d+\S*|\b((?:pytest|pluggy|xdist)-)\d[\w.]*", r"\1\2VERSION"),
        (r"\bcp3\d+\b", "cp3VERSION"),
        (r"\bunder (?:TCG|KVM)\b", "under TCG"),
        (r"(\d+)s \(\d+:\d\d:\d\d\)", r"\1s"),  # of what takes more than a minute pytest says both
        # How long something took; not how long it was to wait.
        (r"(?<!not signaled after )(?<![\w.])\d+(?:\.\d+)? ?(?:ns|us|ms|s|min|h)\b", "TIME"),
        (r"(?<![\w.])\d+(?:\.\d+)?/s\b", "RATE"),
    )
]
# Of a table: pids and inode numbers, and what `linuxsync leaks` counts for as long as it looks.
VARYING_COLUMNS = {"PID", "INO", "COUNT", "GROWTH", "RATE", "FDS"}
FENCE = re.compile(r"^(?P<mark>`{3,}|:{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=mark)[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file that it is in.
        line: the number of its first line.
        language: "python"; "" for none, and "{toctree}" for a directive of the site's.
        text: what is in it, without options.
        options: of a code-block: "caption".
        before: the text between it and the block before.
    """

    page: Path
    line: int
    language: str
    text: str
    before: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a test of it is called."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """Of a file, its name."""
        return self.options.get("caption")

    @property
    def is_output(self) -> bool:
        """Whether it is what the program before it prints."""
        return self.language == "" and re.search(r"\bprints\s*\Z", self.before) is not None


def blocks(page: Path) -> list[Block]:
    """Those of a file, in order."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        language, _, argument = match["info"].strip().partition(" ")
        body, options = match["body"], {}
        if language == "{code-block}":
            language = argument
            while option := re.match(r":(\w+): *(.*)\n+", body):
                options[option[1]] = option[2]
                body = body[option.end() :]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, body, text[end : match.start()], options))
        end = match.end()
    return found


def indented(page: Path) -> list[str]:
    """The blocks of code without a fence, each by where it begins."""
    found = (token for token in MarkdownIt().parse(page.read_text()) if token.type == "code_block")
    return [f"{page.name}:{token.map[0] + 1}" for token in found if token.map]


@dataclass(frozen=True)
class Typed:
    """A command of a session.

    Attributes:
        command: what is typed; what is continued on a second line is one command.
        shown: what comes.
        asked: whether the next command is to show its status.
    """

    command: str
    shown: str
    asked: bool = False

    def ends_with(self, status: int) -> bool:
        """Whether the page says that it ends with this; where the status is asked for, what is shown there says it."""
        return self.asked or status == (1 if FAILED.search(self.shown.strip().rpartition("\n")[2]) else 0)


def typed(block: Block) -> Iterator[Typed]:
    """The commands of a block ``console``, at the prompt that it begins with."""
    command, shown = "", []
    for line in block.text.splitlines():
        if line.startswith(block.text[:2]):
            if command:
                yield Typed(command, "\n".join(shown))
            command, shown = line[2:], []
        elif command.endswith("\\") and line.startswith("> "):
            command += "\n" + line[2:]
        else:
            shown.append(line)
    if command:
        yield Typed(command, "\n".join(shown))


def sessions(page: Path, prompt: str) -> list[Typed]:
    """The commands of a page that are typed at one prompt."""
    consoles = [one for one in blocks(page) if one.language == "console" and one.text.startswith(f"{prompt} ")]
    commands = [each for one in consoles for each in typed(one)]
    return [
        replace(each, asked=any(following.command == ASK for following in commands[at + 1 : at + 2]))
        for at, each in enumerate(commands)
    ]


def files(page: Path) -> dict[str, str]:
    """The files of a page, by name."""
    return {one.file: one.text for one in blocks(page) if one.file}


def steady(text: str) -> str:
    """The text with words in place of what differs from run to run."""
    for expression, word in VARYING:
        text = expression.sub(word, text)
    lines, varying = [], set[int]()
    for line in text.split("\n"):
        cells = re.split(r"(\s{2,})", line.strip())
        if len(cells) > 1 and all(re.fullmatch(r"[A-Z]+", cell) for cell in cells[::2]):
            varying = {at for at, cell in enumerate(cells) if cell in VARYING_COLUMNS}
        elif len(cells) == 1:
            varying = set()
        if varying:
            line = "".join(re.sub(r"\d+", "N", cell) if at in varying else cell for at, cell in enumerate(cells))
        lines.append(line)
    return "\n".join(lines)


def normal(text: str) -> str:
    """What is the same in every run, and of whatever width columns and rules are."""
    text = re.sub(r"[=_─-]{4,}", "----", steady(text))
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.strip().splitlines())


def pattern(shown: str) -> re.Pattern[str]:
    """What has to be printed, as an expression for normal() with a line's end at its end."""
    lines = normal(shown).splitlines() or [""]
    parts = ["(?:.*\n)*?" if one == "..." else re.escape(one).replace(r"\.\.\.", ".*") + "\n" for one in lines]
    return re.compile("".join(parts))


def matches(printed: str, shown: str) -> bool:
    """Whether what was printed is what is shown."""
    return pattern(shown).fullmatch(f"{normal(printed)}\n") is not None


def of_a_reader(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what the tests' own pytest has put there, and without CI, where pytest prints more."""
    kept = {name: value for name, value in env.items() if not name.startswith("PYTEST_")}
    for name in ("CI", "BUILD_NUMBER"):
        kept.pop(name, None)
    return kept | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "TERM": "dumb"}


LOOP = """
status=0
while IFS= read -r -d '' -u 3 command; do
    (exit $status)  # what $? is for the command
    eval "$command" 3<&- </dev/null
    status=$?
    echo "end of command $status"
done
"""


class Session:
    """A shell to which the commands of a page are typed, one after the other."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        reading, self._writing = os.pipe()
        try:
            # Not by stdin, which a guest would read from.
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-c", f"exec 3<&{reading} {reading}<&-; {LOOP}"],
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[reading],
                start_new_session=True,
            )
        finally:
            os.close(reading)

    def type(self, command: str, deadline: float = 600.0) -> tuple[str, int]:
        """What a command prints, in at most so many seconds, and its status."""
        os.write(self._writing, command.encode() + b"\0")
        assert self._shell.stdout is not None
        timer = Timer(deadline, self._kill)
        timer.start()
        lines: list[str] = []
        try:
            for line in self._shell.stdout:
                # What a command printed last need not end with a line's end.
                rest, end, status = line.rpartition("end of command ")
                if end:
                    return "".join([*lines, rest]), int(status)
                lines.append(line)
        finally:
            timer.cancel()
        raise AssertionError(f"{command!r} did not end in {deadline} s, or the shell did:\n{''.join(lines)}")

    def _kill(self) -> None:
        os.killpg(self._shell.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and what it has started in the background."""
        os.close(self._writing)
        self._kill()
        self._shell.communicate()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def follow(session: Session, commands: Iterable[Typed]) -> Iterator[tuple[str, float, str]]:
    """Type each command; yield it, how long it took, and what is wrong with what came of it, or nothing."""
    for each in commands:
        begun = time.monotonic()
        printed, status = session.type(each.command)
        wrong = ""
        if not matches(printed, each.shown):
            wrong = f"$ {each.command}\nprinted\n{printed}\nshown is\n{each.shown}\n"
        if not each.ends_with(status):
            wrong += f"$ {each.command}\nprinted\n{printed}\nended with {status}, which its page does not show\n"
        yield each.command, time.monotonic() - begun, wrong
