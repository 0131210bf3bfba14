"""tests/fuzz: each parser of what somebody else has written, for some seconds; LINUXSYNC_FUZZ_SECONDS says how many.

LINUXSYNC_FUZZ_SEED has other inputs, or those of a run that failed; each night it is another one. What is found becomes
an ordinary test beside this one, or an input in the corpus.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT

from linuxsync._mounts import mounted
from linuxsync.inspect.buffers import FDINFO, mappings_in
from linuxsync.inspect.waiters import targets_in

FUZZ = ROOT / "tests/fuzz"
SECONDS = int(os.environ.get("LINUXSYNC_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("LINUXSYNC_FUZZ_SEED", "1"))
LIMITS = ["-rss_limit_mb=1000", "-max_len=16384"]
SLOWEST = 20  # seconds for one input, on a machine that does much else
MADE_UP = 100  # inputs beside the corpus, at least; in 3 s on an idle machine the slowest harness has 20,000
HARNESSES = sorted(FUZZ.glob("fuzz_*.py"))

with_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)


def fuzz(harness: Path, corpus: Path, found: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a harness; what it finds on its way, and what it fails with, is left in a folder."""
    found.mkdir()
    command = [sys.executable, str(harness), f"-seed={SEED}", *LIMITS, f"-artifact_prefix={found}/", *options]
    return subprocess.run(
        [*command, str(found), str(corpus)],
        env=os.environ | {"PYTHONPATH": str(FUZZ), "TMPDIR": str(found.parent)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + 10 * SLOWEST,
        check=False,
    )


def complaint(harness: Path, found: Path, done: subprocess.CompletedProcess[str]) -> str:
    """What to know of a failure, and how to have it again."""
    inputs = "".join(
        f"{file.name}: {file.read_bytes()!r}\n"
        for file in sorted(found.iterdir())
        if file.name.startswith(("crash-", "timeout-", "oom-"))
    )
    again = f"LINUXSYNC_FUZZ_SEED={SEED}; with that in FILE: python {shlex.quote(str(harness))} FILE"
    return f"{again}\n{inputs}{done.stdout[-1000:]}{done.stderr[-5000:]}"


@with_atheris
@pytest.mark.parametrize("harness", HARNESSES, ids=lambda harness: harness.stem.removeprefix("fuzz_"))
def test_nothing_undocumented(harness: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Whatever it is given, a parser raises what its docstring says, soon, and takes little memory."""
    corpus = FUZZ / "corpus" / harness.stem.removeprefix("fuzz_")
    done = fuzz(
        harness, corpus, tmp_path / "found", f"-max_total_time={SECONDS}", f"-timeout={SLOWEST}", "-print_final_stats=1"
    )
    tried = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    if done.returncode or tried is None:
        pytest.fail(complaint(harness, tmp_path / "found", done), pytrace=False)
    record_property("inputs", int(tried[1]))
    begun = re.search(r"^#(\d+)\s+INITED ", done.stderr, re.MULTILINE)
    assert begun is not None and int(begun[1]) >= len(list(corpus.iterdir()))
    assert int(tried[1]) >= int(begun[1]) + MADE_UP, "hardly more than the corpus"


BROKEN = """
from harness import run

def one(data):
    if data.startswith(b"x"):
        {what}

run(one)
"""


@with_atheris
@pytest.mark.parametrize(
    ("what", "said", "slowest"),
    [
        ("raise ValueError('what nobody has documented')", "what nobody has documented", SLOWEST),
        ("while True: pass", "timeout", 2),
        # Memory is looked at once a second, so it is kept; the time for one input must not be over before.
        ("kept = [b'x' * (1 << 20) for _ in range(1 << 11)]\n        while True: pass", "out-of-memory", 5 * SLOWEST),
    ],
    ids=["error", "timeout", "out-of-memory"],
)
def test_what_is_wrong_is_told(what: str, said: str, slowest: int, tmp_path: Path) -> None:
    """An error, an input that takes for ever and one that takes all memory: with it, and how to have it again."""
    harness, corpus = tmp_path / "broken.py", tmp_path / "corpus"
    harness.write_text(BROKEN.format(what=what))
    corpus.mkdir()
    (corpus / "one").write_bytes(b"xyz")
    done = fuzz(harness, corpus, tmp_path / "found", "-max_total_time=30", f"-timeout={slowest}")
    assert done.returncode != 0
    told = complaint(harness, tmp_path / "found", done)
    assert said in told
    assert "b'x" in told
    assert f"LINUXSYNC_FUZZ_SEED={SEED}" in told


def test_a_mount_that_is_none() -> None:
    """A line of mountinfo that is cut off is left out."""
    assert mounted("debugfs", "25 22 0:7 - debugfs debugfs rw\n - debugfs \n") == []


def test_numbers_that_are_none() -> None:
    """What has more digits than any number is not one, in fdinfo and maps, and no error."""
    digits = "9" * 5000
    assert FDINFO.match(f"ino:\t{digits}\nsize:\t1\ncount:\t1\nexp_name:\tsystem\n".encode()) is None
    assert mappings_in(f"0-1 rw-s 0 00:09 {digits}  /dmabuf:\n0-1 rw-s 0 00:09 7  /dmabuf:\n".encode()) == [
        (b"00:09", 7)
    ]
    epoll = f"tfd: {digits} events: 1 data: 0\ntfd:        8 events:       19 data: 8\n".encode()
    assert targets_in(epoll) == [(8, 0x19)]
