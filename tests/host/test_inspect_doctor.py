"""linuxsync doctor on whatever machine this is: it must not be wrong about it, and change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from linuxsync import inspect
from linuxsync.cli.doctor import TABLE, for_people
from linuxsync.cli.table import Output
from linuxsync.inspect import Finding, State, rights, syncobjs
from linuxsync.inspect import doctor as doctors


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "linuxsync.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_this_machine():
    """What it says agrees with what other places tell."""
    mounts, nodes = Path("/proc/mounts").read_text(), sorted(str(path) for path in Path("/dev").rglob("*"))
    said = run("doctor", "-J")
    assert (said.returncode, said.stderr) == (0, "")
    found = {one["name"]: one for one in json.loads(said.stdout)["checks"]}
    assert Path("/proc/mounts").read_text() == mounts
    assert [path for path in sorted(str(path) for path in Path("/dev").rglob("*")) if "pts" not in path] == [
        path for path in nodes if "pts" not in path
    ]
    kinds = {line.split()[2] for line in mounts.splitlines()}
    for kind in ("debugfs", "tracefs"):
        assert kind in kinds or found[kind]["state"] == "missing"
    devices = [*Path("/dev/dri").glob("card*")] if Path("/dev/dri").is_dir() else []
    assert len([name for name in found if name.startswith("drm:")]) >= bool(devices)
    assert devices or (found["drm"]["state"], found["syncobj"]["state"]) == ("missing", "missing")
    assert found["root"]["state"] == ("ok" if os.geteuid() == 0 else "missing")
    assert found["qemu"]["state"] == ("ok" if shutil.which("qemu-system-x86_64") else "missing")
    assert Path("/dev/kvm").exists() or found["kvm"]["state"] == "missing"


def test_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A table where it fits; else no line is longer than it must be, and what is to be typed is whole."""
    fix = "sudo chmod go+rx /sys/kernel/debug"
    found = [Finding("heaps", State.OK, "system"), Finding("debugfs", State.MISSING, "no user may read it " * 4, fix)]
    output = Output(as_json=False, columns="", no_headings=False, raw=False)
    TABLE.print(found, output)
    wide = capsys.readouterr().out
    for_people(found, output, max(map(len, wide.splitlines())))
    assert capsys.readouterr().out == wide
    for_people(found, output, 60)
    assert capsys.readouterr().out.splitlines() == [
        "NAME     STATE    WHY, and the FIX below",
        "heaps    ok       system",
        "debugfs  missing  no user may read it no user may read it no",
        "                  user may read it no user may read it",
        f"                  -> {fix}",
    ]


@pytest.mark.parametrize("command", [["bufs"], ["timelines"], ["syncobjs"], ["bufs", "--by=process"]])
def test_the_others(command):
    """They end with 0 or, where nothing was found, 1; and say in lines of their own what was not seen."""
    said = run(*command)
    assert said.returncode in (0, 1)
    assert said.returncode == 0 or len(said.stdout.splitlines()) == 1
    assert all(line.startswith("linuxsync: ") for line in said.stderr.splitlines())
    assert run(*command, "-J").stderr == ""


@pytest.mark.parametrize(
    ("scope", "capable", "state", "fix"),
    [
        (0, False, State.OK, False),
        (1, False, State.MISSING, True),
        (2, False, State.MISSING, True),
        (None, False, State.UNKNOWN, True),
        (1, True, State.OK, False),
        (2, True, State.OK, False),
        (3, True, State.MISSING, False),
    ],
)
def test_ptrace_scope(monkeypatch, scope, capable, state, fix):
    """Yama stops those without CAP_SYS_PTRACE, and with 3 everybody."""
    monkeypatch.setattr(rights, "yama", lambda: scope)
    monkeypatch.setattr(rights, "has_capability", lambda number: capable)
    found = rights.of_ptrace()
    assert (found.state, found.fix is not None) == (state, fix)


def test_capability():
    """CapEff, by what the kernel lets this process do."""
    assert rights.has_capability(rights.CAP_SYS_PTRACE) == bool(
        int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16) & 1 << 19
    )


def test_functions(tmp_path):
    """What /proc/kallsyms lists, by the whole word."""
    found = doctors.kernel_functions()
    path = Path("/proc/kallsyms")
    if found is not None:
        words = path.read_text().split()
        assert found == {name: function.decode() in words for name, function in doctors.FUNCTIONS.items()}


def test_findings_of_an_empty_machine(monkeypatch, tmp_path):
    """No device of any kind, no debugfs: nothing is called ok that nobody saw."""
    monkeypatch.setattr(syncobjs, "NODES", tmp_path / "dri")
    monkeypatch.setattr(doctors, "a_buffer", lambda stack: None)
    monkeypatch.setattr(doctors, "a_fence", lambda stack, buffer: None)
    monkeypatch.setattr(doctors, "kernel_functions", lambda: None)
    found = {one.name: one.state for one in inspect.examine()}
    for name in ("sync_file", "set_deadline", "export_sync_file", "import_sync_file"):
        assert found[name] is State.UNKNOWN
    for name in ("drm", "syncobj", "timeline_syncobj", "syncobj_eventfd"):
        assert found[name] is State.MISSING


def test_a_thread_whose_name_is_no_utf8():
    """Its name stands above its capabilities; the kernel cuts names after 15 bytes, in the midst of a character too."""
    found = []

    def look():
        Path("/proc/thread-self/comm").write_bytes(b"\xff\xfe")
        found.append([rights.has_capability(number) for number in range(64)])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[rights.has_capability(number) for number in range(64)]]
