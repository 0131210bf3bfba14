"""Faults in what is done with syncobjs."""

import asyncio
import errno
import os
from contextlib import contextmanager

import pytest
from drm_words import node_of
from syncobj_words import ask, handles, next_handle

from linuxsync import DrmDevice, Syncobj
from tests.torture.faults import close_new, covers, equals, holds, open_files
from tests.torture.faults_known import DESTROYED

pytest_plugins = ["tests.torture.faults_plugin"]
# No memory for a sync_file is EINVAL there (drm_syncobj_export_sync_file), as if there were no fence.
NO_FILE = {"sync_file_create": errno.EINVAL}
MANY = 66  # more than a call has room for on the stack


@pytest.fixture
def gpu():
    with DrmDevice.open(path=node_of("virtio_gpu")) as made:
        yield made


@pytest.fixture
def new(gpu):
    with Syncobj.create(gpu) as made:
        yield made


@pytest.fixture
def pending(gpu, fence):
    """A timeline whose point 5 has not signaled."""
    with Syncobj.create(gpu) as made:
        made.import_sync_file(fence, 5)
        yield made


@pytest.fixture
def many(gpu):
    made = [Syncobj.create(gpu) for _ in range(MANY)]
    yield made
    for one in made:
        one.close()


def lowest_free(gpu):
    return lambda *_: next_handle(gpu.fileno())


def destroy_last(gpu, before):
    """Destroys the one handle that nobody was told of, which was the lowest that was free."""

    def destroy(*_):
        assert ask(gpu.fileno(), "DESTROY", before)[0] == 0

    return destroy


@covers("Syncobj.create", "DrmDevice.create_syncobj", "Syncobj")
@pytest.mark.parametrize("signaled", [False, True], ids=["", "signaled"])
@pytest.mark.parametrize("of", [Syncobj, DrmDevice], ids=["create", "create_syncobj"])
def test_create(sweep, gpu, of, signaled):
    free = lowest_free(gpu)

    def right(made):
        with made:
            assert free() == made.handle + 1

    def create():
        return Syncobj.create(gpu, signaled) if of is Syncobj else gpu.create_syncobj(signaled)

    sweep(create, right, kept=free, lost=destroy_last(gpu, free()))


@covers("Syncobj.close")
def test_close(sweep, gpu):
    """A fault comes before anything has been done: it is asked again."""

    @contextmanager
    def one():
        with Syncobj.create(gpu) as made:
            yield made

    def right(_, one):
        assert (one.closed, lowest_free(gpu)()) == (True, 1)

    sweep(lambda one: one.close(), right, prepare=one, swallowed=DESTROYED)


@covers("Syncobj.to_fd")
def test_to_fd(sweep, new):
    sweep(new.to_fd, os.close, lost=close_new)


@covers("Syncobj.from_fd")
def test_from_fd(sweep, gpu, new):
    free, fd = lowest_free(gpu), new.to_fd()
    sweep(lambda: Syncobj.from_fd(gpu, fd), lambda made: made.close(), kept=free, lost=destroy_last(gpu, free()))
    os.close(fd)


@covers("Syncobj.export_sync_file")
@pytest.mark.parametrize("point", [0, 5])
def test_export(sweep, gpu, pending, point):
    sweep(
        lambda: pending.export_sync_file(point),
        holds(1),
        kept=lowest_free(gpu),
        lost=lost_export(gpu),
        answers=NO_FILE,
        swallowed=DESTROYED,
    )


def lost_export(gpu):
    """There may be a descriptor that nobody knows of, or the handle of the syncobj in between."""
    free = lowest_free(gpu)()

    def lost(files):
        if open_files() != files:
            close_new(files)
        if lowest_free(gpu)() != free:
            destroy_last(gpu, free)()

    return lost


@covers("Syncobj.import_sync_file")
@pytest.mark.parametrize("point", [0, 5])
def test_import(sweep, gpu, fence, point):
    @contextmanager
    def empty():
        with Syncobj.create(gpu) as made:
            yield made

    def right(_, made):
        with made.export_sync_file(point) as file:
            assert file.status == 0

    sweep(
        lambda made: made.import_sync_file(fence, point),
        right,
        prepare=empty,
        kept=lowest_free(gpu),
        lost=lost_import(gpu),
        swallowed=DESTROYED,
        again=False,
    )


def lost_import(gpu):
    """The handle of a syncobj in between, of which nobody was told; or nothing, it was imported."""

    def lost(_, made):
        if lowest_free(gpu)() != made.handle + 1:
            destroy_last(gpu, made.handle + 1)()

    return lost


@covers("Syncobj.transfer")
def test_transfer(sweep, gpu, pending):
    with Syncobj.create(gpu) as made:

        def right(*_):
            assert made.query_last_submitted() == 9
            made.reset()

        sweep(lambda: made.transfer(pending, 5, 9), right, lost=lambda *_: made.reset())


@covers("Syncobj.signal", "Syncobj.reset")
def test_signal(sweep, new):
    def right(*_):
        assert new.query() == 3
        new.reset()

    sweep(lambda: new.signal(3), right, lost=lambda *_: new.reset())
    sweep(new.signal, lambda _: new.wait(0))
    sweep(new.reset, lambda _: new.signal())


@covers("Syncobj.signal_many", "Syncobj.reset_many", "Syncobj.query_many")
def test_signal_many(sweep, many):
    def right(found, *_):
        assert list(found) == [3] * MANY
        Syncobj.reset_many(many)

    def signal_and_ask():
        Syncobj.signal_many(many, [3] * MANY)
        return Syncobj.query_many(many)

    sweep(signal_and_ask, right, lost=lambda *_: Syncobj.reset_many(many))
    sweep(lambda: Syncobj.reset_many(many), lambda _: Syncobj.signal_many(many))


@covers("Syncobj.query", "Syncobj.query_last_submitted")
def test_query(sweep, pending):
    sweep(lambda: (pending.query(), pending.query_last_submitted()), equals((0, 5)))


@covers("Syncobj.wait")
@pytest.mark.parametrize("point", [None, 5], ids=["binary", "point"])
def test_wait(sweep, pending, point):
    def wait():
        with pytest.raises(TimeoutError):
            pending.wait(0.001, point)

    sweep(wait)


@covers("Syncobj.wait_many")
def test_wait_many(sweep, many):
    Syncobj.signal_many(many)
    sweep(lambda: Syncobj.wait_many(many, timeout=0))
    sweep(lambda: Syncobj.wait_many(many, timeout=0, all=False), equals(0))


@covers("Syncobj.eventfd")
def test_eventfd(sweep, gpu, fence):
    @contextmanager
    def one():
        with Syncobj.create(gpu) as made:
            made.signal()
            event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            yield made, event
            os.close(event)

    sweep(lambda state: state[0].eventfd(None, state[1]), lambda _, state: os.eventfd_read(state[1]), prepare=one)


@covers("Syncobj.wait_async")
def test_wait_async(sweep, new):
    new.signal()
    loop = asyncio.new_event_loop()
    sweep(lambda: loop.run_until_complete(new.wait_async(10)))
    loop.close()


def test_what_the_sweeps_rely_on(gpu):
    """Handles are given from 1 on, the lowest first."""
    assert next_handle(gpu.fileno()) == 1
    assert handles(1).at
