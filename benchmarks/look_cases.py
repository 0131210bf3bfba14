"""The benchmarks of looking at 200 processes with 50 fences each, which look.c starts; look.c is also the third."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from time import perf_counter_ns

from linuxsync.cli import main
from linuxsync.cli.selection import Selection
from linuxsync.cli.top import Looker, View, screen
from linuxsync.inspect import scan, sync_files, tally

from . import plain_look as plain
from .cases import Case, Work


def timed(work: Callable[[], object]) -> Work:
    """Time `work`."""

    def run(count: int) -> int:
        start = perf_counter_ns()
        for _ in range(count):
            work()
        return perf_counter_ns() - start

    return run


def look() -> None:
    sync_files(scan())


def counted() -> None:
    look = scan()
    tally(look, sync_files(look))


def ps() -> None:
    """The command in a running interpreter."""
    with open(os.devnull, "w") as file, redirect_stdout(file):
        try:
            main(["ps", "--json"])
        except SystemExit as end:
            assert end.code == 0


@cache
def looker() -> Looker:
    return Looker(Selection(None, (), (), ()))


def top() -> None:
    """What top does once a second, but for writing it to a terminal."""
    screen(looker().look(), View("growth", 1.0), 80, 24)


def plain_ps() -> None:
    with open(os.devnull, "w") as file:
        plain.print_look(file)


def run_ps() -> None:
    """The command as one types it, Python's own start included."""
    subprocess.run([sys.executable, "-m", "linuxsync.cli", "ps", "--json"], stdout=subprocess.DEVNULL, check=True)


def run_plain_ps() -> None:
    script = "import sys; from benchmarks import plain_look; plain_look.print_look(sys.stdout)"
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=True)


def case(name: str, what: str, ours: Callable[[], None], plain: Callable[[], object], max_vs_c: float | None) -> Case:
    """One of look.c."""
    return Case(name, what, 1, timed(ours), timed(plain), max_vs_c=max_vs_c, program="look")


CASES = [
    case("look", "look at 10,000 fences", look, plain.look, 3),
    case("look_tally", "look + tally", counted, plain.look, None),
    # Here "plain Python" is the bare look, to which top should not add much.
    case("look_top", "top: a look, drawn (plain: bare)", top, look, None),
    case("look_ps", "ps --json of 10,000", ps, plain_ps, 3),
    case("look_command", "the same with Python's start", run_ps, run_plain_ps, None),
]
