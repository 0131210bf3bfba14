"""The machine of the fence device: queues of jobs, and the buffers that they work on."""

import errno
import struct
import zlib
from dataclasses import dataclass, field

from buffer_words import peek
from clock_words import becomes
from fencedev_words import alive
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule

from linuxsync import Access, FenceDevice
from linuxsync.fencedev import Attachment, Checksum, Copy, Fill, Job, JobState, Queue, ScaleAdd, Use
from tests.models.buffers import ACCESS, BUFFERS, Implicit, Memory
from tests.models.fences import READ, WRITE, Fence, Group, contexts, just_now
from tests.models.machine import WAIT
from tests.models.sync_files import FILES, LINES

QUEUES, ATTACHMENTS = Bundle("queues"), Bundle("attachments")
SPAN = 64  # bytes of each buffer that a queue may touch: nobody else does, so that they depend on nobody else
KINDS = [None, Use, Fill, Copy, Checksum, ScaleAdd]


@dataclass(eq=False)
class Ring:
    """A queue: a timeline, whose jobs end in order."""

    real: Queue
    name: str
    place: int  # which bytes are its own
    context: int
    jobs: list = field(default_factory=list)  # that have not ended
    count: int = 0
    dead: bool = False


@dataclass(eq=False)
class JobFence(Fence):
    """Of a job; when it signals, the device decides."""

    ring: Ring = None
    value: int = 0

    driver = "fencedev"

    @property
    def timeline(self):
        return self.ring.name

    @property
    def context(self):
        return self.ring.context

    clock = context


@dataclass(eq=False)
class Mapped:
    """An Attachment."""

    real: Attachment
    memory: Memory
    access: Access
    mapped: bool
    users: int = 0  # jobs that have not ended


