"""Tests of a compositor, as somebody's project might have them: clients that are late, fail and hang.

    vm/run -- python -m pytest examples/test_fake_gpu.py

The compositor is a toy, but it keeps the rules for which the tests are; take it out and put yours in. Time is no
argument here: each test says what has signaled and what has not, so that a slow machine changes nothing.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fake_gpu import Context, FakeGpu, Picture

from linuxsync import SyncFile

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF
PATIENCE = 20.0


class Window:
    """What the compositor knows of a client: the picture that it shows, and those that have been committed since."""

    def __init__(self) -> None:
        self.shown: Picture | None = None
        self.waiting: deque[tuple[Picture, SyncFile]] = deque()
        self.errors: list[int] = []

    def commit(self, picture: Picture, acquire: SyncFile) -> None:
        """A client's request; the fence stays the client's."""
        self.waiting.append((picture, acquire.dup()))

    def repaint(self) -> int | None:
        """What a frame of the screen shows of it: the last picture that is there now, without waiting for any."""
        while self.waiting and self.waiting[0][1].poll(0):
            picture, acquire = self.waiting.popleft()
            with acquire:
                if acquire.error is None:
                    self.shown = picture
                else:  # it has signaled, and there is no picture
                    self.errors.append(acquire.error)
        return self.shown.pixel(0, 0) if self.shown else None

    def close(self) -> None:
        """The client has gone."""
        while self.waiting:
            self.waiting.popleft()[1].close()


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """The GPU of all clients."""
    with FakeGpu() as gpu:
        yield gpu


class Client:
    """A client with two buffers, its window, and its context of the GPU."""

    def __init__(self, gpu: FakeGpu, stack: ExitStack, name: str) -> None:
        self.stack = stack
        self.window = Window()
        self.pictures = [stack.enter_context(gpu.allocate(32, 32)) for _ in range(2)]
        self.context: Context = stack.enter_context(gpu.context(name))
        stack.callback(self.window.close)

    def draw(self, number: int, colour: int) -> SyncFile:
        """Draw into one of the buffers and commit it; the fence is closed with the test."""
        fence = self.stack.enter_context(self.context.render(self.pictures[number], colour))
        self.window.commit(self.pictures[number], fence)
        return fence


@pytest.fixture
def client(gpu: FakeGpu) -> Iterator[Client]:
    """A client."""
    with ExitStack() as stack:
        yield Client(gpu, stack, "client")


@pytest.fixture
def neighbour(gpu: FakeGpu) -> Iterator[Client]:
    """Another one."""
    with ExitStack() as stack:
        yield Client(gpu, stack, "neighbour")


def test_a_picture_is_shown(client):
    """Once its fence has signaled."""
    assert client.window.repaint() is None
    client.draw(0, RED).wait(PATIENCE)
    assert client.window.repaint() == RED


def test_a_late_picture_is_shown_late(client):
    """The one before stays until then."""
    client.draw(0, RED).wait(PATIENCE)
    assert client.window.repaint() == RED
    client.context.next(late=0.5)
    late = client.draw(1, GREEN)
    assert client.window.repaint() == RED
    late.wait(PATIENCE)
    assert client.window.repaint() == GREEN


def test_a_picture_that_failed_is_not_shown(client):
    """Although its fence has signaled; and the client can be told why."""
    client.draw(0, RED).wait(PATIENCE)
    assert client.window.repaint() == RED
    client.context.next(error=errno.EIO)
    client.draw(1, GREEN).wait(PATIENCE)
    assert client.window.repaint() == RED
    assert client.window.errors == [errno.EIO]
    client.draw(1, BLUE).wait(PATIENCE)
    assert client.window.repaint() == BLUE


def test_a_client_that_hangs_keeps_nobody_else(client, neighbour):
    """Its window stays as it is; its neighbour's goes on."""
    client.draw(0, RED).wait(PATIENCE)
    client.context.next(hang=True)
    hung = client.draw(1, GREEN)
    for colour in (GREEN, BLUE):
        neighbour.draw(0, colour).wait(PATIENCE)
        assert (client.window.repaint(), neighbour.window.repaint()) == (RED, colour)
    assert client.context.reset()
    hung.wait(PATIENCE)
    assert client.window.repaint() == RED
    assert client.window.errors == [errno.ECANCELED]


def test_a_client_that_dies(gpu, client):
    """What it owed ends; the compositor keeps what it shows."""
    with ExitStack() as its:
        dying = Client(gpu, its, "dying")
        dying.draw(0, RED).wait(PATIENCE)
        assert dying.window.repaint() == RED
        dying.context.next(hang=True)
        client.window.commit(dying.pictures[1], dying.draw(1, GREEN))
    assert client.window.repaint() is None
    assert client.window.errors == [errno.ECANCELED]
