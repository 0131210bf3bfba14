"""Make the nth allocation or copy in an operation fail, for every n that it has, and look at what comes of it.

/proc/thread-self/fail-nth (Documentation/fault-injection/fault-injection.rst) counts down with each allocation and each
copy from or to a process that the kernel makes for one thread, in system calls and in page faults, and lets that one
fail with which it comes to nought. The kernel says in its log which one that was, and from where it was asked for.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drm_words import left_open
from kernel_words import debugfs_timelines

from linuxsync.pytest_plugin.kernel_log import LOST, KernelLog, alarm
from tests.torture.faults_claims import Claims
from tests.torture.faults_known import ANSWERS, SWALLOWED

DEBUGFS = Path("/sys/kernel/debug")
PRINTK = Path("/proc/sys/kernel/printk")
SETTLES = 120.0  # seconds until the kernel's workers have let go
MOST = 5000  # faults in one operation; more is a sweep that does not end
ENOUGH = 3  # numbers that brought no fault, one after the other, end a sweep
# What fails, and what the kernel says for it to whoever asked.
KINDS = {"failslab": errno.ENOMEM, "fail_page_alloc": errno.ENOMEM, "fail_usercopy": errno.EFAULT}
UNNAMED = "not named"
SETTINGS = {
    "verbose": "2",  # with a backtrace,
    "verbose_ratelimit_interval_ms": "0",  # each of them
    "ignore-gfp-wait": "N",  # allocations that may wait fail too
    "ignore-gfp-highmem": "N",
    "min-order": "0",
}
# It copies its answer to the program when what that is about is there already, and does not take it back.
LATE = "drm_ioctl"


@dataclass(frozen=True)
class Fault:
    """What failed.

    Attributes:
        kind: of KINDS, or UNNAMED.
        trace: the functions of the kernel that were on their way, the innermost first.
    """

    kind: str
    trace: tuple[str, ...]

    @property
    def inside(self) -> tuple[str, ...]:
        """The trace without what all of the kind have in common."""
        common = re.compile(
            r"dump_stack|should_fail|_*should_failslab|slab_pre_alloc|kmem_cache_alloc|__?kmalloc|kmalloc|_*copy_(to|from)"
            r"|strncpy_from|_*alloc_pages|prepare_alloc|___slab|__slab|allocate_slab|new_slab|_*kvmalloc|folio_alloc"
            r"|_*get_free_pages|get_zeroed_page|vma_alloc_folio|__fail|setup_fault|fail_dump"
        )
        return tuple(function for function in self.trace if not common.match(function))

    @property
    def says(self) -> int:
        """The errno that comes of it where nobody knows better; a copy is always named."""
        return KINDS.get(self.kind, errno.ENOMEM)

    @property
    def answer_lost(self) -> bool:
        """Whether the kernel had done what it was asked to, and only could not say so."""
        return self.kind == "fail_usercopy" and "_copy_to_user" in self.trace and self.inside[:1] == (LATE,)

    def reason(self, table: dict[str, str]) -> str | None:
        """What `table` says of the innermost of its functions that is in the trace; "^function" is the innermost."""
        names = (*(f"^{function}" for function in self.inside[:1]), *self.trace)
        return next((table[name] for name in names if name in table), None)

    def __str__(self) -> str:
        return f"{self.kind} in {' < '.join(self.inside[:7])}"


COVERED: set[str] = set()
LEFT = "something is left"
# The kernel is told not to mention some allocations that fail (__GFP_NOWARN).
UNSAID = Fault(UNNAMED, ("__GFP_NOWARN",))


@dataclass(frozen=True)
class Failure:
    """An exception, without the frames that it holds."""

    kind: type[BaseException]
    errno: int | None
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Let go of all else."""
        return cls(type(error), getattr(error, "errno", None), f"{type(error).__name__}: {error}")

    def __str__(self) -> str:
        return self.text


@dataclass
class Row:
    """What came of the faults in one operation."""

    operation: str
    faults: int = 0
    enomem: int = 0
    efault: int = 0
    memory_error: int = 0
    other: int = 0
    nevertheless: int = 0
    answers_lost: int = 0
    notes: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)


