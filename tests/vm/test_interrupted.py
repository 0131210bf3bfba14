"""Signals whose handlers raise, in the middle of whatever makes something: nothing is lost."""

import gc
import io
import os
import random
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import pytest
from buffer_words import PAGE, bufinfo
from clock_words import becomes
from drm_words import framebuffers, handles, node_of
from test_inspect_leaks import trace_state

from linuxsync import Access, DmaHeap, Syncobj, VgemDevice, _tracefs, ddi, kms, trace, udmabuf
from linuxsync.ddi import DmaFlags, DmaHandle, SyncType
from linuxsync.inspect import record_stacks


class StruckError(Exception):
    """What the handler of a signal raises."""


@contextmanager
def strikes(most):
    """A function that has a signal come within so many seconds, whose handler raises; what that drops does not warn.

    A handler may run in the finalizer of something that was dropped. What it raises there reaches nobody but
    sys.unraisablehook, as Python has it for all finalizers; that the finalizer did its work is for the test to see.
    """

    def strike(*_):
        raise StruckError

    def unraisable(what):
        if not issubclass(what.exc_type, StruckError):
            hook(what)

    chance = random.Random(5)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield lambda longer=1: signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, most * longer))
            gc.collect()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def come_now():
    """Let a signal that has come already be handled here: Python does that when it enters a function."""


def struck(work, enough, seconds=4.0):
    """How often `work` ended by a signal, and how often by itself, in so many seconds.

    On a slow machine it goes on until signals have ended it more than `enough` times, and it has ended by itself.
    """
    ends = [0, 0]
    work()
    start = time.monotonic()
    work()
    until = time.monotonic() + seconds
    with strikes(1.5 * (time.monotonic() - start)) as strike:
        while (now := time.monotonic()) < until or (now < until + 300 and (ends[0] <= enough or not ends[1])):
            try:
                strike(1 if now < until or ends[1] else 4)  # it takes longer by now than it did then
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
                come_now()
                ends[1] += 1
            except StruckError:
                ends[0] += 1
    return ends


def test_a_handler_that_raises_loses_no_handle(vgem, vkms):
    """Dumb buffers, exports and imports: at the end the kernel has as many handles as there are objects."""
    with vgem.create_dumb(64, 64, 32) as gem:

        def work():
            vgem.create_dumb(64, 64, 32).close()
            with gem.export() as dmabuf, vkms.import_dma_buf(dmabuf), vgem.import_dma_buf(dmabuf):
                pass

        interrupted, finished = struck(work, 100, 8)
        assert interrupted > 100
        assert finished > 0
        assert (handles(vgem.fileno()), handles(vkms.fileno())) == ([gem.handle], [])
        gem.export().close()
    assert bufinfo() == {}


@pytest.mark.parametrize("what", ["heap", "udmabuf", "devices", "framebuffer", "syncobj", "sync_files"])
def test_a_handler_that_raises_loses_nothing(what, heap, vkms, gpu, timeline, fence):
    """Whatever is made; the fixtures count descriptors, buffers, framebuffers and open files."""
    gem = vkms.create_dumb(64, 64, 32)
    buf = heap.alloc(PAGE)
    node = node_of("vgem")  # because pyudev, which finds devices by their driver, is not proof against this

    def framebuffer():
        kms.add_framebuffer(gem, 64, 64).close()

    def syncobj():
        with Syncobj.create(gpu) as made:
            made.import_sync_file(fence)
            made.export_sync_file().close()

    def sync_files():
        buf.import_sync_file(fence, Access.READ)
        buf.export_sync_file(Access.RW).close()
        with buf.cpu_access(Access.READ):
            pass

    work = {
        "heap": lambda: DmaHeap().close() or heap.alloc(1 << 20).close(),
        "udmabuf": lambda: udmabuf.create(1 << 18).close(),
        "devices": lambda: VgemDevice.open(path=node).close(),
        "framebuffer": framebuffer,
        "syncobj": syncobj,
        "sync_files": sync_files,
    }[what]
    interrupted, finished = struck(work, 20)
    assert interrupted > 20
    assert finished > 0
    assert framebuffers("vkms") == []
    assert handles(vkms.fileno()) == [gem.handle]
    timeline.inc()
    gem.close()
    buf.close()


def test_a_handler_that_raises_leaves_handles_usable(heap, timeline):
    """Bind, sync and unbind, watched by strict(): no descriptor is lost, and the handle is either bound or not."""
    handle = DmaHandle()
    with heap.alloc(PAGE) as buf, heap.alloc(PAGE) as other, timeline.create_fence(0) as ended:

        def work():
            if handle.bound:
                handle.unbind()
            with ddi.strict():
                handle.bind(buf, DmaFlags.RDWR)
                handle.memory[0] = 1
                handle.sync(SyncType.FORDEV)
                handle.device_reads(ended)
                handle.sync(SyncType.FORCPU)
                assert handle.memory[0] == 1
                handle.unbind()

        interrupted, finished = struck(work, 20)
        assert interrupted > 20
        assert finished > 0
        if handle.bound:
            handle.unbind()
        handle.bind(other, DmaFlags.RDWR)
        assert (handle.memory[0], handle.length) == (0, PAGE)
        handle.unbind()
        handle.free()


@pytest.mark.parametrize("what", ["private_instance", "recorder", "recording", "live_events", "record_stacks"])
def test_a_handler_that_raises_leaves_no_trace_instance(what, tmp_path):
    """Nor a probe, nor a thread that collects: whether it raises while they are made, are used or are removed."""
    before = trace_state()

    def probed():
        with _tracefs.private_instance() as instance:
            instance.add_probe("p", "probe", "sync_file_create")

    def in_context(make):
        with make():
            pass

    work = {
        "private_instance": probed,
        "recorder": lambda: in_context(lambda: trace.recorder(io.BytesIO())),
        "recording": lambda: in_context(lambda: trace.recording(tmp_path / "fences.trace")),
        "live_events": lambda: in_context(trace.live_events),
        "record_stacks": lambda: in_context(lambda: record_stacks([os.getpid()])),
    }[what]
    interrupted, finished = struck(work, 20, 10)
    assert interrupted > 20
    assert finished > 0
    becomes([], lambda: [thread.name for thread in threading.enumerate() if thread.name == "linuxsync.trace"], 60)
    gc.collect()
    assert trace_state() == before
