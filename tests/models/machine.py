"""What all machines share: they count what they do, leave nothing behind, and are run with a seed that is printed."""

import gc
import os
import random
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from buffer_words import bufinfo
from clock_words import becomes
from fencedev_words import alive
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from kernel_words import debugfs_timelines

from tests.conftest import list_open_files

WAIT = 120.0  # seconds, for what has to happen; nothing takes that long unless it is lost
LATE = 120.0  # for what the kernel lets go of a moment later: a run that passes waits for no more than that moment


def kept():
    """What this process and the kernel hold that a machine could leave behind."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "dmabuf" in line or "/dri/" in line]
    return {
        "descriptors": list_open_files(),
        "mappings": maps,
        "threads": threading.active_count(),
        "timelines": debugfs_timelines(),
        "dma-bufs": {ino: (listed.size, listed.exporter, listed.count) for ino, listed in bufinfo().items()},
        "of the fence device": alive(),
    }


class Waiter(threading.Thread):
    """A thread that waits for something, and says what came of it."""

    def __init__(self, wait):
        super().__init__(daemon=True)
        self.wait = wait
        self.error = None
        self.start()

    def run(self):
        try:
            self.wait()
        except Exception as error:
            self.error = error

    def asleep(self):
        """Return once it waits in the kernel: then it has seen all that was done before."""
        place = Path(f"/proc/self/task/{self.native_id}/syscall")
        # What it calls there is a lock of Python's as long as it has not begun.
        ready = (str(number) for number in (7, 16, 271))  # poll, ioctl, ppoll

        def calls():
            try:
                return place.read_text().split()[0] in numbers
            except OSError:
                return True  # it is over

        numbers = set(ready)
        becomes(True, calls, WAIT)

    def ended(self):
        """Wait for its end, and raise what it met."""
        self.join(WAIT)
        assert not self.is_alive(), "it still waits for what has come"
        if self.error is not None:
            raise self.error


class EveryRule:
    """In place of hypothesis's choice of a few rules for each program."""

    def is_enabled(self, name):
        return True


class Machine(RuleBasedStateMachine):
    """A machine with a model. What it makes is given to `keep`, and it says in `agree` how to compare."""

    operations = bad_inputs = leaked = 0  # of all machines in this process
    few_rules = False

    def __init__(self):
        super().__init__()
        # With few rules each, it takes hundreds of programs until one has all that it takes to get anywhere.
        if not self.few_rules:
            self._rules_strategy.enabled_rules_strategy = st.just(EveryRule())
        self.stack = ExitStack()
        self.before = kept()
        self.whole = False
        self.keep = self.stack.enter_context

    @invariant()
    def the_kernel_does_as_the_model(self):
        """After each step."""
        Machine.operations += 1
        self.whole = False
        self.agree()
        self.whole = True

    def agree(self):
        """Compare everything there is."""
        raise NotImplementedError

    def end(self):
        """What is to be checked and done before everything is closed, if all went well."""

    def teardown(self):
        with self.stack:
            if self.whole:
                self.end()
        if not self.whole:
            return  # what went wrong is being raised, and may well have left something
        gc.collect(0)
        deadline = time.monotonic() + LATE
        while (after := kept()) != self.before and time.monotonic() < deadline:
            time.sleep(0.005)
        Machine.leaked += after != self.before
        assert after == self.before, "something is left"

    @contextmanager
    def refused(self, kind, number=None):
        """What the block does must be refused, an OSError with exactly this errno."""
        with pytest.raises(kind) as caught:
            yield caught
        if number is not None:
            assert caught.value.errno == number, f"{caught.value!r}, not {os.strerror(number)}"
        Machine.bad_inputs += 1


def run(machine, number=None, examples=None, steps=40, few_rules=False):
    """Have hypothesis draw that many programs for a machine; one that fails is made short and printed.

    Without a number and examples LINUXSYNC_MODEL_SEED and LINUXSYNC_MODEL_EXAMPLES have them.
    """
    if number is None:
        number = int(os.environ.get("LINUXSYNC_MODEL_SEED") or 1)
    if examples is None:
        examples = int(os.environ.get("LINUXSYNC_MODEL_EXAMPLES") or 30)
    print(f"{machine.__name__}: seed {number}{', few rules each' if few_rules else ''}")
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(
        seed(number)(type(machine.__name__, (machine,), {"few_rules": few_rules})), settings=chosen
    )


def fresh():
    """A seed that nobody chose."""
    return random.SystemRandom().randrange(1 << 32)


def run_for(machine, seconds, tally):
    """Go on with fresh seeds until that many seconds are over."""
    start = now = time.monotonic()
    operations, bad_inputs, leaked = Machine.operations, Machine.bad_inputs, Machine.leaked
    examples, done = 2, 0
    try:
        while now < start + seconds:
            number = fresh()
            run(machine, number, examples, few_rules=number % 3 == 0)
            done, now = done + examples, time.monotonic()
            # As many as there is time for. Of each round hypothesis makes the first program the simplest that there
            # is, so rounds are as long as that allows.
            examples = max(2, min(10, int((start + seconds - now) * done / (now - start))))
    finally:
        tally.operations += Machine.operations - operations
        tally.bad_inputs += Machine.bad_inputs - bad_inputs
        tally.objects_leaked += Machine.leaked - leaked
