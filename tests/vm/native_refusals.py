"""What each operation of native/ refuses, and whatever else it may be given; see native_words.py."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from linuxsync._native import pidfd, processes, raw, table
from native_words import PAGE, Things, operation, refused

from linuxsync import (
    Access,
    DmaBuf,
    DmaHeap,
    DrmDevice,
    SyncFile,
    SyncFileInfo,
    Syncobj,
    Timeline,
    kms,
    merge,
    wait_all,
    wait_any,
)
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType
from linuxsync.inspect import Descriptor, HeldSyncFile, Kind


@operation
def descriptors_refused(things: Things) -> None:
    for wrong in (-1, "1", None, 1.5, 2**40, 10**6, things.null.fileno(), things.closed):
        refused(SyncFile.from_fd, wrong)
    for call in (things.closed.fileno, things.closed.dup, things.closed.detach, things.closed.__enter__):
        refused(call)
    refused(SyncFile, -1)
    refused(SyncFile, "no")
    refused(things.fence.__init__, 5)
    refused(pickle.dumps, things.fence)


@operation
def timelines_refused(things: Things) -> None:
    for wrong in (-1, 2**32, "1", None, 1.5):
        refused(things.timeline.inc, wrong)
        refused(things.timeline.create_fence, wrong)
    refused(Timeline, "x" * 40)
    refused(Timeline, "m\0")
    refused(Timeline, path="/dev/null")
    refused(Timeline, path="/no/such")
    refused(Timeline.from_fd, things.fence)
    refused(things.timeline.deadline_ns, things.closed)
    refused(things.timeline.deadline_ns, None)
    refused(things.timeline._create_fence, 1, int)


@operation
def sync_files_refused(things: Things) -> None:
    for wrong in (None, things.closed, things.timeline, 7):
        refused(things.fence.merge, wrong)
        refused(merge, [things.fence, wrong])
    refused(merge, [])
    refused(things.fence.merge, things.done, name="x" * 32)
    refused(things.fence.merge, things.done, name="\ud800")
    refused(things.fence.merge, things.done, name=None)
    for call in (things.closed.info, things.closed.poll, things.closed.wait, lambda: things.closed.status):
        refused(call)
    for wrong in (-1, 2**64, "1", None):
        refused(things.fence.set_deadline, wrong)
    for wrong in (0, 1e-6, -1, float("nan"), "1"):
        refused(things.fence.wait, wrong)
    refused(things.fence.poll, "1")


@operation
def waits_refused(things: Things) -> None:
    for wait in (wait_all, wait_any):
        refused(wait, [things.fence, things.fence], 1e-6)
        refused(wait, [things.fence, None])
        refused(wait, [things.done, things.closed])
        refused(wait, [things.done], "1")
    refused(wait_any, [])


@operation
def dma_bufs_refused(things: Things) -> None:
    for wrong in (0, 8, -1, None, "1"):
        refused(things.buf.begin_cpu_access, wrong)
        refused(things.buf.end_cpu_access, wrong)
        refused(things.buf.cpu_access, wrong)
        refused(things.buf.import_sync_file, things.done, wrong)
        refused(things.buf.export_sync_file, wrong)
        refused(things.buf.poll, wrong)
    refused(things.buf.import_sync_file, None, Access.READ)
    refused(things.buf.import_sync_file, things.closed, Access.READ)
    refused(things.buf.set_name, "x" * 32)
    refused(DmaBuf.from_fd, things.null)
    refused(DmaHeap, "no such heap")
    with things.buf.dup() as buf:
        opened = buf.cpu_access()
        with opened:
            refused(opened.__enter__)
    refused(buf.begin_cpu_access, Access.READ)
    refused(pickle.dumps, opened)


@operation
def handles_refused(things: Things) -> None:
    with DmaHandle() as handle:
        refused(handle.sync, SyncType.FORDEV)
        refused(handle.bind, None, DmaFlags.READ)
        refused(handle.bind, things.buf, DmaFlags.READ, 3 * PAGE)
        handle.bind(things.buf, DmaFlags.WRITE)
        refused(handle.bind, things.buf, DmaFlags.WRITE)
        for wrong in ((3,), (0, -1), (0, 0, 2**64), ("0",), (0, None)):
            refused(handle.sync, *wrong)
        refused(pickle.dumps, handle)
        refused(handle.free)


@operation
def drm_refused(things: Things) -> None:
    refused(DrmDevice.from_fd, things.null)
    refused(DrmDevice.from_fd, None)
    refused(DrmDevice.open, driver="no such driver")
    refused(things.gpu._same_file, None)
    refused(things.null._take, lambda: 5)


@operation
def buffers_refused(things: Things) -> None:
    for wrong in (0, -1, 2**32, None, "8"):
        refused(things.vgem.create_dumb, wrong, 8, 32)
        refused(things.vgem.create_dumb, 8, 8, wrong)
    refused(things.vgem.import_dma_buf, None)
    refused(things.vgem.import_dma_buf, things.null)
    refused(things.device.create_queue, "x" * 40)
    with things.vgem.create_dumb(8, 8, 32) as gem:
        refused(pickle.dumps, gem)
    refused(gem.export)
    refused(gem.__enter__)


@operation
def framebuffers_refused(things: Things) -> None:
    with things.vkms.create_dumb(64, 64, 32) as gem:
        for wrong in (0, 65, -1, 2**32, None, "8"):
            refused(kms.add_framebuffer, gem, wrong, 64)
        with kms.add_framebuffer(gem, 64, 64) as fb:
            refused(kms.commit, things.vkms, crtc=1, plane=1, fb=fb)
            refused(kms.commit, things.gpu, crtc=1, plane=1, fb=fb)
            refused(pickle.dumps, fb)
        refused(kms.commit, things.vkms, crtc=1, plane=1, fb=fb)
    refused(kms.add_framebuffer, gem, 64, 64)
    refused(kms.add_framebuffer, None, 64, 64)


@operation
def syncobjs_refused(things: Things) -> None:
    with Syncobj.create(things.gpu) as one:
        for wrong in (-1, 2**64, "1", 1.5):
            refused(one.signal, wrong)
            refused(one.wait, 0, point=wrong)
            refused(one.export_sync_file, wrong)
            refused(one.import_sync_file, things.done, wrong)
            refused(one.eventfd, wrong, things.null)
        refused(one.wait, 1e-6, wait_for_submit=True)
        refused(one.wait, 0)
        refused(one.export_sync_file)
        refused(one.import_sync_file, None)
        refused(one.import_sync_file, things.closed)
        refused(one.eventfd, 1, things.null)
        for wrong in ([], [None], [one, None], 7, None):
            refused(Syncobj.wait_many, wrong, timeout=0)
        for wrong in ([None], [one, 5], 7, None):
            refused(Syncobj.query_many, wrong)
            refused(Syncobj.signal_many, wrong)
            refused(Syncobj.reset_many, wrong)
        refused(Syncobj.signal_many, [one], [])
        refused(Syncobj.wait_many, [one], [1, 2], 0)
        refused(Syncobj.wait_many, [one], ["x"], 0)
        refused(one.transfer, None, 1, 2)
        refused(one.transfer, one, 0, 7)
        refused(pickle.dumps, one)
    refused(one.query)
    refused(one.to_fd)
    refused(Syncobj.query_many, [one])
    refused(Syncobj.from_fd, things.gpu, things.null)
    refused(Syncobj.create, things.vgem)
    refused(Syncobj.create, None)
    refused(Syncobj, things.gpu, "1")


@operation
def other_processes_refused(things: Things) -> None:
    place = Path("/dev/null").stat()
    refused(things.process.timeline, things.timeline.fileno(), place)
    refused(things.process.timeline, 10**6, place)
    refused(things.process.get, SyncFile, things.null.fileno())
    refused(things.process.fences, [None])
    refused(pidfd.open_pid, -1)
    refused(pidfd.compare_files, 2**30, 0, 1, 0)
    refused(pidfd.compare_to_epoll, os.getpid(), 0, 10**6, 0)
    refused(processes.process, 2**30)
    refused(processes.descriptors, None)


@operation
def raw_requests(things: Things) -> None:
    refused(raw.ioctl, things.null.fileno(), 0xC0403E00, bytearray(64), "NO_SUCH")
    refused(raw.ioctl, things.null.fileno(), 1, b"read-only", "NO_SUCH")
    refused(raw.ioctl, -1, 1, bytearray(4), "NO_SUCH")
    refused(raw.ioctl, 1, 1, bytearray(4), None)
    refused(raw.ask, 1, 1, bytearray(4), "NO_SUCH", bytearray(3))
    refused(raw.ask, -1, 1, bytearray(4), "NO_SUCH", bytearray(4))


@operation
def made_by_hand(things: Things) -> None:
    """Objects with nothing, or something else, where there should be another object."""
    for info in (None, SyncFileInfo("x", 1, 0, (7, None))):
        one = HeldSyncFile(info, (), 0)  # type: ignore[arg-type]
        refused(lambda one=one: one.driver_names)
        refused(lambda one=one: one.obj_names)
        refused(lambda one=one: one.age_ns)
    refused(lambda: HeldSyncFile(None, (), 0).name)  # type: ignore[arg-type]
    refused(lambda: HeldSyncFile(None, (), 0).status)  # type: ignore[arg-type]
    nobodys = Descriptor(None, 1, Kind.SYNC_FILE, "x")  # type: ignore[arg-type]
    refused(table.json_rows, [("holder", lambda row: row)], [nobodys], str)
