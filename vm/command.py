"""The options and commands that ``linuxsync vm`` and ``vm/run`` have in common."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import fencedev, kvm, runner, stock
from . import kernel as kernels
from .bootstrap import DEBUG, UnavailableError, known_kernels

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EX_UNAVAILABLE = 69
# Every mapping for a device gets a copy of its own, which only a sync brings up to date.
INCOHERENT = "swiotlb=force"
LEAST_MEMORY = 128 << 20
LONG_LIMIT = 4 * runner.LIMIT  # with the kernel's detectors on everything takes a few times as long; so do many tests
LONGEST = 30 * 86400.0  # seconds; a guest that nobody waits for any more is not "always enforced"
# What stands behind the name of such a command is somebody else's.
PASS_ON = {"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Options:
    """The options before the command, as their help describes them."""

    kernel: str | None
    use_kvm: bool | None
    timeout: float | None
    rw: tuple[Path, ...]
    cpus: int
    memory: str
    incoherent: bool
    append: tuple[str, ...]
    device: tuple[str, ...]
    env: tuple[str, ...]
    yes: bool
    quiet: bool

    def settings(self) -> runner.Settings:
        """What the runner needs, with the kernel built and KVM tried where that is necessary."""
        kernel = self.find_kernel()
        use_kvm = self.use_kvm if self.use_kvm is not None else kvm.probe(kernel).works
        return runner.Settings(
            kernel=kernel,
            timeout=self.timeout or (LONG_LIMIT if self.kernel == DEBUG else runner.LIMIT),
            kvm=use_kvm,
            rw=self.rw,
            cpus=self.cpus,
            memory=self.memory,
            append=((INCOHERENT,) if self.incoherent else ()) + self.append,
            devices=self.device,
            env={**guest_environment(), **dict(map(assignment, self.env))},
            quiet=self.quiet,
            fencedev=fencedev.module(kernel),
            strict=self.kernel == DEBUG,
        )

    def find_kernel(self) -> kernels.Kernel:
        """The kernel that --kernel names, or ours."""
        kernels.supported()
        return kernels.find(self.kernel)


def assignment(word: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME alone for the value that it has here."""
    name, equals, value = word.partition("=")
    if not name.isidentifier():
        raise click.BadParameter(f"{word!r} is no NAME=VALUE", param_hint="--env")
    if not equals:
        if name not in os.environ:
            raise click.BadParameter(f"{name} is not set here", param_hint="--env")
        value = os.environ[name]
    return name, value


def guest_environment() -> dict[str, str]:
    """The environment in which the guest finds this Python's programs first, and knows about our terminal."""
    bin_folder = str(Path(sys.executable).parent)
    env = {"PATH": f"{bin_folder}:{os.environ.get('PATH', os.defpath)}"}
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    # In the guest stdout is no terminal, even if ours is one.
    if sys.stdout is not None and sys.stdout.isatty():
        env["COLUMNS"] = str(os.get_terminal_size(1).columns)
        if "NO_COLOR" not in os.environ:
            env["FORCE_COLOR"] = "1"
    return env


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse a NaN, which is neither too small nor too large."""
    if value != value:
        raise click.BadParameter("nan is no number")
    return value


def known_size(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse what QEMU's -m would refuse when everything else is ready."""
    size = re.fullmatch(r"([1-9]\d*)([KMGT]?)", value.upper())
    if not size:
        raise click.BadParameter(f"{value!r} is no size such as 512M or 2G")
    # QEMU takes a number alone for MiB.
    if int(size[1]) << {"K": 10, "": 20, "M": 20, "G": 30, "T": 40}[size[2]] < LEAST_MEMORY:
        raise click.BadParameter(f"no guest comes up with {value}: {LEAST_MEMORY >> 20}M is the least")
    return value


