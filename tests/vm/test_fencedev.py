"""The fence device: queues, jobs, and their fences from the submission to the end, whichever end that is."""

import errno
import gc
import os
import random
import re
import signal
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from children import forked
from clock_words import lasts
from fencedev_words import alive, load, unload
from kernel_words import free_descriptors, has_deadlines, raw_info, refused

from linuxsync import DmaHeap, FenceDevice, FenceError, SyncFile, Timeline, fencedev, wait_all
from linuxsync.fencedev import Copy, JobState

WAIT = 60.0
pytestmark = pytest.mark.usefixtures("fence_device_module")


@pytest.fixture
def submit(queue, keep):
    """A function that submits a job to `queue`, and closes it when the test is over."""
    return lambda *arguments, on=None, **options: keep((on or queue).submit(*arguments, **options))


def ended(job):
    """The error of a job, or None, once it has ended."""
    job.fence.wait(WAIT)
    assert job.info().state == JobState.DONE
    return job.fence.error


def becomes(job, state):
    """Wait until a job is in that state."""
    deadline = time.monotonic() + WAIT
    while job.info().state != state:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def context_and_seqno(fence):
    """The two numbers of the name that the kernel gives to a sync_file."""
    found = re.fullmatch(r"fencedev-queue(\d+)-(\d+)", fence.name)
    return int(found[1]), int(found[2])


def test_device(device):
    """It is there, and says what it can do; what is no fence device is not taken for one."""
    assert fencedev.available()
    assert device.version == 1
    with Timeline() as timeline, timeline.create_fence(1) as fence:
        assert device.has_deadlines == has_deadlines(fence.fileno())
    with refused(errno.ENOENT, FileNotFoundError) as missing:
        FenceDevice("/dev/nowhere")
    assert "linuxsync vm" in str(missing.value)
    with refused(errno.ENOTTY):
        FenceDevice("/dev/null")
    assert Path("/dev/fencedev").stat().st_mode & 0o777 == 0o600


def test_closed(device, queue):
    """Everything says so, close twice does nothing, and a device takes its queues along."""
    queue.close()
    queue.close()
    for call in (queue.submit, queue.reset, queue.__enter__, lambda: queue.id):
        with pytest.raises(ValueError, match="closed"):
            call()
    second = device.create_queue()
    job = second.submit()
    device.close()
    assert second.closed
    second.close()
    for call in (second.submit, second.reset, device.create_queue, job.info, lambda: device.version):
        with pytest.raises(ValueError, match="closed"):
            call()
    job.close()
    job.close()


def test_forgotten_queue_warns(device):
    """And is given back."""
    queue = device.create_queue("lost")
    with pytest.warns(ResourceWarning, match="unclosed <Queue 1 of"):
        del queue
        gc.collect()
    assert alive()["queues"] == 0


def test_names(device, submit, queue):
    """The driver's and the queue's, as the kernel has them in the fence."""
    _, (said,) = raw_info(submit().fence.fileno())
    assert (said.driver_name, said.obj_name) == (b"fencedev", b"queue")
    for name in ("", "x" * 31, "ä" * 15):
        with device.create_queue(name) as other, other.submit(hang=True) as job:
            assert job.fence.fences[0].obj_name == other.name == name
    for name in ("x" * 32, "ä" * 16, "a\0b"):
        with pytest.raises(ValueError, match="name"):
            device.create_queue(name)


def test_numbers(device, submit):
    """Each queue counts from 1 on a timeline of its own; a number of a queue is not given twice."""
    with device.create_queue("queue") as other:
        here = [submit() for _ in range(3)]
        there = [submit(on=other) for _ in range(2)]
        assert [job.seqno for job in here + there] == [1, 2, 3, 1, 2]
        contexts = {context_and_seqno(job.fence)[0] for job in here}, {context_and_seqno(job.fence)[0] for job in there}
        assert len(contexts[0]) == len(contexts[1]) == 1 and contexts[0] != contexts[1]
        assert [context_and_seqno(job.fence)[1] for job in here + there] == [1, 2, 3, 1, 2]
        number = other.id
    with device.create_queue() as third:
        assert third.id > number


def test_jobs_of_a_queue_end_in_order(submit):
    """However long each takes; each begins when the one before it has ended."""
    jobs = [submit(duration=seconds) for seconds in (0.03, 0, 0.01, 0)]
    infos = [(ended(job), job.info())[1] for job in jobs]
    for before, after in pairwise(infos):
        assert before.submitted_ns <= after.submitted_ns
        assert before.ended_ns <= after.started_ns <= after.ended_ns


