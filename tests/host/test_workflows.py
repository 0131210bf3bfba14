"""GitHub's files: the workflows of this project, the action for others, and the workflow that shows how to use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from linuxsync.vm import kernel as kernels

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / ".github/workflows/ci.yml"
NIGHTLY = ROOT / ".github/workflows/nightly.yml"
ADOPTERS = ROOT / "examples/github-workflow.yml"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]


def said(*command: str) -> tuple[int, str]:
    """The exit status of a Python module's command, and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def actionlint(path: Path) -> tuple[int, str]:
    """What actionlint says of a workflow, its shell scripts included."""
    program = Path(sys.executable).parent / "actionlint"
    command = [str(program), "-no-color", "-oneline", "-shellcheck", "shellcheck", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", [CI, NIGHTLY, ADOPTERS], ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    """actionlint has nothing to say, of the scripts neither, and GitHub's schema neither."""
    status, text = actionlint(path)
    assert status == 0, text
    status, text = said("check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))
    assert status == 0, text


def test_read_the_docs() -> None:
    """Its file is what its schema says."""
    status, text = said("check_jsonschema", "--builtin-schema", "vendor.readthedocs", ".readthedocs.yaml")
    assert status == 0, text


def test_the_action(tmp_path: Path) -> None:
    """Its schema, and its steps as those of a workflow with the same inputs, for actionlint reads no actions."""
    status, text = said("check_jsonschema", "--builtin-schema", "vendor.github-actions", str(ROOT / "action.yml"))
    assert status == 0, text
    inputs = {name: {"type": "string", **about} for name, about in ACTION["inputs"].items()}
    outputs = {f"output-{name}": about["value"] for name, about in ACTION["outputs"].items()}
    job = {"runs-on": "ubuntu-24.04", "steps": STEPS, "outputs": outputs}
    workflow = tmp_path / "action.yml"
    workflow.write_text(yaml.safe_dump({"on": {"workflow_call": {"inputs": inputs}}, "jobs": {"steps": job}}))
    status, text = actionlint(workflow)
    assert status == 0, text
    # What a user writes reaches a script as a variable, and is not pasted into it.
    assert not [step["name"] for step in STEPS if "${{" in step.get("run", "")]


@pytest.mark.parametrize(
    ("what", "instead", "found"),
    [
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-99.99", 'label "ubuntu-99.99" is unknown'),
        ("matrix.python }}", "matrix.pyhton }}", 'property "pyhton" is not defined'),
        ("run: .ci/lint", "run: cd $1", "SC2086"),
    ],
)
def test_actionlint_finds_mistakes(what: str, instead: str, found: str, tmp_path: Path) -> None:
    """It does look: at labels, at expressions, and with shellcheck at scripts."""
    text = CI.read_text()
    assert what in text
    broken = tmp_path / "ci.yml"
    broken.write_text(text.replace(what, instead))
    status, told = actionlint(broken)
    assert status == 1
    assert found in told


def test_what_the_workflow_runs_is_there() -> None:
    """Each program of the checkout that it names exists and can be executed; adopters give the action its inputs."""
    jobs = yaml.safe_load(CI.read_text())["jobs"]
    runs = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    programs = set(re.findall(r"(?:^|\s)((?:vm|\.ci)/\w+)", runs))
    assert programs == {"vm/run", ".ci/lint"}
    assert all(os.access(ROOT / program, os.X_OK) for program in programs)
    # Between them the jobs run every test.
    assert {"tests/host", "tests/vm"} <= set(runs.split())
    steps = yaml.safe_load(ADOPTERS.read_text())["jobs"]["fences"]["steps"]
    ours = next(step for step in steps if step.get("uses", "").startswith("OWNER/linuxsync@"))
    assert set(ours.get("with", {})) <= set(ACTION["inputs"])
    used = set(re.findall(rf"steps\.{ours['id']}\.outputs\.([\w-]+)", ADOPTERS.read_text()))
    assert used and used <= set(ACTION["outputs"])


class Job:
    """What GitHub's runner does with the steps of an action, as far as it goes here: those that run a script."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        self.folder = folder
        self.inputs = {name: str(about["default"]) for name, about in ACTION["inputs"].items()} | inputs
        self.outputs: dict[str, dict[str, str]] = {}
        self.said = ""

    def value(self, text: str) -> str:
        """A text with its expressions replaced."""

        def known(found: re.Match[str]) -> str:
            words = found[1].split(".")
            return self.inputs[words[1]] if words[0] == "inputs" else self.outputs[words[1]][words[3]]

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", known, text)

    def run(self, step: dict[str, Any]) -> int:
        """Run a step's script as the runner does; its exit status."""
        file = self.folder / "output"
        file.write_text("")
        env = {name: self.value(value) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={**os.environ, **env, "GITHUB_OUTPUT": str(file), "GITHUB_ACTION_PATH": str(ROOT), "CI": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.said = done.stdout + done.stderr
        self.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in file.read_text().splitlines())
        return done.returncode


@pytest.mark.skipif(
    Path("/dev/kvm").exists() and not os.access("/dev/kvm", os.W_OK),
    reason="the action would give everybody this machine's /dev/kvm",
)
def test_the_action_here(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """Its scripts find what is installed, name the kernel that was built before, and boot it."""
    # Its own checkout is what it installs by itself: minutes of compiling, and test_packaging.py does it.
    job = Job(tmp_path, python=sys.executable, install="linuxsync[vm]")
    # As where the job's checkout is linuxsync's own, which is not the one that was installed.
    (tmp_path / "linuxsync").mkdir()
    (tmp_path / "linuxsync" / "__init__.py").write_text("raise ImportError('this is the checkout')")
    scripts = [step for step in STEPS if "run" in step]
    assert len(scripts) == 4
    for step in scripts:
        assert job.run(step) == 0, f"{step['name']}: {job.said}"
    assert re.search(rf"^Linux {re.escape(kernel.version)} x86_64$", job.said, re.MULTILINE)
    assert job.outputs["kvm"] == {"kvm": "true" if os.access("/dev/kvm", os.W_OK) else "false"}
    # What the cache's steps are given is where that kernel is.
    key = job.outputs["key"]
    assert Path(key["folder"], key["kernels"]) in kernel.image.parents
    assert job.value(STEPS[3]["with"]["path"]) == key["folder"]


def test_the_action_without_a_kernel(tmp_path: Path) -> None:
    """A version that nobody has the source of is an error that says so, where GitHub shows errors."""
    job = Job(tmp_path, python=sys.executable, kernel="1.2.3")
    (step,) = [step for step in STEPS if step.get("id") == "key"]
    assert job.run(step) != 0
    assert "::error::" in job.said
    assert "linux-source-1.2.3" in job.said
