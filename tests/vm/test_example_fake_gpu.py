"""examples/fake_gpu.py and the tests of a compositor that use it: they pass, and fail where the compositor is wrong."""

import errno
import json
import os
import re
import socket
import time

import pytest
from children import forked
from example_words import EXAMPLES, called, helps, load

from linuxsync import DmaHeap, SyncFile
from linuxsync.fencedev import JobState

PATIENCE = 60.0
pytestmark = pytest.mark.usefixtures("fence_device_module")


@pytest.fixture(scope="module")
def program():
    return load("fake_gpu")


@pytest.fixture
def fake(program):
    with program.FakeGpu() as gpu:
        yield gpu


def test_the_program(program, monkeypatch, capfd):
    """A line for each mischief."""
    # So late that a machine which does other things too can tell: it looks after half of that.
    status, out, err = called(program, monkeypatch, capfd, "--late", "4000")
    assert (status, err) == (0, "")
    assert re.sub(r"after \d+ ms, picture", "after N ms, picture", out) == (
        "1 as it should be: signaled after N ms, picture 1 is there\n"
        "2 4000 ms late: not yet after 2010 ms, signaled after N ms, picture 2 is there\n"
        "3 failing: ended with EIO after N ms, picture 2 is there\n"
        "4 hanging, and reset: not yet after 2010 ms, ended with ECANCELED after N ms, picture 2 is there\n"
        "5 and all is well again: signaled after N ms, picture 5 is there\n"
    )
    assert int(re.search(r"late: .* after (\d+) ms, picture", out)[1]) >= 4010


def test_help(program, monkeypatch, capfd):
    """It has all of the docstring."""
    assert "--late" in helps(program, monkeypatch, capfd)


def test_a_picture_takes_its_time(fake):
    """By the kernel's timestamps, and what the device says; mischief comes in the order in which it was planned."""
    with fake.allocate(33, 17) as picture, fake.context("client") as client:
        client.next(late=0.2)
        client.next(error=errno.EIO)
        with client.render(picture, 1, 0.05) as late, client.render(picture, 2) as failed:
            assert [fence.fences[0].obj_name for fence in (late, failed)] == ["client", "client"]
            failed.wait(PATIENCE)
            job = client.look(late)
            assert job.state == JobState.DONE
            assert job.ended_ns - job.started_ns >= 250_000_000
            assert (late.error, failed.error) == (None, errno.EIO)
        assert {picture.pixel(x, y) for x in (0, 32) for y in (0, 16)} == {1}


def test_in_fences(fake, timeline):
    """Nothing is drawn before them; one that has failed counts as signaled, for the buffer is free."""
    with fake.allocate(8, 8) as picture, fake.context("client") as client, timeline.create_fence(1) as release:
        with client.render(picture, 7, after=[release]) as fence:
            assert not fence.poll(0.1)
            assert picture.pixel(0, 0) == 0
            timeline.close()
            assert release.error == errno.ENOENT
            fence.wait(PATIENCE)
            assert fence.error is None
        assert picture.pixel(7, 7) == 7


def test_hanging_and_closing(fake):
    """A hung job keeps its own context only, until a reset or the context's end."""
    with fake.allocate(8, 8) as picture, fake.context("other") as other:
        with fake.context("client") as client:
            client.next(hang=True)
            client.next(hang=True)
            first, second = client.render(picture, 1), client.render(picture, 2)
            with other.render(picture, 3) as fence:
                fence.wait(PATIENCE)
            assert not first.poll(0.05)
            assert client.reset()
            first.wait(PATIENCE)
            assert not second.poll(0.05)
        second.wait(PATIENCE)
        assert (first.error, second.error) == (errno.ECANCELED, errno.ECANCELED)
        assert picture.pixel(0, 0) == 3
        first.close()
        second.close()


def test_another_process_gets_the_picture(fake):
    """As over a compositor's socket: nothing of the fake GPU is needed there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def compositor():
        _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
        with SyncFile(fd) as acquire:
            acquire.wait(PATIENCE)
            assert acquire.error is None
            assert time.monotonic_ns() > acquire.timestamp_ns

    with ours, theirs, fake.allocate(8, 8) as picture, fake.context("client") as client, forked(compositor):  # noqa: SIM117
        with client.render(picture, 1, 0.1) as fence:
            socket.send_fds(ours, [b"!"], [fence.fileno()])


def trusting(window):
    """Shows what was committed last, whatever its fence says."""
    if window.waiting:
        window.shown = window.waiting[-1][0]
        window.close()
    return window.shown.pixel(0, 0) if window.shown else None


def patient(window):
    """Waits for each picture."""
    while window.waiting:
        picture, acquire = window.waiting.popleft()
        with acquire:
            acquire.poll(2)
            if acquire.error is None:
                window.shown = picture
            else:
                window.errors.append(acquire.error)
    return window.shown.pixel(0, 0) if window.shown else None


def forgiving(window):
    """Takes a fence that has signaled for a picture that is there."""
    while window.waiting and window.waiting[0][1].poll(0):
        window.shown, acquire = window.waiting.popleft()
        acquire.close()
    return window.shown.pixel(0, 0) if window.shown else None


class Compositors:
    """A plugin that has every test run with each of these in the compositor's place, and notes which of them fail."""

    def __init__(self, repaints):
        self.repaints = repaints
        self.failed = {name: set() for name in repaints}
        self.passed = {name: set() for name in repaints}

    def pytest_generate_tests(self, metafunc):
        metafunc.parametrize("compositor", self.repaints, indirect=True)

    @pytest.fixture(autouse=True)
    def compositor(self, request, monkeypatch):
        if repaint := self.repaints[request.param]:
            monkeypatch.setattr(request.module.Window, "repaint", repaint)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            test, _, name = report.nodeid.partition("::test_")[2].partition("[")
            (self.failed if report.failed else self.passed)[name.removesuffix("]")].add(test)


@pytest.fixture(scope="module")
def compositors(tmp_path_factory):
    """Which tests passed and which failed for each compositor, by its name."""
    result = tmp_path_factory.mktemp("compositors") / "result"

    def run():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        compositors = Compositors({"right": None, "trusting": trusting, "patient": patient, "forgiving": forgiving})
        options = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(EXAMPLES)]
        pytest.main([*options, str(EXAMPLES / "test_fake_gpu.py")], plugins=[compositors])
        result.write_text(json.dumps([compositors.passed, compositors.failed], default=sorted))

    with forked(run):
        pass
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    ("name", "caught_by"),
    [
        ("right", []),
        ("trusting", ["a_client_that_dies", "a_picture_that_failed_is_not_shown"]),
        ("patient", ["a_client_that_hangs_keeps_nobody_else", "a_late_picture_is_shown_late"]),
        ("forgiving", ["a_client_that_dies", "a_picture_that_failed_is_not_shown"]),
    ],
)
def test_the_tests_of_a_compositor(name, caught_by, compositors):
    """They pass for the one that is there, and each wrong one fails the tests that are for it."""
    passed, failed = (set(tests[name]) for tests in compositors)
    assert len(passed | failed) == 5
    assert set(caught_by) <= failed
    assert bool(failed) == bool(caught_by)


def test_allocate_rounds_up(fake):
    """To whole pages, as heaps do."""
    with fake.allocate(1, 1) as picture, DmaHeap() as heap, heap.alloc(4) as other:
        assert picture.dmabuf.size == other.size
