"""The command line of the VM: ``vm/run`` when everything is set up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import click

from . import fencedev, kvm, runner
from . import kernel as kernels
from .bootstrap import USAGE

EX_UNAVAILABLE = 69
# Every mapping for a device gets a copy of its own, which only a sync brings up to date.
INCOHERENT = "swiotlb=force"
CHECKOUT = Path(__file__).resolve().parent.parent


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come; passes through every `except Exception`."""


@dataclass
class Options:
    """The options before the command."""

    kernel: str | None
    use_kvm: bool | None
    timeout: float
    rw: tuple[Path, ...]
    cpus: int
    memory: str
    append: tuple[str, ...]
    quiet: bool

    def settings(self) -> runner.Settings:
        """What the runner needs, with the kernel built and KVM tried where that is necessary."""
        kernel = self.find_kernel()
        use_kvm = self.use_kvm if self.use_kvm is not None else kvm.probe(kernel).works
        return runner.Settings(
            kernel=kernel,
            timeout=self.timeout,
            kvm=use_kvm,
            rw=self.rw,
            cpus=self.cpus,
            memory=self.memory,
            append=self.append,
            env=guest_environment(),
            quiet=self.quiet,
            fencedev=fencedev.module(kernel),
        )

    def find_kernel(self) -> kernels.Kernel:
        """The kernel that --kernel names, or ours."""
        kernels.supported()
        return kernels.find(self.kernel)


def guest_environment() -> dict[str, str]:
    """The environment in which the guest finds this Python's programs first, and knows about our terminal."""
    bin_folder = str(Path(sys.executable).parent)
    env = {"PATH": f"{bin_folder}:{os.environ.get('PATH', os.defpath)}", "VIRTUAL_ENV": sys.prefix}
    # In the guest stdout is no terminal, even if ours is one.
    if sys.stdout is not None and sys.stdout.isatty():
        env["COLUMNS"] = str(os.get_terminal_size(1).columns)
        if "NO_COLOR" not in os.environ:
            env["FORCE_COLOR"] = "1"
    return env


class Commands(click.Group):
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
        if args[at : at + 1] == ["--"]:
            args = [*args[:at], "exec", *args[at:]]
        return super().parse_args(ctx, args)


LONGEST = 30 * 86400.0  # seconds; a guest that nobody waits for any more is not "always enforced"


def finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse a NaN, which is neither too small nor too large."""
    if value != value:
        raise click.BadParameter("nan is no number of seconds")
    return value


PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@click.group(cls=Commands)
@click.option("--yes", is_flag=True, help="Used by the set-up.")
@click.option("--kernel")
@click.option("--kvm/--no-kvm", "use_kvm", default=None)
@click.option("--timeout", type=click.FloatRange(min=0, max=LONGEST, min_open=True), callback=finite, default=1800.0)
@click.option("--rw", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path), multiple=True)
@click.option("--cpus", type=click.IntRange(min=1, max=64), default=2)
@click.option("--memory", default="1G")
@click.option("--incoherent", is_flag=True)
@click.option("--append", multiple=True)
@click.option("-q", "--quiet", is_flag=True)
@click.pass_context
def main(
    context: click.Context,
    yes: bool,
    kernel: str | None,
    use_kvm: bool | None,
    timeout: float,
    rw: tuple[Path, ...],
    cpus: int,
    memory: str,
    incoherent: bool,
    append: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run something in a small Linux guest; the text of --help is bootstrap.USAGE."""
    if incoherent:
        append = (INCOHERENT, *append)
    context.obj = Options(kernel, use_kvm, timeout, rw, cpus, memory, append, quiet)


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


@main.command()
@click.pass_obj
def shell(options: Options) -> int:
    """A root shell in the guest."""
    settings = replace(options.settings(), cwd=CHECKOUT)
    if sys.stdin.isatty() and sys.stdout.isatty():
        return runner.shell(settings)
    return runner.run(["sh"], settings)


@main.command("kernel")
@click.pass_obj
def kernel_(options: Options) -> int:
    """Build the kernel if need be, and print where its image is."""
    click.echo(options.find_kernel().image)
    return 0


@main.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def test(options: Options, arguments: tuple[str, ...]) -> int:
    """Run the tests, first on the host, then in the guest."""
    from .tests import run_tests

    return run_tests(arguments, options.settings, CHECKOUT)


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that every `finally` runs."""
    raise Terminated(number)


def run(arguments: Sequence[str] | None = None) -> int:
    """The whole command line; returns the exit status."""
    signal.signal(signal.SIGTERM, raise_terminated)
    signal.signal(signal.SIGHUP, raise_terminated)
    try:
        status = main.main(arguments, prog_name="vm/run", standalone_mode=False)
        return int(status or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (kernels.KernelError, OSError, ValueError) as error:
        runner.note(str(error))
        return EX_UNAVAILABLE
    except runner.GuestLost as error:
        if error.tail:
            runner.note("the console's last lines:")
            print(error.tail, file=sys.stderr)
        runner.note(error.reason)
        runner.note(f"console log: {error.console_log}")
        return EX_UNAVAILABLE
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Terminated as error:
        return 128 + int(error.args[0])


if __name__ == "__main__":
    sys.exit(run())
