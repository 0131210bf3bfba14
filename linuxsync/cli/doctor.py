"""linuxsync doctor: what this machine offers, what is missing, and the command that helps."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..inspect import Finding, State, examine
from ..vm import bootstrap, kvm
from .table import Column, Output, Table

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


@click.command(short_help="Say what this machine offers, what is missing, what helps", epilog=TABLE.help)
@click.option("--require", metavar="NAME", multiple=True, help="Fail unless this is ok; may be repeated.")
@TABLE.options
def doctor(require: tuple[str, ...], output: Output) -> None:
    """Say what this machine offers to those who work with fences and buffers, and what is missing.

    Nothing is changed. Exit status: 0; 1 if something that --require names is not ok.
    """
    found = [*examine(), *of_vm()]
    names = {one.name for one in found}
    for name in require:
        if name not in names and not name.startswith("drm:"):
            raise click.BadParameter(f"{name!r} is none of {', '.join(sorted(names))}", param_hint="--require")
    TABLE.print(found, output)
    lacking = [name for name in require if not any(one.name == name and one.state is State.OK for one in found)]
    for name in lacking:
        why = next(
            (f"{one.state.value}: {one.why}" for one in found if one.name == name),
            "missing: none that this user may ask",
        )
        print(f"linuxsync: {name} is required and {why}", file=sys.stderr)
    sys.exit(1 if lacking else 0)


def of_vm() -> Iterator[Finding]:
    """What ``vm/run`` takes."""
    no_kvm = kvm.impossible()
    if no_kvm is None:
        yield Finding("kvm", State.OK, "/dev/kvm opens; vm/run tries once whether it runs a guest")
    else:
        fix = "sudo usermod -aG kvm $USER" if "Permission denied" in no_kvm else None
        yield Finding("kvm", State.MISSING, f"{no_kvm}; vm/run emulates, which is slower", fix)
    qemu = shutil.which(kvm.QEMU)
    if qemu:
        yield Finding("qemu", State.OK, qemu)
    else:
        yield Finding("qemu", State.MISSING, f"no {kvm.QEMU} in PATH", "vm/run --yes kernel")
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
        why = f"vm/run lacks {'; '.join(need.what for need in lacking)}"
        yield Finding("vm", State.MISSING, why, "vm/run --yes kernel" if packages else None)
    else:
        yield Finding("vm", State.OK, "all that vm/run takes is installed, but for what builds its kernel once")


def is_present(need: bootstrap.Need) -> bool:
    """Whether it is there, for this user: who may not look has not got it."""
    try:
        return need.present()
    except PermissionError:
        return False
