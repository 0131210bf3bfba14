"""Recordings that nobody made, with known contents, for what reads them. Real ones are in tests/vm."""

from __future__ import annotations

import random

from linuxsync.trace import Fence, Thread, Timeline, Trace, Vblank, Wait

START = 5_000_000_000
MS = 1_000_000


def made(count: int = 200, seed: int = 1) -> Trace:
    """A compositor and its clients: render fences on two timelines, merged, waited for, some never signaled.

    Args:
        count: how many frames; each has three fences and a wait.
    """
    chance = random.Random(seed)
    client, compositor = Thread(201, "client", 201, "client"), Thread(301, "compositor", 300, "weston <b>&\"'")
    idle = Thread(0, "<idle>")
    trace = Trace(START, START, kernel="6.12.0", machine="made", command="made up", syscalls=True, probes=("signal",))
    trace.threads = {thread.tid: thread for thread in (client, compositor, idle)}
    frames = Timeline("sw_sync", "frames", 7)
    flips = Timeline("vkms", "CRTC:crtc-0", 9)
    merged = Timeline("dma_fence_array", "unbound", None)
    trace.timelines = [frames, flips, merged]
    now = START
    for number in range(1, count + 1):
        now += 16 * MS + chance.randrange(MS)
        last = number == count
        render = Fence(frames, 7, number, init_ns=now, enable_ns=now + 200_000, creator=client, exact=True)
        flip = Fence(flips, 9, number, init_ns=now + 50_000, enable_ns=now + 210_000, creator=compositor)
        both = Fence(merged, 1000 + number, 1, init_ns=now + 100_000, enable_ns=now + 190_000, creator=compositor)
        both.inputs, both.input_count = [render, flip], 2
        render.outputs, flip.outputs = [both], [both]
        wait = Wait(compositor, "poll", now + 150_000, None, [both])
        both.waits = [wait]
        if not last:
            # A fence may outlive the frame after it: fences of one timeline overlap.
            render.signal_ns = now + (40 if number % 17 == 0 else 4) * MS + chance.randrange(MS)
            render.error = 5 if number % 50 == 0 else None
            flip.signal_ns = now + 2 * MS
            both.signal_ns = max(render.signal_ns, flip.signal_ns) + 5_000
            wait.end_ns, wait.woken_by = both.signal_ns + 30_000, both
            for fence in (render, flip, both):
                fence.signaler, fence.signaled_in_irq = (client, False) if fence is render else (idle, True)
                fence.destroy_ns = both.signal_ns + MS
        frames.fences.append(render)
        flips.fences.append(flip)
        merged.fences.append(both)
        trace.fences += [render, flip, both]
        trace.waits.append(wait)
        trace.vblanks.append(Vblank(now + 2 * MS, 0, number))
        frames.values.append((now + 4 * MS, number - 1))
    trace.end_ns = now + 60 * MS
    trace.events = 9 * count
    trace.wall_ns = 1_700_000_000_000_000_000
    return trace
