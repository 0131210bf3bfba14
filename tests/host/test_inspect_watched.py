"""linuxsync metrics and top on any machine: what they say where nothing is to be seen, and how they start."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from linuxsync.cli import main

LATE = ("prometheus_client", "rich.live", "rich.console", "http.server")


def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    command = [sys.executable, "-m", "linuxsync.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_metrics() -> None:
    """There are no fences, which is a number too; what could not be seen is one as well."""
    said = answer("metrics", "--pid", "1", "--no-processes")
    assert (said.returncode, said.stderr) == (0, "")
    for line in ('linuxsync_sync_files{status="active"} 0.0', 'linuxsync_descriptors{kind="sync_file"} 0.0'):
        assert line in said.stdout.splitlines()


def test_textfile_under_any_umask(tmp_path: Path) -> None:
    """node_exporter, who is somebody else, reads it; and nothing is left beside it."""
    path = tmp_path / "linuxsync.prom"
    before = os.umask(0o077)
    try:
        for _ in range(2):
            said = answer("metrics", "--pid", "1", "--textfile", str(path))
            assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)
    assert [*tmp_path.iterdir()] == [path] and "linuxsync_scan_seconds" in path.read_text()


def test_textfile_that_cannot_be_written(tmp_path: Path) -> None:
    """What was there is spoken of if it was there."""
    folder, none = tmp_path / "x.prom", tmp_path / "none" / "x.prom"
    folder.mkdir()
    for path, why in (
        (none, "No such file or directory"),
        (folder, "Is a directory; what was there is as it was"),
    ):
        said = answer("metrics", "--pid", "1", "--textfile", str(path))
        assert (said.returncode, said.stderr) == (1, f"Error: can't write {path}: {why}\n")
    assert [*tmp_path.iterdir()] == [folder]


def test_top() -> None:
    """Rows for nobody, twice."""
    said = answer("top", "-J", "-n", "2", "-d", "0.1", "--comm", "no such process")
    assert (said.returncode, said.stderr) == (0, "")
    assert [json.loads(line)["processes"] for line in said.stdout.splitlines()] == [[], []]


def test_no_summary_is_cut() -> None:
    """Each command has a line that fits, and is there."""
    said = answer("--help")
    assert (said.returncode, said.stderr) == (0, "")
    lines = said.stdout.partition("\nCommands:\n")[2].splitlines()
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]
    assert [line.split()[0] for line in lines] == sorted(main.commands)


@pytest.mark.parametrize("interval", ["nan", "inf", "-inf", "1e300", "86401", "0.04", "0", "-1", "x"])
def test_top_with_an_impossible_interval(interval: str) -> None:
    """A mistake, and no traceback."""
    said = answer("top", "-n", "1", f"--interval={interval}")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("Usage: ") and "Error: Invalid value for '-d' / '--interval'" in said.stderr


def test_what_only_some_commands_need_is_imported_by_them() -> None:
    """So that every command starts as fast as it can."""
    code = f"import sys, linuxsync.cli; print([name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


FEW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
SERVE = "from linuxsync.cli import main; main(['metrics', '--listen', '0', '--pid', '1'])"
CANNOT = """
import errno, os
from linuxsync.cli import exposition
def look():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
exposition.serve(look, "127.0.0.1", 0)
"""


@contextmanager
def serving(code: str) -> Iterator[tuple[int, list[str]]]:
    """The port of a server, and what it has said on stderr when the block is left."""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as server:
        said: list[str] = []
        try:
            assert server.stderr is not None
            yield int(server.stderr.readline().rpartition(":")[2].removesuffix("/metrics\n")), said
            server.terminate()
            said += server.communicate(timeout=60)[1].splitlines()
            assert server.returncode == 0
        finally:
            server.kill()


def scraped(port: int) -> str:
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as response:
        return str(response.read().decode())


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n"])
def test_idle_connections_are_in_nobodys_way(sent: bytes) -> None:
    """Many more than it may have descriptors, with half a request or none: scrapes are answered at once."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 400
    with serving(FEW + SERVE) as (port, said), ExitStack() as idle:
        for _ in range(300):
            one = idle.enter_context(socket.create_connection(("127.0.0.1", port), 120))
            try:
                one.sendall(sent)
            except ConnectionError:
                pass  # others were in need of its place
        began = time.monotonic()
        assert "linuxsync_scan_seconds" in scraped(port)
        assert time.monotonic() - began < 5  # what a connection has to ask
    assert said == []


def test_who_does_not_ask_is_dropped() -> None:
    """After five seconds, with nobody else there."""
    with serving(SERVE) as (port, said):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 120) as one:
            one.sendall(b"GET /metrics HTTP/1.1\r\n")
            assert one.recv(1000) == b""
        assert 4 < time.monotonic() - began < 60
    assert said == []


def test_a_look_that_fails() -> None:
    """Status 503, and a line of why to both sides."""
    why = "can't look at this machine: [Errno 24] Too many open files"
    with serving(CANNOT) as (port, said):
        with pytest.raises(urllib.error.HTTPError) as raised:
            scraped(port)
        with raised.value as error:  # what it said is read before it ends
            assert (error.code, error.read().decode()) == (503, f"{why}\n")
    assert said == [f"linuxsync: {why}"]