class Injector:
    """Fault injection for the thread that makes it; the kernel's settings are as before when it is closed."""

    def __init__(self, ignored: Sequence[re.Pattern[str]]) -> None:
        self.ignored = ignored
        self.thread = threading.get_ident()
        self.before = {file: file.read_text() for file in self.settings()}
        self.printk = PRINTK.read_text()
        for file in self.before:
            file.write_text(SETTINGS[file.name])
        PRINTK.write_text("1")  # a slow console would print every backtrace
        self.nth = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)
        self.log = KernelLog()

    @staticmethod
    def settings() -> Iterator[Path]:
        """The files of debugfs that SETTINGS is about."""
        for kind in KINDS:
            yield from (file for name in SETTINGS if (file := DEBUGFS / kind / name).exists())

    def close(self) -> None:
        """Undo it."""
        os.close(self.nth)
        PRINTK.write_text(self.printk)
        for file, value in self.before.items():
            file.write_text(value)
        with self.log:
            self.quiet()

    def call(self, nth: int, operation: Callable[..., Any], *state: Any) -> tuple[Any, Failure | None, bool]:
        """Call it with the nth fault: what it returned, what it raised, and whether the fault came in it."""
        assert threading.get_ident() == self.thread
        result, failure, left = None, None, 0
        gc.disable()  # what a collection allocates is not the operation's
        try:
            os.pwrite(self.nth, b"%d" % nth, 0)
            try:
                result = operation(*state)
            finally:
                left = self.disarm()
        except Exception as error:
            failure = Failure.of(error)
        finally:
            gc.enable()
        return result, failure, left == 0

    def disarm(self) -> int:
        """How many more it would have taken, 0 if the fault has come; to ask takes a copy or two, which may fail."""
        try:
            left = int(os.pread(self.nth, 16, 0))
        except OSError:
            return 1
        while left:
            try:
                os.pwrite(self.nth, b"0", 0)
                break
            except OSError:
                continue
        return left

    def quiet(self) -> list[tuple[bool, str]]:
        """What the kernel has said since the last time; none of its detectors, and nothing that was overwritten."""
        lines = self.log.lines()
        if found := alarm(lines, self.ignored):
            raise AssertionError(f"the kernel warned:\n{found}")
        assert not any(text == LOST for _, text in lines), "the kernel's log has gone round (log_buf_len)"
        return lines

    def fault(self) -> Fault:
        """What the kernel says of the last one."""
        lines = self.quiet()
        texts = [re.sub(r"^\[[ .\d]+\] ", "", text) for by_kernel, text in lines if by_kernel]
        starts = [at for at, text in enumerate(texts) if "forcing a failure" in text]
        if not starts:
            return UNSAID
        kind = re.search(r"name (\w+),", texts[starts[0]])
        functions = [found[1] for text in texts[starts[0] :] if (found := re.match(r" ([a-zA-Z_][\w.]*)\+0x", text))]
        assert kind is not None and functions, texts
        return Fault(kind[1], tuple(functions))


class Sweep:
    """All faults of one operation, one after another."""

    def __init__(self, injector: Injector, row: Row, tally: Any, claims: Claims) -> None:
        self.injector = injector
        self.row = row
        self.tally = tally
        self.claims = claims

    def __call__(
        self,
        operation: Callable[..., Any],
        right: Callable[..., Any] = lambda *_: None,
        *,
        prepare: Callable[[], AbstractContextManager[Any]] | None = None,
        answers: dict[str, type[BaseException] | int] | None = None,
        swallowed: dict[str, str] | None = None,
        lost: Callable[..., Any] | None = None,
        kept: Callable[..., Any] = lambda *_: None,
        again: bool = True,
    ) -> None:
        """Call an operation until no fault comes in it any more.

        Args:
            operation: takes what ``prepare`` gives, if there is one.
            right: is given what it returned, and that; asserts that it had its effect, and undoes that.
            prepare: makes a context in which to call it.
            answers: function of the kernel to errno or exception, where those are not what KINDS says.
            swallowed: function of the kernel to why a fault there need not make the operation fail; beside SWALLOWED.
            lost: takes away what the kernel made and could not tell of (``Fault.answer_lost``).
            kept: what must be as before after a failure, beside this process's descriptors.
            again: whether the operation is to be repeated without a fault with the same objects, after a failure.
        """
        prepared = (lambda: nullcontext(())) if prepare is None else (lambda: tupled(prepare()))
        for watched in (self.claims.watched, nullcontext):  # what is imported, cached or mapped the first time
            with prepared() as state:
                with watched(operation):
                    result = operation(*state)
                right(result, *state)
        result = None
        gc.collect()
        gc.freeze()  # what there is already need not be looked at again and again
        try:
            before = everything()
            options = {**ANSWERS, **(answers or {})}, {**SWALLOWED, **(swallowed or {})}, lost, kept, again
            missed = 0  # in a row: it does not take as many allocations each time
            for nth in range(1, MOST):
                missed = 0 if self.one(nth, operation, right, prepared, options) else missed + 1
                if missed == ENOUGH:
                    break
            else:
                raise AssertionError(f"no end after {MOST} faults")
            gc.collect()
            same(before, everything, "after all")
        except AssertionError as error:
            self.tally.objects_leaked += LEFT in str(error)
            raise
        finally:
            gc.unfreeze()

    def one(self, nth: int, operation: Any, right: Any, prepared: Any, options: Any) -> bool:
        """Try one fault; whether it came."""
        answers, swallowed, lost, kept, again = options
        outside = open_files()
        self.injector.quiet()  # since the last fault
        with prepared() as state:
            files, there = open_files(), kept(*state)
            result, failure, came = self.injector.call(nth, operation, *state)
            self.tally.faults_injected += came
            fault = self.injector.fault() if came else None
            with explained(nth, fault, failure):
                self.tally.operations += 1
                if failure is None:
                    right(result, *state)
                result = None  # lest it be kept until the next
                if fault is not None:
                    self.count(fault, failure, answers, swallowed)
                elif failure is not None:
                    raise AssertionError("it failed without a fault")
                if failure is not None:
                    if lost is not None and fault is not None and fault.answer_lost:
                        lost(files, *state)
                        self.row.answers_lost += 1
                    same((files, there), lambda: (open_files(), kept(*state)))
                    if again:
                        right(operation(*state), *state)
        with explained(nth, fault, failure):
            same(outside, open_files)
            if failure is not None and not again:
                with prepared() as state:
                    right(operation(*state), *state)
        self.tally.faults_survived += came
        return came

    def count(self, fault: Fault, failure: Failure | None, answers: Any, swallowed: dict[str, str]) -> None:
        """Judge the outcome, and put it in the table."""
        self.row.faults += 1
        self.row.kinds[fault.kind] += 1
        if failure is None:
            reason = fault.reason(swallowed)
            assert reason is not None, "swallowed: nobody said that the kernel, or linuxsync, may go on without it"
            self.row.nevertheless += 1
            self.row.notes.add(reason)
        elif (said := fault.reason(answers)) is not None:
            assert said in (failure.kind, failure.errno), f"{said} was expected"
            self.row.other += 1
        elif issubclass(failure.kind, MemoryError):
            assert fault.says == errno.ENOMEM, "no memory was wanted"
            self.row.memory_error += 1
        else:
            assert issubclass(failure.kind, OSError) and failure.errno == fault.says, "another exception"
            self.row.enomem += failure.errno == errno.ENOMEM
            self.row.efault += failure.errno == errno.EFAULT


