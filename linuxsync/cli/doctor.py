"""linuxsync doctor: what this machine offers, what is missing, and the command that helps."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..inspect import Finding, State, examine
from ..vm import bootstrap, kvm
from .completion import item
from .table import Column, Output, Table

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["doctor"]

TABLE: Table[Finding] = Table(
    "checks",
    [
        Column("NAME", "what --require takes; each DRM device is drm:DRIVER", lambda row: row.name),
        Column("STATE", "ok, missing or unknown, for this user", lambda row: row.state.value),
        Column("WHY", "how that is known", lambda row: row.why),
        Column("FIX", "the command that helps", lambda row: row.fix),
    ],
)


def names(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """What completes --require."""
    return [item(one.name, one.state.value) for one in everything() if one.name.startswith(typed)]


@click.command(short_help="Say what this machine offers, what is missing, what helps", epilog=TABLE.help)
@click.option(
    "--require",
    metavar="NAME",
    multiple=True,
    shell_complete=names,
    help="Fail unless this is ok; may be repeated.",
)
@TABLE.options
def doctor(require: tuple[str, ...], output: Output) -> None:
    """Say what this machine offers to those who work with fences and buffers, and what is missing.

    Nothing is changed. Exit status: 0; 1 if something that --require names is not ok.
    """
    found = everything()
    known = {one.name for one in found}
    for name in require:
        if name not in known and not name.startswith("drm:"):
            raise click.BadParameter(f"{name!r} is none of {', '.join(sorted(known))}", param_hint="--require")
    if not (output.as_json or output.raw or output.columns) and sys.stdout.isatty():
        for_people(found, output, shutil.get_terminal_size().columns)
    else:
        TABLE.print(found, output)
    lacking = [name for name in require if not any(one.name == name and one.state is State.OK for one in found)]
    for name in lacking:
        why = next(
            (f"{one.state.value}: {one.why}" for one in found if one.name == name),
            "missing: none that this user may ask",
        )
        print(f"linuxsync: {name} is required and {why}", file=sys.stderr)
    sys.exit(1 if lacking else 0)


def everything() -> list[Finding]:
    """What fences and buffers take, and what the guest takes."""
    return [*examine(), *of_vm()]


def for_people(found: list[Finding], output: Output, width: int) -> None:
    """The table, if the terminal is wide enough; else WHY is wrapped, and FIX stands below it, whole to be copied."""
    columns = [*TABLE.columns.values()]
    cells = [[column.text(row) for column in columns] for row in found]
    widths = [
        max(len(cell) for cell in (column.name, *(line[at] for line in cells))) for at, column in enumerate(columns)
    ]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        TABLE.print(found, output)
        return
    if not output.no_headings:
        print(f"{'NAME':<{widths[0]}}  {'STATE':<{widths[1]}}  WHY, and the FIX below")
    for name, state, why, fix in cells:
        start = f"{name:<{widths[0]}}  {state:<{widths[1]}}  "
        wrapped = textwrap.wrap(
            why,
            max(20, width - len(start)),
            break_long_words=False,
            break_on_hyphens=False,
        )
        print(start + f"\n{' ' * len(start)}".join(wrapped))
        if fix != "-":
            print(f"{' ' * len(start)}-> {fix}")


def of_vm() -> Iterator[Finding]:
    """What ``linuxsync vm`` takes."""
    no_kvm = kvm.impossible()
    if no_kvm is None:
        yield Finding("kvm", State.OK, "/dev/kvm opens; linuxsync vm tries once whether it runs a guest")
    else:
        fix = "sudo usermod -aG kvm $USER" if "Permission denied" in no_kvm else None
        yield Finding("kvm", State.MISSING, f"{no_kvm}; linuxsync vm emulates, which is slower", fix)
    qemu = shutil.which(kvm.QEMU)
    if qemu:
        yield Finding("qemu", State.OK, qemu)
    else:
        yield Finding("qemu", State.MISSING, f"no {kvm.QEMU} in PATH", "linuxsync vm --yes kernel build")
    vng = Path(sys.executable).parent / "virtme-run"
    if os.access(vng, os.X_OK):
        yield Finding("vng", State.OK, str(vng))
    else:
        yield Finding(
            "vng", State.MISSING, "this Python has no virtme-ng", f"{sys.executable} -m pip install virtme-ng"
        )
    lacking = [need for need in bootstrap.needs([]) if not need.only_to_build_kernel and not is_present(need)]
    if lacking:
        packages = bootstrap.packages_of(lacking, bootstrap.distribution())
        why = f"linuxsync vm lacks {'; '.join(need.what for need in lacking)}"
        yield Finding("vm", State.MISSING, why, "linuxsync vm --yes kernel build" if packages else None)
    else:
        yield Finding("vm", State.OK, "all that linuxsync vm takes is installed, but for what builds its kernel once")


def is_present(need: bootstrap.Need) -> bool:
    """Whether it is there, for this user: who may not look has not got it."""
    try:
        return need.present()
    except PermissionError:
        return False
