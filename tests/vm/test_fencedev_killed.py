"""A hundred clients of the fence device, killed wherever they are: nothing of them is left but what others hold."""

import errno
import os
import random
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

import pytest
from clock_words import becomes
from fencedev_words import alive, load, unload
from job_graph import SIZE, Machine, noise, outcomes, program

from linuxsync import Access, FenceDevice, SyncFile, udmabuf

BATCHES, AT_ONCE = 10, 10
MESSAGE = struct.Struct("II")
pytestmark = pytest.mark.usefixtures("fence_device_module", "many_descriptors")


def client(dice, number, steps, shared, link):
    """What is killed: does a program again and again, and hands some of the fences to its parent."""
    while True:
        implicit = dice.random() < 0.5
        with Machine(shared=[shared]) as machine:
            for at, step in enumerate(steps):
                job = machine.submit(step, implicit)
                if dice.random() < 0.05:
                    with suppress(BlockingIOError):
                        fds = [job.fence.fileno()]
                        socket.send_fds(link, [MESSAGE.pack(number, at)], fds, socket.MSG_DONTWAIT)
                if dice.random() < 0.02:
                    dice.choice(machine.queues).reset()


def start(*arguments):
    """Fork a client."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(900)  # if its parent is killed; a debug kernel takes minutes for all of them
            client(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    return child


def killed(child):
    """How a client ended: by that, or before it."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def received(link, most, keep):
    """Fences that clients have sent, with the numbers of the client and the step."""
    with suppress(BlockingIOError):
        for _ in range(most):
            message, fds, _, _ = socket.recv_fds(link, MESSAGE.size, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
            if not message:
                break  # they are all dead
            yield *MESSAGE.unpack(message), keep(SyncFile(*fds))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_killed_clients_leave_nothing(keep):
    """Fences that they gave away end as they would have or with ECANCELED; all else goes, and then rmmod works."""
    dice = random.Random(100)
    programs = [program(seed, count=200, errors=0.05, hangs=0.01, deaf=0.3) for seed in range(AT_ONCE)]
    told = [outcomes(steps, noise(0)) for steps in programs]
    ends = []
    for batch in range(BATCHES):
        # Through this buffer they wait for each other, too.
        with udmabuf.create(SIZE) as shared:
            link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with link:
                with theirs:
                    children = [
                        start(random.Random(f"{batch} {number}"), number, steps, shared, theirs)
                        for number, steps in enumerate(programs)
                    ]
                held, statuses = [], []
                deadline = time.monotonic() + 300
                try:
                    while len(held) <= 50:  # on a slow machine they are not as far yet when all have been forked
                        assert time.monotonic() < deadline
                        held += received(link, 30, keep)
                        time.sleep(0.001)
                    for child in dice.sample(children, len(children)):
                        time.sleep(dice.random() * 0.06)
                        held += received(link, 30, keep)
                        children.remove(child)
                        statuses.append(killed(child))
                finally:
                    for child in children:
                        killed(child)
                held += received(link, 1000, keep)
            assert statuses == [-signal.SIGKILL] * AT_ONCE  # and none of an error of its own
            assert shared.poll(Access.RW)
        for number, at, fence in held:
            assert fence.status in (told[number][at].status, -errno.ECANCELED)
            ends.append((told[number][at].status, fence.status))
        # A buffer may be freed a moment after the process that had it.
        becomes({"queues": 0, "jobs": 0, "fences": len(held), "attachments": 0, "mappings": 0}, alive)
        assert unload() == -errno.EWOULDBLOCK
        for _, _, fence in held:
            fence.close()
        becomes({0}, lambda: set(alive().values()))
    # Some were done, some had failed by themselves, and some were cut off.
    assert {(1, 1), (-errno.EIO, -errno.EIO), (1, -errno.ECANCELED)} <= set(ends)
    becomes(0, unload)  # the last fence is freed after a grace period of RCU
    try:
        assert alive() == {}
    finally:
        load()
    with FenceDevice() as device, device.create_queue() as queue, queue.submit() as job:
        job.fence.wait(120)
        assert job.fence.status == 1
