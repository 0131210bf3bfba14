"""Processes that hold fences and wait for them, as somebody finds them on a machine; and what linuxsync says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner, Result

from linuxsync.cli import main

# Before a scene's own lines; `ready(...)` says that it is set and stays until the test is over.
PREAMBLE = """
import json, os, sys, threading, time
from linuxsync import *
from linuxsync import fencedev, merge

def ready(**facts):
    print(json.dumps({"pid": os.getpid(), **facts}), flush=True)
    sys.stdin.read()
    os._exit(0)

def fork(count):
    for _ in range(count):
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
"""


@dataclass
class Scene:
    """A process that is ready, and what it said."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def scene(text: str, *arguments: str, name: str = "scene", user: int = 0) -> Iterator[Scene]:
    """Run a program until the block ends; its comm is `name`."""
    become = f"os.setgroups([]); os.setuid({user})\n" if user else ""
    rename = f"open('/proc/self/comm', 'w').write({name!r})\n"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + rename + become + text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stdin is not None
        line = process.stdout.readline()
        try:
            assert line, "the scene was not set"
            yield Scene(process, json.loads(line))
        finally:
            process.stdin.close()
            if not line:
                process.kill()


def said(*arguments: str) -> Result:
    """What a command says, in this process: exit_code, stdout and stderr."""
    result = CliRunner().invoke(main, arguments, prog_name="linuxsync")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def said_json(*arguments: str) -> dict[str, Any]:
    """What a command says with --json."""
    found: dict[str, Any] = json.loads(said(*arguments, "--json").stdout)
    return found
