"""python -m benchmarks: run inside a kernel with sw_sync; `vm/run bench` does that anywhere."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from linuxsync import DmaHeap, DrmDevice, FenceDevice, OwnedFd, sw_sync

from . import buffer_cases, cases, job_cases, look_cases

HERE = Path(__file__).resolve().parent


def path_of(opened: OwnedFd) -> str:
    """Where the file is that was opened, which is closed again."""
    with opened:
        return str(Path(f"/proc/self/fd/{opened.fileno()}").readlink())


# The C programs, and what each is told about this machine.
PROGRAMS: dict[str, Callable[[], list[str]]] = {
    "fences": lambda: [sw_sync.find()],
    "buffers": lambda: [
        path_of(DmaHeap()),
        path_of(DrmDevice.open("vgem")),
        path_of(DrmDevice.open("virtio_gpu", render=True)),
        sw_sync.find(),
    ],
    "jobs": lambda: [path_of(FenceDevice())],
    "look": lambda: [sw_sync.find()],
}


@dataclass
class Figure:
    """One benchmark: nanoseconds of one repetition, in each round, for each of the three."""

    name: str
    what: str
    max_vs_c: float | None
    min_vs_plain: float | None
    c: list[float] = field(default_factory=list)
    linuxsync: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def ratio(self, a: list[float], b: list[float]) -> float:
        """How many times as long `a` takes as `b`: the median over rounds, each round's two having run side by side."""
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    @property
    def vs_c(self) -> float:
        """linuxsync / C."""
        return self.ratio(self.linuxsync, self.c)

    @property
    def vs_plain(self) -> float:
        """Plain Python / linuxsync."""
        return self.ratio(self.plain, self.linuxsync)

    @property
    def missed(self) -> bool:
        """Whether a target is missed."""
        return (self.max_vs_c is not None and self.vs_c > self.max_vs_c) or (
            self.min_vs_plain is not None and self.vs_plain < self.min_vs_plain
        )

    @property
    def target(self) -> str:
        """The targets, as one reads them."""
        bounds = []
        if self.max_vs_c is not None:
            bounds.append(f"<= {self.max_vs_c:g} C")
        if self.min_vs_plain is not None:
            bounds.append(f">= {self.min_vs_plain:g} plain")
        return ", ".join(bounds) or "-"


class CProgram:
    """One of the C programs, compiled and running."""

    def __init__(self, folder: str, name: str) -> None:
        """Compile it into `folder`."""
        self.name = name
        try:
            paths = PROGRAMS[name]()
        except OSError as error:
            raise click.ClickException(str(error)) from error
        binary = f"{folder}/{name}"
        compiler = os.environ.get("CC", "cc")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", f"-I{HERE.parent / 'native'}"]
        subprocess.run([compiler, *flags, "-o", binary, str(HERE / f"{name}.c")], check=True)
        self.process = subprocess.Popen(
            [binary, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, case: str, count: int) -> float:
        """Nanoseconds for one repetition."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{case} {count}\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise click.ClickException(f"{self.name}.c ended with status {self.process.wait()} in case {case}")
        return int(answer) / count

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def timed(work: Callable[[int], int], count: int) -> float:
    """Nanoseconds for one repetition; `work` says itself how long the part that counts took."""
    return work(count) / count


def spread(values: list[float]) -> str:
    """Median in microseconds, and how far off half of the rounds are at most."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return f"{middle / 1000:.2f} ±{(high - low) / 2 / middle:3.0%}"


def table(figures: list[Figure]) -> Table:
    """What was measured, one line a benchmark."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        title="microseconds a repetition: median ± half the quartiles' distance; ratios: median of paired rounds",
    )
    for heading in ("benchmark", "C", "linuxsync", "plain Python", "linuxsync/C", "plain/linuxsync", "target", ""):
        shown.add_column(heading, justify="left" if heading in ("benchmark", "target") else "right", no_wrap=True)
    for figure in figures:
        shown.add_row(
            figure.what,
            *(spread(values) for values in (figure.c, figure.linuxsync, figure.plain)),
            f"{figure.vs_c:.2f}",
            f"{figure.vs_plain:.2f}",
            figure.target,
            "missed" if figure.missed else "met" if figure.target != "-" else "",
        )
    return shown


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(allow_dash=True, dir_okay=False, writable=True),
    help="Write every measurement to FILE ('-': stdout, instead of the table).",
)
@click.option("--check", is_flag=True, help="Exit 1 when a target is missed.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1), help="Interleaved rounds.")
@click.option("-k", "only", metavar="TEXT", default="", help="Only benchmarks whose name contains TEXT.")
def main(json_file: str | None, check: bool, rounds: int, only: str) -> None:
    """Measure linuxsync against C and against plain Python.

    Every round runs each benchmark once as C, as linuxsync and as plain Python, one after the other and in turning
    order, so that what disturbs the machine disturbs all three. Compare ratios, not times: an emulated machine is about
    ten times slower than a real one.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    known = [*cases.CASES, *buffer_cases.CASES, *job_cases.CASES, *look_cases.CASES]
    chosen = [case for case in known if only in case.name]
    if not chosen:
        raise click.UsageError(f"no benchmark has {only!r} in its name; there are: {', '.join(c.name for c in known)}")
    figures = [Figure(case.name, case.what, case.max_vs_c, case.min_vs_plain) for case in chosen]
    stderr = Console(stderr=True, highlight=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress,
    ):
        task = progress.add_task("measuring", total=rounds * len(chosen))
        programs = {name: CProgram(folder, name) for name in sorted({case.program for case in chosen})}
        for number in range(1, rounds + 1):
            if not stderr.is_terminal:
                stderr.print(f"round {number} of {rounds}")
            for case, figure in zip(chosen, figures, strict=True):
                turns = [
                    (figure.c, lambda case=case: programs[case.program].run(case.name, case.count)),
                    (figure.linuxsync, lambda case=case: timed(case.linuxsync, case.count)),
                    (figure.plain, lambda case=case: timed(case.plain, case.count)),
                ]
                # Whoever comes first finds colder caches, so each has its turn at it.
                first = number % len(turns)
                for values, measure in turns[first:] + turns[:first]:
                    try:
                        values.append(measure())
                    except OSError as error:  # a device that is there may still lack what is measured
                        raise click.ClickException(f"{case.name}: {error}") from error
                progress.advance(task)
        for program in programs.values():
            program.close()
    # A pipe has no width of its own, and a table cut to 80 columns says nothing.
    wide = None if sys.stdout.isatty() else 160
    if json_file != "-":
        Console(width=wide).print(table(figures))
    if json_file is not None:
        machine = {"kernel": platform.release(), "python": platform.python_version(), "rounds": rounds}
        benchmarks = [
            asdict(figure)
            | {
                "median": {who: statistics.median(getattr(figure, who)) for who in ("c", "linuxsync", "plain")},
                "linuxsync_vs_c": figure.vs_c,
                "plain_vs_linuxsync": figure.vs_plain,
                "target": figure.target,
                "missed": figure.missed,
            }
            for figure in figures
        ]
        with click.open_file(json_file, "w") as file:
            file.write(
                json.dumps(machine | {"unit": "ns", "time": time.time(), "benchmarks": benchmarks}, indent=1) + "\n"
            )
    missed = [figure.what for figure in figures if figure.missed]
    if check and missed:
        raise click.ClickException(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
