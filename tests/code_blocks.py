"""Code in documents that says what it prints: found in the text, run, and what it printed compared with the text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.documents import steady

ROOT = Path(__file__).resolve().parents[1]

# A block of Python, then "prints", then what it prints; no other block in between.
SAYS_WHAT_IT_PRINTS = re.compile(
    r"```python\n(?P<example>(?:(?!```).)*)```\n(?:(?!```).)*?prints\n\n```\n(?P<shown>.*?)```", re.DOTALL
)


def output(*arguments: str, stderr: str = "") -> str:
    """What a Python of its own prints; it must end with 0 and say nothing else on stderr, no ResourceWarning either."""
    command = [sys.executable, "-W", "always", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert (run.returncode, run.stderr) == (0, stderr)
    return run.stdout


def blocks(document: Path) -> list[tuple[str, str]]:
    """The Python blocks of a Markdown document that say what they print, each with that."""
    return [(found["example"], found["shown"]) for found in SAYS_WHAT_IT_PRINTS.finditer(document.read_text())]


def first_line(text: str) -> str:
    """What a test of a block is called."""
    return text.partition("\n")[0][:40]


def check_block(example: str, shown: str, folder: Path) -> None:
    """Run a block as a program of its own and compare what it prints; ``folder`` is where the program is put."""
    (folder / "example.py").write_text(example)
    printed = output(str(folder / "example.py")).replace(str(folder), "/tmp")
    # Which descriptor and which fence context it is depends on what ran before.
    assert steady(printed) == steady(shown)
