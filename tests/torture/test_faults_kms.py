"""Faults in atomic modesetting with in- and out-fences, on vkms."""

from contextlib import ExitStack, contextmanager

import pytest
from drm_words import ask, framebuffers
from screen import Screen

from linuxsync import DrmDevice, Timeline, kms
from tests.torture.faults import covers, equals

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
    """It is closed, whatever the kernel says: whether it was removed nobody can tell, and numbers are given again."""

    @contextmanager
    def new():
        with kms.add_framebuffer(screen.fbs[0].gem, screen.mode.width, screen.mode.height) as made:
            yield made

    def right(_, made):
        assert (made.id, len(framebuffers("vkms"))) == (0, len(screen.fbs))

    def remove(_, made):
        for number in set(framebuffers("vkms")) - {fb.id for fb in screen.fbs}:
            ask(screen.fd, "RMFB", number)
        assert made.id == 0

    sweep(lambda made: made.close(), right, prepare=new, given_up=remove, again=False)


@covers("kms.modeset", "kms.disable")
def test_modeset(sweep, screen):
    def both():
        kms.modeset(screen.device, screen.pipeline, screen.fbs[1])

    sweep(both)
    sweep(
        lambda: kms.disable(screen.device, screen.pipeline),
        lambda _: kms.modeset(screen.device, screen.pipeline, screen.fbs[0]),
    )


@covers("kms.commit")
@pytest.mark.parametrize("nonblock", [True, False], ids=["", "blocking"])
def test_commit(sweep, screen, nonblock):
    def right(out):
        with out:
            out.wait(10)
            assert out.signaled

    def settle(*_):
        """The flip was made all the same, and takes its time: a commit that blocks waits for it."""
        screen.commit(screen.fbs[0], nonblock=False).close()

    with Timeline() as timeline, timeline.create_fence(0) as in_fence:
        sweep(lambda: screen.commit(screen.fbs[1], in_fence=in_fence, nonblock=nonblock), right, lost=settle)


@covers("kms.commit")
def test_test_only(sweep, screen):
    sweep(lambda: screen.commit(screen.fbs[1], test_only=True), equals(None))