@dataclass(eq=False)
class Task:
    """A job."""

    ring: Ring
    fence: JobFence
    after: list  # groups, whose errors it inherits
    buffers: list  # implicit fences, whose errors it does not
    error: int
    hang: str
    deaf: bool
    kind: type | None
    dst: Mapped | None
    src: Mapped | None
    word: int
    real: Job | None = None
    begun: bool = False
    reset: bool = False
    settled: bool = False
    checksum: int = 0

    def inherited(self):
        """The first error of all that it waited for."""
        return 0 if self.deaf else next((-group.failed for group in self.after if group.failed), 0)

    def ready(self):
        return all(group.done for group in self.after) and all(fence.status for fence in self.buffers)

    def state(self):
        if self.fence.status:
            return JobState.DONE
        return {"": JobState.WAITING, "hang": JobState.HUNG, "long": JobState.RUNNING}[self.hang if self.begun else ""]

    def step(self):
        """Go on; whether anything has changed."""
        if self.ring.dead or self.reset:
            self.end(errno.ECANCELED)
        elif self.begun or not self.ready():
            return False
        elif self.inherited():
            self.end(self.inherited())
        else:
            self.begun = True
            if not self.hang:
                self.operate()
                self.end(self.error)
        return True

    def operate(self):
        if self.error or self.kind in (None, Use):
            return
        span = slice(self.ring.place * SPAN, (self.ring.place + 1) * SPAN)
        if self.kind is Fill:
            self.dst.memory.data[span] = self.word.to_bytes(4, "little") * (SPAN // 4)
        elif self.kind is Copy:
            self.dst.memory.data[span] = self.src.memory.data[span]
        elif self.kind is ScaleAdd:
            to, add = (memoryview(one.memory.data[span]).cast("I") for one in (self.dst, self.src))
            words = [(old * self.word + new) % 2**32 for old, new in zip(to, add, strict=True)]
            self.dst.memory.data[span] = struct.pack(f"={len(words)}I", *words)
        else:
            self.checksum = zlib.adler32(self.src.memory.data[span])

    def end(self, error):
        self.fence.signal(error)
        self.ring.jobs.remove(self)
        for used in (self.dst, self.src):
            if used is not None:
                used.users -= 1


class Queues(Implicit):
    """Jobs that wait for fences of timelines, of buffers and of each other."""

    most_lines, most_files, most_buffers, most_queues, most_jobs = 3, 8, 3, 3, 12

    def __init__(self):
        super().__init__()
        self.device = self.keep(FenceDevice())
        self.rings, self.tasks, self.attached = [], [], []

    def held(self):
        held = {fence for task in self.tasks if not task.fence.status for group in task.after for fence in group.fences}
        return super().held() | held | {fence for task in self.tasks for fence in task.buffers}

    def references(self, memory):
        least, most = super().references(memory)
        mapped = sum(one.memory is memory for one in self.attached)
        return least + mapped, most + mapped

    def settle(self):
        """What can end ends, in the model and then in the kernel, and nothing else does."""
        while any(task.step() for ring in self.rings for task in ring.jobs[:1]):
            pass
        for task in self.tasks:
            if task.fence.status and not task.settled:
                task.real.fence.wait(WAIT)
                task.fence.between = just_now()
                task.settled = True
        for task in self.tasks:
            assert task.real.fence.status == task.fence.status
            becomes(task.state(), lambda task=task: task.real.info().state, WAIT)

    def agree(self):
        self.settle()
        super().agree()
        for task in self.tasks:
            self.agree_on_job(task)
        for memory in {one.memory for one in self.buffers}:
            buffer = next(one.real for one in self.buffers if one.memory is memory)
            assert peek(buffer, len(memory.data)) == memory.data
        counted = alive()
        assert counted["queues"] == len(self.rings)
        assert counted["jobs"] == sum(len(ring.jobs) for ring in self.rings)
        assert counted["attachments"] == len(self.attached)
        assert counted["mappings"] == sum(one.mapped for one in self.attached)
        assert counted["fences"] >= len(self.tasks)

    def agree_on_job(self, task):
        info, fence = task.real.info(), task.fence
        assert (info.status, info.seqno, info.checksum) == (fence.status, fence.value, task.checksum)
        assert (info.started_ns is not None) == task.begun and (info.ended_ns is not None) == bool(fence.status)
        deadline = None if fence.deadline == 2**63 - 1 else fence.deadline
        assert info.deadline_ns == (None if deadline is None else max(deadline, 1))
        times = [info.submitted_ns, info.started_ns or info.submitted_ns, info.ended_ns or 2**63]
        assert times == sorted(times)

    def end(self):
        for ring in list(self.rings):
            self.close_ring(ring)
            self.settle()  # what waited in another queue for what has ended here
        for one in list(self.attached):
            self.close_attachment(one)
        super().end()
        for task in self.tasks:
            task.real.close()
        self.tasks = []

    @initialize(target=QUEUES)
    def first_queue(self):
        return self.new_queue()

    @initialize(target=ATTACHMENTS)
    def first_attachment(self):
        return self.attach(self.first_buffer(), Access.RW, True)

    @precondition(lambda self: len(self.rings) < self.most_queues)
    @rule(target=QUEUES)
    def new_queue(self):
        place = min(set(range(self.most_queues)) - {ring.place for ring in self.rings})
        name = f"q{next(contexts)}"
        self.rings.append(Ring(self.keep(self.device.create_queue(name)), name, place, next(contexts)))
        return self.rings[-1]

    @precondition(lambda self: len(self.rings) > 1)
    @rule(one=consumes(QUEUES))
    def close_queue(self, one):
        """All that is in it ends."""
        self.close_ring(one)
        for use in (one.real.submit, one.real.reset):
            with self.refused(ValueError):
                use()

    def close_ring(self, one):
        one.real.close()
        one.real.close()
        one.dead = True
        while one.jobs:
            one.jobs[0].step()
        self.rings.remove(one)

    @rule(one=QUEUES)
    def reset(self, one):
        """Ends the job that the queue is at, unless that one still waits."""
        job = one.jobs[0] if one.jobs and one.jobs[0].begun else None
        assert one.real.reset() == (job.fence.value if job else 0)
        if job:
            job.reset = True

    @precondition(lambda self: len(self.attached) < 4)
    @rule(target=ATTACHMENTS, one=BUFFERS, access=ACCESS, mapped=st.booleans())
    def attach(self, one, access, mapped):
        made = Mapped(self.keep(self.device.attach(one.real, access, mapped)), one.memory, access, mapped)
        self.attached.append(made)
        return made

    @rule(one=ATTACHMENTS)
    def map_or_unmap(self, one):
        if one.mapped:
            with self.refused(OSError, errno.EBUSY):
                one.real.map()
        else:
            with self.refused(OSError, errno.ENXIO):
                one.real.unmap()
        if one.users:
            with self.refused(OSError, errno.EBUSY):
                one.real.unmap()
        elif one.mapped:
            one.real.unmap()
            one.mapped = False
        else:
            one.real.map()
            one.mapped = True

    @precondition(lambda self: len(self.attached) > 1)
    @rule(target=ATTACHMENTS, one=consumes(ATTACHMENTS))
    def detach(self, one):
        if one.users:
            with self.refused(OSError, errno.EBUSY):
                one.real.close()
            return one
        self.close_attachment(one)
        return multiple()

    def close_attachment(self, one):
        one.real.close()
        self.attached.remove(one)

    @precondition(lambda self: len(self.tasks) < self.most_jobs)
    @rule(
        target=FILES,
        ring=QUEUES,
        kind=st.sampled_from(KINDS),
        dst=ATTACHMENTS,
        src=ATTACHMENTS,
        after=st.lists(FILES, max_size=4),
        error=st.sampled_from([0, 0, 0, 0, errno.EIO, errno.ENODEV, 4095]),
        hang=st.sampled_from(["", "", "", "", "hang", "long"]),
        deaf=st.booleans(),
        implicit=st.booleans(),
        word=st.integers(0, 2**32 - 1),
    )
    def submit(self, ring, kind, dst, src, after, error, hang, deaf, implicit, word):
        at = ring.place * SPAN
        dst = dst if kind in (Use, Fill, Copy, ScaleAdd) else None
        src = src if kind in (Use, Copy, Checksum, ScaleAdd) else None
        operation = {
            None: lambda: None,
            Use: lambda: Use(dst.real, src.real),
            Fill: lambda: Fill(dst.real, word, at, SPAN),
            Copy: lambda: Copy(dst.real, src.real, at, at, SPAN),
            Checksum: lambda: Checksum(src.real, at, SPAN),
            ScaleAdd: lambda: ScaleAdd(dst.real, src.real, word, at, at, SPAN),
        }[kind]()

        def ask():
            return ring.real.submit(
                operation,
                in_fences=[one.real for one in after],
                duration=3000 if hang == "long" else 0,
                error=error,
                hang=hang == "hang",
                implicit=implicit,
                ignore_errors=deaf,
            )

        wrong = self.wrong(kind, dst, src, implicit)
        if wrong:
            with self.refused(OSError, wrong):
                ask()
            return multiple()
        buffers = [
            fence
            for one, access in ((dst, WRITE), (src, READ))
            if one and implicit
            for fence in one.memory.fences.waited_for(access)
        ]
        ring.count += 1
        fence = JobFence(ring=ring, value=ring.count)
        task = Task(ring, fence, [one.group for one in after], buffers, error, hang, deaf, kind, dst, src, word)
        task.real = self.keep(ask())
        assert task.real.seqno == fence.value
        for used in (dst, src):
            if used is not None:
                used.users += 1
        ring.jobs.append(task)
        self.tasks.append(task)
        self.settle()
        if implicit:
            self.hung_on(fence, dst, src)
        if len(self.files) < self.most_files:
            return self.add_file(task.real.fence.dup(), Group([fence]))
        return multiple()

    @precondition(lambda self: len(self.tasks) + 3 <= self.most_jobs and len(self.files) + 3 <= self.most_files)
    @rule(
        target=FILES,
        first=QUEUES,
        second=QUEUES,
        used=ATTACHMENTS,
        error=st.sampled_from([0, errno.EIO, errno.ENODEV]),
        deaf=st.booleans(),
        before=st.lists(FILES, max_size=2),
        word=st.integers(0, 99),
    )
    def chain(self, first, second, used, error, deaf, before, word):
        """One job after the other; and perhaps both use a buffer."""
        mapped = used.mapped and used.access & Access.WRITE
        kind, implicit = (Fill, deaf) if mapped else (None, False)
        one = self.submit(first, None, used, used, before, error, "", False, False, word)
        two = self.submit(second, None, used, used, [], errno.ENOSPC, "", False, False, word)
        after = [*before, two, one] if word % 2 else [*before, one, two]
        return multiple(one, two, self.submit(second, kind, used, used, after, 0, "", deaf, implicit, word))

    def hung_on(self, fence, dst, src):
        """A job's fence is a write of what it writes, and else a read of what it reads."""
        if dst is not None:
            self.added(dst.memory, [fence], WRITE)
        if src is not None and (dst is None or dst.memory is not src.memory):
            self.added(src.memory, [fence], READ)

    def wrong(self, kind, dst, src, implicit):
        """What the device has against a job."""
        used = [one for one in (dst, src) if one is not None]
        if not all(one.mapped for one in used):
            return errno.ENXIO
        if (dst and not dst.access & Access.WRITE) or (src and not src.access & Access.READ):
            return errno.EACCES
        if kind is ScaleAdd and not dst.access & Access.READ:
            return errno.EACCES
        if kind in (Copy, ScaleAdd) and dst.memory is src.memory:
            return errno.EINVAL  # the same bytes
        return errno.EINVAL if implicit and not used else 0

    @precondition(lambda self: any(task.settled for task in self.tasks))
    @rule()
    def forget_ended(self):
        for task in [task for task in self.tasks if task.settled]:
            task.real.close()
            self.tasks.remove(task)

    @rule(one=QUEUES, file=FILES, line=LINES, used=ATTACHMENTS)
    def bad_arguments(self, one, file, line, used):
        size = used.real.size
        for use in (
            lambda: one.real.submit(in_fences=[file.real] * 17),
            lambda: one.real.submit(error=4096),
            lambda: one.real.submit(error=-1),
            lambda: one.real.submit(duration=-1),
            lambda: one.real.submit(duration=3601),
            lambda: one.real.submit(Fill(used.real, 1 << 32)),
            lambda: one.real.submit(Fill(used.real, 1, 2, 4)),
            lambda: one.real.submit(Checksum(used.real, size, 1)),
            lambda: one.real.submit(Checksum(used.real, 0, size + 1)),
            lambda: self.device.create_queue("q" * 32),
        ):
            with self.refused(ValueError):
                use()
        with self.refused(OSError, errno.EINVAL):
            one.real.submit(in_fences=[line.real])
        if not any(fence.driver == "fencedev" for fence in file.group.fences) or len(file.group.fences) > 1:
            with self.refused(OSError, errno.EINVAL):
                self.device.query(file.real)
