"""The kernel matrix: what it makes of a probe and of what a command says, and both on real kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from linuxsync.vm import bootstrap, fencedev, matrix, runner
from linuxsync.vm.bootstrap import KERNEL, OLDEST
from linuxsync.vm.kernel import Kernel
from linuxsync.vm.matrix import Column, Feature, Matrix
from processes import OLDEST_LACKS, environment, kept_logs

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600.0
BOTH = [KERNEL, OLDEST]


def made(command: tuple[str, ...] | None = ("pytest",)) -> Matrix:
    """A matrix of three kernels: one that has all, one that has half, and one whose guest was lost."""
    have, lack = Feature("ok", "it answers"), Feature("unsupported", "it does not")
    new = Column("6.12", "6.12.117", {"a": have, "drm:vgem": have}, {"passed": 10}, 0, 7.25)
    old = Column("./linux", "6.1.192", {"a": lack}, {"failed": 1, "passed": 8, "deselected": 1}, 1, 12.0)
    return Matrix((new, old, Column("5.4", "5.4.0", {}, {}, 69, 1.0, "it panicked")), command)


def test_the_table() -> None:
    """A row for each feature, one for each word that pytest counted, and the exit status."""
    assert made().table() == (
        "FEATURE      6.12.117  6.1.192      5.4.0\n"
        "a            ok        unsupported  -\n"
        "drm:vgem     ok        unsupported  -\n"
        "passed       10        8            -\n"
        "failed       0         1            -\n"
        "deselected   0         1            -\n"
        "exit status  0         1            lost\n"
        "seconds      7         12           1\n"
    )
    assert made().status == 69
    assert [row[0] for row in made(None).rows()] == ["FEATURE", "a", "drm:vgem", "guest"]


def test_as_data() -> None:
    """The same, with what the table has no room for."""
    told = json.loads(made().json())
    assert (told["command"], told["status"]) == (["pytest"], 69)
    assert told["kernels"][1] == {
        "kernel": "./linux",
        "release": "6.1.192",
        "features": {"a": {"state": "unsupported", "why": "it does not"}},
        "outcomes": {"failed": 1, "passed": 8, "deselected": 1},
        "status": 1,
        "seconds": 12.0,
        "lost": None,
    }
    assert told["kernels"][2]["lost"] == "it panicked"


@pytest.mark.parametrize("options", [[], ["-q"], ["-v"], ["--color=yes"], ["-q", "--color=yes"]])
def test_what_pytest_counts(tmp_path: Path, options: list[str]) -> None:
    """Its last line is understood as it prints it, not as we think that it does."""
    (tmp_path / "test_it.py").write_text(
        "import pytest, warnings\n"
        "@pytest.fixture\n"
        "def bad(): assert False\n"
        "def test_one(): pass\n"
        "def test_two(): pass\n"
        "def test_three(): assert False, '3 passed in 0.12s'\n"
        "def test_four(bad): pass\n"
        "def test_five(): pytest.skip('no')\n"
        "@pytest.mark.xfail\n"
        "def test_six(): assert False\n"
        "def test_seven(): warnings.warn('so')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", *options]
    done = subprocess.run([*command, "--deselect", "test_it.py::test_two", "."], cwd=tmp_path, capture_output=True)
    expected = {"failed": 1, "passed": 2, "skipped": 1, "deselected": 1, "xfailed": 1, "warnings": 1, "errors": 1}
    assert matrix.outcomes_of(done.stdout) == expected


def test_of_no_pytest() -> None:
    """Other programs have an exit status, and no numbers are made up for them."""
    for said in (b"", b"12 passed\n", b"all 12 passed in time\n", b"\xff\xfe 1 in 2\n"):
        assert matrix.outcomes_of(said) == {}


def test_what_is_of_the_machine() -> None:
    """Each such name is one of doctor's, and the others are left."""
    command = [sys.executable, "-m", "linuxsync.cli", "doctor", "--json"]
    probe = subprocess.run(command, capture_output=True, timeout=LIMIT, check=True).stdout
    names = [check["name"] for check in json.loads(probe)["checks"]]
    assert set(names) >= matrix.OF_THE_MACHINE
    assert list(matrix.features_of(probe)) == [name for name in names if name not in matrix.OF_THE_MACHINE]


@pytest.mark.parametrize(
    ("line", "versions"),
    [
        ("matrix", ["6.12", "6.1"]),
        ("matrix -q tests/vm", ["6.12", "6.1"]),
        ("matrix --kernel 6.1 --json -q", ["6.1"]),
        ("matrix --kernel=6.1 --kernel ./bzImage", ["6.1"]),
        ("--kernel 6.1 matrix", ["6.1"]),
        ("--kernel 6.1 matrix --kernel 6.12", ["6.12"]),
    ],
)
def test_kernels_that_it_needs(line: str, versions: list[str]) -> None:
    """What the set-up has to find sources for, before anything else is done."""
    assert bootstrap.kernel_versions(*bootstrap.split(line.split())) == versions


