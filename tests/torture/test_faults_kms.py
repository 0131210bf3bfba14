"""Faults in atomic modesetting with in- and out-fences, on vkms."""

from contextlib import ExitStack, contextmanager

import pytest
from drm_words import ask, blobs, framebuffers, shown
from screen import Screen

from linuxsync import DrmDevice, Timeline, kms
from tests.torture.faults import covers, equals
from tests.torture.faults_known import NO_ANSWER

pytest_plugins = ["tests.torture.faults_plugin"]


@pytest.fixture
def screen():
    with ExitStack() as stack:
        yield Screen(stack.enter_context)


@covers("kms.find_pipeline")
def test_find_pipeline(sweep):
    with DrmDevice.open(driver="vkms") as device:
        found = kms.find_pipeline(device)

        def right(again):
            assert (again.connector, again.crtc, again.plane) == (found.connector, found.crtc, found.plane)

        sweep(lambda: kms.find_pipeline(device), right)


@covers("kms.add_framebuffer")
def test_add_framebuffer(sweep, screen):
    gem = screen.fbs[0].gem

    def right(made):
        with made:
            assert made.id in framebuffers("vkms")

    def remove(*_):
        (last,) = set(framebuffers("vkms")) - {fb.id for fb in screen.fbs}
        assert ask(screen.fd, "RMFB", last)[0] == 0

    sweep(
        lambda: kms.add_framebuffer(gem, screen.mode.width, screen.mode.height),
        right,
        kept=lambda: sorted(framebuffers("vkms")),
        lost=remove,
    )


@covers("kms.Framebuffer.close")
def test_close(sweep, screen):
    """After a fault, which comes before anything has been done, it is there still and can be closed."""

    @contextmanager
    def new():
        with kms.add_framebuffer(screen.fbs[0].gem, screen.mode.width, screen.mode.height) as made:
            yield made

    def right(_, made):
        assert (made.id, len(framebuffers("vkms"))) == (0, len(screen.fbs))

    def kept(made):
        return made.id, sorted(framebuffers("vkms"))

    sweep(lambda made: made.close(), right, prepare=new, kept=kept, swallowed=NO_ANSWER)


@covers("kms.modeset", "kms.disable")
def test_modeset(sweep, screen):
    def light(number=0):
        kms.modeset(screen.device, screen.pipeline, screen.fbs[number])

    def lit(*_):
        assert screen.fbs[1].id in shown("vkms").values()
        light()

    def dark(*_):
        assert screen.fbs[0].id not in shown("vkms").values()
        light()

    @contextmanager
    def before():
        yield blobs(screen.fd)

    def kept(there):
        return shown("vkms"), len(blobs(screen.fd))

    def lost(_, there):
        (number,) = blobs(screen.fd) - there
        assert ask(screen.fd, "DESTROYPROPBLOB", number)[0] == 0

    sweep(lambda _: light(1), lit, prepare=before, kept=kept, lost=lost, swallowed=NO_ANSWER)
    sweep(lambda _: kms.disable(screen.device, screen.pipeline), dark, prepare=before, kept=kept, swallowed=NO_ANSWER)


@covers("kms.commit")
@pytest.mark.parametrize("nonblock", [True, False], ids=["", "blocking"])
def test_commit(sweep, screen, nonblock):
    def right(out):
        with out:
            out.wait(10)
            assert out.signaled

    with Timeline() as timeline, timeline.create_fence(0) as in_fence:
        sweep(lambda: screen.commit(screen.fbs[1], in_fence=in_fence, nonblock=nonblock), right, swallowed=NO_ANSWER)


@covers("kms.commit")
def test_test_only(sweep, screen):
    sweep(lambda: screen.commit(screen.fbs[1], test_only=True), equals(None), swallowed=NO_ANSWER)