def complete_kernel(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """What a shell completes --kernel to: the versions known, and files where none of them begins like this."""
    from click.shell_completion import CompletionItem

    versions = [CompletionItem(version) for version in known_kernels() if version.startswith(typed)]
    return versions or [CompletionItem(typed, type="file")]


OPTIONS = [
    click.option(
        "--kernel",
        metavar="VERSION|PATH",
        shell_complete=complete_kernel,
        help="Boot this Linux instead of 6.12: a version that is built once from the package linux-source-VERSION (6.1 "
        "is tested); debug, which is 6.12 with KASAN, lockdep and its other detectors, of which any report is a lost "
        "guest; a bzImage; or a kernel build tree. A file that is called 6.1 is ./6.1.",
    ),
    click.option(
        "--kvm/--no-kvm",
        "use_kvm",
        default=None,
        help="Use KVM, or QEMU's emulation. Without either KVM is tried once, and the answer remembered.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, max=LONGEST, min_open=True),
        callback=finite,
        default=None,
        show_default=f"{runner.LIMIT:g}, or {LONG_LIMIT:g} with --kernel debug",
        metavar="SECONDS",
        help="The longest that the guest may run, boot included; not for an interactive shell.",
    ),
    click.option(
        "--rw",
        type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        multiple=True,
        help="A folder of this machine that the guest may write; may be repeated.",
    ),
    click.option("--cpus", type=click.IntRange(min=1, max=64), default=2, show_default=True, help="Virtual CPUs."),
    click.option("--memory", default="1G", show_default=True, metavar="SIZE", callback=known_size, help="The guest's."),
    click.option(
        "--incoherent",
        is_flag=True,
        help="Devices see what the CPU wrote to a dma-buf, and the CPU what they wrote, only after DMA_BUF_IOCTL_SYNC "
        f"({INCOHERENT}): a program that forgets it works on x86 and fails here.",
    ),
    click.option("--append", metavar="ARG", multiple=True, help="One more kernel argument; may be repeated."),
    click.option(
        "--device",
        metavar="DEVICE",
        multiple=True,
        help="One more device, as QEMU's -device takes it; may be repeated.",
    ),
    click.option(
        "--env",
        metavar="NAME[=VALUE]",
        multiple=True,
        help="A variable for the guest, which gets PATH, HOME, LANG, LC_*, TERM, CI, PYTHON* and LINUXSYNC_* anyway; "
        "may be repeated.",
    ),
    click.option("--yes", is_flag=True, help="Install missing packages without asking; so does CI in the environment."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong."),
]


def with_options(function: Function) -> Function:
    """Give a group the options of a guest; it gets them as keyword arguments for ``Options``."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come; passes through every `except Exception`."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that every `finally` runs."""
    raise Terminated(number)


class Guests(click.Group):
    """A group whose commands return their exit status, and that ends as one does whose guest was lost."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run one; whatever ends it, no guest is left."""
        signal.signal(signal.SIGTERM, raise_terminated)
        signal.signal(signal.SIGHUP, raise_terminated)
        ctx.exit(self.status(ctx))

    def status(self, ctx: click.Context) -> int:
        """The exit status of one."""
        try:
            return int(super().invoke(ctx) or 0)
        except (kernels.KernelError, UnavailableError, OSError, ValueError) as error:
            runner.note(str(error))
            return EX_UNAVAILABLE
        except runner.GuestLost as error:
            error.tell()
            return EX_UNAVAILABLE
        except (KeyboardInterrupt, click.Abort):
            return 128 + signal.SIGINT
        except Terminated as error:
            return 128 + int(error.args[0])


@click.command()
@click.pass_obj
def shell(options: Options) -> int:
    """A root shell in the guest, in this folder."""
    settings = options.settings()
    if sys.stdin.isatty() and sys.stdout.isatty():
        return runner.shell(settings)
    return runner.run(["sh"], settings)


@click.group("kernel", invoke_without_command=True, short_help="Build, list and prune the kernels of guests")
@click.pass_context
def kernel_(context: click.Context) -> int:
    """Build a kernel, list those that were built, remove what is out of date.

    A kernel is built from the package linux-source-VERSION, in 4 to 7 minutes on two cores, and kept in
    ~/.cache/linuxsync/kernels, about 30 MB each. When its package, the compiler or the configuration has changed,
    another one is built and the old one stays until it is pruned. Without a command: build.
    """
    return 0 if context.invoked_subcommand else int(context.invoke(build))


@kernel_.command()
@click.pass_obj
def build(options: Options) -> int:
    """Build the kernel if need be, and print the path of its image.

    Which one, --kernel says, before the word kernel: linuxsync vm --kernel 6.1 kernel build.
    """
    click.echo(options.find_kernel().image)
    return 0


@kernel_.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects, bytes and seconds since 1970.")
def list_(as_json: bool) -> int:
    """Say which kernels were built, and which of them would be booted."""
    found = stock.stored()
    if as_json:
        names = {True: "current", False: "stale", None: "unknown"}
        rows = [
            {
                "series": one.series,
                "version": one.version,
                "state": names[one.current],
                "built": one.built,
                "bytes": one.bytes,
                "folder": str(one.folder),
            }
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return 0
    if not found:
        click.echo("No kernel was built yet: linuxsync vm kernel build", err=True)
        return 0
    click.echo(f"{'KERNEL':<8}{'VERSION':<12}{'STATE':<9}{'BUILT':<18}{'MB':>4}  FOLDER")
    for one in found:
        built = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.built))
        state = {True: "current", False: "stale", None: "unknown"}[one.current]
        click.echo(f"{one.series:<8}{one.version:<12}{state:<9}{built:<18}{one.bytes / 1e6:4.0f}  {one.folder}")
    return 0


@kernel_.command()
@click.option("--all", "everything", is_flag=True, help="Remove those that are booted, too.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(everything: bool, dry_run: bool) -> int:
    """Remove the kernels that are out of date, and say which.

    One whose source package is not installed any more is kept: whether it is out of date can't be told. Nothing is
    removed while a guest runs.
    """
    for one in stock.stored():
        if one.current is not False and not everything:
            continue
        if dry_run:
            click.echo(f"would remove {one.folder} ({one.bytes / 1e6:.0f} MB)")
        elif stock.remove(one):
            click.echo(f"removed {one.folder} ({one.bytes / 1e6:.0f} MB)")
        else:
            click.echo(f"{one.folder} is being built, and stays", err=True)
    return 0
