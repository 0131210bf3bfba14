"""linuxsync completion: bash, zsh and fish complete what is typed, on a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from linuxsync.vm.bootstrap import KERNEL, OLDEST, known_kernels

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(linuxsync completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D; eval "$(linuxsync completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "linuxsync completion fish | source"),
}
# What is typed, up to the TAB, and what the line is then.
TYPED = [
    ("linuxsync timel", "linuxsync timelines"),
    ("linuxsync trace rec", "linuxsync trace record"),
    ("linuxsync ps --confi", "linuxsync ps --confirm"),
    ("linuxsync ps -o hol", "linuxsync ps -o holders"),
    ("linuxsync ps -o STATUS,HOL", "linuxsync ps -o STATUS,HOLDERS"),
    ("linuxsync vm ker", "linuxsync vm kernel"),
    ("linuxsync completion fi", "linuxsync completion fish"),
    ("linuxsync doctor --require timel", "linuxsync doctor --require timeline_syncobj"),
    ("linuxsync vm test ./a_te", "linuxsync vm test ./a_test"),
    ("linuxsync vm -q test --limit 3 ./a_test a_te", "linuxsync vm -q test --limit 3 ./a_test a_test"),
    ("linuxsync vm --kernel ./a_te", "linuxsync vm --kernel ./a_test"),
    ("linuxsync vm matrix --kernel a_te", "linuxsync vm matrix --kernel a_test"),
]
DEADLINE = 120.0


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._parent, child = pty.openpty()
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "PS1": "",
        }
        self._process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            env=env,
            cwd=home,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # fish insists on a terminal of its own
        )
        os.close(child)

    def type(self, text: str) -> None:
        """Type it."""
        os.write(self._parent, text.encode())

    def wait_for(self, pattern: str) -> str:
        """What stands there once the pattern does."""
        deadline, seen = time.monotonic() + DEADLINE, ""
        while time.monotonic() < deadline:
            if select.select([self._parent], [], [], 0.2)[0]:
                seen += os.read(self._parent, 65536).decode(errors="replace")
            if re.search(pattern, seen):
                return seen
        raise AssertionError(f"no {pattern!r} in {seen!r}")

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._parent)


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell that has taken in what `linuxsync completion` prints."""
    command, source = SHELLS[request.param]
    (tmp_path / "a_test").touch()
    shell = Terminal(command, tmp_path)
    try:
        # Quoted so that the echo of what is typed is not taken for the answer.
        shell.type(f"{source}; echo rea'dy'\r")
        shell.wait_for("ready\r")
        yield shell
    finally:
        shell.close()


def test_typed(terminal: Terminal) -> None:
    """Commands, options, columns and arguments are completed to the one that there is."""
    for begun, whole in TYPED:
        # Then around it, by Ctrl-A and Ctrl-E, what has the shell print the line that it has made of it.
        terminal.type(f"{begun}\t\x01echo '<\x05>'\r")
        terminal.wait_for(rf"\n[^'\n]*<{re.escape(whole)} ?>\r")  # zsh takes the blank back


def offered(*words: str) -> list[str]:
    """What bash is told that the last word may become; for files, which are its own business, "file,"."""
    env = {
        **os.environ,
        "_LINUXSYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["linuxsync", *words]),
        "COMP_CWORD": str(len(words)),
    }
    program = Path(sys.executable).parent / "linuxsync"
    run = subprocess.run([program], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert run.stderr == ""
    return [line.removeprefix("plain,") for line in run.stdout.splitlines()]


@pytest.mark.parametrize("words", [("vm", "--kernel", ""), ("vm", "matrix", "--kernel", "6.1", "--kernel", "")])
def test_kernels(words: tuple[str, ...]) -> None:
    """Those that are tested come first, then whatever source is installed; for what is none of them, files."""
    found = offered(*words)
    assert found == known_kernels()
    assert found[:2] == [KERNEL, OLDEST]
    assert offered(*words[:-1], "6.12") == ["6.12"]
    assert offered(*words[:-1], "/boot/") == ["file,/boot/"]


def test_what_doctor_may_require() -> None:
    """The names of its table, with nothing left out."""
    table = subprocess.run(
        [Path(sys.executable).parent / "linuxsync", "doctor", "-n", "-r", "-o", "NAME"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert offered("doctor", "--require", "") == table.stdout.split()
    assert offered("doctor", "--require", "sw_sync", "--require", "heap") == ["heaps"]


def test_files() -> None:
    """For each of the programs of a test, and for what is written."""
    assert offered("vm", "test", "") == ["file,"]
    assert offered("vm", "test", "./one", "./tw") == ["file,./tw"]
    assert offered("vm", "test", "--junit", "ou") == ["file,ou"]


def test_another_shell() -> None:
    """Another shell is refused, by the names of those that there are."""
    command = [sys.executable, "-m", "linuxsync.cli", "completion", "tcsh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
