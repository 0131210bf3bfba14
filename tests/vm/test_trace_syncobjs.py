"""What a recording says of DRM syncobjs: the links of their chains, and who waits for a point."""

import os
import time
from pathlib import Path

import pytest
from children import forked
from clock_words import becomes

from linuxsync import trace
from linuxsync.trace import source

WAIT = 60.0


def on(recorded, driver):
    """The fences of a driver's only timeline."""
    (line,) = [line for line in recorded.timelines if line.driver == driver]
    return line.fences


def asleep(pid):
    """Wait until a process sleeps in ioctl(2)."""
    becomes("16", lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0], WAIT)


@pytest.mark.parametrize("probes", [True, False], ids=["probes", "without probes"])
def test_numbers_with_the_same_lower_half(new, put, timeline, probes, monkeypatch):
    """Points 5 and 2**32 + 5 of a syncobj's chain look the same to tracepoints; a probe tells them apart."""
    if not probes:
        monkeypatch.setattr(source, "PROBES", {})
    with trace.recording() as recorded:
        syncobj = new()
        put(syncobj, 5, 1)
        put(syncobj, 2**32 + 5, 2)
        put(syncobj, 2**33 + 5, 3)
        # The later one is waited for first, and signals last.
        with pytest.raises(TimeoutError):
            syncobj.wait(0.01, point=2**32 + 5)
        timeline.inc()
        syncobj.wait(WAIT, point=5)
        time.sleep(0.01)
        timeline.inc()
        syncobj.wait(WAIT, point=2**32 + 5)
    links = on(recorded, "dma_fence_chain")
    assert [link.seqno & 0xFFFFFFFF for link in links] == [5, 5, 5]
    if probes:
        assert [link.seqno for link in links] == [5, 2**32 + 5, 2**33 + 5]
        points = on(recorded, "sw_sync")
        assert links[0].inputs == [points[0]]
        assert links[1].inputs == [links[0], points[1]]
        assert links[1].input_count == 2
        # The first one is put away once what it is for has signaled, without a signal of its own.
        assert links[0].signal_ns is None
        assert links[0].destroy_ns < links[1].signal_ns
    else:
        assert all(link.ambiguous for link in links)
        assert sum(link.signal_ns is not None for link in links) == 1


@pytest.mark.parametrize("point", [None, 7], ids=["binary", "point"])
def test_syncobjs(new, put, timeline, point):
    """DRM_IOCTL_SYNCOBJ_WAIT and TIMELINE_WAIT."""
    with trace.recording(syscalls=True) as recorded:
        syncobj = new()
        if point is None:
            with timeline.create_fence(1) as fence:
                syncobj.import_sync_file(fence)
        else:
            put(syncobj, point)

        def later():
            asleep(os.getppid())
            timeline.inc()

        with forked(later):
            syncobj.wait(WAIT, point=point)
    waits = [wait for wait in recorded.waits if wait.woken_by is not None]
    assert [wait.call for wait in waits] == [f"ioctl SYNCOBJ_{'TIMELINE_' if point else ''}WAIT"]
    assert waits[0].thread.tid == os.getpid()
    assert waits[0].woken_by.timeline.driver == ("dma_fence_chain" if point else "sw_sync")
