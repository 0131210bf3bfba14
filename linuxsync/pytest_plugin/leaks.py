"""The fixture fence_leak_check: what a test opened and did not close, and which line opened it."""

from __future__ import annotations

import errno
import fcntl
import gc
import linecache
import os
import sys
import traceback
import warnings
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .._fd import OwnedFd, watch_births
from .._gem import GemBuffer
from ..dma_buf import DmaBuf
from ..drm import DrmDevice
from ..inspect import Kind, scan
from ..sw_sync import Timeline
from ..sync_file import SyncFile
from ..syncobj import Syncobj

PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
MOST_FENCES = 4
FAILED = pytest.StashKey[bool]()


class Held(NamedTuple):
    """A descriptor; two of these are equal if they are the same one, as far as can be told."""

    fd: int
    kind: Kind
    link: str
    inode: int


class Birth(NamedTuple):
    """An object that came to own something while a test was watched, and the line it was made in."""

    of: weakref.ref[Any]
    file: str
    line: int

    def where(self, root: Path) -> str:
        """The line, with what it says."""
        path = Path(self.file)
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        return f"made at {shown}:{self.line}: {linecache.getline(self.file, self.line).strip()}"


class LeakCheck:
    """Compares what this process holds before a test's fixtures are made and after they are gone.

    Args:
        always: every test is checked, not only those with the fixture.
    """

    def __init__(self, always: bool) -> None:
        self.always = always
        self.before: set[Held] | None = None
        self.births: dict[int, Birth] = {}
        self.wider: set[int] = set()
        self.at_the_end: dict[Held, list[str]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Look before the first fixture is made."""
        if self.always or "fence_leak_check" in getattr(item, "fixturenames", ()):
            self.before = held()
            watch_births(self.note)
        return (yield)

    def note(self, made: object) -> None:
        """Keep the innermost line that is not linuxsync's."""
        if self.before is not None:
            # What is made now may get the number of something that was closed, and look the same.
            self.before = {one for one in self.before if is_open_fd(one.fd)}
        frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
            frame = frame.f_back
        # A number that is given again was that of something that is gone.
        self.births[id(made)] = Birth(weakref.ref(made), frame.f_code.co_filename, frame.f_lineno)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """What outlives the test because its fixture does was there before, in effect."""
        if self.before is None or fixturedef.scope == "function":
            return (yield)
        seen, born = held(), {*self.births}
        try:
            return (yield)
        finally:
            self.before |= held() - seen
            self.wider |= self.births.keys() - born

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Ask fences how they are before a fixture closes their timeline, which fails them."""
        result = yield
        if self.before is not None:
            new = held() - self.before
            self.at_the_end = {one: description(one) for one in new if one.kind is Kind.SYNC_FILE}
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note whether there is a traceback, which holds variables."""
        report = yield
        if report.failed or hasattr(report, "wasxfail"):
            item.stash[FAILED] = True
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Look when the last fixture is gone."""
        try:
            result = yield
            if self.before is not None and not item.stash.get(FAILED, False):
                self.judge(item.config.rootpath)
            return result
        finally:
            if self.before is not None:
                watch_births(None)
            self.before = None
            for notes in (self.births, self.wider, self.at_the_end):
                notes.clear()

    def judge(self, root: Path) -> None:
        """Fail if something is left."""
        if not self.left():
            return
        raised = collect_garbage()  # a circle is no leak; whoever forgot something in it gets a ResourceWarning
        try:
            if left := self.left():
                told = [line for one in left for line in self.told(one, root)]
                pytest.fail("\n".join([f"the test left {len(left)} open:", *told]), pytrace=False)
        finally:
            for text in raised:
                warnings.warn(pytest.PytestUnraisableExceptionWarning(text), stacklevel=1)

    def left(self) -> list[Held | GemBuffer | Syncobj]:
        """What is there now and was not before: descriptors, then handles of devices that are to stay open."""
        descriptors = sorted(held() - (self.before or set()), key=lambda one: one.fd)
        leaked = {one.fd for one in descriptors}
        alive = [birth.of() for number, birth in [*self.births.items()] if number not in self.wider]
        handles = [one for one in alive if isinstance(one, (GemBuffer, Syncobj)) and is_open(one)]
        return [*descriptors, *(one for one in handles if one.device.fileno() not in leaked)]

    def told(self, one: Held | GemBuffer | Syncobj, root: Path) -> list[str]:
        """A thing that was left, and where it comes from."""
        owner: object
        if isinstance(one, Held):
            lines = self.at_the_end.get(one) or description(one)
            alive = [birth.of() for birth in [*self.births.values()]]
            owners = [each for each in alive if isinstance(each, OwnedFd) and not each.closed]
            owner = next((each for each in owners if each.fileno() == one.fd), None)
        else:
            lines = [f"  {type(one).__name__} {one.handle} of {one.device.driver}, fd {one.device.fileno()}"]
            owner = one
        if owner is None:
            why = (
                "no object of linuxsync's owns it that was made by the test: it was detached, or opened by other means"
            )
        else:
            why = self.births[id(owner)].where(root)
        return [*lines, f"      {why}"]


def held() -> set[Held]:
    """The descriptors of fences, timelines, buffers and devices that this process has."""
    return {Held(one.fd, one.kind, one.link, inode(one.fd)) for one in scan([os.getpid()]).descriptors}


def collect_garbage() -> list[str]:
    """Return what was raised meanwhile where nobody can catch it: pytest would blame the next test for that."""
    raised: list[str] = []

    def note(one: sys.UnraisableHookArgs) -> None:
        text = "".join(traceback.format_exception(one.exc_type, one.exc_value, one.exc_traceback))
        raised.append(f"{one.err_msg or 'Exception ignored in'}: {one.object!r}\n\n{text}")

    before, sys.unraisablehook = sys.unraisablehook, note
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
    return raised


def is_open_fd(fd: int) -> bool:
    """Whether it is that of an open file."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def inode(fd: int) -> int:
    """That of a dma-buf is its own; 0 if another thread has closed it meanwhile."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def is_open(one: GemBuffer | Syncobj) -> bool:
    """Whether it still has its handle; the device's end is the handle's."""
    return not one.closed and not one.device.closed


def description(one: Held) -> list[str]:
    """A descriptor, as the kernel knows it."""
    start = f"  fd {one.fd}: "
    try:
        if one.kind is Kind.SYNC_FILE:
            with SyncFile.from_fd(one.fd) as fence:
                info = fence.info()
            fences = [f"{each.driver_name} {each.obj_name}, {word(each.status)}" for each in info.fences]
            if len(fences) == 1:
                return [f"{start}sync_file {info.name!r}: {fences[0]}"]
            more = [f"      and {len(fences) - MOST_FENCES} more"] if len(fences) > MOST_FENCES else []
            shown = [f"      fence of {text}" for text in fences[:MOST_FENCES]]
            return [f"{start}sync_file {info.name!r} of {len(fences)} fences, {word(info.status)}", *shown, *more]
        if one.kind is Kind.DMA_BUF:
            with DmaBuf.from_fd(one.fd) as buffer:
                name = f" {buffer.name!r}" if buffer.name else ""
                return [f"{start}dma-buf{name} of {buffer.exporter}, {buffer.size} bytes"]
        if one.kind is Kind.SW_SYNC:
            with Timeline.from_fd(one.fd) as timeline:
                return [f"{start}sw_sync timeline {timeline.name}"]
        if one.kind is Kind.DRM:
            with DrmDevice.from_fd(one.fd) as device:
                return [f"{start}DRM device {device.driver}, {one.link}"]
    except OSError as error:
        return [f"{start}{one.link} ({error})"]
    return [f"{start}{'fence device' if one.kind is Kind.FENCEDEV else 'syncobj'}, {one.link}"]


def word(status: int) -> str:
    """A fence's status."""
    if status < 0:
        return f"failed with {errno.errorcode.get(-status, -status)}"
    return "signaled" if status else "active"
