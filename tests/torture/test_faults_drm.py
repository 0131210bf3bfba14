"""Faults in what is done with DRM devices, their buffers and the fences of vgem."""

import os
from contextlib import contextmanager
from functools import partial

import pytest
from drm_words import ask, handles, node_of

from linuxsync import Access, DmaHeap, DrmDevice, VgemDevice, drm
from tests.torture.faults import close_new, covers, equals
from tests.torture.faults_known import FILES, NO_ANSWER, UDEV

pytest_plugins = ["tests.torture.faults_plugin"]
SIZE = 64 * 64 * 4
FEW = 6  # handles are low numbers


@pytest.fixture(params=["vgem", "vkms", "virtio_gpu"])
def device(request):
    with DrmDevice.open(path=node_of(request.param)) as made:
        yield made


@pytest.fixture
def vgem():
    with VgemDevice.open(path=node_of("vgem")) as made:
        yield made


@pytest.fixture
def gem(vgem):
    with vgem.create_dumb(64, 64, 32) as made:
        yield made


@pytest.fixture
def foreign():
    """A buffer of a heap."""
    with DmaHeap() as heap, heap.alloc(SIZE) as made:
        yield made


def held(device):
    """The handles that an open file has."""
    return lambda *_: handles(device.fileno(), FEW)


def close_handle(device):
    """Closes the one handle that nobody was told of: the last."""

    def close(*_):
        assert ask(device.fileno(), "GEM_CLOSE", held(device)()[-1])[0] == 0

    return close


@covers("DrmDevice.from_fd")
def test_another(sweep, device):
    def right(made):
        with made:
            assert made.driver == device.driver

    sweep(lambda: DrmDevice.from_fd(device), right)


@covers("DrmDevice.open", "DrmDevice")
@pytest.mark.parametrize("driver", ["vgem", "vkms", "virtio_gpu"])
def test_open(sweep, driver):
    def right(made):
        with made, made.dup() as other:
            assert other.driver == driver

    sweep(partial(DrmDevice.open, path=node_of(driver)), right)


@covers("VgemDevice.open", "VgemDevice")
def test_open_vgem(sweep):
    sweep(partial(VgemDevice.open, path=node_of("vgem")), lambda made: made.close())


@covers("drm.devices")
def test_devices(sweep):
    """None is left out, and nothing of any."""
    sweep(drm.devices, equals(drm.devices()), swallowed=UDEV)


@covers("DrmDevice.open", "VgemDevice.open")
@pytest.mark.parametrize("how", [VgemDevice.open, partial(DrmDevice.open, "vgem")], ids=["VgemDevice", "DrmDevice"])
def test_open_by_driver(sweep, how):
    """A device that could not be looked at is not said to be missing."""
    sweep(how, lambda made: made.close(), swallowed=UDEV)


@covers("DrmDevice.version", "DrmDevice.driver")
def test_version(sweep, vgem):
    sweep(lambda: vgem.version, equals(vgem.version))


@covers("DrmDevice.caps", "DrmDevice.has_syncobj", "DrmDevice.has_timeline_syncobj")
@pytest.mark.parametrize("name", ["caps", "has_syncobj", "has_timeline_syncobj"])
def test_caps(sweep, device, name):
    sweep(lambda: getattr(device, name), equals(getattr(device, name)))


@covers("DrmDevice.create_dumb", "GemBuffer.create_dumb")
def test_create_dumb(sweep, device):
    def right(made):
        with made:
            assert (made.size, held(device)()) == (SIZE, [made.handle])

    sweep(lambda: device.create_dumb(64, 64, 32), right, kept=held(device), lost=close_handle(device))


@covers("DrmDevice.import_dma_buf", "GemBuffer.import_dma_buf")
@pytest.mark.parametrize("driver", ["vgem", "vkms"])
def test_import(sweep, foreign, driver):
    with DrmDevice.open(path=node_of(driver)) as device:

        def right(made):
            with made:
                assert (made.size, held(device)()) == (SIZE, [made.handle])

        sweep(lambda: device.import_dma_buf(foreign), right, kept=held(device), lost=close_handle(device))


@covers("GemBuffer.export")
def test_export(sweep, device):
    """The first export, which makes the dma-buf."""

    @contextmanager
    def new():
        with device.create_dumb(64, 64, 32) as made:
            yield made

    def right(made, gem):
        with made:
            assert made.size == gem.size

    sweep(lambda gem: gem.export(), right, prepare=new, lost=close_new)


@covers("GemBuffer.map")
def test_map(sweep, device):
    with device.create_dumb(64, 64, 32) as gem:

        def right(mapped):
            with mapped:
                mapped[0] = 1

        sweep(gem.map, right, swallowed=FILES)


@covers("GemBuffer.close")
def test_close_gem(sweep, device):
    """What could not be closed stays open, and can be closed."""

    @contextmanager
    def new():
        with device.create_dumb(64, 64, 32) as made:
            yield made

    def right(_, gem):
        assert (gem.closed, held(device)()) == (True, [])

    def kept(gem):
        return gem.closed, held(device)()

    sweep(lambda gem: gem.close(), right, prepare=new, kept=kept, swallowed=NO_ANSWER)


@covers("DrmDevice.close")
def test_close_device(sweep):
    """With all that it has."""

    @contextmanager
    def new():
        with VgemDevice.open(path=node_of("vgem")) as made:
            gem = made.create_dumb(64, 64, 32)
            made.attach_fence(gem)
            yield made, gem

    sweep(lambda state: state[0].close(), prepare=new)


@covers("VgemDevice.attach_fence")
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_attach_fence(sweep, vgem, write):
    """A fence that nobody was told of is found on the buffer, and goes with its device."""

    @contextmanager
    def new():
        with VgemDevice.open(path=node_of("vgem")) as device, device.create_dumb(64, 64, 32) as made:
            yield device, made

    def status(_, state):
        with state[1].export() as buf, buf.export_sync_file(Access.WRITE) as fence:
            return fence.status

    def right(made, state):
        assert (made.id, status(None, state)) == (1, 0)
        made.signal()
        assert status(None, state) == 1

    def lost(_, state):
        assert status(None, state) == 0

    sweep(
        lambda state: state[0].attach_fence(state[1], write),
        right,
        prepare=new,
        lost=lost,
        again=False,
    )


@covers("VgemFence.signal")
def test_signal(sweep, vgem, gem):
    @contextmanager
    def new():
        fence = vgem.attach_fence(gem)
        with gem.export() as buf, buf.export_sync_file(Access.WRITE) as file:
            yield fence, file
            if not file.signaled:
                fence.signal()

    def right(_, state):
        assert state[1].signaled

    sweep(lambda state: state[0].signal(), right, prepare=new, kept=lambda state: state[1].status, swallowed=NO_ANSWER)


def test_nodes_are_there():
    """A look at what the sweeps rely on."""
    assert all(os.path.exists(node_of(driver)) for driver in ("vgem", "vkms", "virtio_gpu"))  # noqa: PTH110
