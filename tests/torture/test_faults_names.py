"""That no public operation is forgotten: each is in a sweep, or here with the reason why it needs none."""

import inspect
import re
from importlib import import_module
from pathlib import Path

from tests.host.public_names import every_public_name
from tests.torture.faults import COVERED

# Patterns of names, as they are imported but for "linuxsync.", to reasons.
NONE = {
    r".*\.(closed|fileno|detach)": "asks nobody; detach() of a DmaBuf with an open access is dup()",
    r".*\.dup": "fcntl(2) takes no memory, and copies nothing",
    r"Timeline\.value|GemBuffer\.device|Syncobj\.(device|handle)|fencedev\.(Queue|Attachment)\.id": "asks nobody",
    r"ddi\.(DmaHandle(\.(bound|granularity|free))?|DmaMemory|strict)": "memory of the process",
    r"ddi\.ddi_dma_(alloc|free)_handle": "memory of the process",
    r"GemBuffer|VgemFence|kms\.Framebuffer|fencedev\.Job": "what makes it is swept",
    r"fencedev\.Operation": "a base of values",
    r"drm\.(Watch|watch)(\..*)?": "pyudev's: a monitor in a thread of its own, which fail-nth does not reach",
    r"trace\..*": "reads and writes files with Python's open and read; the trace instance of all of it is swept",
    r"inspect\.Scan(\..*)?": "what inspect.scan has found",
    r"inspect\.(dma_bufs|fence_timelines)": (
        "reads debugfs in a child, which fail-nth does not reach; what it could not read, the scan notes as unseen"
    ),
    r"inspect\.(by_process|deadlocks|growth|names_by_process|tally|open_files|same_file)": (
        "asks nobody, or only kcmp(2), which takes no memory and copies nothing"
    ),
    r"inspect\.(polled|stuck_fences|waiters|gauges|sample|moments|syncobj_files)": (
        "reads /proc as inspect.scan does, for many processes, or asks by duplicates as inspect.sync_files does"
    ),
    r"inspect\.(examine|record_stacks|Stacks|Watch)(\..*)?": (
        "made of other operations, of programs and of tracefs; the trace instance of all of it is swept"
    ),
}
# It has no name that one would write.
OPERATORS = {"SyncFile.__or__"}


def operations():
    """Every public name that is called, or is read and asks somebody, and what it is; no values nor what they tell."""
    names = every_public_name()
    values = {public.name for public in names if public.is_unchanging}
    for public in names:
        asks = public.is_call or public.is_class or (public.of is not None and not public.is_data)
        if asks and not values & {public.name, public.name.rpartition(".")[0]}:
            yield public.name.removeprefix("linuxsync."), public.what


def modules():
    return [import_module(file.stem) for file in sorted(Path(__file__).parent.glob("test_faults_*.py"))]


def swept():
    """The names that tests say they are about."""
    return COVERED if modules() else set()


def reason(name):
    return next((why for pattern, why in NONE.items() if re.fullmatch(pattern, name)), None)


def forgotten(found):
    """A method that several classes have from one base is swept in any of them."""
    covered = swept()
    objects = {id(what) for name, what in found if name in covered}
    return [name for name, what in found if id(what) not in objects and not reason(name)]


def test_every_operation_is_swept_or_needs_no_sweep():
    assert forgotten(list(operations())) == []


def test_a_new_operation_would_be_missed():
    assert forgotten([*operations(), ("SyncFile.fuse", object())]) == ["SyncFile.fuse"]


def test_what_is_swept_exists():
    """A row for something that has been renamed sweeps nothing."""
    assert swept() - {name for name, _ in operations()} == OPERATORS


def test_no_reason_is_left_over():
    names = {name for name, _ in operations()} - swept()
    assert [pattern for pattern in NONE if not any(re.fullmatch(pattern, name) for name in names)] == []


def test_every_sweep_says_what_of():
    """So that its row has a name."""
    for module in modules():
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and "sweep" in inspect.signature(test).parameters:
                assert test.row, name