@contextmanager
def tupled(context: AbstractContextManager[Any]) -> Iterator[tuple[Any]]:
    """The arguments that are one object."""
    with context as state:
        yield (state,)


@contextmanager
def explained(nth: int, fault: Fault | None, failure: Failure | None) -> Iterator[None]:
    """Say which fault it was."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"fault {nth}, {fault}, ended in {failure or 'success'}: {error}") from error


def same(before: Any, look: Callable[[], Any], when: str = "after a failure") -> None:
    """What is there must be what was there before; the kernel may take a moment to let go."""
    deadline = time.monotonic() + SETTLES
    while (now := look()) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert now == before, f"{LEFT} {when}: {difference(before, now)}"


def difference(before: Any, now: Any) -> str:
    """What has changed."""
    if isinstance(now, dict) and isinstance(before, dict):
        changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        return ", ".join(f"{key}: {difference(before.get(key), now.get(key))}" for key in sorted(changed))
    if isinstance(now, tuple) and isinstance(before, tuple) and len(now) == len(before):
        return ", ".join(difference(*pair) for pair in zip(before, now, strict=True) if pair[0] != pair[1])
    return f"{before!r} is now {now!r}"


def covers(*names: str, row: str | None = None) -> Callable[[Any], Any]:
    """Say which public operations a test sweeps, as imported but for "linuxsync."; its row has the first's name.

    Args:
        row: what its row is called, where it sweeps none that has a name.
    """

    def note(test: Any) -> Any:
        test.covers, test.row = names, row or names[0]
        COVERED.update(names)
        return test

    return note


def open_files() -> dict[str, str]:
    """The descriptors of this process, without the one that lists them."""
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 (a Path each takes longer)
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
            found[number] = "/dmabuf" if target.startswith("/dmabuf:") else target
        except FileNotFoundError:
            pass
    return found


def close_new(files: dict[str, str], *_: Any) -> None:
    """Close the one descriptor that was opened since; nobody has been told of it."""
    new = open_files().keys() - files.keys()
    assert len(new) == 1, f"not one descriptor is new: {new}"
    os.close(int(*new))


def everything() -> dict[str, Any]:
    """What an operation could leave in the kernel and in this process."""
    maps = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if len(line.split()) > 5]
    return {
        **left_open(),
        "timelines": [(listed.name, len(listed.fences)) for listed in debugfs_timelines()],
        "files": open_files(),
        "mappings": sorted(name for name in maps if name.startswith(("/dmabuf", "/dev/dri", "/memfd"))),
    }


def equals(value: Any) -> Callable[..., None]:
    """Asserts what an operation returned."""

    def right(result: Any, *_: Any) -> None:
        assert result == value, f"{result!r} and not {value!r}"

    return right


def holds(count: int) -> Callable[..., None]:
    """Asserts that a new sync_file is active and has so many fences, and closes it."""

    def right(made: Any, *_: Any) -> None:
        with made:
            info = made.info()
        assert (info.status, len(info.fences)) == (0, count), info

    return right