def test_queues_do_not_wait_for_each_other(device, submit):
    """A job behind a hung one of another queue would never end."""
    submit(hang=True)
    with device.create_queue() as other, other.submit() as job:
        assert ended(job) is None


def test_duration(submit):
    """Not less than asked for, and the fence says the same moment as the device."""
    with lasts(0.1, WAIT):
        before = time.monotonic()
        job = submit(duration=0.1)
        assert not job.fence.poll() or time.monotonic() - before >= 0.1
        job.fence.wait(WAIT)
    info = job.info()
    assert info.ended_ns - info.started_ns >= 100_000_000
    assert job.fence.timestamp_ns == info.ended_ns
    assert (info.status, info.seqno) == (1, 1)
    for seconds in (-1, 3600.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="duration"):
            submit(duration=seconds)


def test_in_fences(submit, timeline):
    """A job begins when all have signaled, in whatever order; they may be closed meanwhile."""
    with ExitStack() as stack:
        fences = [stack.enter_context(timeline.create_fence(value)) for value in range(16, 0, -1)]
        job = submit(in_fences=fences)
        with pytest.raises(ValueError, match="at most 16"):
            submit(in_fences=[*fences, fences[0]])
    timeline.inc(15)
    assert not job.fence.poll(0.02)
    assert (job.info().state, job.info().started_ns) == (JobState.WAITING, None)
    timeline.inc()
    assert ended(job) is None


def test_in_fences_that_have_signaled(submit, timeline):
    """Or are one and the same, or come from the queue itself."""
    first = submit()
    ended(first)
    with timeline.create_fence(0) as passed:
        second = submit(in_fences=[passed, passed, first.fence])
        third = submit(in_fences=[second.fence, second.fence])
    assert ended(third) is None


def test_in_fences_of_other_queues_and_merged(device, submit, timeline):
    """A chain through three queues, and a merged fence at its end."""
    with device.create_queue("b") as b, device.create_queue("c") as c, timeline.create_fence(1) as begin:
        one = submit(in_fences=[begin])
        two = submit(on=b, in_fences=[one.fence])
        three = submit(on=c, in_fences=[two.fence])
        with one.fence | three.fence as both:
            four = submit(in_fences=[both])
        timeline.inc()
        assert ended(four) is None
        times = [job.info() for job in (one, two, three, four)]
    assert [t.ended_ns for t in times] == sorted(t.ended_ns for t in times)
    assert all(before.ended_ns <= after.started_ns for before, after in pairwise(times))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, 4095])
def test_injected_error(submit, timeline, number):
    """It comes at the end of the job, and is what everybody reads in the fence."""
    with timeline.create_fence(1) as begin:
        job = submit(error=number, duration=0.02, in_fences=[begin])
    assert job.info().status == 0
    timeline.inc()
    assert ended(job) == number
    assert job.info().status == -number
    info = job.info()
    assert info.ended_ns - info.started_ns >= 20_000_000
    with pytest.raises(FenceError) as caught:
        job.fence.raise_for_status()
    assert caught.value.errno == number
    for bad in (-1, 4096):
        with pytest.raises(ValueError, match="error"):
            submit(error=bad)


def test_errors_propagate(device, submit):
    """Along every edge, and no further than to those that depend; who ignores them begins."""
    with device.create_queue("other") as other:
        bad = submit(error=errno.EIO, duration=0.02)
        child = submit(on=other, in_fences=[bad.fence])
        grandchild = submit(in_fences=[child.fence])
        stranger = submit()
        deaf = submit(on=other, in_fences=[child.fence, bad.fence], ignore_errors=True)
        heir = submit(on=other, in_fences=[deaf.fence])
        assert [ended(job) for job in (bad, child, grandchild)] == [errno.EIO] * 3
        assert [ended(job) for job in (stranger, deaf, heir)] == [None] * 3
    assert child.info().started_ns is None and deaf.info().started_ns is not None


def test_first_error_counts(device, submit, timeline):
    """Of the in-fences as they were given, whichever failed first; before the job's own; in merged ones too."""
    with ExitStack() as stack:
        queues = [stack.enter_context(device.create_queue(str(number))) for number in range(3)]
        io = submit(on=queues[0], error=errno.EIO, duration=0.03)
        nodev = submit(on=queues[1], error=errno.ENODEV)
        fine = submit(on=queues[2])
        assert ended(submit(in_fences=[fine.fence, io.fence, nodev.fence])) == errno.EIO
        assert ended(submit(in_fences=[fine.fence, nodev.fence, io.fence], error=errno.EPERM)) == errno.ENODEV
        # The kernel leaves out what has signaled, so what is merged must not have.
        with timeline.create_fence(1) as begin:
            late = submit(in_fences=[begin], error=errno.EIO)
            with late.fence | begin as both:
                merged = submit(on=queues[0], in_fences=[both])
        timeline.inc()
        assert ended(merged) == errno.EIO


