"""Fixtures of the tests that need a real kernel, and what holds for all of them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from linuxsync import DmaBuf, DmaHeap, DrmDevice, FenceDevice, OwnedFd, SyncFile, Syncobj, Timeline, sw_sync, udmabuf
from linuxsync.fencedev import Queue
from linuxsync.inspect import State, examine

pytest.register_assert_rewrite(
    "kernel_words",
    "buffer_words",
    "drm_words",
    "syncobj_words",
    "clock_words",
    "screen",
    "fencedev_words",
    "coherence_words",
    "look_words",
    "feature_words",
)

from buffer_words import PAGE  # noqa: E402
from drm_words import nothing_left_behind  # noqa: E402
from screen import Screen  # noqa: E402
from syncobj_words import syncobj_device  # noqa: E402

Owned = TypeVar("Owned", bound=OwnedFd)
BOUNCING = "swiotlb=force"

# Who asks for one of these can't run on a kernel without.
NEEDS = {"gpu": {"syncobj", "timeline_syncobj"}, "fence_device_module": {"fencedev"}}

# What is in there needs a boot of its own, which tests/host/test_own_boot.py makes.
collect_ignore = [] if BOUNCING in Path("/proc/cmdline").read_text().split() else ["own_boot"]


@cache
def what_is_missing() -> str:
    """Why there is no sw_sync here; nothing if there is."""
    try:
        sw_sync.find()
    except OSError as error:
        return str(error)
    return ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a machine without any kernel of ours say which tests another kernel leaves out."""
    parser.addoption("--lacking", action="append", default=[], metavar="FEATURE", help="as where this is missing")


def needs(item: pytest.Item) -> set[str]:
    """The features that a test can't do without: its marker's, and those of the fixtures that it asks for."""
    marked = {name for mark in item.iter_markers("linuxsync") for name in mark.kwargs.get("requires", ())}
    return marked.union(*(NEEDS.get(name, ()) for name in getattr(item, "fixturenames", ())))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this kernel lacks; that it lacks no more than it must is what test_features.py asserts."""
    lacking = set(config.getoption("lacking", default=[]))
    if not lacking and what_is_missing():
        return
    features = {one.name: one.state for one in examine()}
    needed = set().union(*map(needs, items))
    if strange := {name for name in needed - features.keys() if not name.startswith("drm:")}:
        raise pytest.UsageError(f"no such features: {', '.join(sorted(strange))}")
    lacking = lacking or {name for name in needed if features.get(name, State.MISSING) is State.MISSING}
    left_out = [item for item in items if lacking & needs(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup() -> None:
    """Skip everything in this folder where there is no sw_sync."""
    if what_is_missing():
        pytest.skip(f"needs sw_sync, run it with vm/run test: {what_is_missing()}")


@pytest.fixture(autouse=True)
def nothing_is_left(no_descriptor_leaks: None) -> Iterator[None]:
    """No dma-buf, open DRM file, or framebuffer, by debugfs and /sys. A limit that a command has raised is put back."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with nothing_left_behind():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.fixture
def keep() -> Iterator[Callable[[Owned], Owned]]:
    """A function that takes an object, gives it back and closes it when the test is over."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def timeline(keep: Callable[[Timeline], Timeline]) -> Timeline:
    """A new timeline, at 0."""
    return keep(Timeline())


@pytest.fixture
def fence(timeline: Timeline, keep: Callable[[SyncFile], SyncFile]) -> SyncFile:
    """An active fence of `timeline`, at 1."""
    return keep(timeline.create_fence(1))


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open a few thousand descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def heap(keep: Callable[[DmaHeap], DmaHeap]) -> DmaHeap:
    """The system heap."""
    return keep(DmaHeap())


@pytest.fixture(params=["system", "udmabuf"])
def exporter(request: pytest.FixtureRequest) -> str:
    """Who makes `buf`."""
    return str(request.param)


@pytest.fixture
def buf(exporter: str, heap: DmaHeap, keep: Callable[[DmaBuf], DmaBuf]) -> DmaBuf:
    """A buffer of 12 pages of either exporter: few enough for a heap to make it of single pages."""
    return keep(udmabuf.create(12 * PAGE) if exporter == "udmabuf" else heap.alloc(12 * PAGE))


@pytest.fixture(params=["vgem", "vkms", "virtio_gpu"])
def dumb_device(request: pytest.FixtureRequest, keep: Callable[[DrmDevice], DrmDevice]) -> DrmDevice:
    """Each open device that can make dumb buffers."""
    return keep(DrmDevice.open(driver=request.param))


@pytest.fixture
def vgem(keep: Callable[[DrmDevice], DrmDevice]) -> DrmDevice:
    """An open vgem."""
    return keep(DrmDevice.open(driver="vgem"))


@pytest.fixture
def vkms(keep: Callable[[DrmDevice], DrmDevice]) -> DrmDevice:
    """An open vkms."""
    return keep(DrmDevice.open(driver="vkms"))


@pytest.fixture
def me() -> str:
    """What this process is called."""
    return Path("/proc/self/comm").read_text().removesuffix("\n")


@pytest.fixture
def screen(keep: Callable[[OwnedFd], OwnedFd]) -> Screen:
    """A lit screen on vkms."""
    return Screen(keep)


@pytest.fixture
def fence_device_module() -> None:
    """Asked for by all that need it, so that they can be found."""


@pytest.fixture
def device(fence_device_module: None, keep: Callable[[FenceDevice], FenceDevice]) -> FenceDevice:
    """The fence device, open."""
    return keep(FenceDevice())


@pytest.fixture
def queue(device: FenceDevice) -> Iterator[Queue]:
    """A queue of it, whose timeline is called "queue"."""
    with device.create_queue("queue") as made:
        yield made


@pytest.fixture
def gpu() -> Iterator[DrmDevice]:
    """An open virtio_gpu, which has syncobjs; none may be left on it."""
    with syncobj_device() as device:
        yield device


@pytest.fixture
def new(gpu: DrmDevice) -> Iterator[Callable[..., Syncobj]]:
    """A function that makes a syncobj of `gpu` and closes it when the test is over."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Syncobj.create(gpu, **options))


@pytest.fixture
def put(timeline: Timeline) -> Callable[..., None]:
    """A function that adds a fence at a point of a syncobj; it signals when `timeline` reaches `value`."""

    def add(syncobj: Syncobj, point: int, value: int = 1) -> None:
        with timeline.create_fence(value) as fence:
            syncobj.import_sync_file(fence, point)

    return add
