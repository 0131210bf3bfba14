"""Random programs for the fence device, and what has to come of them, worked out in plain Python.

A program is a list of steps, each of them a job. Wherever a step needs another to be over, and neither the queues nor
fences that it waits for anyway see to that, it waits for that one's fence. So the fences alone decide what is in the
buffers in the end. A queue ends its jobs in order, which leaves at most one fence of each other queue to wait for.
"""

import array
import errno
import random
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from heapq import merge

from buffer_words import PAGE, peek

from linuxsync import Access, DmaHeap, FenceDevice, udmabuf
from linuxsync.fencedev import Checksum, Copy, Fill, ScaleAdd

QUEUES = 4
BUFFERS = 8
SIZE = 2 * PAGE
MOST_WAITS = 16
ERRORS = [errno.EIO, errno.ENODEV, errno.ENOSPC, 4095]


@dataclass
class Step:
    """A job; queues, buffers and the steps whose fences it waits for are numbers."""

    queue: int
    kind: type
    dst: int
    src: int
    to: int
    origin: int
    length: int
    value: int
    duration: float
    waits: list = field(default_factory=list)
    error: int = 0
    hang: bool = False
    ignore_errors: bool = False

    def uses(self):
        """Buffer, first byte, end, and whether it is written."""
        written = (self.dst, self.to, self.to + self.length, True)
        read = (self.src, self.origin, self.origin + self.length, False)
        return {Checksum: [read], Fill: [written]}.get(self.kind, [written, read])

    def operation(self, buffers):
        """The same, of attachments."""
        dst, src = buffers[self.dst], buffers[self.src]
        if self.kind is Checksum:
            return Checksum(src, self.origin, self.length)
        if self.kind is Fill:
            return Fill(dst, self.value, self.to, self.length)
        if self.kind is Copy:
            return Copy(dst, src, self.to, self.origin, self.length)
        return ScaleAdd(dst, src, self.value, self.to, self.origin, self.length)

    def work(self, memory):
        """The same, done here to bytearrays; returns the checksum."""
        to, new = slice(self.to, self.to + self.length), memory[self.src][self.origin : self.origin + self.length]
        if self.kind is Checksum:
            return zlib.adler32(new)
        if self.kind is Fill:
            new = self.value.to_bytes(4, "little") * (self.length // 4)
        elif self.kind is ScaleAdd:
            pairs = zip(memoryview(memory[self.dst][to]).cast("I"), memoryview(new).cast("I"), strict=True)
            new = array.array("I", [(x * self.value + y) % 2**32 for x, y in pairs]).tobytes()
        memory[self.dst][to] = new
        return 0


def draw(dice, islands):
    """A step that waits for nothing yet."""
    queue = dice.randrange(QUEUES)
    kind = dice.choices([Fill, Copy, ScaleAdd, Checksum], [1, 4, 4, 2])[0]
    unit = 1 if kind in (Copy, Checksum) else 4
    length = dice.randint(1, dice.choice([64, 512, 4096]) // unit) * unit
    to, origin = (dice.randint(0, (SIZE - length) // unit) * unit for _ in range(2))
    dst, src = (dice.randrange(queue % islands, BUFFERS, islands) for _ in range(2))
    if dst == src and abs(to - origin) < length:
        return draw(dice, islands)
    return Step(queue, kind, dst, src, to, origin, length, dice.randrange(1 << 32), dice.choice([0, 0, 0, 0.0002]))


def both(one, two):
    """What is over when both are; see `program`."""
    return [max(pair) for pair in zip(one, two, strict=True)]


def program(seed, count=1000, islands=1, errors=0.0, hangs=0.0, deaf=0.0):
    """A list of random steps.

    Args:
        islands: into how many parts queues and buffers fall that have nothing to do with each other.
        errors: the share of steps that fail; `hangs`, that hang; `deaf`, that begin even after an error.
    """
    dice = random.Random(seed)
    steps, over = [], []  # for each step: of every queue the last that is over when the step is
    tails = [[-1] * QUEUES for _ in range(QUEUES)]  # the same for the last step of each queue
    uses = [[] for _ in range(BUFFERS)]
    mates = [[] for _ in range(islands)]
    for number in range(count):
        step = draw(dice, islands)
        known = tails[step.queue]
        needed = []
        for buffer, start, end, writes in step.uses():
            found = []
            for other, first, last, written in reversed(uses[buffer]):
                if other <= min(known):
                    break
                if first < end and start < last and (writes or written):
                    found.append(other)
            needed.append(found)
            uses[buffer].append((number, start, end, writes))
        for other in merge(*needed, reverse=True):
            if other > known[steps[other].queue]:
                step.waits.append(other)
                known = both(known, over[other])
        # Some that are not needed, new ones and old ones.
        others = mates[step.queue % islands]
        choice = others[dice.choice([0, -32]) :]
        for other in dice.sample(choice, min(dice.choice([0, 0, 0, 1, 2, dice.randint(3, MOST_WAITS)]), len(choice))):
            if len(step.waits) < MOST_WAITS:
                step.waits.append(other)
                known = both(known, over[other])
        others.append(number)
        dice.shuffle(step.waits)
        step.error = dice.choice(ERRORS) if dice.random() < errors else 0
        step.hang = dice.random() < hangs
        step.ignore_errors = dice.random() < deaf
        steps.append(step)
        tails[step.queue] = [number if queue == step.queue else last for queue, last in enumerate(known)]
        over.append(tails[step.queue])
    return steps


def noise(seed):
    """What is in the buffers before."""
    dice = random.Random(seed)
    return [bytearray(dice.randbytes(SIZE)) for _ in range(BUFFERS)]


@dataclass(frozen=True)
class Outcome:
    """What the device has to say of a job in the end."""

    status: int
    begun: bool
    checksum: int


def outcomes(steps, memory):
    """What becomes of steps that are done one after another, each that hangs being reset; `memory` is changed."""
    known = []
    for step in steps:
        failed = [known[number].status for number in step.waits if known[number].status < 0]
        inherited = failed[0] if failed and not step.ignore_errors else 0
        status = inherited or (-errno.ECANCELED if step.hang else -step.error) or 1
        known.append(Outcome(status, not inherited, step.work(memory) if status == 1 else 0))
    return known


def behind(steps, first):
    """The numbers of the steps that cannot be over before that one is, without itself."""
    found, queues = {first}, {steps[first].queue}
    for number, step in enumerate(steps[first + 1 :], first + 1):
        if step.queue in queues or found.intersection(step.waits):
            found.add(number)
            queues.add(step.queue)
    return found - {first}


def heirs(steps, first):
    """The numbers of the steps that inherit that one's error, if there is no other."""
    found = {first}
    for number, step in enumerate(steps):
        if found.intersection(step.waits) and not step.ignore_errors:
            found.add(number)
    return found - {first}


class Machine(ExitStack):
    """An open device with the queues and buffers of a program, `shared` the first of them, and the jobs submitted."""

    def __init__(self, memory=(), shared=()):
        super().__init__()
        self.device = self.enter_context(FenceDevice())
        heap = self.enter_context(DmaHeap())
        exporters = [heap.alloc, udmabuf.create]
        own = [self.enter_context(exporters[number % 2](SIZE)) for number in range(BUFFERS - len(shared))]
        self.buffers = [*shared, *own]
        for buffer, data in zip(self.buffers, memory, strict=False):
            with buffer.cpu_access(Access.WRITE) as view:
                view[:] = data
        self.attachments = [self.enter_context(self.device.attach(buffer)) for buffer in self.buffers]
        self.queues = [self.enter_context(self.device.create_queue(f"queue {number}")) for number in range(QUEUES)]
        self.jobs = []

    def submit(self, step, implicit=False):
        """Put a step into its queue."""
        job = self.queues[step.queue].submit(
            step.operation(self.attachments),
            in_fences=[self.jobs[number].fence for number in step.waits],
            duration=step.duration,
            error=step.error,
            hang=step.hang,
            ignore_errors=step.ignore_errors,
            implicit=implicit,
        )
        self.jobs.append(self.enter_context(job))
        return job

    def memory(self):
        """What is in the buffers."""
        return [bytearray(peek(buffer, SIZE)) for buffer in self.buffers]
