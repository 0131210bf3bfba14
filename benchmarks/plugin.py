"""What ``pytest --linuxsync-vm`` costs beside plain virtme-ng: ``python -m benchmarks.plugin``, on the host.

One trivial test, in turn each round: by ``pytest --linuxsync-vm``; and by a bare virtme-ng command that boots the same
kernel with the same QEMU and runs the same pytest in it. The same command with nothing to run in the guest says what
booting it costs, its console when the kernel had handed over to the first program: that is QEMU's own boot.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from linuxsync.vm import kernel as kernels
from linuxsync.vm import kvm, runner

TEST = "def test_trivial():\n    pass\n"
PYTEST = ["-m", "pytest", "-v", "-p", "no:cacheprovider"]
HANDED_OVER = b"as init process"
MOST = 1.5  # times the raw command
EVERY = 0.01  # seconds between two looks at the console's log


class Rounds:
    """The machine, and what was measured on it, in seconds by name."""

    def __init__(self, project: Path, settings: runner.Settings) -> None:
        self.project = project
        self.settings = replace(settings, cwd=project)
        self.found: dict[str, list[float]] = {}

    def note(self, name: str, begun: float) -> None:
        """Something has just been reached."""
        self.found.setdefault(name, []).append(time.perf_counter() - begun)

    def once(self) -> None:
        """One round."""
        self.plugin()
        with tempfile.TemporaryDirectory(dir=self.project.parent) as folder:
            command = shlex.join(["cd", str(self.project)]) + " && " + shlex.join([sys.executable, *PYTEST])
            self.bare(Path(folder), command, "raw virtme-ng, the same pytest")
        with tempfile.TemporaryDirectory(dir=self.project.parent) as folder:
            self.bare(Path(folder), "true", "raw virtme-ng, nothing to run")

    def plugin(self) -> None:
        """By the plugin: until the test has passed, and until pytest has ended."""
        begun = time.perf_counter()
        options = ["--linuxsync-vm", *([] if self.settings.kvm else ["-o", "linuxsync_vm_options=--no-kvm"])]
        with subprocess.Popen(
            [sys.executable, *PYTEST, *options], cwd=self.project, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "PASSED" in line:
                    self.note("pytest --linuxsync-vm, first test passed", begun)
        self.note("pytest --linuxsync-vm", begun)
        assert process.returncode == 0

    def bare(self, folder: Path, script: str, name: str) -> None:
        """By virtme-ng: until the kernel starts the first program, the test has passed, all has ended."""
        log = folder / "console"
        log.touch()
        command = runner.virtme_command(folder, self.settings, ["--script-sh", script])
        begun = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=self.project,
            env=runner.virtme_environment(folder, log),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            while HANDED_OVER not in log.read_bytes() and process.poll() is None:
                time.sleep(EVERY)
            if script == "true":
                self.note("QEMU's own boot: the kernel starts init", begun)
            assert process.stdout is not None
            for line in process.stdout:
                if b"PASSED" in line:
                    self.note(f"{name}, first test passed", begun)
        self.note(name, begun)

    def table(self) -> str:
        """Medians, and each as a multiple of the raw command."""
        middle = {name: statistics.median(values) for name, values in self.found.items()}
        whole = middle["raw virtme-ng, the same pytest"]
        lines = [f"{'':<52}{'s':>7}{'least':>8}{'most':>8}{'x raw':>8}"]
        for name, value in sorted(middle.items(), key=lambda one: one[1]):
            values = self.found[name]
            lines.append(f"{name:<52}{value:7.2f}{min(values):8.2f}{max(values):8.2f}{value / whole:8.2f}")
        return "\n".join(
            [*lines, "", f"pytest --linuxsync-vm / raw, side by side, median of rounds: {self.ratio():.2f}"]
        )

    def ratio(self) -> float:
        """What the plugin costs: its time as a multiple of the raw command's in the same round, median of rounds."""
        each = zip(self.found["pytest --linuxsync-vm"], self.found["raw virtme-ng, the same pytest"], strict=True)
        return statistics.median(ours / raw for ours, raw in each)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help=f"exit 1 when it costs more than {MOST} times as much")
    options = parser.parse_args()
    kernel = kernels.ensure()
    settings = runner.Settings(kernel=kernel, kvm=kvm.probe(kernel).works, quiet=True)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with tempfile.TemporaryDirectory(dir=home) as folder:
        project = Path(folder, "project")
        project.mkdir()
        (project / "pytest.ini").write_text("[pytest]\n")
        (project / "test_trivial.py").write_text(TEST)
        rounds = Rounds(project, settings)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            rounds.once()
        print(f"Linux {kernel.version} under {'KVM' if settings.kvm else 'TCG'}, {options.rounds} rounds")
        print(rounds.table())
        if options.check and rounds.ratio() > MOST:
            sys.exit(f"that is more than {MOST:.2f}")


if __name__ == "__main__":
    main()