def test_error_of_a_foreign_fence(submit):
    """A timeline that is closed fails its fences with ENOENT, and so the job."""
    with Timeline() as timeline, timeline.create_fence(1) as fence:
        job = submit(in_fences=[fence])
        deaf = submit(in_fences=[fence], ignore_errors=True)
    assert [ended(job), ended(deaf)] == [errno.ENOENT, None]


def test_hang_and_reset(submit, queue):
    """A hung job stays until the reset, which ends it and nothing else."""
    before, hung, after = submit(), submit(hang=True), submit()
    becomes(hung, JobState.HUNG)
    assert ended(before) is None
    assert not hung.fence.poll(0.05) and not after.fence.poll()
    assert queue.reset() == hung.seqno
    assert [ended(hung), ended(after)] == [errno.ECANCELED, None]
    assert queue.reset() == 0


def test_downstream_of_a_hang_ends_with_it(device, queue, submit):
    """Those that wait for a job that was reset have its error."""
    with device.create_queue("other") as other:
        hung = submit(hang=True)
        downstream = [submit(on=other, in_fences=[hung.fence]) for _ in range(3)]
        assert queue.reset() == hung.seqno
        assert {ended(job) for job in downstream} == {errno.ECANCELED}


def test_reset_of_what_does_not_hang(queue, submit, timeline):
    """A job at work ends too; one that waits for a fence is not what the device is at."""
    job = submit(duration=60)
    becomes(job, JobState.RUNNING)
    assert queue.reset() == job.seqno
    assert ended(job) == errno.ECANCELED
    with timeline.create_fence(1) as fence:
        waiting = submit(in_fences=[fence], duration=0.01)
    behind = submit(hang=True)
    assert queue.reset() == 0
    timeline.inc()
    assert ended(waiting) is None
    assert queue.reset() == behind.seqno


@pytest.mark.parametrize("close", ["queue", "device"])
def test_what_is_closed_ends_its_jobs(device, close, timeline, keep):
    """Hung, running, waiting: all end with ECANCELED, before close() returns."""
    queues = [device.create_queue(str(number)) for number in range(3)]
    with timeline.create_fence(1) as fence:
        jobs = [
            keep(queues[0].submit(hang=True)),
            keep(queues[0].submit()),
            keep(queues[1].submit(duration=3600)),
            keep(queues[2].submit(in_fences=[fence])),
            keep(queues[2].submit(in_fences=[fence], ignore_errors=True)),
        ]
    assert not any(job.fence.poll() for job in jobs)
    for each in [device] if close == "device" else queues:
        each.close()
    assert [job.fence.error for job in jobs] == [errno.ECANCELED] * 5
    assert (alive()["jobs"], alive()["queues"], alive()["fences"]) == (0, 0, 5)
    # Nobody is called any more.
    timeline.inc()


def test_signaling_is_enabled_by_who_waits(submit, timeline):
    """Not by who only looks at the status."""
    with timeline.create_fence(1) as begin:
        job = submit(in_fences=[begin])
        other = submit()
    assert job.fence.status == 0
    assert not job.info().signaling
    job.fence.poll()
    assert job.info().signaling and not other.info().signaling
    timeline.inc()
    ended(other)


def test_deadline(submit):
    """The earliest reaches the device. A kernel without deadlines says so, and the device knows of none."""
    job = submit(hang=True)
    assert job.info().deadline_ns is None
    if not has_deadlines(job.fence.fileno()):
        with refused(errno.ENOTTY):
            job.fence.set_deadline(5_000)
        assert job.info().deadline_ns is None
        return
    for deadline, known in ((5_000, 5_000), (7_000, 5_000), (3_000, 3_000), (0, 1)):
        job.fence.set_deadline(deadline)
        assert job.info().deadline_ns == known


def test_a_queue_is_closed_while_it_is_woken(device):
    """By an in-fence, or by its timer, on another CPU: its jobs have ended when close() returns."""
    for number in range(200):
        with Timeline() as line, line.create_fence(1) as fence:
            queue = device.create_queue()
            with queue.submit(in_fences=[fence] if number % 2 else [], duration=0.0002) as job:
                waker = threading.Thread(target=line.inc)
                waker.start()
                try:
                    queue.close()
                    assert job.fence.status != 0
                finally:
                    waker.join()


