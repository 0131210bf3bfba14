"""How long fences take, as a Prometheus histogram, from within the program that waits for them.

    vm/run -- python examples/fence_to_prometheus.py --for 10 &          # prints where it serves
    curl http://127.0.0.1:9744/metrics

`linuxsync metrics` looks at all processes of a machine from outside, now and then. This is the other end: a program
that measures its own fences, every one of them, without a trace and without root. FenceLatency is what to copy:

    latency = FenceLatency(registry)
    with device.submit(work) as fence:
        latency.watch(fence)         # takes a duplicate: close yours whenever you like

Two times make a latency. When the work was submitted only the program knows, and it says so by calling watch() then.
When the work was done the kernel knows: the fence's timestamp_ns, on CLOCK_MONOTONIC. How long this program took to
wake up is in neither, so a busy event loop does not make a GPU look slow.

A failed fence has signaled, too: it counts as a failure, by its errno, and not in the histogram, which would look
better the more goes wrong. What never signals shows in the gauge of those under way; alerts for all three:

    histogram_quantile(0.99, rate(fence_latency_seconds_bucket[5m])) > 0.016
    rate(fence_failures_total[5m]) > 0
    fences_active > 10

Here the fences are of a sw_sync timeline, which takes root; with those of a GPU's driver nothing else changes. It needs
prometheus-client (pip install 'linuxsync[metrics]'). Ctrl-C ends it, with exit status 130.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from linuxsync import SyncFile, Timeline

# A frame of a screen at 120, 60 and 30 Hz is among the bounds: what is above has missed it.
BOUNDS = (0.001, 0.002, 0.004, 1 / 120, 1 / 60, 1 / 30, 0.1, 0.25, 1.0)


class FenceLatency:
    """A histogram of the time from submission to signal, by driver and timeline, with failures and what is under way.

    Threads: belongs to the event loop in which watch() is called; the registry may be read from any thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("driver", "timeline")
        self.latency = Histogram(
            "fence_latency_seconds", "From submission to signal.", labels, buckets=BOUNDS, registry=registry
        )
        self.failures = Counter(
            "fence_failures", "Fences that ended with an error.", (*labels, "errno"), registry=registry
        )
        self.active = Gauge("fences_active", "Fences that have not signaled.", labels, registry=registry)
        self._watching: set[asyncio.Task[None]] = set()

    def watch(self, fence: SyncFile, submitted_ns: int | None = None) -> None:
        """Measure a fence.

        Args:
            submitted_ns: when its work was submitted (CLOCK_MONOTONIC); None for now.
        """
        since = time.monotonic_ns() if submitted_ns is None else submitted_ns
        first = fence.fences[0]  # now: from Linux 6.17 on a fence that has signaled no longer says whose it was
        ours = fence.dup()
        task = asyncio.get_running_loop().create_task(self._measure(ours, since, first.driver_name, first.obj_name))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        task.add_done_callback(lambda _: ours.close())  # not in the task: one that is canceled at once never begins

    async def _measure(self, fence: SyncFile, since: int, driver: str, timeline: str) -> None:
        with self.active.labels(driver, timeline).track_inprogress():
            await fence
            if fence.error is not None:
                self.failures.labels(driver, timeline, errno.errorcode.get(fence.error, str(fence.error))).inc()
            elif (done := fence.timestamp_ns) is not None:
                self.latency.labels(driver, timeline).observe(max(0, done - since) / 1e9)

    async def idle(self) -> None:
        """Return once nothing is watched any more."""
        while self._watching:
            await asyncio.wait(self._watching)

    def close(self) -> None:
        """Let go of what is still watched."""
        for task in self._watching:
            task.cancel()


@contextmanager
def served(registry: CollectorRegistry, port: int) -> Iterator[int]:
    """Serve a registry to this machine alone, and say on which port."""
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def work(latency: FenceLatency, seconds: float | None, fail_every: int) -> None:
    """Submit a job now and then, each of which takes a few milliseconds, until the time is up."""
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    with ExitStack() as gpu:
        timeline = gpu.enter_context(Timeline("gpu"))
        point = 0
        for number in count(1):
            if until is not None and loop.time() >= until:
                break
            point += 1
            with timeline.create_fence(point) as fence:
                latency.watch(fence)
                await asyncio.sleep(random.expovariate(1 / 0.01))
                if fail_every and number % fail_every == 0:
                    gpu.close()  # the GPU is lost with what it was at: ENOENT, for sw_sync
                    timeline = gpu.enter_context(Timeline("gpu"))
                    point = 0
                else:
                    timeline.inc()
        await latency.idle()


async def serve(options: argparse.Namespace) -> int:
    """Do the work, and serve what is known of it."""
    registry = CollectorRegistry()
    latency = FenceLatency(registry)
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    with served(registry, options.port) as port:
        print(f"http://127.0.0.1:{port}/metrics", flush=True)
        working = asyncio.ensure_future(work(latency, options.seconds, options.fail_every))
        stopping = asyncio.ensure_future(interrupted.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        latency.close()
        for task in (working, stopping):
            task.cancel()
        ends = await asyncio.gather(working, stopping, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):  # which a CancelledError is not
            raise end
    return 128 + signal.SIGINT if interrupted.is_set() else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9744, help="where to serve, 0 for any [default: 9744]")
    parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="how long [default: until Ctrl-C]")
    parser.add_argument("--fail-every", type=int, default=0, metavar="N", help="every Nth job fails [default: none]")
    return asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"fence_to_prometheus: {error}\nvm/run -- python examples/fence_to_prometheus.py has all it needs")
