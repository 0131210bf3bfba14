"""What a recording holds: fences, the timelines they are points of, and who waited for them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Event", "Fence", "Thread", "Timeline", "Trace", "Vblank", "Wait"]


@dataclass(slots=True, eq=False)
class Thread:
    """A thread that did something with a fence. One object a thread.

    Attributes:
        tid: its number; 0 is the idle thread, in whose place an interrupt ran.
        comm: its name, as bytes that are no UTF-8 with surrogateescape; "?" where the kernel did not keep it.
        pid: its process; None where it had ended before that could be asked.
        process: the name of its process; None likewise.

    Threads: any number, nobody changes it.
    """

    tid: int
    comm: str
    pid: int | None = None
    process: str | None = None


@dataclass(slots=True, eq=False)
class Timeline:
    """Fences of one driver that are points of one line: a fence context, and for "unbound" ones all of a driver.

    Attributes:
        driver: who makes its fences: "sw_sync".
        name: what the driver calls it: "unbound" where each fence has a context of its own.
        context: its lower 32 bits, which are what tracepoints have; None where each fence has one of its own.
        fences: in the order in which they were made, those from before the recording first.
        values: of a sw_sync timeline, when (ns) INC was called and the value from then on. (The tracepoint has the one
            before.) The last is the highest that is certain: that of the last fence which signaled.

    Threads: any number, nobody changes it.
    """

    driver: str
    name: str
    context: int | None
    fences: list[Fence] = field(default_factory=list, repr=False)
    values: list[tuple[int, int]] = field(default_factory=list, repr=False)


@dataclass(slots=True, eq=False)
class Fence:
    """A fence, and when what happened to it. All times in ns of CLOCK_MONOTONIC; None: not in the recording.

    Attributes:
        timeline: what it is a point of.
        context, seqno: as the kernel has them, 64 bits where a probe saw them, else the lower 32.
        init_ns: when it was made; None: before the recording.
        emit_ns: when it was given to the hardware (few drivers say so).
        enable_ns: when somebody first wanted to know of its signal; None also for drivers that need not be told, which
            have no enable_signaling, such as KMS.
        signal_ns: when it signaled.
        destroy_ns: when the last reference was gone.
        exact: whether signal_ns is the fence's own timestamp, which SYNC_IOC_FILE_INFO says too; else it is that of the
            tracepoint, which comes a little later.
        error: the positive errno that it signaled with; None: no error, or (unless ``exact``) not known.
        creator: the thread that made it; None if not seen.
        signaler: the thread that signaled it, or in whose place an interrupt did; None if not seen.
        signaled_in_irq: whether it was an interrupt.
        inputs: the fences that it is made of (dma_fence_array, dma_fence_chain), as far as they are in the recording.
        input_count: how many there are; None if not known. Of the difference nothing else was seen, or it is beyond the
            16 that the probe reads.
        guessed: whether ``inputs`` was concluded from whose signaling it enabled, and not seen by a probe.
        outputs: the fences made of it.
        waits: for it.
        twins: how often it was made once more: sw_sync makes a fence for a value that has one, and takes that.
        ambiguous: whether another one with the same lower 32 bits lived meanwhile, so that what happened may be its.

    Threads: any number, nobody changes it.
    """

    timeline: Timeline
    context: int
    seqno: int
    init_ns: int | None = None
    emit_ns: int | None = None
    enable_ns: int | None = None
    signal_ns: int | None = None
    destroy_ns: int | None = None
    exact: bool = False
    error: int | None = None
    creator: Thread | None = None
    signaler: Thread | None = None
    signaled_in_irq: bool = False
    # What leads to other fences is not in the repr, which would be that of the whole recording many times over.
    inputs: list[Fence] = field(default_factory=list, repr=False)
    input_count: int | None = None
    guessed: bool = False
    outputs: list[Fence] = field(default_factory=list, repr=False)
    waits: list[Wait] = field(default_factory=list, repr=False)
    twins: int = 0
    ambiguous: bool = False

    @property
    def name(self) -> str:
        """What the kernel calls a sync_file of it, before it cuts that to 31 bytes: ``sw_sync-frames7-42``."""
        return f"{self.timeline.driver}-{self.timeline.name}{self.context}-{self.seqno}"

    @property
    def latency_ns(self) -> int | None:
        """From init to signal; None if one of them is not in the recording."""
        return None if self.init_ns is None or self.signal_ns is None else self.signal_ns - self.init_ns

    @property
    def enabled_latency_ns(self) -> int | None:
        """From enable_signal to signal; None if one of them is not in the recording."""
        return None if self.enable_ns is None or self.signal_ns is None else self.signal_ns - self.enable_ns


@dataclass(slots=True, eq=False)
class Wait:
    """A thread that waited for fences: inside the kernel (dma_fence_wait) or, with --syscalls, in a system call.

    Attributes:
        thread: who.
        call: "dma_fence_wait", or the system call: "poll", "ppoll", "epoll_wait", "ioctl SYNCOBJ_WAIT".
        start_ns: when it began.
        end_ns: when it was over; None: not in the recording.
        fences: what for, as far as that is known.
        woken_by: whose signal ended it; None: none did (a time limit, a signal(7)) or it is not known.

    Threads: any number, nobody changes it.
    """

    thread: Thread
    call: str
    start_ns: int
    end_ns: int | None = None
    fences: list[Fence] = field(default_factory=list, repr=False)
    woken_by: Fence | None = field(default=None, repr=False)

    @property
    def duration_ns(self) -> int | None:
        """How long; None if its end is not in the recording."""
        return None if self.end_ns is None else self.end_ns - self.start_ns


@dataclass(slots=True, eq=False)
class Vblank:
    """A vertical blanking of a CRTC (the tracepoint drm_vblank_event).

    Attributes:
        ns: when, as an out-fence has it too.
        crtc: the CRTC's index.
        sequence: the counter of its vblanks.

    Threads: any number, nobody changes it.
    """

    ns: int
    crtc: int
    sequence: int


@dataclass(slots=True, eq=False)
class Event:
    """Something else that happened: an event of gpu_scheduler.

    Attributes:
        ns: when.
        thread: who was running.
        name: "drm_run_job".
        fields: what the kernel says of it.

    Threads: any number, nobody changes it.
    """

    ns: int
    thread: Thread
    name: str
    fields: dict[str, int | str]


@dataclass(slots=True, eq=False)
class Trace:
    """A recording.

    Attributes:
        start_ns, end_ns: from when to when it went, in ns of CLOCK_MONOTONIC.
        fences: in the order in which they were first seen.
        timelines: in the order in which they were first seen.
        waits: in the order in which they began.
        threads: by number. A number that was given away twice is one thread here.
        vblanks: in order.
        others: in order.
        events: how many events the recording has.
        lost: how many the kernel threw away, as nobody had read them: what is here may then be half of the truth.
        damage: what is wrong with the file, in words for people; empty: nothing.
        kernel: the release that it was made on: "6.12.117".
        machine: the name of that machine.
        command: what was recorded: the command line of ``record``.
        wall_ns: what to add to a time for nanoseconds since 1970.
        syscalls: whether waits in system calls were recorded.
        probes: which probes could be set: "signal", "array", "chain".

    Threads: any number, nobody changes it.
    """

    start_ns: int
    end_ns: int
    fences: list[Fence] = field(default_factory=list, repr=False)
    timelines: list[Timeline] = field(default_factory=list, repr=False)
    waits: list[Wait] = field(default_factory=list, repr=False)
    threads: dict[int, Thread] = field(default_factory=dict, repr=False)
    vblanks: list[Vblank] = field(default_factory=list, repr=False)
    others: list[Event] = field(default_factory=list, repr=False)
    events: int = 0
    lost: int = 0
    damage: list[str] = field(default_factory=list)
    kernel: str = ""
    machine: str = ""
    command: str = ""
    wall_ns: int = 0
    syscalls: bool = False
    probes: tuple[str, ...] = ()