def test_query(device, submit, timeline):
    """Of a job's fence only, but of any open file of the device."""
    job = submit(hang=True)
    becomes(job, JobState.HUNG)
    with FenceDevice() as second, job.fence.dup() as fence:
        assert second.query(fence) == job.info()
    with timeline.create_fence(1) as foreign, foreign | job.fence as merged:
        for fence in (foreign, merged):
            with refused(errno.EINVAL):
                device.query(fence)


def test_out_fence_is_not_inherited(submit):
    """A program that is started does not get it."""
    assert not os.get_inheritable(submit().fence.fileno())


def test_no_descriptor_left(queue, submit):
    """EMFILE, nothing was queued, and the number is the next job's."""
    with free_descriptors(0), refused(errno.EMFILE):
        queue.submit(hang=True)
    assert alive()["fences"] == alive()["jobs"] == 0
    job = submit()
    assert (ended(job), job.seqno) == (None, 1)


def test_submitted_from_many_threads(queue, keep):
    """Every job has a number of its own, and all end."""
    jobs = []

    def work():
        for _ in range(50):
            jobs.append(keep(queue.submit()))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_all([job.fence for job in jobs], timeout=WAIT)
    assert sorted(job.seqno for job in jobs) == list(range(1, 401))
    by_number = sorted(jobs, key=lambda job: job.seqno)
    times = [job.fence.timestamp_ns for job in by_number]
    assert times == sorted(times)


def test_queue_of_a_parent(queue, submit):
    """A forked child submits to it, and leaves it to the parent when it closes its own object."""

    def child():
        with queue.submit() as job:
            assert ended(job) is None
        queue.close()

    with forked(child):
        pass
    job = submit()
    assert (job.seqno, ended(job)) == (2, None)


def test_fence_outlives_everything(timeline):
    """Its job, its queue and the device's file: name, status and time are still there."""
    with FenceDevice() as device, device.create_queue("gone") as queue, queue.submit() as job:
        fence = SyncFile.from_fd(job.fence)
        fence.wait(WAIT)
    with fence:
        assert fence.fences[0].obj_name == "gone" and fence.status == 1
        with refused(errno.EWOULDBLOCK):
            if result := unload():
                raise OSError(-result, "delete_module")


def client(fence):
    """What is killed: jobs in every state, with buffers and without, until somebody comes."""
    device = FenceDevice()
    heap = DmaHeap()
    buffers = [device.attach(heap.alloc(1 << 14)) for _ in range(2)]
    queues = [device.create_queue(str(number)) for number in range(3)]
    last = []
    while True:
        for queue in queues:
            options = random.choice(
                [{"hang": True}, {"duration": 0.001}, {"in_fences": [fence]}, {"in_fences": last[-16:]}, {}]
            )
            operation = Copy(*random.sample(buffers, 2)) if random.random() < 0.5 else None
            implicit = operation is not None and random.random() < 0.5
            last.append(queue.submit(operation, implicit=implicit, **options).fence)
            del last[:-20]
            if random.random() < 0.2:
                queue.reset()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_killed_clients_leave_nothing(fence):
    """Wherever they were."""
    for number in range(12):
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(300)
                random.seed(number)
                client(fence)
            finally:
                os._exit(1)
        deadline = time.monotonic() + WAIT
        while not alive()["jobs"]:
            assert time.monotonic() < deadline
        time.sleep(random.Random(number).random() * 0.05)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        # A buffer may be freed a moment after the process that had it.
        deadline = time.monotonic() + WAIT
        while set(alive().values()) != {0}:
            assert time.monotonic() < deadline, alive()
            time.sleep(0.001)


def test_module_stays_while_it_is_used(timeline):
    """It can go when neither a file nor a fence is left, and come back."""
    device = FenceDevice()
    assert unload() == -errno.EWOULDBLOCK
    with device.create_queue() as queue, timeline.create_fence(1) as begin:
        job = queue.submit(in_fences=[begin])
        with job.fence | begin as merged:
            job.close()
            device.close()
            assert merged.error in (None, errno.ECANCELED)
            assert unload() == -errno.EWOULDBLOCK
    deadline = time.monotonic() + WAIT
    while (result := unload()) == -errno.EWOULDBLOCK:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the last fence is freed after a grace period of RCU
    try:
        assert result == 0
        assert not Path("/dev/fencedev").exists() and alive() == {}
        assert not fencedev.available()
    finally:
        load()
    with FenceDevice() as device, device.create_queue() as queue, queue.submit() as job:
        assert ended(job) is None
