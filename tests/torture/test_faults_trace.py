"""Faults while a trace instance is made, and while it is removed: nothing of it stays in tracefs."""

import gc
from pathlib import Path

import pytest

from linuxsync import _tracefs
from tests.torture.faults import ENOUGH, MOST, covers, explained, open_files, same
from tests.torture.faults_known import ANSWERS, FILES, MADE_WITHOUT, NO_INODE, REMOVED_AGAIN, SWALLOWED

pytest_plugins = ["tests.torture.faults_plugin"]

TRACING = Path("/sys/kernel/tracing")


def ours():
    """Instances and probes of linuxsync."""
    instances = [entry.name for entry in (TRACING / "instances").iterdir() if entry.name.startswith("linuxsync_")]
    return instances, [probe for probe in _tracefs.probes(TRACING) if probe[0].startswith("linuxsync_")]


def swept(sweep, begin, numbers, swallowed):
    """Faults of these numbers in what `begin` returns, until none comes any more.

    With None for `swallowed` it may end well or not: with an event of which the kernel has not made all files.
    """
    missed = 0
    for nth in numbers:
        gc.collect()
        before = open_files(), ours()
        operation = begin()
        sweep.injector.quiet()
        _, failure, came = sweep.injector.call(nth, operation)
        operation = None
        fault = sweep.injector.fault() if came else None
        sweep.tally.operations += 1
        sweep.tally.faults_injected += came
        with explained(nth, fault, failure):
            same(before, lambda: (open_files(), ours()))
            if fault is not None and swallowed is not None:
                sweep.count(fault, failure, {**ANSWERS, **NO_INODE}, {**SWALLOWED, **FILES, **swallowed})
            elif fault is not None:
                sweep.row.faults += 1
            else:
                assert failure is None, "it failed without a fault"
        sweep.tally.faults_survived += came
        missed = 0 if came else missed + 1
        if missed == ENOUGH:
            return
    assert nth < MOST - 1, "no end"


def made():
    with _tracefs.private_instance():
        pass


def entered():
    """A context that has begun, and its instance."""
    context = _tracefs.private_instance()
    return context, context.__enter__()


def adding():
    """What adds a probe to an instance, and removes both."""
    context, instance = entered()

    def add():
        try:
            instance.add_probe("p", "probe", "sync_file_create")
        finally:
            context.__exit__(None, None, None)

    return add


def removing():
    """What removes an instance and its probe."""
    context, instance = entered()
    instance.add_probe("p", "probe", "sync_file_create")
    return lambda: context.__exit__(None, None, None)


# After the first 39 the kernel allocates pages of its buffers, and then files of each event, in some 4,000 steps
# that are alike: a few of them stand for all.
SOME = [*range(1, 40), *range(200, MOST, 173)]


@covers(row="a trace instance")
@pytest.mark.parametrize(
    ("begin", "numbers", "swallowed"),
    [
        (lambda: made, SOME, {**MADE_WITHOUT, **REMOVED_AGAIN}),
        (adding, range(1, MOST), None),
        (removing, range(1, MOST), REMOVED_AGAIN),
    ],
    ids=["make", "add", "remove"],
)
def test_instance(sweep, begin, numbers, swallowed):
    """What a recording, live_events() and record_stacks() have in common."""
    swept(sweep, begin, numbers, swallowed)
