"""udev's word on DRM devices: which there are, and what happens to them."""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from . import _wait
from ._fd import OwnedFd
from .errors import OURS

__all__ = ["DrmEvent", "Watch", "asked", "minors", "watch"]

# pyudev has no types, hence Any for its objects. A device of its is a mapping too, so ask `is None` and not whether.

_local = threading.local()
_CLASS = "/sys/class/drm"


def _context() -> Any:
    """This thread's pyudev.Context: libudev is not for two at once, and each new one starts programs to look for it."""
    import pyudev  # type: ignore[import-untyped]  # here, because it is slow to load and most programs never need it

    if not hasattr(_local, "context"):
        _local.context = pyudev.Context()
    return _local.context


def _names() -> list[str]:
    """The nodes of devices, from the kernel: a list of libudev's lacks, without a word, what it could not read."""
    try:
        names = os.listdir(_CLASS)  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [name for name in names if re.fullmatch(r"(card|renderD)\d+", name)]


def asked(question: Callable[[], Any]) -> Any:
    """Return what pyudev answers, None if there is no such thing; but not where libudev had no room to look."""
    import pyudev

    ctypes.set_errno(0)
    try:
        answer = question()
    except pyudev.DeviceNotFoundError:
        answer = None
    error = ctypes.get_errno()  # pyudev keeps it to itself
    if answer is None and error in OURS:
        raise OSError(error, f"{os.strerror(error)}: libudev can't read what {_CLASS} has")
    return answer


def minors() -> list[dict[str, Any]]:
    """Return one dict for each DRM device, in the order of their numbers: ``card`` and ``renderD`` to pyudev.Device."""
    # libudev takes what it has no descriptors to read for nothing, and does not say so; this does.
    with ExitStack() as spare:
        for _ in range(4):
            spare.enter_context(OwnedFd._taking(os.open, "/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    import pyudev

    found: dict[str, dict[str, Any]] = {}
    for name in _names():
        device = asked(partial(pyudev.Devices.from_name, _context(), "drm", name))
        if device is not None:
            # The two nodes of a device have nothing in common but what they hang from.
            parent = asked(partial(getattr, device, "parent"))
            owner = device if parent is None else parent
            found.setdefault(owner.sys_path, {})[name.rstrip("0123456789")] = device
    # The render node of card0 is renderD128, unless one of the two is missing.
    return sorted(found.values(), key=lambda nodes: min(int(node.sys_number) % 64 for node in nodes.values()))


@dataclass(frozen=True, slots=True)
class DrmEvent:
    """Something that happened to a DRM device, as udev tells it.

    Attributes:
        action: ``add``, ``remove``, ``change``.
        path: the node; None for a connector.
        syspath: of the node or connector, under /sys/devices.
        properties: udev's properties: ``HOTPLUG`` is ``1`` when a connector of the device may have changed.
    """

    action: str
    path: str | None
    syspath: str
    properties: Mapping[str, str]


class Watch(Iterator[DrmEvent]):
    """An iterator of DrmEvent; made by ``watch``. Use it with ``with``, or run it to its end.

    Threads: the one that made it iterates and closes it; any may ``stop`` it.
    """

    def __init__(self, timeout: float | None = None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be None or at least 0 seconds, not {timeout!r}")
        import pyudev

        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._lock = threading.RLock()
        self._monitor = pyudev.Monitor.from_netlink(_context())
        self._monitor.filter_by("drm")
        self._monitor.start()
        self._socket = OwnedFd.from_fd(self._monitor)  # what _wait can wait for; the monitor closes its own
        try:
            self._stopped = OwnedFd._taking(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._socket.close()
            raise

    def __next__(self) -> DrmEvent:
        while not self._socket.closed:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if _wait.wait_any([self._stopped, self._socket], OwnedFd, left) is not self._socket:
                self.close()
                break
            device = self._monitor.poll(timeout=0)  # None: the event was not about DRM
            if device is not None:
                return DrmEvent(device.action, device.device_node, device.sys_path, dict(device.properties))
        raise StopIteration

    def stop(self) -> None:
        """End the iteration, also one that is waiting in another thread; a second call does nothing.

        Mirrors eventfd(2), of which the iteration has one.
        """
        with self._lock:
            if not self._stopped.closed:
                os.eventfd_write(self._stopped.fileno(), 1)

    def close(self) -> None:
        """Give back the descriptors; a second call does nothing. The thread that iterates calls it; others ``stop``.

        Mirrors close(2) of the netlink socket.
        """
        with self._lock:
            self._monitor = None
            self._socket.close()
            self._stopped.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def watch(timeout: float | None = None) -> Watch:
    """Return an iterator of what happens to DRM devices from now on: nodes that come and go, connectors that change.

    Args:
        timeout: seconds (float >= 0) after which the iteration ends, counted from this call; None for never.
    Raises:
        ValueError: a negative timeout.
        OSError: EMFILE; ENOBUFS from the iterator, events came faster than they were read and some are lost.

    Mirrors udev's netlink socket (pyudev.Monitor), so it hears nothing where udev does not run.
    """
    return Watch(timeout)
