"""The fence device with random graphs of a thousand jobs: every byte and every fence is what plain Python says."""

import errno
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import pytest
from clock_words import alarms, becomes
from job_graph import QUEUES, Machine, behind, heirs, noise, outcomes, program

from linuxsync import Access, Timeline, wait_all
from linuxsync.fencedev import JobState

WAIT = 300.0  # of which a thousand jobs on a slow machine may take some
pytestmark = [
    pytest.mark.usefixtures("fence_device_module", "many_descriptors"),
    pytest.mark.parametrize("seed", [1, 2]),
]
# When fences signal: after all jobs have come; as they come; the same with the program interrupted by signals; and each
# before the next job comes.
TIMINGS = ["held", "racing", "interrupted", "in turn"]


@contextmanager
def submitted(steps, memory, timing, implicit=False):
    """A Machine that has been given the steps, and begins with them when the timing says so."""
    with ExitStack() as stack:
        gate = stack.enter_context(Timeline())
        closed = stack.enter_context(gate.create_fence(1))
        machine = stack.enter_context(Machine(memory))
        if timing == "held" and implicit:
            for buffer in machine.buffers:
                buffer.import_sync_file(closed, Access.WRITE)
        elif timing == "held":
            for queue in machine.queues:
                queue.submit(in_fences=[closed]).close()
        with alarms(0.001, lambda *_: None) if timing == "interrupted" else nullcontext():
            for step in steps:
                job = machine.submit(step, implicit)
                if timing == "in turn":
                    job.fence.wait(WAIT)
        if timing == "held":
            assert not any(job.fence.poll() for job in machine.jobs)
        gate.inc()
        yield machine


def agree(machine, steps, told, memory):
    """Assert that it has all ended as it was told, and in order."""
    wait_all([job.fence for job in machine.jobs], timeout=WAIT)
    infos = [job.info() for job in machine.jobs]
    seen = [(info.state, info.status, info.started_ns is not None, info.checksum) for info in infos]
    assert seen == [(JobState.DONE, one.status, one.begun, one.checksum) for one in told]
    assert [job.fence.status for job in machine.jobs] == [one.status for one in told]
    for queue in range(QUEUES):
        seqnos = [info.seqno for info, step in zip(infos, steps, strict=True) if step.queue == queue]
        assert seqnos == list(range(seqnos[0], seqnos[0] + len(seqnos)))
    for info, step in zip(infos, steps, strict=True):
        for number in step.waits:
            assert infos[number].ended_ns <= (info.started_ns or info.ended_ns)
    assert machine.memory() == memory


@pytest.mark.parametrize("timing", TIMINGS[:2])
def test_bytes(seed, timing):
    """Nothing but in-fences and queues puts the jobs in order."""
    steps, memory = program(seed), noise(seed)
    assert {len(step.waits) for step in steps} == set(range(17))
    with submitted(steps, noise(seed), timing) as machine:
        agree(machine, steps, outcomes(steps, memory), memory)


@pytest.mark.parametrize("timing", TIMINGS[:3])
def test_bytes_of_implicit_jobs(seed, timing):
    """Nothing but the buffers' own fences and queues does, and errors do not spread."""
    steps, memory = [replace(step, waits=[]) for step in program(seed, errors=0.05)], noise(seed)
    with submitted(steps, noise(seed), timing, implicit=True) as machine:
        agree(machine, steps, outcomes(steps, memory), memory)


def test_fences_matter(seed):
    """The same jobs without them, in the worst order of the queues, leave what that order does, which is wrong."""
    right, wrong = noise(seed), noise(seed)
    steps = [replace(step, waits=[]) for step in program(seed)]
    outcomes(steps, right)
    told = outcomes(sorted(steps, key=lambda step: -step.queue), wrong)
    assert not any(a == b for a, b in zip(right, wrong, strict=True))
    with Timeline() as gate, Machine(noise(seed)) as machine:
        for number, queue in enumerate(machine.queues):
            with gate.create_fence(QUEUES - number) as closed:
                queue.submit(in_fences=[closed]).close()
        for step in steps:
            machine.submit(step)
        for queue in reversed(machine.queues):
            gate.inc()
            with queue.submit() as last:
                last.fence.wait(WAIT)
        by_queue = sorted(range(len(steps)), key=lambda number: -steps[number].queue)
        assert [machine.jobs[number].info().checksum for number in by_queue] == [one.checksum for one in told]
        assert machine.memory() == wrong


