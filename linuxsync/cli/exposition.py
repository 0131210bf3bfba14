"""exposition: one look at the machine as Prometheus reads it, printed, in a file or served. Needs prometheus-client."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry, MetricsHandler, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..inspect import Gauge
from .text import plain

__all__ = ["as_text", "measured", "serve", "write"]

MOST = 16  # connections

Look = Callable[[], Iterable[Gauge]]


class CannotLookError(Exception):
    """A look failed, and why."""


class Fresh(Collector):
    """Looks at the machine each time that it is asked, at most once at a time."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """What registries call for each scrape."""
        try:
            with self.lock:
                families = measured(self.look)
        except OSError as error:
            raise CannotLookError(f"can't look at this machine: {error}") from error
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

    All may read it, whatever the umask: node_exporter is somebody else.

    Raises:
        OSError: EACCES, ENOENT, ENOSPC, ...: it is as it was.
    """
    text = as_text(families)
    folder, name = os.path.split(path)
    number, beside = tempfile.mkstemp(prefix=f"{name}.", dir=folder or ".")
    try:
        with open(number, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(number, 0o644)
        Path(beside).rename(path)
    except BaseException:
        Path(beside).unlink()
        raise


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

    with Server(address, port, registry_of(Fresh(look))) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        host, bound = server.server_address[:2]
        host = f"[{host!s}]" if ":" in str(host) else str(host)
        print(f"linuxsync: serving http://{host}:{bound}/metrics", file=sys.stderr, flush=True)
        server.serve_forever()
    raise AssertionError("only a signal ends it")


class Server(ThreadingMixIn, TCPServer):
    """Answers scrapes, each in a thread; connections that ask for nothing are in nobody's way.

    At most ``MOST`` are open. When there are that many, the one that has taken longest to ask has to go, and if all
    have asked, the new one.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, registry: CollectorRegistry) -> None:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, where = found[0][0], found[0][4]
        self.free = threading.Semaphore(MOST)
        self.lock = threading.Lock()
        self.asking: dict[object, socket.socket] = {}  # those whose request is not there yet, the oldest first
        super().__init__((str(where[0]), port), partial(Scrape, registry))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Where that fails the next one would too: no hurry then."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give it a thread, if there may be another."""
        if not self.free.acquire(blocking=False) and not (self.drop_oldest() and self.free.acquire(timeout=1)):
            self.shutdown_request(request)
            return
        with self.lock:
            self.asking[request] = request
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self.shutdown_request(request)
            self.free.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What the thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self.lock:
            self.asking.pop(request, None)
        super().shutdown_request(request)

    def drop_oldest(self) -> bool:
        """Make the thread end that has waited longest for its request; False if none waits for one."""
        with self.lock:
            for request in self.asking:
                oldest = self.asking.pop(request)
                try:
                    oldest.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side has gone already
                return True
        return False

    def has_asked(self, request: object) -> bool:
        """Take a connection from those that may be dropped; False if it was."""
        with self.lock:
            return self.asking.pop(request, None) is not None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke, as socketserver otherwise does with a traceback."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Scrape(MetricsHandler):
    """One connection, and its request."""

    timeout = 5  # seconds, for each part of a request, and for the whole answer

    def __init__(self, registry: CollectorRegistry, request: Any, client_address: Any, server: Server) -> None:
        self.registry = registry
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:  # noqa: N802 # the name is http.server's
        """Look, and answer; 503 where we could not look."""
        assert isinstance(self.server, Server)
        if not self.server.has_asked(self.connection):
            return
        try:
            super().do_GET()
        except CannotLookError as error:
            print(f"linuxsync: {error}", file=sys.stderr, flush=True)
            said = f"{error}\n".encode()
            self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
