"""pytest plugin: real fences in anybody's tests, a guest to run them in, and a failure for what a test leaves behind.

pytest finds it by itself once linuxsync is installed. It does nothing until a test asks for one of its fixtures or has
its marker, or an option of its is given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from . import features, kernel_log
from .pages import Pages

if TYPE_CHECKING:
    from ..dma_buf import DmaBuf
    from ..drm import DrmDevice
    from ..fencedev import FenceDevice
    from ..sw_sync import Timeline
    from ..trace import Recording
    from ..vgem import VgemDevice

MARKER = (
    "linuxsync(requires=[NAME, ...], kernel_may_warn=False): the test needs what `linuxsync doctor` calls so, "
    "sw_sync or drm:vkms say, and is skipped with the reason where it is missing; with kernel_may_warn it may make "
    "the kernel warn."
)
# With these pytest runs no test.
NO_RUN = ("collectonly", "help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")
NAME_BYTES = 15  # of a sw_sync timeline


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options and ini values."""
    group = parser.getgroup("linuxsync", "real fences: linuxsync")
    group.addoption(
        "--linuxsync-vm",
        action="store_true",
        help="Run the tests in a small Linux guest that has all that the fixtures give. With -n N, in N of them.",
    )
    group.addoption(
        "--linuxsync-kernel",
        metavar="VERSION|PATH",
        help="Which Linux the guest of --linuxsync-vm boots: 6.12, 6.1, or a bzImage",
    )
    group.addoption(
        "--linuxsync-strict",
        action="store_true",
        help="What a test needs and is missing is a failure, not a skip",
    )
    group.addoption(
        "--linuxsync-traces",
        metavar="DIR",
        help="Where pages of failed tests with the fixture fence_trace go. The default is in pytest's cache.",
    )
    parser.addini("linuxsync_vm_options", "Options of `linuxsync vm` for the guest of --linuxsync-vm", type="args")
    parser.addini("linuxsync_leak_check", "Check each test as the fixture fence_leak_check does", type="bool")
    parser.addini(
        "linuxsync_kernel_log",
        "Fail a test during which the kernel warns: on, off, or guest (the default): in the guest only",
        default="guest",
    )
    parser.addini(
        kernel_log.IGNORE,
        "Regular expressions, one a line: what the kernel says from 'cut here' to 'end trace' fails no test if one of "
        "its lines matches",
        type="linelist",
    )


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    """Let pytest-cov see that tests run elsewhere: it decides here how it measures."""
    options = early_config.known_args_namespace
    if runs_elsewhere(options) and getattr(options, "dist", "load") == "no":
        options.dist = "load"
    return (yield)


def runs_elsewhere(options: argparse.Namespace) -> bool:
    """Whether tests are to run in a guest that is not this machine."""
    running = not any(getattr(options, name, False) for name in NO_RUN)
    return bool(options.linuxsync_vm) and running and not features.in_guest()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register what this run needs, before xdist looks where tests are to run."""
    config.addinivalue_line("markers", MARKER)
    worker = hasattr(config, "workerinput")
    guest = features.in_guest()
    if worker and guest:
        config.option.basetemp = None  # it is a folder of the host's, which can't be written here
        from .worker import InGuest

        config.pluginmanager.register(InGuest(), "linuxsync_in_guest")
    if any(getattr(config.option, name, False) for name in NO_RUN):
        return
    distributing = runs_elsewhere(config.option) and not worker
    if distributing:
        from .guests import Guests

        config.pluginmanager.register(Guests(config), "linuxsync_guests")
    watched = str(config.getini("linuxsync_kernel_log"))
    if watched not in ("on", "off", "guest"):
        raise pytest.UsageError(f"linuxsync_kernel_log is on, off or guest, not {watched!r}")
    ignored = kernel_log.known(config)
    if (watched == "on" or (watched == "guest" and guest)) and not distributing:
        config.pluginmanager.register(kernel_log.Watching(ignored), "linuxsync_kernel_log")
    if not worker:
        config.pluginmanager.register(kernel_log.Verdicts(), "linuxsync_verdicts")
        config.pluginmanager.register(Pages(config), "linuxsync_pages")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Register what these tests need; who has none of it pays for none of it."""
    always = config.getini("linuxsync_leak_check")
    wanted = set().union(*(getattr(item, "fixturenames", ()) for item in items))
    if always or "fence_leak_check" in wanted:
        from .leaks import LeakCheck

        config.pluginmanager.register(LeakCheck(always), "linuxsync_leaks")
    if "fence_trace" in wanted:
        from .traces import Attaching

        config.pluginmanager.register(Attaching(), "linuxsync_traces")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names what is missing."""
    features.check_markers(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Say of a skip of ours where the test is, not where the plugin is."""
    report = yield
    if call.excinfo is not None and hasattr(call.excinfo.value, "is_of_linuxsync"):
        path, line, _ = item.reportinfo()
        report.longrepr = os.fspath(path), (line or 0) + 1, f"Skipped: {call.excinfo.value}"
    return report


