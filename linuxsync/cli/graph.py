"""graph: who waits for whom, as a tree for people, and as a graph for Graphviz's dot(1)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from ..inspect import Deadlock, Kind, Owed, Process, StuckFence, Waiter
from .failures import EXPECTED
from .files import Unmade, put
from .text import duration, plain

__all__ = ["as_dot", "as_svg", "as_trees", "sentence"]

DEEPEST = 40  # steps of a chain that are printed


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


def as_trees(rows: Sequence[StuckFence]) -> None:
    """Print what each waiting process waits for, and below it what the one waits for that is to signal that."""
    waits: dict[Process, list[tuple[Waiter, StuckFence]]] = {}
    for row in rows:
        for waiter in row.waiters:
            waits.setdefault(waiter.process, []).append((waiter, row))
    awaited = {owner for row in rows if row.waiters for owed in row.owed or () for owner in signalers(owed)}
    shown: set[Process] = set()
    # Who holds up nobody comes first, the others are found below; in a circle there is no first.
    for first in sorted(waits, key=lambda process: (process in awaited, process.pid)):
        if first in shown:
            continue
        shown.add(first)
        # Not a function that calls itself: a thousand processes may wait for each other in a row.
        left = [(0, *wait) for wait in reversed(waits[first])]
        while left:
            depth, waiter, row = left.pop()
            below = print_wait(depth, waiter, row, shown)
            for owner in reversed(below):
                if owner not in waits or owner in shown:
                    continue
                if depth + 1 == DEEPEST:  # it comes later, as a first one
                    print(f"{'  ' * DEEPEST}{who(owner)}, see below")
                else:
                    shown.add(owner)
                    left += [(depth + 1, *wait) for wait in reversed(waits[owner])]


def print_wait(depth: int, waiter: Waiter, row: StuckFence, shown: set[Process]) -> list[Process]:
    """Print a wait and what is missing; return who is to signal that."""
    thread = "" if waiter.tid == waiter.process.pid else f", thread {plain(waiter.comm)} {waiter.tid},"
    indent = "  " * depth
    since = duration(row.active_ns)
    print(f"{indent}{who(waiter.process)}{thread} in {waiter.call} for {what(row)}, active for {since} at least")
    if not row.owed:
        print(f"{indent}└ which {'the kernel does not name' if row.owed is None else 'nobody has submitted'}")
    for owed in row.owed or ():
        above = ", ".join(who(owner) for owner in signalers(owed) if owner in shown)
        print(f"{indent}└ {whose(owed)}{f' (see above: {above})' if above else ''}")
    return [owner for owed in row.owed or () for owner in signalers(owed)]


def sentence(circle: Deadlock) -> list[str]:
    """A deadlock in words, and what may end it."""
    each = [step.waiter.process for step in circle.steps]
    words = [
        f"{who(process)} waits for {plain(step.owed.obj_name)}, which {who(owner)} is to signal"
        for process, step, owner in zip(each, circle.steps, [*each[1:], each[0]], strict=True)
    ]
    first = f"{'possible ' if circle.doubts else ''}deadlock: {'; '.join(words)}"
    return [first, *(f"  but {plain(doubt)}" for doubt in circle.doubts)]


def signalers(owed: Owed) -> list[Process]:
    """The processes that are to signal it themselves."""
    return owners(owed) if owed.by_process else []


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


def as_svg(text: str, path: str) -> None:
    """Have dot(1) draw a graph into a file, whole or not at all, or to stdout, "-"."""
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise Unmade("--svg takes Graphviz's dot: apt install graphviz, or see --dot") from None
    except OSError as error:
        if error.errno in EXPECTED:
            raise
        raise Unmade(f"dot: {error.strerror}") from None
    if done.returncode != 0:
        raise Unmade(f"dot could not draw it: {plain(done.stderr.decode(errors='replace').strip())}")
    put(path, done.stdout)
