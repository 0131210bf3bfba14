"""exposition: one look at the machine as Prometheus reads it, printed, in a file or served. Needs prometheus-client."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from prometheus_client import CollectorRegistry, generate_latest, start_http_server, write_to_textfile
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..inspect import Gauge
from .text import plain

__all__ = ["as_text", "measured", "serve", "write"]

Look = Callable[[], Iterable[Gauge]]


class Fresh(Collector):
    """Looks at the machine each time that it is asked, at most once at a time."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """What registries call for each scrape."""
        with self.lock:
            families = measured(self.look)
        yield from families


class Taken(Collector):
    """What was looked at before."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        """What registries call."""
        yield from self.families


def measured(look: Look) -> list[Metric]:
    """Return what one look tells, and how long it took."""
    began = time.monotonic()
    found = list(look())
    took = time.monotonic() - began
    found.append(Gauge("linuxsync_scan_seconds", "How long it took to look at all this.", (), {(): took}))
    return [family(one) for one in found]


def family(gauge: Gauge) -> Metric:
    """A gauge with names that are harmless to whoever shows them; those that are alike then are added up."""
    made = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    samples: dict[tuple[str, ...], float] = {}
    for labels, value in gauge.samples.items():
        shown = tuple(map(plain, labels))
        samples[shown] = samples.get(shown, 0) + value
    for labels, value in sorted(samples.items()):
        made.add_metric(labels, value)
    return made


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry with that alone: not the ones that tell of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def as_text(families: list[Metric]) -> str:
    """Return the exposition of what was measured."""
    return generate_latest(registry_of(Taken(families))).decode()


def write(families: list[Metric], path: str) -> None:
    """Replace a file by the exposition of what was measured; whoever reads it has the old one or the new one, whole.

    Raises:
        OSError: EACCES, ENOENT, ENOSPC, ...: it is as it was.
    """
    write_to_textfile(path, registry_of(Taken(families)))


def serve(look: Look, address: str, port: int) -> NoReturn:
    """Serve /metrics, a fresh look for each scrape, until SIGINT or SIGTERM; then exit with status 0.

    Args:
        address: of an interface, or a host's name; IPv6 without brackets.
        port: 0 for any that is free.
    Raises:
        OSError: EADDRINUSE; EACCES, ports below 1024 are root's; EADDRNOTAVAIL; socket.gaierror.
    """

    def end(number: int, frame: object) -> NoReturn:
        sys.exit(0)

    server, thread = start_http_server(port, address, registry_of(Fresh(look)))
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        host, bound = server.server_address[:2]
        host = f"[{host!s}]" if ":" in str(host) else str(host)
        print(f"linuxsync: serving http://{host}:{bound}/metrics", file=sys.stderr, flush=True)
        while True:
            signal.pause()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
