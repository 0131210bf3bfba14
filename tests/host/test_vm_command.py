"""``linuxsync vm`` as it is used where linuxsync is installed: real boots, KTAP, JUnit's XML, the cache of kernels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from linuxsync.vm import bootstrap, stock
from linuxsync.vm import kernel as kernels
from linuxsync.vm.ktap import Report, parse, speaks
from processes import assert_nothing_left, environment

LIMIT = 600.0
VM = [str(Path(sys.executable).parent / "linuxsync"), "vm"]
TOOK = r"{} # (\d+\.\d+) s"  # behind the name of what passed

PROGRAMS = {
    "passes": "echo hello; echo problem >&2",
    "fails": "exit $1",
    "tap": 'printf "%s\n" 1..3 "ok 1 - first" "not ok 2 second # TODO later" "ok 3 third # SKIP no GPU" x',
    "ktap": 'printf "%s\n" "KTAP version 1" 1..1 "  KTAP version 1" "  1..1" "  not ok 1 in" "not ok 1 a"',
    "short": "echo 1..2; echo ok 1",
    "overwrites": "printf '50%%\\rok 1 x # SKIP\\n'; exit 1",
    "none": "echo 1..0 '# SKIP no such device'",
    "warns": 'echo "<4>WARNING: CPU: 0 PID: 1 at file.c:1 f+0x1/0x2" > /dev/kmsg',
    "hangs": "sleep 100",
    "killed": "kill -SEGV $$",
    "leaves": "setsid sh -c 'sleep 9; echo too late; sleep 1000' & sleep 2; echo started",
    "panics": "echo c > /proc/sysrq-trigger",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with shell programs that end in each way."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def vm(cache: Path, *arguments: str, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    given = {"capture_output": True, "text": True, "timeout": LIMIT, "env": environment(cache), "cwd": cwd, **options}
    return subprocess.run([*VM, *arguments], check=False, **given)  # type: ignore[call-overload, no-any-return]


def test_each_result(cache: Path, programs: Path) -> None:
    """One guest for all of them: what each of them printed, how it ended, and the same in JUnit's XML."""
    each = 10  # seconds: long enough for a short program on a busy machine
    words = ["./passes", "./fails 3", "./fails 4", "./fails 77", "./tap", "./ktap", "./short", "./none", "./warns"]
    words += ["./hangs", "./killed", "./absent", "./passes # twice", "./overwrites", "./leaves", "./hangs 2"]
    done = vm(cache, "-q", "test", "--limit", f"{each}", "--junit", "out.xml", *words, cwd=programs)
    assert done.returncode == 1, done.stderr
    lines = [line.rsplit(", ", 1)[0] if line.endswith(" s") else line for line in done.stdout.splitlines()]
    assert lines[:2] == ["KTAP version 1", "1..16"]
    results = [line for line in lines if line.startswith(("ok", "not ok"))]
    assert re.fullmatch(TOOK.format(r"ok 1 \./passes"), results[0])
    assert results[1:4] == [
        "not ok 2 ./fails 3 # exit status 3",
        "ok 3 ./fails 4 # SKIP exit status 4",
        "ok 4 ./fails 77 # SKIP exit status 77",
    ]
    assert re.fullmatch(TOOK.format(r"ok 5 \./tap"), results[4])
    assert results[5:11] == [
        "not ok 6 ./ktap # 1 of 1 subtests failed",
        "not ok 7 ./short # 2 subtests were planned, 1 ran",
        "ok 8 ./none # SKIP all subtests were skipped",
        "not ok 9 ./warns # the kernel warned",
        f"not ok 10 ./hangs # did not end within {each} s",
        "not ok 11 ./killed # killed by SIGSEGV",
    ]
    assert results[11].startswith("not ok 12 ./absent # can't be started: [Errno 2]")
    assert re.fullmatch(TOOK.format(r"ok 13 \./passes \\# twice"), results[12])
    assert results[13] == "not ok 14 ./overwrites # exit status 1"
    took = re.fullmatch(TOOK.format(r"ok 15 \./leaves"), results[14])
    assert took is not None
    assert 4 <= float(took[1]) < 9  # its own 2 s, and 2 s for output that is on its way
    assert results[15] == f"not ok 16 ./hangs 2 # did not end within {each} s"
    assert "# something that it started and that still runs holds its output; no more of that is read" in lines
    assert "# too late" not in lines
    at = lines.index(results[4])
    assert lines[at - 6 : at] == [
        "  KTAP version 1",
        "  1..3",
        "  ok 1 - first",
        "  not ok 2 second # TODO later",
        "  ok 3 third # SKIP no GPU",
        "  # x",
    ]
    assert {"# hello", "# problem"} <= {*lines[: lines.index(results[0])]}
    assert "WARNING: CPU: 0 PID: 1 at file.c:1" in done.stdout

    root = ElementTree.parse(programs / "out.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert [*suites] == words
    counts = {name: (suite.get("tests"), suite.get("failures"), suite.get("skipped")) for name, suite in suites.items()}
    assert counts["./passes"] == ("1", "0", "0")
    assert counts["./fails 3"] == ("1", "1", "0")
    assert counts["./fails 4"] == ("1", "0", "1")
    assert counts["./tap"] == ("3", "0", "2")
    assert counts["./short"] == ("2", "1", "0")  # the one that passed, and the program's own failure
    assert [case.get("name") for case in suites["./tap"]] == ["first", "second", "third"]
    failure = suites["./warns"].find("testcase/failure")
    assert failure is not None
    assert "at file.c:1" in (failure.text or "")
    assert_nothing_left(cache)


def test_nobody_reads(cache: Path, programs: Path) -> None:
    """As after `| head -1`: the status says so, and nothing else does."""
    command = f"{' '.join(VM)} -q test ./hangs ./passes | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=programs, env=environment(cache), capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "KTAP version 1\n", "")


def test_a_guest_that_is_lost(cache: Path, programs: Path) -> None:
    """What ran before counts, the one that ran has failed, the others did not run; the file says all of it."""
    done = vm(cache, "-q", "test", "--junit", "out.xml", "./passes", "./panics", "./tap", cwd=programs)
    assert done.returncode == 69
    assert "ok 1 ./passes" in done.stdout
    assert "\nBail out! the guest's kernel panicked: " in done.stdout
    cases = [case for suite in ElementTree.parse(programs / "out.xml").getroot() for case in suite]
    messages = {case.get("name"): [told.get("message", "") for told in case.iter("failure")] for case in cases}
    assert messages["./passes"] == []
    assert "panicked" in messages["./panics"][0]
    assert messages["./tap"] == ["did not run, the guest was lost before"]
    assert_nothing_left(cache)


def test_a_c_program(cache: Path, tmp_path: Path) -> None:
    """What gcc makes runs there, and all passed is 0."""
    (tmp_path / "test.c").write_text(
        "#include <stdio.h>\n#include <unistd.h>\nint main(void)\n{\n"
        '\tint absent = access("/sys/kernel/debug/sync/sw_sync", F_OK);\n'
        '\tprintf("TAP version 13\\n1..1\\n%sok 1 - sw_sync\\n", absent ? "not " : "");\n\treturn 0;\n}\n'
    )
    subprocess.run(["gcc", "-o", "test", "test.c"], cwd=tmp_path, check=True)
    done = vm(cache, "-q", "test", "./test", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[:-1] == ["KTAP version 1", "1..1", "  TAP version 13", "  1..1", "  ok 1 - sw_sync"]


RUST = {
    "tap": """
use std::path::Path;

fn main() {
    let there = Path::new("/sys/kernel/debug/sync/sw_sync").exists();
    println!("TAP version 13\\n1..1\\n{}ok 1 - sw_sync", if there { "" } else { "not " });
}
""",
    "harness": """
use std::fs::OpenOptions;

#[test]
fn sw_sync_opens() {
    OpenOptions::new().read(true).write(true).open("/sys/kernel/debug/sync/sw_sync").unwrap();
}

#[test]
fn there_is_no_such_device() {
    OpenOptions::new().read(true).open("/dev/dri/no_such_device").unwrap();
}
""",
}


@pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc, a package too large to ask for it")
def test_rust_programs(cache: Path, tmp_path: Path) -> None:
    """What rustc makes runs there: a program that prints TAP, and Rust's own harness, of which the status counts."""
    for name, text in RUST.items():
        (tmp_path / f"{name}.rs").write_text(text)
        kind = ["--test"] if name == "harness" else []
        subprocess.run(["rustc", "--edition", "2021", *kind, f"{name}.rs"], cwd=tmp_path, check=True, timeout=120)
    words = ["./tap", "./harness sw_sync_opens", "./harness"]
    done = vm(cache, "-q", "test", "--junit", "out.xml", *words, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == ["KTAP version 1", "1..3", "  TAP version 13", "  1..1", "  ok 1 - sw_sync"]
    assert "# test sw_sync_opens ... ok" in lines
    assert "# test there_is_no_such_device ... FAILED" in lines
    results = [line.partition(" # ") for line in lines if line.startswith(("ok ", "not ok "))]
    assert [result for result, _, _ in results] == ["ok 1 ./tap", "ok 2 ./harness sw_sync_opens", "not ok 3 ./harness"]
    assert results[2][2].startswith("exit status 101, ")  # what Rust's harness ends with when a test has failed
    assert "there_is_no_such_device" in (tmp_path / "out.xml").read_text()


def test_options(cache: Path, tmp_path: Path) -> None:
    """Variables, one more device, a pipe on stdin, and the exit status of the command."""
    script = 'echo "$MINE $HERE $LINUXSYNC_VM"; cat; cat /sys/bus/pci/devices/*/vendor; '
    script += "grep -o mine.x=1 /proc/cmdline; exit 3"
    options = ["--env", "MINE=a b", "--env", "HERE", "--device", "edu,dma_mask=4294967295", "--append", "mine.x=1"]
    done = vm(
        cache, *options, "run", "sh", "-c", script, cwd=tmp_path, input="in\n", env={**environment(cache), "HERE": "h"}
    )
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["a b h 1", "in"]
    assert lines[-1] == "mine.x=1"
    assert "0x1234" in lines  # QEMU's device for education
    assert done.stderr.startswith("vm: booting Linux 6.")


def test_python(cache: Path) -> None:
    """It is the Python that runs linuxsync, with the options that it was given, and stdin is 8-bit clean."""
    code = "import sys; print(sys.prefix, sys.argv, sys.orig_argv[1]); data = sys.stdin.buffer.read()"
    code += "; open(1, 'wb', closefd=False).write(data)"
    data = bytes(range(256)) * 300
    command = [*VM, "-q", "python", "-u", "-c", code, "--kernel"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=LIMIT, env=environment(cache), check=True)
    assert done.stdout == f"{sys.prefix} ['-c', '--kernel'] -u\n".encode() + data
    assert done.stderr == b""


def test_matrix(cache: Path) -> None:
    """What the kernel of --kernel offers, and how the command went, as data; what it printed is on stderr."""
    done = vm(cache, "--kernel", bootstrap.KERNEL, "-q", "matrix", "--json", "--", "sh", "-c", "echo said; exit 3")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert [column["kernel"] for column in found["kernels"]] == [bootstrap.KERNEL]
    assert found["kernels"][0]["features"]["sw_sync"]["state"] == "ok"
    assert done.stderr == "said\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env", "1x=2", "run", "true"], "'1x=2' is no NAME=VALUE"),
        (["--env", "NOT_SET_HERE", "run", "true"], "NOT_SET_HERE is not set here"),
        (["--memory", "much", "run", "true"], "'much' is no size such as 512M or 2G"),
        (["--memory", "1M", "run", "true"], "no guest comes up with 1M: 128M is the least"),
        (["--timeout", "nan", "run", "true"], "nan is no number"),
        (["test"], "Missing argument 'PROGRAM...'"),
        (["run"], "Missing argument 'COMMAND...'"),
        (["test", "--junit", "/nowhere/out.xml", "true"], "/nowhere can't be written"),
        (["test", "true", ""], "'' names no program: it is empty"),
        (["test", "true 'x"], "names no program: No closing quotation"),
        (["kernel", "make"], "No such command 'make'"),
    ],
)
def test_bad_words(cache: Path, arguments: list[str], said: str) -> None:
    """Status 2 and what was wrong, before anything is booted."""
    done = vm(cache, *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (cache / "linuxsync" / "runs").exists()


def test_help_teaches() -> None:
    """Each command has one, and none needs a machine that is set up."""
    for command in ([], ["run"], ["shell"], ["test"], ["kernel"], ["kernel", "build"], ["matrix"]):
        done = subprocess.run([*VM, *command, "--help"], capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout.startswith(f"Usage: linuxsync vm {' '.join(command)}".rstrip())
        assert len(done.stdout.splitlines()) > 5


def test_what_is_missing_for_an_installed_package(tmp_path: Path) -> None:
    """Headers of Python are for a checkout alone; virtme-ng is for everybody, and what brings it is said."""
    assert ["C headers" in need.what for need in bootstrap.needs([]) if need.only_of_checkout] == [True, False]
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(sys.executable)
    code = f"import sys; sys.executable = {str(python)!r}; from linuxsync.cli import main; main(['vm', 'run', 'true'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 69
    assert done.stderr == f"vm: this Python has no virtme-ng: {python} -m pip install 'linuxsync[vm]'\n"


@pytest.fixture
def own_cache(tmp_path: Path, kernel: kernels.Kernel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the current kernel's folder, one that is out of date, and one whose source is not installed."""
    folder = tmp_path / "linuxsync" / "kernels"
    current = kernel.image.parent.parent
    for name in (current.name, f"{bootstrap.KERNEL}-0123456789abcdef", "5.10-0123456789abcdef"):
        (folder / name / "boot").mkdir(parents=True)
        shutil.copyfile(kernel.image, folder / name / "boot" / f"vmlinuz-{kernel.version}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return folder


def test_list_and_prune(own_cache: Path, kernel: kernels.Kernel, tmp_path: Path) -> None:
    """What would not be booted any more goes, and nothing else."""
    current = kernel.image.parent.parent.name
    stale = f"{bootstrap.KERNEL}-0123456789abcdef"
    rows = json.loads(vm(tmp_path, "kernel", "list", "--json").stdout)
    assert {Path(row["folder"]).name: row["state"] for row in rows} == {
        current: "current",
        stale: "stale",
        "5.10-0123456789abcdef": "unknown",
    }
    assert all(row["bytes"] >= kernel.image.stat().st_size for row in rows)
    listed = vm(tmp_path, "kernel", "list").stdout.splitlines()
    assert listed[0].split() == ["KERNEL", "VERSION", "STATE", "BUILT", "MB", "FOLDER"]
    assert len(listed) == 4
    would = vm(tmp_path, "kernel", "prune", "--dry-run").stdout
    assert would.startswith(f"would remove {own_cache / stale} (")
    assert len([*own_cache.glob("*-*/boot")]) == 3
    removed = vm(tmp_path, "kernel", "prune").stdout
    assert removed.startswith(f"removed {own_cache / stale} (")
    assert {path.name for path in own_cache.iterdir() if path.is_dir()} == {current, "5.10-0123456789abcdef"}
    assert vm(tmp_path, "kernel", "prune").stdout == ""
    vm(tmp_path, "kernel", "prune", "--all")
    assert [path for path in own_cache.iterdir() if path.is_dir()] == []
    assert "linuxsync vm kernel build" in vm(tmp_path, "kernel", "list").stderr


def test_nothing_is_pruned_while_a_guest_runs(own_cache: Path, tmp_path: Path) -> None:
    """It may be that kernel's."""
    from linuxsync.vm.runner import run_folder

    with run_folder():
        done = vm(tmp_path, "kernel", "prune", "--all")
    assert done.returncode == 69
    assert "a guest is running" in done.stderr
    assert len(stock.stored()) == 3


def test_a_kernel_that_is_being_built_stays(own_cache: Path) -> None:
    """Its folder's lock is the builder's."""
    one = next(one for one in stock.stored() if one.current is False)
    with kernels.build_lock(one.folder):
        assert not stock.remove(one)
    assert one.folder.is_dir()


@pytest.mark.parametrize(
    ("line", "name", "outcome", "why"),
    [
        ("ok 1 - one", "one", "passed", ""),
        ("ok", "test", "passed", ""),
        ("not ok 2", "test 2", "failed", ""),
        ("not ok 3 name # TODO not yet", "name", "skipped", "not yet"),
        ("ok 4 name # skip: none", "name", "skipped", "none"),
        ("not ok 5 a \\# b # timeout", "a # b", "failed", "timeout"),
        ("not ok 6 name # XFAIL", "name", "skipped", ""),
    ],
)
def test_results(line: str, name: str, outcome: str, why: str) -> None:
    """As the kernel's document and TAP's write them."""
    result = parse(line)
    assert result is not None
    assert (result.name, result.outcome, result.why) == (name, outcome, why)


def test_what_is_no_result() -> None:
    """A word that only begins like one."""
    assert [line for line in ("okay 1", "not okay", "# ok 1", "  ok 1", "ok1") if parse(line)] == []
    assert [speaks(line) for line in ("TAP version 14", "KTAP version 1", "1..7", "ok 1", "hello")] == [True] * 4 + [
        False
    ]


def test_what_xml_can_not_hold() -> None:
    """A program may print anything."""
    report = Report()
    for line in ("1..1", "# \x1b[31mred\x00", "not ok 1 ./a & <b> \x07 # exit status 1, 0.5 s"):
        report.feed(line)
    (suite,) = ElementTree.fromstring(report.junit())
    assert suite.get("name") == "./a & <b> \ufffd"
    assert suite.get("time") == "0.500"
    assert report.failed()