@pytest.mark.parametrize("timing", TIMINGS)
def test_errors(seed, timing):
    """Each goes where its fence is waited for and not ignored, of several the first, and no further."""
    steps, memory = program(seed, errors=0.04, deaf=0.3), noise(seed)
    told = outcomes(steps, memory)
    statuses = [one.status for one in told]
    assert min(statuses.count(1), sum(not one.begun for one in told)) > 100
    # Some had to choose, and some went on nevertheless.
    assert any(len({statuses[number] for number in step.waits} - {1}) > 1 for step in steps if not step.ignore_errors)
    assert any(
        statuses[number] < 0 for step, one in zip(steps, told, strict=True) if one.begun for number in step.waits
    )
    with submitted(steps, noise(seed), timing) as machine:
        agree(machine, steps, told, memory)


def test_a_hang(seed):
    """It is found, nothing behind it has ended, all else has; the reset ends it, and with it those that wait for it."""
    steps, memory = program(seed, islands=2), noise(seed)
    first = max(range(400, 600), key=lambda number: len(heirs(steps, number)))
    steps[first].hang = True
    waiting, canceled = behind(steps, first), heirs(steps, first)
    free = set(range(len(steps))) - waiting - {first}
    assert len(canceled) > 50 and len(free) > 600 and canceled < waiting
    told = outcomes(steps, memory)
    with submitted(steps, noise(seed), "held") as machine:
        wait_all([machine.jobs[number].fence for number in free], timeout=WAIT)
        hung = machine.jobs[first]
        becomes(JobState.HUNG, lambda: hung.info().state, WAIT)
        states = [job.info().state for job in machine.jobs]
        assert [number for number, state in enumerate(states) if state == JobState.HUNG] == [first]
        assert {number for number, state in enumerate(states) if state == JobState.DONE} == free
        assert {number for number, state in enumerate(states) if state == JobState.WAITING} == waiting
        assert [machine.jobs[number].fence.status for number in free] == [1] * len(free)
        queue = machine.queues[steps[first].queue]
        assert [other.reset() for other in machine.queues if other is not queue] == [0, 0, 0]
        assert queue.reset() == hung.seqno
        agree(machine, steps, told, memory)
        statuses = [job.fence.status for job in machine.jobs]
    assert {number for number, status in enumerate(statuses) if status == -errno.ECANCELED} == canceled | {first}
    assert set(statuses) == {1, -errno.ECANCELED}


def test_hangs_among_errors(seed):
    """A watchdog that resets what it finds hung gets through to the end; a job that inherits an error never hangs."""
    steps, memory = program(seed, errors=0.02, hangs=0.03, deaf=0.4), noise(seed)
    told = outcomes(steps, memory)
    expected = {number for number, step in enumerate(steps) if step.hang and told[number].begun}
    assert 5 < len(expected) < sum(step.hang for step in steps)
    found = set()
    deadline = time.monotonic() + WAIT
    with submitted(steps, noise(seed), "racing") as machine:
        left = list(enumerate(machine.jobs))
        while left:
            assert time.monotonic() < deadline
            left = [(number, job) for number, job in left if not job.fence.poll()]
            for queue in range(QUEUES):
                number, job = next((each for each in left if steps[each[0]].queue == queue), (None, None))
                if job and job.info().state == JobState.HUNG:
                    assert machine.queues[queue].reset() == job.seqno
                    job.fence.wait(WAIT)  # until then a second reset would be for the next one
                    found.add(number)
        assert found == expected
        agree(machine, steps, told, memory)
