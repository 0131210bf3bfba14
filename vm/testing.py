"""``linuxsync vm test``: test programs of any language in one guest, KTAP on stdout, JUnit's XML in a file."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from . import runner
from .ktap import Report

# What -m would do, but a module that lies in the working directory is not ours.
START = "import sys; del sys.path[0]; from linuxsync.vm.programs import main; sys.exit(main())"


def run_programs(programs: Sequence[str], settings: runner.Settings, limit: float, junit: Path | None) -> int:
    """Run each of some programs, which may have arguments in shell's words; 0 if all passed or were skipped, else 1.

    Args:
        limit: seconds that each may take.
        junit: a file for JUnit's XML, written whatever happens.

    Raises:
        GuestLost: see ``runner.run()``; the program that ran then has failed in the file.
        OSError: the file can't be written.
    """
    report = Report()
    source, sink = os.pipe()
    reader = threading.Thread(target=follow, args=(source, report))
    command = [sys.executable, "-c", START, "--limit", str(limit), "--", *programs]
    reader.start()
    try:
        try:
            status = runner.run(command, settings, stdin=None, stdout=sink)
        finally:
            os.close(sink)
            reader.join()
    except BaseException as error:
        said = why = error.reason if isinstance(error, runner.GuestLost) else f"stopped by {type(error).__name__}"
        for program in programs[len(report.programs) :]:
            report.lost(program, why)
            why = "did not run, the guest was lost before"
        print(f"Bail out! {said}", flush=True)
        raise
    finally:
        if junit:
            junit.write_bytes(report.junit())
    if status == 128 + signal.SIGPIPE:
        return status  # whoever read ours has gone
    if len(report.programs) < len(programs):
        # Nothing that a program does should end the one that runs them.
        runner.note(f"only {len(report.programs)} of {len(programs)} programs have ended, with status {status}")
        return 1
    return int(report.failed() or status != 0)


def follow(source: int, report: Report) -> None:
    """Pass on each line as it comes, and read it."""
    with open(source, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            report.feed(line.rstrip("\n"))
            try:
                print(line, end="", flush=True)
            except OSError:
                return  # nobody reads ours any more; the guest is stopped by its own pipe
