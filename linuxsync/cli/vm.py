"""linuxsync vm: any command in a small Linux guest in which every fence, buffer and tracepoint is real."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..vm import bootstrap, runner
from ..vm import kernel as kernels
from ..vm.command import PASS_ON, Guests, Options, complete_kernel, kernel_, shell, with_options
from ..vm.matrix import show_matrix
from .completion import files

__all__ = ["vm"]

STOP_AT_COMMAND = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(cls=Guests, short_help="Run any command in a small guest in which all fences are real")
@with_options
@click.pass_context
def vm(context: click.Context, /, **options: Any) -> None:
    """Run something in a small Linux guest in which every fence, buffer and tracepoint is real.

    vgem, vkms and the fence device are loaded, virtio-gpu is there, debugfs and tracefs are mounted; there is no
    network. The guest sees this machine's files as they are, read-only but for --rw, with a /run, /var/tmp, /var/log,
    /var/cache and /dev/shm of its own, and a copy of /tmp that is thrown away. The first use asks for the packages
    that are missing, and builds a kernel, once, in 4 to 7 minutes.

    Exit status: that of the command; 69 where there is no guest, or it did not come up, its kernel panicked or oopsed
    (even if the command succeeded), or the time was up: the console's last lines and the whole log's path are then on
    stderr. A warning of the guest's kernel is shown on stderr.

    \b
    linuxsync vm run -- dmesg
    linuxsync vm --kernel 6.1 run -- python -m pytest tests
    linuxsync vm --incoherent test --junit out.xml ./test-one './test-two --fast'
    linuxsync vm --rw . --env API=1 shell
    """
    context.obj = Installed(**options)


class Installed(Options):
    """Those of a command that nothing has set up the machine for, as vm/run does it in a checkout."""

    def find_kernel(self) -> kernels.Kernel:
        """Install what a guest takes, after asking, before the kernel is looked for."""
        if not os.access(Path(sys.executable).parent / "virtme-run", os.X_OK):
            raise bootstrap.UnavailableError(
                f"this Python has no virtme-ng: {sys.executable} -m pip install 'linuxsync[vm]'"
            )
        versions = bootstrap.kernel_versions(["--kernel", self.kernel] if self.kernel else [], [])
        bootstrap.check_machine(versions, self.yes or bootstrap.is_ci(), of_checkout=False)
        return super().find_kernel()


@vm.command(context_settings=STOP_AT_COMMAND, short_help="Run a command in the guest")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(options: Options, command: tuple[str, ...]) -> int:
    """Run a command in the guest, as root, in this folder.

    Its stdin, stdout, stderr and exit status are those of this one, so that it works in a pipe and in CI.
    """
    return runner.run(command, options.settings())


@vm.command(context_settings=PASS_ON, short_help="This very Python in the guest, for pytest-xdist")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def python(options: Options, arguments: tuple[str, ...]) -> int:
    """Run this very Python in the guest; everything behind the word is Python's.

    execnet takes it for an interpreter: pytest --tx 'popen//python=linuxsync vm -q python' runs tests in the guest,
    which is what pytest --linuxsync-vm does.
    """
    return runner.run([sys.executable, *arguments], options.settings())


@vm.command(short_help="Run test programs of any language, print KTAP, write JUnit's XML")
@click.option(
    "--junit", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE", help="JUnit's XML."
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest that each may take.",
)
@click.argument("programs", nargs=-1, required=True, metavar="PROGRAM...", shell_complete=files)
@click.pass_obj
def test(options: Options, junit: Path | None, limit: float, programs: tuple[str, ...]) -> int:
    """Run test programs in one guest, one after the other, and print their results as KTAP.

    Each PROGRAM is a test: a file in C, Rust, Python or a shell, with arguments if they stand with it in quotes. It
    passes with exit status 0, and is skipped with 4 or 77. What it prints becomes comments; if that is TAP or KTAP, its
    results become subtests. One that makes the kernel warn has failed. KernelCI and LAVA read this; so does prove.

    Exit status: 0 if all passed or were skipped, 1 if one failed, 69 if the guest was lost.
    """
    from ..vm.testing import run_programs  # XML's module takes longer to import than all the rest of this

    for program in programs:
        try:
            if not shlex.split(program):
                raise ValueError("it is empty")
        except ValueError as error:
            raise click.BadParameter(f"{program!r} names no program: {error}") from None
    if junit and not os.access(junit.absolute().parent, os.W_OK):
        raise click.BadParameter(f"{junit.absolute().parent} can't be written", param_hint="--junit")
    return run_programs(programs, options.settings(), limit, junit)


@vm.command(context_settings=STOP_AT_COMMAND, short_help="What each kernel offers, and how a command fares on it")
@click.option(
    "--kernel",
    "kernels",
    metavar="VERSION|PATH",
    multiple=True,
    shell_complete=complete_kernel,
    help="One of them  [default: 6.12 and 6.1]",
)
@click.option("--json", "as_json", is_flag=True, help="For programs; what COMMAND prints goes to stderr then.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def matrix(options: Options, kernels: tuple[str, ...], as_json: bool, command: tuple[str, ...]) -> int:
    """Boot each of several kernels, ask what it offers as linuxsync doctor does, and run COMMAND on it.

    Prints a table with a row for each feature and a column for each kernel: "unsupported" is what a kernel lacks. The
    rows below it tell how COMMAND went, with pytest's counts if it is that.

    Exit status: the worst of COMMAND's, or 69 where a guest was lost.
    """
    chosen = kernels or ((options.kernel,) if options.kernel else (bootstrap.KERNEL, bootstrap.OLDEST))
    return show_matrix(chosen, command or None, lambda kernel: replace(options, kernel=kernel).settings(), as_json)


vm.add_command(shell)
vm.add_command(kernel_)
