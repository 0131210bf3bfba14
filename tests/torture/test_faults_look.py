"""Faults while linuxsync.inspect looks at what this process has."""

import os

import pytest
from drm_words import node_of

from linuxsync import DmaHeap, DrmDevice, SyncFile, Timeline, fencedev, inspect, sw_sync
from linuxsync.inspect import PidFd, debugfs, timelines
from tests.torture.faults import covers, equals, holds
from tests.torture.faults_known import ASKED_AGAIN, FILES, UDEV

pytest_plugins = ["tests.torture.faults_plugin"]


@pytest.fixture
def things():
    """A timeline, a fence, a heap and a buffer."""
    with Timeline() as timeline, timeline.create_fence(1) as fence, DmaHeap() as heap, heap.alloc(4096) as buf:
        yield timeline, fence, buf


def look():
    return inspect.scan([os.getpid()])


@covers("inspect.scan")
def test_scan(sweep, things):
    def right(found):
        assert len(found.descriptors) == 3

    sweep(look, right, swallowed=FILES)


@covers("inspect.sync_files", "inspect.PidFd.fences")
def test_sync_files(sweep, things):
    scan = look()

    def right(found):
        assert [held.info.name for held in found] == [things[1].name]

    sweep(lambda: inspect.sync_files(scan), right, swallowed=ASKED_AGAIN)


@covers("inspect.PidFd.open", "inspect.PidFd")
def test_pidfd(sweep):
    sweep(lambda: PidFd.open(os.getpid()), lambda made: made.close())


@covers("inspect.PidFd.get")
def test_pidfd_get(sweep, things):
    with PidFd.open(os.getpid()) as process:
        sweep(lambda: process.get(SyncFile, things[1].fileno()), holds(1))


@covers("sw_sync.available", "fencedev.available")
@pytest.mark.parametrize("module", [sw_sync, fencedev], ids=["sw_sync", "fencedev"])
def test_available(sweep, module):
    """That there is no memory to look is no answer."""
    sweep(module.available, equals(True), swallowed=FILES)


@covers(row="inspect.fence_timelines, but for debugfs")
def test_who_advances(sweep, things):
    """All of it but debugfs, which a child reads."""
    scan = look()
    listed, _ = debugfs.parse_sync_info(debugfs.read("sync/info"))

    def right(found):
        ((descriptors, sure),) = found.values()
        assert ([one.fd for one in descriptors], sure) == ([things[0].fileno()], True)

    sweep(lambda: timelines.who_advances(scan, listed), right, swallowed=FILES)


@covers("inspect.named_timelines", "inspect.PidFd.timeline")
def test_named_timelines(sweep, things):
    scan = look()

    def right(found):
        assert [[one.fd for one in holders] for _, holders in found] == [[things[0].fileno()]]
        assert not scan.missed

    sweep(lambda: inspect.named_timelines(scan), right, swallowed={**FILES, **ASKED_AGAIN})


@covers("inspect.owed_by")
def test_owed_by(sweep, things):
    """With a device, so that the drivers of all of them are asked for."""
    with DrmDevice.open(path=node_of("vgem")):
        scan, info = look(), things[1].info()

        def right(found):
            assert [([holder.fd for holder in one.owners], one.sure) for one in found] == [([things[0].fileno()], True)]
            assert not scan.missed

        sweep(lambda: inspect.owed_by(scan, info), right, swallowed={**FILES, **ASKED_AGAIN, **UDEV})
