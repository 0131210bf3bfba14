"""linuxsync: who holds which fences and buffers on this machine. One module per command."""

from __future__ import annotations

import click

from .bufs import bufs
from .completion import completion
from .doctor import doctor
from .failures import Commands
from .leaks import leaks
from .metrics import metrics
from .ps import ps
from .show import show
from .stuck import stuck
from .syncobjs import syncobjs
from .timelines import timelines
from .top import top
from .trace import trace
from .vm import vm

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="linuxsync", message="%(prog)s %(version)s")
def main() -> None:
    """Who holds which fences and buffers on this machine, and who waits for what.

    Everything is read from /proc, debugfs and the fences themselves. Nothing of it is changed, but stuck polls fences,
    --confirm asks in ways that the kernel notices, and leaks --stacks sets probes. An ordinary user sees their own
    processes, root all. Each command has --help, which lists its columns, and --json for programs; metrics prints for
    Prometheus alone. trace records what happens to fences from now on, and shows it;
    vm runs any command in a small guest where all fences are real.
    """


main.add_command(bufs)
main.add_command(completion)
main.add_command(doctor)
main.add_command(leaks)
main.add_command(metrics)
main.add_command(ps)
main.add_command(show)
main.add_command(stuck)
main.add_command(syncobjs)
main.add_command(timelines)
main.add_command(top)
main.add_command(trace)
main.add_command(vm)
