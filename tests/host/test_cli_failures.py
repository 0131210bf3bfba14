"""Commands whose output can't be written, or that may open nothing: a line, exit status 2, and no traceback."""

import os
import resource
import subprocess
import sys

import pytest

PROGRAM = [sys.executable, "-m", "linuxsync.cli"]
COMMANDS = [["--help"], ["--version"], ["leaks", "--help"], ["ps"], ["ps", "--json"], ["bufs"]]


def run(*arguments, **options):
    """The exit status, and what is on stderr."""
    done = subprocess.run([*PROGRAM, *arguments], check=False, stderr=subprocess.PIPE, text=True, timeout=60, **options)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_full(arguments):
    """Nothing else is said on stderr: not even by Python, which flushes once more when it ends."""
    with open("/dev/full", "w") as full:
        status, said = run(*arguments, stdout=full)
    assert status == 2
    assert said.splitlines()[-1] == "Error: can't write: No space left on device"
    assert "Traceback" not in said and "Exception ignored" not in said


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_nobody_reads(arguments):
    """As after `| head`: silent."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        status, said = run(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert status in ({1, 2} if arguments[0].startswith("-") else {2})  # 1, from click, where nothing is answered
    assert "Error" not in said and "Traceback" not in said and "Exception ignored" not in said


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_closed(arguments):
    """Python has no sys.stdout then."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, *arguments],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (2, "Error: stdout is closed\n")


def test_nowhere_to_say_it():
    """stderr is full as well: the exit status tells."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "ps"], check=False, stdout=full, stderr=full, timeout=60)
    assert done.returncode == 2


def test_no_descriptors():
    """The line says what helps."""
    text = (
        "import resource, sys; from linuxsync.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "main(['ps'])"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 3
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True, timeout=60)
    expected = "Error: this process may have no more descriptors, see ulimit -n: Too many open files\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
