"""The command line of the VM: ``vm/run`` when everything is set up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from . import runner
from .bootstrap import DEBUG, KERNEL, OLDEST, USAGE
from .command import INCOHERENT, LONG_LIMIT, LONGEST, PASS_ON, Guests, Options, finite, kernel_, shell, with_options

CHECKOUT = Path(__file__).resolve().parent.parent
OPTIONS_GIVEN = "linuxsync.vm.options"  # the key of the words before the command
ANYWHERE = {**PASS_ON, "allow_interspersed_args": True}  # options of ours among those that are passed on


class Commands(Guests):
    """A group with the help of the set-up's own --help, so that there is one text."""

    def get_help(self, ctx: click.Context) -> str:
        """The text that also works before anything is installed."""
        return USAGE

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``-- CMD...`` stand for the hidden command ``exec CMD...``."""
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            option = next((p for p in self.params if args[at] in p.opts), None)
            takes_value = isinstance(option, click.Option) and not option.is_flag
            at += 2 if takes_value else 1
        ctx.meta[OPTIONS_GIVEN] = args[:at]
        if args[at : at + 1] == ["--"]:
            args = [*args[:at], "exec", *args[at:]]
        return super().parse_args(ctx, args)


@click.group(cls=Commands)
@with_options
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Run something in a small Linux guest; the text of --help is bootstrap.USAGE."""
    context.obj = Options(**options)


@main.command("exec", hidden=True, context_settings=PASS_ON)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(options: Options, command: tuple[str, ...]) -> int:
    """Run a command in the guest."""
    return runner.run(command, options.settings())


# Which there are, and the kernel arguments of each guest that they want to be seen in.
EXAMPLES: dict[str, list[tuple[str, ...]]] = {"pipeline": [()], "coherence": [(INCOHERENT,), ("swiotlb=noforce",)]}


@main.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def demo(options: Options, arguments: tuple[str, ...]) -> int:
    """Show real fences."""
    name, options_of_it = arguments[:1], arguments[1:]
    if name and name[0] not in EXAMPLES:
        raise click.UsageError(f"demo takes nothing, or one of {', '.join(EXAMPLES)} and its options, not {name[0]!r}")
    command = ["python", str(CHECKOUT / "examples" / f"{name[0]}.py")] if name else ["python", "-m", "linuxsync.demo"]
    command += options_of_it
    if {"-h", "--help"} & set(options_of_it):
        return subprocess.run([sys.executable, *command[1:]], check=False).returncode
    boots = EXAMPLES[name[0]] if name else [()]
    settings = options.settings()
    status = 0
    for append in boots:
        status = status or runner.run(command, replace(settings, append=(*settings.append, *append)), stdin=None)
    return status


@main.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def bench(options: Options, arguments: tuple[str, ...]) -> int:
    """Run the benchmarks."""
    words = list(arguments)
    # The guest writes the file itself, so its folder must be writable.
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--json" and (equals or at + 1 < len(words)):
            if (value if equals else words[at + 1]) == "-":
                break
            file = Path(value if equals else words[at + 1]).resolve()
            if not file.parent.is_dir():
                raise click.BadParameter(f"{file.parent} is no folder", param_hint="--json")
            options.rw += (file.parent,)
            words[at : at + (1 if equals else 2)] = ["--json", str(file)]
            break
    settings = replace(options.settings(), cwd=CHECKOUT)
    return runner.run(["python", "-m", "benchmarks", *words], settings, stdin=None)


@main.command(context_settings=ANYWHERE)
@click.option("--kernel")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def test(context: click.Context, kernel: str | None, arguments: tuple[str, ...]) -> int:
    """Run the tests, on the host and in the guest."""
    from .tests import run_all, run_tests

    options: Options = context.obj
    options.kernel = kernel or options.kernel
    options.timeout = options.timeout or LONG_LIMIT
    if arguments:
        return run_tests(arguments, options.settings, CHECKOUT)
    return run_all(
        [*context.meta[OPTIONS_GIVEN], *(["--kernel", kernel] if kernel else [])], options.settings, CHECKOUT
    )


@main.command(context_settings=PASS_ON)
@click.option("--kernel", "kernels", multiple=True)
@click.option("--json", "as_json", is_flag=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def matrix(options: Options, kernels: tuple[str, ...], as_json: bool, arguments: tuple[str, ...]) -> int:
    """Run the guest's tests on several kernels."""
    from .tests import run_everywhere

    chosen = kernels or ((options.kernel,) if options.kernel else (KERNEL, OLDEST))
    options.timeout = options.timeout or LONG_LIMIT
    return run_everywhere(
        chosen, arguments, lambda kernel: replace(options, kernel=kernel).settings(), CHECKOUT, as_json
    )


@main.command(context_settings=ANYWHERE)
@click.option("--kernel")
@click.option("--minutes", type=click.FloatRange(min=0, max=LONGEST / 60, min_open=True), callback=finite)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def torture(options: Options, kernel: str | None, minutes: float | None, arguments: tuple[str, ...]) -> int:
    """Try to break everything, on the debug kernel unless told otherwise."""
    from .tests import run_torture

    options.kernel = kernel or options.kernel or DEBUG
    limited = options.timeout is not None
    return run_torture(minutes, arguments, options.settings(), CHECKOUT, limited=limited)


main.add_command(shell)
main.add_command(kernel_)


def run(arguments: Sequence[str] | None = None) -> int:
    """The whole command line; returns the exit status."""
    try:
        return int(main.main(arguments, prog_name="vm/run", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
