"""graph: who waits for whom, as a tree for people, and as a graph for Graphviz's dot(1)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from ..inspect import Deadlock, Kind, Owed, Process, StuckFence, Waiter
from .text import duration, plain

__all__ = ["as_dot", "as_svg", "as_trees"]


def who(process: Process) -> str:
    return plain(f"{process.comm} {process.pid}")


def what(row: StuckFence) -> str:
    """A fence in few words."""
    if row.owed is None:
        return f"a fence ({row.name})"
    kind = {Kind.DMA_BUF: f"dma-buf {row.ino}", Kind.SYNCOBJ_FILE: "syncobj", Kind.DRM: ""}.get(row.kind, "sync_file")
    return plain(f"{kind} {row.name}".strip() if row.name else kind)


def whose(owed: Owed) -> str:
    """What is missing, and who is to signal it."""
    name = plain(f"{owed.driver_name} {owed.obj_name}")
    each = [who(process) for process in owners(owed)]
    if not each:
        return f"{name}, which nobody who was seen can signal" if owed.by_process else name
    verb = "for" if owed.by_process else "which has its work from"
    return f"{name}, {verb} {' or '.join(each)}{' to signal' if owed.by_process else ''}{'' if owed.sure else '?'}"


def owners(owed: Owed) -> list[Process]:
    """Each process once."""
    return list(dict.fromkeys(one.process for one in owed.owners))


def as_trees(rows: Sequence[StuckFence], circles: Iterable[Deadlock]) -> None:
    """Print what each waiting process waits for, then what the one waits for that is to signal it; and deadlocks."""
    wide = None if sys.stdout.isatty() else 1000  # whoever reads a file can search for whole lines
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=wide)
    waits: dict[Process, list[tuple[Waiter, StuckFence]]] = {}
    for row in rows:
        for waiter in row.waiters:
            waits.setdefault(waiter.process, []).append((waiter, row))
    awaited = {owner for row in rows if row.waiters for owed in row.owed or () for owner in signalers(owed)}
    shown: set[Process] = set()
    # Who holds up nobody comes first, the others are found below; in a circle there is no first.
    for process in sorted(waits, key=lambda process: (process in awaited, process.pid)):
        if process not in shown:
            tree = Tree(Text(who(process)))
            grow(tree, process, waits, shown)
            console.print(tree)
    for circle in circles:
        each = [step.waiter.process for step in circle.steps]
        words = [
            f"{who(process)} waits for {plain(step.owed.obj_name)}, which {who(owner)} is to signal"
            for process, step, owner in zip(each, circle.steps, [*each[1:], each[0]], strict=True)
        ]
        console.print(Text(f"{'possible ' if circle.doubts else ''}deadlock: {'; '.join(words)}"))
        for doubt in circle.doubts:
            console.print(Text(f"  but {plain(doubt)}"))


def signalers(owed: Owed) -> list[Process]:
    """The processes that are to signal it themselves."""
    return owners(owed) if owed.by_process else []


def grow(
    tree: Tree, process: Process, waits: dict[Process, list[tuple[Waiter, StuckFence]]], shown: set[Process]
) -> None:
    """Hang below a process what its threads wait for."""
    shown.add(process)
    for waiter, row in waits[process]:
        thread = "" if waiter.tid == process.pid else f"thread {plain(waiter.comm)} {waiter.tid} "
        wait = tree.add(
            Text(f"{thread}in {waiter.call} for {what(row)}, active for {duration(row.active_ns)} at least")
        )
        if not row.owed:
            wait.add(Text("which the kernel does not name" if row.owed is None else "which nobody has submitted"))
        for owed in row.owed or ():
            missing = wait.add(Text(whose(owed)))
            for owner in signalers(owed):
                if owner in shown:
                    missing.add(Text(f"{who(owner)}, see above"))
                elif owner in waits:
                    grow(missing.add(Text(who(owner))), owner, waits, shown)


def as_dot(rows: Sequence[StuckFence], circles: Iterable[Deadlock]) -> str:
    """The graph in Graphviz's language: processes are boxes, fences ellipses, timelines hexagons; deadlocks are red."""
    circular = {(step.waiter, step.owed) for circle in circles for step in circle.steps}
    nodes: dict[object, str] = {}
    edges: list[str] = []

    def node(key: object, label: str, shape: str) -> str:
        """The name of a node, which is made when it first comes."""
        if key not in nodes:
            nodes[key] = f"  n{len(nodes)} [shape={shape}, label={quoted(label)}];"
        return nodes[key].split()[0]

    def edge(start: str, end: str, label: str, red: bool, dashed: bool = False) -> None:
        look = (", color=red, penwidth=2" if red else "") + (", style=dashed" if dashed else "")
        edges.append(f"  {start} -> {end} [label={quoted(label)}{look}];")

    for row in rows:
        fence = node(row, f"{what(row)}\n{duration(row.active_ns)}", "ellipse")
        for waiter in row.waiters:
            red = any((waiter, owed) in circular for owed in row.owed or ())
            edge(node(waiter.process, who(waiter.process), "box"), fence, waiter.call, red)
        for owed in row.owed or ():
            red = any((waiter, owed) in circular for waiter in row.waiters)
            timeline = node(owed, plain(f"{owed.driver_name} {owed.obj_name}"), "hexagon")
            edge(fence, timeline, "", red)
            for owner in owners(owed):
                label = "" if owed.by_process else "asked by"
                edge(timeline, node(owner, who(owner), "box"), label, red, not owed.sure)
    lines = [*nodes.values(), *dict.fromkeys(edges)]
    return "\n".join(["digraph stuck {", "  rankdir=LR; node [fontname=sans]; edge [fontname=sans];", *lines, "}"])


def quoted(label: str) -> str:
    """A label: what plain() has escaped is not to be read by dot(1) as escapes of its own, but for our line breaks."""
    lines = [line.replace("\\", "\\\\").replace('"', '\\"') for line in label.split("\n")]
    return '"' + "\\n".join(lines) + '"'


def as_svg(text: str, path: Path) -> None:
    """Have dot(1) draw a graph into a file."""
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            raise click.ClickException(f"dot could not draw it: {done.stderr.decode(errors='replace').strip()}")
        path.write_bytes(done.stdout)
    except FileNotFoundError as error:
        if error.filename != "dot":
            raise click.ClickException(f"{path}: {error.strerror}") from None
        raise click.ClickException("--svg takes Graphviz's dot: apt install graphviz, or see --dot") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
