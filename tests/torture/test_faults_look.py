"""Faults while linuxsync.inspect looks at what this process has."""

import os

import pytest

from linuxsync import DmaHeap, SyncFile, Timeline, inspect
from linuxsync.inspect import PidFd
from tests.torture.faults import covers, holds
from tests.torture.faults_known import ASKED_AGAIN, FILES

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