@pytest.fixture
def sw_sync_timeline(request: pytest.FixtureRequest) -> Iterator[Timeline]:
    """A new sw_sync timeline at 0, named after the test: its fences signal when the test says so (``inc``).

    Closed after the test, which fails the fences that are still ahead, with ENOENT.
    """
    from ..sw_sync import Timeline

    name = request.node.name.removeprefix("test_").encode()[:NAME_BYTES].decode(errors="ignore")
    with features.needed(request, "sw_sync"):
        timeline = Timeline(name)
    with timeline:
        yield timeline


@pytest.fixture
def dma_buf(request: pytest.FixtureRequest) -> Iterator[DmaBuf]:
    """A dma-buf of four pages (16 KiB) of zeros, of the system heap where there is one and of udmabuf elsewhere."""
    from .. import udmabuf
    from ..dma_heap import DmaHeap

    size = 4 * os.sysconf("SC_PAGE_SIZE")
    with features.needed(request, "heaps", "udmabuf"):
        try:
            with DmaHeap() as heap:
                buffer = heap.alloc(size)
        except (FileNotFoundError, PermissionError):
            buffer = udmabuf.create(size)
    with buffer:
        yield buffer


@pytest.fixture
def vgem(request: pytest.FixtureRequest) -> Iterator[VgemDevice]:
    """An open vgem device: dumb buffers without a GPU, and fences on them that the test signals."""
    from ..vgem import VgemDevice

    with features.needed(request, "drm:vgem"):
        device = VgemDevice.open()
    with device:
        yield device


@pytest.fixture
def vkms(request: pytest.FixtureRequest) -> Iterator[DrmDevice]:
    """An open vkms device: a screen without hardware, with in-fences and out-fences (``linuxsync.kms``)."""
    from ..drm import DrmDevice

    with features.needed(request, "drm:vkms"):
        device = DrmDevice.open("vkms")
    with device:
        yield device


@pytest.fixture
def syncobj_device(request: pytest.FixtureRequest) -> Iterator[DrmDevice]:
    """An open DRM device that has syncobjs, with timelines if any has (virtio_gpu in the guest)."""
    with features.needed(request, "syncobj"):
        device = features.open_syncobj_device()
    with device:
        yield device


@pytest.fixture
def fence_device(request: pytest.FixtureRequest) -> Iterator[FenceDevice]:
    """The open fence device: queues of jobs that take fences, work on dma-bufs and give fences."""
    from ..fencedev import FenceDevice

    with features.needed(request, "fencedev"):
        device = FenceDevice()
    with device:
        yield device


@pytest.fixture
def fence_leak_check(request: pytest.FixtureRequest) -> None:
    """Fail the test if it leaves descriptors of fences, timelines, dma-bufs or DRM devices open, or handles.

    What it left is listed with driver, timeline, status and the line that made it. What fixtures of a wider scope hold
    does not count, nor does what the test's own fixtures close, in whatever order they are. For ``usefixtures``; the
    ini value ``linuxsync_leak_check`` is the same for all tests. A test that fails anyway is not checked: pytest keeps
    its variables for the traceback.
    """
    if "fence_leak_check" not in request.node.fixturenames:
        pytest.fail("fence_leak_check has to be there before the test begins: use an argument or usefixtures")


@pytest.fixture
def fence_trace(request: pytest.FixtureRequest) -> Iterator[Recording]:
    """Record what happens to fences during the test (``linuxsync.trace.recording()``); a failure brings a page of it.

    In the guest all of it is recorded, elsewhere what this process and its children do. The recording can be read once
    the test is over, by fixtures that asked for it, say.
    """
    from .traces import recorded

    with recorded(request) as made:
        yield made
