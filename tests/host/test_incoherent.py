"""vm/run --incoherent, with the programs of examples/ that are about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

ROOT = Path(__file__).resolve().parents[2]
C_TEST = ROOT / "examples" / "missing_sync.c"
PYTHON_TEST = ROOT / "examples" / "test_missing_sync.py"


def vm(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """vm/run, in the checkout."""
    command = [sys.executable, "-m", "linuxsync.vm", "--quiet", *arguments]
    env = environment(cache)
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, env=env, cwd=ROOT)


@pytest.mark.parametrize("options", [[], ["--incoherent"]], ids=["coherent", "incoherent"])
def test_a_missing_sync_is_caught(options: list[str], cache: Path, tmp_path: Path) -> None:
    """In C and in Python: with --incoherent, and not without it."""
    program = tmp_path / "missing_sync"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-o", program, C_TEST, "-I", ROOT / "native/fencedev"], check=True
    )
    script = f"""
        {program}; echo "right: $?"
        {program} --forget 2>&1; echo "forgotten: $?"
        python -m pytest -q -p no:cacheprovider -rA {PYTHON_TEST.relative_to(ROOT)}"""
    done = vm(cache, *options, "--", "sh", "-c", script)
    assert done.returncode == (1 if options else 0), done.stdout + done.stderr
    assert "both pictures have arrived\nright: 0\n" in done.stdout
    if options:
        assert "missing_sync: picture 1: byte 0 is 0 at the device\nforgotten: 1\n" in done.stdout
    else:
        assert "both pictures have arrived\nforgotten: 0\n" in done.stdout
    outcomes = re.findall(r"^(PASSED|FAILED) \S+::(\S+)", done.stdout, re.MULTILINE)
    assert {name: outcome for outcome, name in outcomes} == {
        "test_the_picture_arrives[upload]": "PASSED",
        "test_the_picture_arrives[upload_and_forget]": "FAILED" if options else "PASSED",
        "test_without_a_special_machine[False]": "PASSED",
        "test_without_a_special_machine[True]": "PASSED",
    }


def test_demo_coherence_boots_both_ways(cache: Path) -> None:
    """First where there are two views, then where there is one. What they are is tested in the guest."""
    done = vm(cache, "demo", "coherence", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [of_one["swiotlb"] for of_one in found] == ["force", "noforce"]
    assert [len(of_one["rows"]) for of_one in found] == [54, 54]
    assert found[0]["rows"] != found[1]["rows"]


def test_help_of_a_demo_needs_no_guest(cache: Path) -> None:
    """It is the program's own."""
    for name in ("coherence", "pipeline"):
        done = vm(cache, "--kernel", "/nonexistent", "demo", name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"python examples/{name}.py" in done.stdout
    unknown = vm(cache, "demo", "coherent")
    assert unknown.returncode == 2
    assert "one of pipeline, coherence and its options, not 'coherent'" in unknown.stderr
