"""examples/explicit_sync.py: what both sides saw, and what is left where one of them is killed."""

import itertools
import json
import os
import signal
from contextlib import ExitStack

import pytest
from clock_words import becomes
from example_words import called, helps, load, started
from fencedev_words import alive

RENDER, SHOW = 8_000_000, 4_000_000  # ns, as it does by itself
pytestmark = pytest.mark.usefixtures("fence_device_module")


@pytest.fixture(scope="module")
def program():
    return load("explicit_sync")


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_device():
    """No queue, attachment or job, although processes were killed."""
    before = alive()
    yield
    becomes(before, alive)


@pytest.fixture
def played(program, monkeypatch, capfd):
    """A function that has both sides play, and says the exit status, what each saw, and stderr."""

    def play(*arguments):
        status, out, err = called(program, monkeypatch, capfd, "--json", *arguments)
        return status, {side.pop("role"): side for side in map(json.loads, out.splitlines())}, err

    return play


def outcomes(side):
    return [frame["outcome"] for frame in side["frames"]]


def signaled(side):
    return [frame["signaled_ns"] for frame in side["frames"]]


def test_every_frame_arrives(played):
    """Each picture is read as it was drawn, and none is drawn over before it was read."""
    status, sides, err = played()
    assert (status, err) == (0, "")
    assert outcomes(sides["consumer"]) == ["shown"] * 12
    assert outcomes(sides["producer"]) == ["released"] * 12
    for side in sides.values():
        assert [(frame["number"], frame["buffer"]) for frame in side["frames"]] == [(n, n % 3) for n in range(1, 13)]
        assert not side["left_alone"]
    # The consumer's out-fence is what came back to the producer: one fence, whose timestamp is the kernel's.
    times = signaled(sides["consumer"])
    assert times == signaled(sides["producer"]) == sorted(times)
    # Drawing the next picture into a buffer begins with its release, and reading it with its acquire fence.
    for released, again in zip(times, times[3:], strict=False):
        assert again - released >= RENDER + SHOW
    for one, following in itertools.pairwise(times):
        assert following - one >= SHOW


def test_without_acquire_fences(played):
    """A consumer that reads at once reads what was there before: a picture takes a minute, so none is there."""
    status, sides, err = played("--careless", "--render", "60000", "--frames", "3")
    assert (status, err) == (1, "")
    assert outcomes(sides["consumer"]) == ["wrong picture"] * 3
    assert outcomes(sides["producer"]) == ["released"] * 3


def test_a_picture_that_fails(played):
    """It is not shown, its buffer comes back, and the next picture in it is as it should be."""
    status, sides, err = played("--fail", "5", "--frames", "9")
    assert (status, err) == (1, "")
    for side, fine in (("consumer", "shown"), ("producer", "released")):
        assert outcomes(sides[side]) == [fine] * 4 + ["failed: EIO"] + [fine] * 4


def test_the_producer_is_killed(played):
    """The picture that it was at is lost; the consumer has shown the others, learns it, and does not hang."""
    status, sides, err = played("--kill", "producer")
    assert (status, err) == (1, "the producer was killed by SIGKILL\n")
    assert list(sides) == ["consumer"]
    assert sides["consumer"]["left_alone"]
    seen = outcomes(sides["consumer"])
    # Those before it may still have been under way, on a slow machine all of them.
    assert seen == ["shown"] * seen.count("shown") + ["failed: ECANCELED"] * seen.count("failed: ECANCELED")
    assert (len(seen), seen[6]) == (7, "failed: ECANCELED")  # an hour's work


def test_the_consumer_is_killed(played):
    """What it had promised to release is released with an error; what it had not answered never is."""
    status, sides, err = played("--kill", "consumer")
    assert (status, err) == (1, "the consumer was killed by SIGKILL\n")
    assert list(sides) == ["producer"]
    assert sides["producer"]["left_alone"]
    seen = outcomes(sides["producer"])
    answered = [outcome for outcome in seen if outcome != "no answer"]
    assert len(answered) == 6 < len(seen) <= 9
    assert seen[:6] == answered
    released, canceled = answered.count("released"), answered.count("failed: ECANCELED")
    assert answered == ["released"] * released + ["failed: ECANCELED"] * canceled


def test_two_programs_and_ctrl_c(tmp_path):
    """Each in a process of its own; Ctrl-C ends the producer, with all that it had sent, and the consumer leaves."""
    path = str(tmp_path / "socket")
    with ExitStack() as stack:
        consumer, producer = [
            stack.enter_context(started("explicit_sync", role, path, "--json", "--frames", "100000"))
            for role in ("--listen", "--connect")
        ]
        for end in (consumer, producer):
            stack.callback(end.kill)
        becomes(True, lambda: alive()["jobs"] > 0)
        producer.send_signal(signal.SIGINT)
        out, err = producer.communicate(timeout=60)
        assert (producer.returncode, err) == (130, "")
        sent = json.loads(out)
        out, err = consumer.communicate(timeout=60)
        assert (consumer.returncode, err) == (0, "")
        shown = json.loads(out)
    assert signaled(sent) == signaled(shown)
    assert set(outcomes(sent)) == {"released"}
    assert set(outcomes(shown)) == {"shown"}
    assert not shown["left_alone"]
    assert not os.path.lexists(path)


def test_help_and_bad_options(program, monkeypatch, capfd):
    """--help teaches; what makes no sense is refused with 2."""
    assert "--careless" in helps(program, monkeypatch, capfd)
    with pytest.raises(SystemExit) as end:
        called(program, monkeypatch, capfd, "--frames", "0")
    assert end.value.code == 2
