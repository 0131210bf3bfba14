"""Every operation of native/, as one would ask for it; those that it refuses are in native_refusals.py.

Each leaves everything as it was, and can be done again and again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel_words import has_deadlines
from linuxsync._native import pidfd, ring_buffer, table, tracefs

from linuxsync import (
    Access,
    DmaBuf,
    DmaHeap,
    DrmDevice,
    FenceDevice,
    OwnedFd,
    SyncFile,
    Syncobj,
    Timeline,
    VgemDevice,
    ddi,
    inspect,
    kms,
    merge,
    udmabuf,
    wait_all,
    wait_any,
)
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType
from linuxsync.fencedev import Fill
from linuxsync.inspect.pidfd import PidFd
from linuxsync.sw_sync import find

TRACEFS = Path("/sys/kernel/tracing")
PAGE = os.sysconf("SC_PAGESIZE")
OPERATIONS: list[Callable[[Things], object]] = []


def operation(function: Callable[[Things], object]) -> Callable[[Things], object]:
    """One of those that are counted."""
    OPERATIONS.append(function)
    return function


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """It raises what native/ raises, and no more."""
    try:
        call(*arguments, **named)
    except (OSError, ValueError, TypeError, OverflowError, BufferError, AttributeError):
        return
    raise AssertionError(f"{call} took {arguments} {named}")


def look_at(*values: object) -> None:
    """They have been asked for."""


@dataclass
class Things:
    """What is open all the time."""

    timeline: Timeline
    fence: SyncFile
    done: SyncFile
    closed: SyncFile
    buf: DmaBuf
    pages: DmaBuf
    gpu: DrmDevice
    vkms: DrmDevice
    vgem: VgemDevice
    device: FenceDevice
    process: PidFd
    null: OwnedFd


def opened(keep: Callable[[Any], Any]) -> Things:
    """All of them, given to `keep`."""
    timeline = keep(Timeline("counted"))
    timeline.inc(5)
    closed = timeline.create_fence(9)
    closed.close()
    return Things(
        timeline=timeline,
        fence=keep(timeline.create_fence(9)),
        done=keep(timeline.create_fence(1)),
        closed=closed,
        buf=keep(keep(DmaHeap()).alloc(2 * PAGE)),
        pages=keep(udmabuf.create(2 * PAGE)),
        gpu=keep(DrmDevice.open(driver="virtio_gpu")),
        vkms=keep(DrmDevice.open(driver="vkms")),
        vgem=keep(VgemDevice.open()),
        device=keep(FenceDevice()),
        process=keep(PidFd.open(os.getpid())),
        null=keep(OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))),
    )


@operation
def descriptors(things: Things) -> None:
    """OwnedFd, of which all others are."""
    with things.fence.dup() as other, SyncFile.from_fd(other) as third:
        look_at(other.fileno(), repr(third), third.closed)
        number = third.detach()
    os.close(number)
    SyncFile.from_fd(things.fence)  # left to __del__, which warns


@operation
def timelines(things: Things) -> None:
    with Timeline("mine") as mine, mine.dup() as same, mine.create_fence(1) as fence:
        same.inc()
        fence.wait(1)
        look_at(mine.value, mine.name, repr(mine), same.value)


@operation
def sync_files(things: Things) -> None:
    info = things.fence.info()
    assert info == things.fence.info()
    look_at(hash(info), repr(info), repr(info.fences[0]))
    assert not things.fence.poll() and things.done.poll(1) and things.done.status
    things.done.wait()
    if has_deadlines(things.fence.fileno()):
        things.fence.set_deadline(1)
    with things.fence.merge(things.done, things.fence, name="merged") as one, one | things.fence as two:
        assert two.info().fences
    merge([things.fence, things.done], "both", strict=True).close()


@operation
def waits(things: Things) -> None:
    wait_all([things.done, things.done], 1)
    assert wait_any([things.fence, things.done]) is things.done


def keep_a_part(buf: DmaBuf) -> None:
    """Beyond the time that it may be read."""
    with buf.cpu_access() as view:
        part = view[:4]
    look_at(part)


@operation
def dma_bufs(things: Things) -> None:
    for buf in (things.buf, things.pages):
        assert buf.size == 2 * PAGE
        with buf.cpu_access(Access.RW) as view:
            part = view[:4]
            part[:] = b"1234"
            part.release()
        refused(keep_a_part, buf)
        assert buf.poll(Access.WRITE)
        buf.import_sync_file(things.done, Access.READ)
        buf.export_sync_file(Access.RW).close()
        buf.set_name("counted")
        buf.begin_cpu_access(Access.READ)
        buf.end_cpu_access(Access.READ)
    udmabuf.create(PAGE)  # left to __del__
    with DmaHeap() as heap, heap.alloc(PAGE) as buf, buf.dup() as other:
        other.cpu_access()  # never entered
        os.close(other.detach())


@operation
def handles(things: Things) -> None:
    for buf in (things.buf, things.pages):
        with DmaHandle() as handle:
            handle.bind(buf, DmaFlags.RDWR, PAGE)
            for kind in SyncType:
                handle.sync(kind, 1, 2)
            handle.memory[0] = 7
            assert handle.memory[:2] and repr(handle)
            handle.unbind()
    DmaHandle().bind(things.buf, DmaFlags.READ)  # left to __del__
    with ddi.strict(), DmaHandle() as handle:
        handle.bind(things.buf, DmaFlags.RDWR)
        handle.sync(SyncType.FORDEV)


@operation
def drm(things: Things) -> None:
    with things.gpu.dup() as same, DrmDevice.from_fd(same) as third:
        assert third._same_file(things.gpu) and third.version and third.caps
    DrmDevice.open(driver="vgem").close()


@operation
def buffers(things: Things) -> None:
    for device in (things.vgem, things.vkms, things.gpu):
        with device.create_dumb(64, 64, 32) as gem, gem.export() as buf, device.import_dma_buf(buf) as same:
            look_at(gem.device, gem.handle, gem.pitch, gem.closed, repr(same))
            gem.map().close()
    things.vgem.create_dumb(8, 8, 32)  # left to __del__


@operation
def framebuffers(things: Things) -> None:
    with things.vkms.create_dumb(64, 64, 32) as gem:
        with kms.add_framebuffer(gem, 64, 64) as fb:
            look_at(fb.id, fb.gem, fb.width, fb.height, repr(fb))
        kms.add_framebuffer(gem, 64, 64)  # left to __del__


@operation
def vgem_fences(things: Things) -> None:
    with things.vgem.create_dumb(8, 8, 32) as gem:
        fence = things.vgem.attach_fence(gem, write=True)
        refused(things.vgem.attach_fence, gem)
        assert repr(fence)
        fence.signal()
        refused(things.vgem.attach_fence, None)
    refused(things.vgem.attach_fence, gem)


@operation
def syncobjs(things: Things) -> None:
    with Syncobj.create(things.gpu, signaled=True) as one, Syncobj.create(things.gpu) as two:
        with OwnedFd(one.to_fd()) as fd, Syncobj.from_fd(things.gpu, fd) as same:
            same.wait(1)
        two.import_sync_file(things.done)
        two.export_sync_file().close()
        look_at(one.handle, one.device, repr(one), one.closed)
        two.reset()
        two.signal(3)
        two.import_sync_file(things.done, 4)
        two.export_sync_file(4).close()
        assert Syncobj.query_many([two]) and two.query() and two.query_last_submitted()
        two.wait(1, point=4)
        Syncobj.wait_many([one, two], timeout=1)
        assert Syncobj.wait_many((s for s in (two, two)), [3, 4], 1, all=False, wait_for_submit=True) in (0, 1)
        Syncobj.signal_many([one, two])
        Syncobj.reset_many([one, two])
        Syncobj.signal_many([one], [2])
        two.transfer(one, 2, 9)
        with OwnedFd(os.eventfd(0)) as event:
            two.eventfd(12, event)
    Syncobj.create(things.gpu)  # left to __del__


@operation
def fence_device(things: Things) -> None:
    with things.device.create_queue("counted") as queue, things.device.attach(things.buf, Access.RW) as mapped:
        with queue.submit(Fill(mapped, 7), in_fences=[things.done]) as job:
            job.fence.wait(60)
            look_at(job.info(), repr(job), things.device.query(job.fence))
        assert mapped.peek(0, 4)
        mapped.poke(b"12", 1)
        refused(mapped.poke, b"12", 9 * PAGE)
        refused(queue.submit, None, in_fences=[things.closed])
        refused(queue.submit, None, duration=-1)
    refused(things.device.query, things.done)
    refused(things.device.attach, things.null)


@operation
def other_processes(things: Things) -> None:
    me = os.getpid()
    held = inspect.scan([me]).of(inspect.Kind.SYNC_FILE)
    assert held and repr(held[0]) and hash(held[0])
    for one in things.process.fences(held):
        look_at(one.name, one.status, one.num_fences, one.driver_names, one.obj_names, one.age_ns, one.seqno)
    assert things.process.timeline(things.timeline.fileno(), Path(find()).stat())
    things.process.get(SyncFile, things.fence.fileno()).close()
    assert pidfd.compare_files(me, things.fence.fileno(), me, things.done.fileno())


@operation
def pages(things: Things) -> None:
    head = struct.pack("=QQ", 1, 12)
    word = struct.pack("=III", 2 | 1 << 5, 7, 8)
    assert ring_buffer.records(head + word, 8, 16)[1]
    refused(ring_buffer.records, head, 8, 16)
    refused(ring_buffer.records, b"", 8, 16)
    refused(ring_buffer.records, None, 8, 16)
    refused(ring_buffer.records, head + struct.pack("=III", 28, 7, 8), 8, 16)


@operation
def instances(things: Things) -> None:
    path, control = (bytes(TRACEFS / name) for name in ("instances/native", "kprobe_events"))
    for closes in (True, False):  # or that is left to __del__
        held = tracefs.Holding(path, control)
        held.make()
        held.add_probe(b"p:native/probe sync_file_create\n", b"-:native/probe\n")
        assert held.read(held.open(path + b"/per_cpu/cpu0/trace_pipe_raw"), 4096) == b""
        tracefs.write(path + b"/tracing_on", b"0")
        refused(held.make)
        refused(held.__init__, path, control)
        refused(held.open, path + b"/none")
        refused(held.open, None)
        refused(held.read, 0, -1)
        refused(held.read, "0", 1)
        refused(held.add_probe, b"p:native/wrong no_such_function\n", b"-:native/wrong\n")
        refused(held.add_probe, None, b"")
        if closes:
            held.close()
            held.close()
            refused(held.make)
            refused(held.open, path)
            refused(held.read, 0, 4096)
        del held
    assert not (TRACEFS / "instances/native").exists()
    refused(tracefs.Holding(path + b"/none/none", b"/none").make)
    refused(tracefs.Holding.__new__(tracefs.Holding).make)
    refused(tracefs.Holding, path, b"/proc/version/none")
    refused(tracefs.Holding, None, control)
    refused(tracefs.write, path, b"0")
    refused(tracefs.write, bytes(TRACEFS / "tracing_on"), b"never")
    refused(tracefs.write, None, None)


@operation
def rows(things: Things) -> None:
    held = inspect.scan([os.getpid()]).of(inspect.Kind.SYNC_FILE)
    table.json_rows([("fd", "fd"), ("all", lambda row: [row, "ü", 1.5, None])], held, str)
    refused(table.json_rows, [("bad", lambda row: object())], held, str)
    refused(table.json_rows, [("bad", "link")], held, 7)
    refused(table.json_rows, None, held, str)
