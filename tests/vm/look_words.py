"""Scenes of real processes for the tests of linuxsync's commands, and the commands run on them."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kernel_words import libc

from tests.command_words import Said, linuxsync

NOBODY = 65534
PR_SET_DUMPABLE = 4

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


def at(pid: int, comm: str, fd: int, uid: int = 0) -> dict[str, Any]:
    """A descriptor of a process, as JSON has it."""
    return {"pid": pid, "comm": comm, "uid": uid, "fd": fd}


def become_nobody() -> None:
    """Be an ordinary user from here on, whose processes that user may look at."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    assert libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0


def as_nobody(*arguments: str) -> Said:
    """Run ``linuxsync`` as an ordinary user."""
    return elsewhere(become_nobody, *arguments)


def elsewhere(before: Callable[[], object], *arguments: str) -> Said:
    """Run ``linuxsync`` in a process that holds nothing of ours, after it has done `before`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 3)
            os.closerange(4, 4096)
            before()
            said = linuxsync(*arguments)
            os.write(3, json.dumps([said.status, said.out, said.err]).encode())
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    os.close(writing)
    with open(reading, "rb") as answer:
        text = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Said(*json.loads(text))


@contextmanager
def process(
    comm: str | bytes,
    work: Callable[[], Any],
    keep: tuple[int, ...] = (),
    then: Callable[[], object] = signal.pause,
) -> Iterator[tuple[int, Any]]:
    """A child of that name, which does `work`, tells its result, and does `then` until the block ends.

    Of our descriptors it has those in `keep` alone.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for number in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {*keep, writing, 0, 1, 2}:
                try:
                    os.close(number)
                except OSError:
                    pass
            Path("/proc/self/comm").write_bytes(os.fsencode(comm))
            os.write(writing, json.dumps(work()).encode() + b"\n")
            os.close(writing)
            then()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    try:
        os.close(writing)
        with open(reading, "rb") as answer:
            text = answer.readline()
        assert text, f"{comm!r} did not come up"
        yield child, json.loads(text)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def without_debugfs() -> None:
    """Give this process mounts of its own, without debugfs."""
    assert libc.unshare(0x20000) == 0
    assert libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None) == 0
    assert libc.umount2(b"/sys/kernel/debug", 2) == 0


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


@dataclass
class Forked:
    """A fork of ours that does what a scene does."""

    pid: int
    stdin: TextIO
    stdout: TextIO
    facts: dict[str, Any]

    @property
    def process(self) -> Forked:
        """As a ``Scene`` has it."""
        return self


@contextmanager
def forked_scene(text: str, *arguments: str, name: str = "scene") -> Iterator[Forked]:
    """``scene()`` without the seconds that a new Python takes in the VM, for programs that hold nothing but theirs."""
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gc.freeze()  # whatever of ours is garbage must not close their descriptors
            os.dup2(theirs_in, 0)
            os.dup2(theirs_out, 1)
            os.closerange(3, 4096)
            sys.argv = ["-c", *arguments]
            sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
            Path("/proc/self/comm").write_text(name)
            exec(PREAMBLE + text, {"__name__": "__main__"})
        except BaseException:
            sys.stderr = os.fdopen(2, "w")
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        with open(ours_in, "w") as stdin, open(ours_out) as stdout:
            line = stdout.readline()
            assert line, "the scene was not set"
            yield Forked(child, stdin, stdout, json.loads(line))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
