"""linuxsync metrics: the numbers of one look at the machine, for Prometheus."""

from __future__ import annotations

import errno
import os
import sys

import click

from ..inspect import Gauge, dma_bufs, fence_timelines, gauges, scan, sync_files
from .bufs import wanted as wants_buffer
from .selection import Selection, selecting
from .timelines import wanted as wants_timeline

__all__ = ["metrics"]


def place(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Address, IPv6 without brackets, and port of ``PORT``, ``ADDRESS:PORT`` or ``[IPV6]:PORT``."""
    if value is None:
        return None
    address, colon, port = value.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise click.BadParameter(f"{value!r}: an IPv6 address is written in brackets, [::1]:9743 say")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (colon and not address):
        raise click.BadParameter(f"{value!r} is no [ADDRESS:]PORT with a port of at most 65535")
    return address or "127.0.0.1", int(port)


@click.command(short_help="Print, write or serve the numbers of all this for Prometheus")
@click.option("--textfile", metavar="PATH", help="Write this file, at once, for node_exporter: a name in *.prom.")
@click.option(
    "--listen",
    metavar="[ADDRESS:]PORT",
    callback=place,
    help="Serve /metrics over HTTP, by default to this machine alone, until Ctrl-C or SIGTERM.",
)
@click.option("--no-processes", is_flag=True, help="Sums over all processes: no series for each pid.")
@selecting
def metrics(textfile: str | None, listen: tuple[str, int] | None, no_processes: bool, selection: Selection) -> None:
    """Print what this machine holds of fences and buffers for Prometheus, write it to a file, or serve it.

    Every scrape takes a fresh look, one at a time. A process that holds something has up to seven series of its own:
    use --no-processes where they come and go quickly. A timeline has three or four: --driver and --timeline choose, and
    what has no such fence does not count then. Names are escaped as in all tables. Whoever may connect reads them,
    and everybody on this machine reads the file, which gets mode 0644: it holds names of processes and timelines.

    Exit status: 0; 1 if it can't be written or served.
    """
    if textfile is not None and listen is not None:
        raise click.UsageError("--textfile writes once, --listen serves: choose one.")
    try:
        from . import exposition
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        raise click.ClickException(
            "this takes the Python package prometheus-client: pip install 'linuxsync[metrics]'"
        ) from None

    def look() -> list[Gauge]:
        return taken(selection, not no_processes)

    if textfile is not None:
        found = exposition.measured(look)
        try:
            exposition.write(found, textfile)
        except OSError as error:
            kept = "; what was there is as it was" if os.path.lexists(textfile) else ""
            raise click.ClickException(f"can't write {textfile}: {error.strerror}{kept}") from None
    elif listen is not None:
        address, port = listen
        try:
            exposition.serve(look, address, port)
        except OSError as error:
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            raise click.ClickException(
                f"can't listen on {where}: {error.strerror}; {next_step(error.errno, port)}"
            ) from None
    else:
        sys.stdout.write(exposition.as_text(exposition.measured(look)))
    sys.exit(0)


def taken(selection: Selection, processes: bool) -> list[Gauge]:
    """The numbers of one look."""
    look = scan()  # of all processes, also with --pid: shares, and whose a timeline is, depend on the others
    part = selection.of_processes(look)
    fences = [held for held in sync_files(part) if selection.wants(held.info.fences, held.holders)]
    buffers = [held for held in dma_bufs(look) if wants_buffer(held, (), selection)]
    rows = [row for row in fence_timelines(look, fences) if wants_timeline(row, selection)]
    if selection.by_fence:
        meant = {(one.process.pid, one.fd) for held in fences for one in held.holders}
        meant |= {(holder.process.pid, fd) for held in buffers for holder in held.holders for fd in holder.fds}
        part.descriptors = [one for one in part.descriptors if (one.process.pid, one.fd) in meant]
    return gauges(part, fences, buffers, rows, processes)


def next_step(code: int | None, port: int) -> str:
    """What helps against an error of bind(2)."""
    if code == errno.EADDRINUSE:
        return f"another program has this port, `ss -ltnp sport = {port}` says which; or choose another"
    if code == errno.EACCES:
        return "ports below 1024 are for root: choose another"
    return "see `ip address` for what this machine has"
