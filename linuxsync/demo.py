"""python -m linuxsync.demo: three frames, two timelines and one crash, told with real fences. Needs sw_sync."""

from __future__ import annotations

import errno
import platform
import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from . import FenceError, SyncFile, Timeline

RENDER = 0.3  # seconds that the pretended GPU takes for a frame
SCANOUT = (0.1, 0.7, 0.1)  # seconds that each frame stays on the pretended screen

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
start_ns = time.monotonic_ns()


def ms(at_ns: int | None) -> str:
    """A CLOCK_MONOTONIC moment as milliseconds since the story began."""
    return "-" if not at_ns else f"{(at_ns - start_ns) / 1e6:.1f} ms"


def status(value: int) -> str:
    """A fence's status in words."""
    return {0: "0 active", 1: "1 signaled"}.get(value) or f"{value} {errno.errorcode[-value]}"


def show(**files: SyncFile) -> None:
    """Print what SYNC_IOC_FILE_INFO says of each file, one line a fence."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("sync_file", "fd", "status", "fence of", "timeline", "fence status", "signaled at"):
        table.add_column(heading, no_wrap=True)
    for label, file in files.items():
        info = file.info()
        for i, fence in enumerate(info.fences):
            whole = ("", "", "") if i else (label.replace("_", " "), str(file.fileno()), status(info.status))
            table.add_row(*whole, fence.driver_name, fence.obj_name, status(fence.status), ms(fence.timestamp_ns))
    console.print(Padding(table, (0, 0, 0, 4), expand=False))


def say(text: str) -> None:
    """One step of the story."""
    console.print(f"\n{text}")


def gpu_work(gpu: Timeline) -> None:
    """Finish one frame after the other, as hardware would: nobody asks it to."""
    for _ in SCANOUT:
        time.sleep(RENDER)
        gpu.inc()


def frames(gpu: Timeline, display: Timeline) -> None:
    """Render, merge, wait, show: the middle part of the story."""
    released = display.create_fence(0)  # nothing is on the screen yet, so the first buffer is free: signaled at birth
    threading.Thread(target=gpu_work, args=(gpu,), daemon=True).start()
    for number, scanout in enumerate(SCANOUT, 1):
        with gpu.create_fence(number) as rendered, rendered.merge(released, name=f"frame {number}") as ready:
            say(
                f"[bold]Frame {number}[/] may be shown once it is rendered (gpu reaches {number}) and the screen has "
                f"let go of the frame before (display reaches {number - 1}). The compositor merges the two fences:"
            )
            show(rendered=rendered, released=released, ready=ready)
            released.close()
            began = time.monotonic()
            ready.wait(timeout=10)
            waited = time.monotonic() - began
            last = max(ready.fences, key=lambda fence: fence.timestamp_ns)
            say(f"poll(2) on fd {ready.fileno()} returned after {waited * 1000:.1f} ms; {last.obj_name} was the last:")
            show(ready=ready)
            released = display.create_fence(number)
            threading.Timer(scanout, display.inc).start()
    began = time.monotonic()
    released.wait(timeout=10)
    say(f"The screen let go of the last frame {(time.monotonic() - began) * 1000:.1f} ms later.")
    released.close()


def crash() -> None:
    """A producer that dies, and what becomes of its fence."""
    gpu = Timeline("gpu")
    lost = gpu.create_fence(1)
    say(
        "[bold]A crash.[/] Another frame is under way when the process that drives the GPU dies, and its timeline "
        "with it. Before:"
    )
    show(lost=lost)
    gpu.close()
    began = time.monotonic()
    lost.wait(timeout=10)
    say(
        f"Nobody hangs: wait() returned after {(time.monotonic() - began) * 1000:.1f} ms, for a fence that failed has "
        "signaled too. Its status tells:"
    )
    show(lost=lost)
    try:
        lost.raise_for_status()
    except FenceError as error:
        console.print(f"    raise_for_status(): FenceError: {error}", soft_wrap=True)
    with lost.merge(lost) as forgotten:
        say("Merging leaves out fences that have signaled, and their error with them:")
        show(merged=forgotten)
    try:
        lost.merge(lost, strict=True)
    except FenceError as error:
        console.print(f"    merge(strict=True): FenceError: {error}", soft_wrap=True)
    lost.close()


def main() -> None:
    """Tell the story."""
    try:
        gpu, display = Timeline("gpu"), Timeline("display")
    except OSError as error:
        sys.exit(f"linuxsync.demo: {error}\nvm/run demo runs it in a virtual machine that has everything")
    console.print(f"Linux {platform.release()}, {platform.machine()}. Every fence below is the kernel's.")
    with gpu, display, gpu.create_fence(1) as fence:
        say("Two timelines, two descriptors of debugfs sync/sw_sync; their fences are sync_file descriptors:")
        for label, fd in (("gpu", gpu.fileno()), ("display", display.fileno()), ("a fence", fence.fileno())):
            console.print(f"    {label:<8} fd {fd:<3} -> {Path(f'/proc/self/fd/{fd}').readlink()}")
        frames(gpu, display)
    crash()


if __name__ == "__main__":
    main()