@pytest.fixture
def guests(cache: Path, kernel: Kernel, oldest: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, also for what runs in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    yield cache
    assert not any((cache / "linuxsync" / "runs").iterdir())


@pytest.fixture
def settings(guests: Path, kernel: Kernel, oldest: Kernel) -> dict[str, runner.Settings]:
    """How each of the two is booted; slowly, for KVM makes no difference."""
    return {
        version: runner.Settings(found, timeout=LIMIT, cwd=ROOT, quiet=True, fencedev=fencedev.module(found))
        for version, found in zip(BOTH, (kernel, oldest), strict=True)
    }


def of_the_release(name: str, then: str) -> list[str]:
    """A command that does something on one of the kernels only."""
    return ["sh", "-c", f"case $(uname -r) in {name}.*) {then};; esac; echo {name}"]


def test_two_kernels(settings: dict[str, runner.Settings], tmp_path: Path) -> None:
    """The features of each, the command's output and nothing else, and the worst status."""
    with (tmp_path / "output").open("wb") as output:
        found = matrix.run_matrix(
            [*BOTH, KERNEL], of_the_release(OLDEST, "echo more; exit 3"), settings.__getitem__, output.fileno()
        )
    assert (tmp_path / "output").read_text() == f"{OLDEST}\nmore\n"
    new, old = found.columns
    assert [column.release for column in found.columns] == [one.kernel.version for one in settings.values()]
    assert {one.state for one in new.features.values()} == {"ok"}
    assert {name for name, one in old.features.items() if one.state == "unsupported"} == OLDEST_LACKS
    assert {name for name, one in old.features.items() if one.state == "ok"} == set(new.features) - OLDEST_LACKS
    assert old.features["set_deadline"].why == "the kernel lacks SYNC_IOC_SET_DEADLINE, Linux 6.8 brought it"
    assert ([column.status for column in found.columns], found.status) == ([0, 3], 3)
    assert [column.lost for column in found.columns] == [None, None]
    rows = {row[0]: row[1:] for row in found.rows()}
    assert rows["set_deadline"] == ("ok", "unsupported")
    assert rows["exit status"] == ("0", "3")


def test_a_guest_that_is_lost(
    settings: dict[str, runner.Settings], guests: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other kernel's column stands; of the lost one there is what it had answered before."""
    command = of_the_release(KERNEL, "echo c > /proc/sysrq-trigger; sleep 60")
    with (tmp_path / "output").open("wb") as output:
        found = matrix.run_matrix(BOTH, command, settings.__getitem__, output.fileno())
    new, old = found.columns
    assert (new.status, old.status, found.status) == (69, 0, 69)
    assert new.lost is not None
    assert "sysrq triggered crash" in new.lost.lower()
    assert {one.state for one in new.features.values()} == {"ok"}
    assert {row[0]: row[1:] for row in found.rows()}["exit status"] == ("lost", "0")
    assert (tmp_path / "output").read_text() == f"{KERNEL}\n"
    [log] = kept_logs(guests)
    assert f"vm: console log: {log}\n" in capfd.readouterr().err


def test_vm_run(guests: Path) -> None:
    """``vm/run matrix`` runs tests/vm, or what it is told, on both; JSON alone is on stdout."""
    command = [sys.executable, "-m", "linuxsync.vm", "matrix", "--json", "-q", "tests/vm/test_features.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * LIMIT, check=False, env=environment(guests), cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [kernel["kernel"] for kernel in told["kernels"]] == BOTH
    assert [kernel["status"] for kernel in told["kernels"]] == [0, 0]
    counts = [kernel["outcomes"] for kernel in told["kernels"]]
    assert counts[0] == counts[1]
    assert list(counts[0]) == ["passed"]
    for at, kernel in enumerate(BOTH, 1):
        assert f"vm: kernel {kernel}, {at} of 2\n" in done.stderr
    assert kept_logs(guests) == []


def test_one_kernel_and_its_table(guests: Path) -> None:
    """--kernel chooses, what pytest says comes first, and what fails there is the exit status."""
    command = [sys.executable, "-m", "linuxsync.vm", "matrix", "--kernel", OLDEST, "-q", "tests/vm/test_features.py"]
    done = subprocess.run(
        [*command, "-k", "nosuchtest"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**environment(guests), "NO_COLOR": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 5, done.stdout + done.stderr
    said, _, table = done.stdout.partition("FEATURE ")
    assert "deselected in " in said
    assert table.split()[0].startswith(f"{OLDEST}.")
    assert "\nset_deadline      unsupported\n" in table
    assert "\nexit status       5\n" in table


def test_nobody_reads(settings: dict[str, runner.Settings]) -> None:
    """As a command on the host would, it ends when the reader of its output has gone."""
    source, sink = os.pipe()
    os.close(source)
    try:
        found = matrix.run_matrix([KERNEL], ["sh", "-c", "yes"], settings.__getitem__, sink)
    finally:
        os.close(sink)
    assert found.status == 128 + 13
