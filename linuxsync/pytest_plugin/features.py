"""What a test needs of the machine: skipped where it is missing, with what doctor says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from ..drm import DrmDevice
    from ..inspect import Finding

KEYWORDS = {"requires", "kernel_may_warn"}


def in_guest() -> bool:
    """Whether this is the guest of ``linuxsync vm``."""
    return bool(os.environ.get("LINUXSYNC_VM"))


@cache
def findings() -> tuple[Finding, ...]:
    """What doctor says, asked once in a process."""
    from ..inspect import examine

    return tuple(examine())


def check_markers(item: pytest.Item) -> None:
    """Skip a test, or fail it, for what its markers name."""
    needed: list[str] = []
    for marker in item.iter_markers("linuxsync"):
        names = marker.kwargs.get("requires", ())
        if marker.args or marker.kwargs.keys() - KEYWORDS or not is_names(names):
            pytest.fail(
                "the marker is written linuxsync(requires=[NAME, ...], kernel_may_warn=False), "
                f"not {called(marker.args, marker.kwargs)}",
                pytrace=False,
            )
        needed += [name for name in names if name not in needed]
    if not needed:
        return
    known = sorted({one.name for one in findings() if not one.name.startswith("drm:")})
    for name in needed:
        if name not in known and not name.startswith("drm:"):
            pytest.fail(
                f"linuxsync(requires=[{name!r}]): there is no such name; there are {', '.join(known)} and drm:DRIVER",
                pytrace=False,
            )
    lacking = [finding for name in needed if (finding := lack_of(name)) is not None]
    if lacking:
        give_up(item.config, lacking)


def is_names(given: Any) -> bool:
    """Whether these are some names, and not one, nor something else."""
    return isinstance(given, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in given)


def called(args: tuple[Any, ...], kwargs: Any) -> str:
    """How a marker was written."""
    return f"linuxsync({', '.join([*map(repr, args), *(f'{name}={value!r}' for name, value in kwargs.items())])})"


def lack_of(name: str) -> Finding | None:
    """What doctor says of something that this user can't use; nothing if they can."""
    from ..inspect import Finding, State

    named = [one for one in findings() if one.name == name]
    if any(one.state is State.OK for one in named):
        return None
    if named:
        return named[0]
    from ..drm import CURES

    driver = name.removeprefix("drm:")
    return Finding(name, State.MISSING, f"no DRM device of driver {driver!r}", CURES.get(driver))


def give_up(config: pytest.Config, lacking: list[Finding]) -> NoReturn:
    """Skip, or fail if nothing may be missing; the reason has why, and what helps."""
    reason = "; ".join(f"needs {one.name}: {one.why}" for one in lacking)
    if not in_guest():
        # One advice: what doctor has for each takes another kernel, or root, and the guest has them all.
        reason += "; pytest --linuxsync-vm runs it where it is there"
    if config.getoption("linuxsync_strict"):
        pytest.fail(f"{reason}; with --linuxsync-strict nothing is skipped", pytrace=False)
    skip: Any = pytest.skip.Exception(reason)
    skip.is_of_linuxsync = True  # its reason is about the test, wherever it was raised
    raise skip


@contextmanager
def needed(request: pytest.FixtureRequest, *names: str) -> Iterator[None]:
    """Take a failure of the block for a skip if doctor knows why: that all of these are missing."""
    try:
        yield
    except OSError as error:
        lacking = [finding for name in names if (finding := lack_of(name)) is not None]
        if len(lacking) < len(names):
            raise  # it is there: this is about something else
        if isinstance(error, (FileNotFoundError, PermissionError)):
            give_up(request.config, lacking)
        raise


def open_syncobj_device() -> DrmDevice:
    """A device with syncobjs, rather one that has timelines, by its render node where there is one."""
    from ..drm import DrmDevice, devices

    found: DrmDevice | None = None
    for node in devices():
        if node.driver is None:
            continue
        device = DrmDevice.open(path=node.render or node.primary)
        if device.has_timeline_syncobj or (found is None and device.has_syncobj):
            if found is not None:
                found.close()
            if device.has_timeline_syncobj:
                return device
            found = device
        else:
            device.close()
    if found is None:
        raise FileNotFoundError("no DRM device has syncobjs")
    return found
