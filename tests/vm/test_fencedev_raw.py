"""The fence device's requests as a program in C issues them: every errno, and nothing left of what was refused."""

import ctypes
import errno
import mmap
import os

import pytest
from buffer_words import PAGE
from clock_words import becomes
from fencedev_words import alive
from ioctl_opt import IOR, IOW, IOWR
from kernel_words import NOWHERE, answer, libc

from linuxsync import Access, _uapi

ALL = {name.removeprefix("FENCEDEV_IOC_"): number for name, number in vars(_uapi).items() if "FENCEDEV_IOC_" in name}
BY_ID = ("QUEUE_DESTROY", "DETACH", "MAP", "UNMAP")
STRUCTS = {
    "VERSION": _uapi.FencedevVersion,
    "QUEUE_CREATE": _uapi.FencedevQueueCreate,
    **dict.fromkeys(BY_ID, _uapi.FencedevId),
    "RESET": _uapi.FencedevReset,
    "SUBMIT": _uapi.FencedevSubmit,
    "QUERY": _uapi.FencedevQuery,
    "ATTACH": _uapi.FencedevAttach,
    "PEEK": _uapi.FencedevTransfer,
    "POKE": _uapi.FencedevTransfer,
}
WITH_PAD = sorted(name for name, kind in STRUCTS.items() if hasattr(kind, "pad"))
EINVAL, ENOENT, EBADF, EACCES, ENXIO, EFAULT = (
    -number for number in (errno.EINVAL, errno.ENOENT, errno.EBADF, errno.EACCES, errno.ENXIO, errno.EFAULT)
)
FILL, COPY, CHECKSUM, SCALE_ADD = 1, 2, 3, 4


def ask(device, name, /, **fields):
    """One request with these fields: 0 or -errno."""
    return answer(device.fileno(), ALL[name], STRUCTS[name](**fields))


@pytest.fixture
def nothing_new(device):
    """After the test there must be what the other fixtures have made."""
    before = alive()
    yield
    # A job that has ended is put away by a worker of the kernel.
    becomes(before, alive, 60.0)


@pytest.fixture
def mapped(device, heap, keep):
    """A mapped buffer of four pages."""
    return keep(device.attach(keep(heap.alloc(4 * PAGE))))


@pytest.fixture
def readable(device, heap, keep):
    """One that the device may read only."""
    return keep(device.attach(keep(heap.alloc(4 * PAGE)), Access.READ))


@pytest.fixture
def unmapped(device, heap, keep):
    """One that is not mapped."""
    return keep(device.attach(keep(heap.alloc(4 * PAGE)), mapped=False))


def test_unknown_requests(device):
    """Another number, size, direction or type is ENOTTY, those that the VFS would eat included."""
    fd, kind = device.fileno(), 0xF5
    assert set(ALL) == set(STRUCTS)
    for request in (IOWR(kind, 0x0C, _uapi.FencedevId), IOWR(kind, 0xFF, _uapi.FencedevId), 0x5401, 0):
        assert answer(fd, request, _uapi.FencedevId()) == -errno.ENOTTY
    for name, struct in STRUCTS.items():
        number = ALL[name] & 0xFF
        for wrong in (IOW(kind, number, struct), IOR(kind, number, struct), IOWR(kind, number, ctypes.c_uint16)):
            assert answer(fd, wrong, struct()) == -errno.ENOTTY
        assert answer(fd, IOWR(0xF4, number, struct), struct()) == -errno.ENOTTY


@pytest.mark.parametrize("name", STRUCTS)
def test_bad_pointer(device, nothing_new, name):
    assert answer(device.fileno(), ALL[name], NOWHERE) == EFAULT


@pytest.mark.parametrize("name", WITH_PAD)
def test_pad_is_zero(device, queue, mapped, nothing_new, name):
    """Or EINVAL, even where all else is right."""
    fields = {"QUEUE_DESTROY": {"id": queue.id}, "RESET": {"queue": queue.id}, "SUBMIT": {"queue": queue.id}}.get(name)
    transfer = {"attachment": mapped.id, "length": 1}
    others = {"QUEUE_CREATE": {}, "ATTACH": {"access": 3}, "PEEK": transfer, "POKE": transfer}
    fields = fields if fields is not None else others.get(name, {"id": mapped.id})
    assert ask(device, name, pad=1, **fields) == EINVAL


def test_version_takes_nothing(device):
    assert ask(device, "VERSION", version=1) == ask(device, "VERSION", features=1) == EINVAL


def test_name_has_an_end(device, nothing_new):
    assert ask(device, "QUEUE_CREATE", name=b"x" * 32) == EINVAL


@pytest.mark.parametrize("number", [0, 99, 2**32 - 1])
def test_no_such_thing(device, queue, mapped, nothing_new, number):
    for name in BY_ID:
        assert ask(device, name, id=number) == ENOENT
    for name in ("RESET", "SUBMIT"):
        assert ask(device, name, queue=number) == ENOENT
    for name in ("PEEK", "POKE"):
        assert ask(device, name, attachment=number, length=1) == ENOENT
    if number:
        assert ask(device, "SUBMIT", queue=queue.id, op=CHECKSUM, src=number, length=4) == ENOENT
        assert ask(device, "SUBMIT", queue=queue.id, op=FILL, dst=number, length=4) == ENOENT


def test_numbers_belong_to_an_open_file(device, queue, mapped):
    """Another file of the device has none of them."""
    other = os.open("/dev/fencedev", os.O_RDWR | os.O_CLOEXEC)
    try:
        assert answer(other, ALL["RESET"], _uapi.FencedevReset(queue=queue.id)) == ENOENT
        assert answer(other, ALL["UNMAP"], _uapi.FencedevId(id=mapped.id)) == ENOENT
    finally:
        os.close(other)


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": 8},
        {"flags": 1 << 31},
        {"op": 5},
        {"op": 2**32 - 1},
        {"error": 4096},
        {"error": 2**32 - 5},
        {"in_fence_count": 17},
        {"in_fence_count": 2**32 - 1},
        {"duration_ns": 3_600_000_000_001},
        {"duration_ns": 2**64 - 1},
        {"length": 4},
        {"value": 1},
        {"dst_offset": 4},
        {"src_offset": 4},
        {"flags": 1},
    ],
)
def test_bad_jobs_without_buffers(device, queue, nothing_new, fields):
    assert ask(device, "SUBMIT", queue=queue.id, **fields) == EINVAL


@pytest.mark.parametrize(
    ("op", "dst", "src", "fields"),
    [
        (FILL, False, False, {}),
        (FILL, True, True, {}),
        (COPY, True, False, {}),
        (COPY, False, True, {}),
        (CHECKSUM, True, False, {}),
        (CHECKSUM, True, True, {}),
        (SCALE_ADD, True, False, {}),
        (FILL, True, False, {"length": 0}),
        (FILL, True, False, {"length": 4 * PAGE + 4}),
        (FILL, True, False, {"length": 2**64 - 4}),
        (FILL, True, False, {"dst_offset": 4 * PAGE}),
        (FILL, True, False, {"dst_offset": 2**64 - 4}),
        (FILL, True, False, {"dst_offset": 2}),
        (FILL, True, False, {"length": 6}),
        (FILL, True, False, {"src_offset": 4}),
        (COPY, True, True, {"value": 1, "src_offset": PAGE}),
        (COPY, True, True, {"src_offset": 3}),
        (CHECKSUM, False, True, {"value": 1}),
        (CHECKSUM, False, True, {"dst_offset": 1}),
        (SCALE_ADD, True, True, {"src_offset": PAGE + 2}),
        (0, True, False, {"dst_offset": 4}),
        (0, True, False, {"length": 4}),
    ],
)
def test_bad_operations(device, queue, mapped, nothing_new, op, dst, src, fields):
    sides = {"dst": mapped.id if dst else 0, "src": mapped.id if src else 0}
    assert ask(device, "SUBMIT", **{"queue": queue.id, "op": op, "length": 8 if op else 0, **sides, **fields}) == EINVAL


def test_rights_and_mappings(device, queue, mapped, readable, unmapped, nothing_new):
    def submit(op, dst=0, src=0):
        return ask(device, "SUBMIT", queue=queue.id, op=op, dst=dst, src=src, length=8 if op else 0)

    assert submit(FILL, readable.id) == submit(COPY, readable.id, mapped.id) == submit(0, readable.id) == EACCES
    assert submit(FILL, unmapped.id) == submit(CHECKSUM, 0, unmapped.id) == submit(0, 0, unmapped.id) == ENXIO
    assert ask(device, "POKE", attachment=readable.id, length=1) == EACCES
    for name in ("PEEK", "POKE"):
        assert ask(device, name, attachment=unmapped.id, length=1) == ENXIO
    assert ask(device, "UNMAP", id=unmapped.id) == ENXIO
    assert ask(device, "MAP", id=mapped.id) == -errno.EBUSY


def test_in_fences_are_sync_files(device, queue, heap, fence, nothing_new):
    """A good one before a bad one is given back."""
    with heap.alloc(PAGE) as buf:
        for bad in (-1, 10_000, buf.fileno(), device.fileno()):
            data = _uapi.FencedevSubmit(queue=queue.id, in_fence_count=2)
            data.in_fences[0], data.in_fences[1] = fence.fileno(), bad
            assert answer(device.fileno(), ALL["SUBMIT"], data) == EINVAL
            assert ask(device, "QUERY", fence=bad) == EINVAL


@pytest.mark.parametrize("name", ["SUBMIT", "QUEUE_CREATE", "ATTACH"])
def test_answer_that_cannot_be_written(device, queue, heap, keep, open_files, nothing_new, name):
    """EFAULT, and nothing is there that nobody knows of: no descriptor, job, fence, queue or attachment."""
    buf = keep(heap.alloc(PAGE))
    data = {
        "SUBMIT": _uapi.FencedevSubmit(queue=queue.id),
        "QUEUE_CREATE": _uapi.FencedevQueueCreate(name=b"unheard of"),
        "ATTACH": _uapi.FencedevAttach(fd=buf.fileno(), access=3),
    }[name]
    with mmap.mmap(-1, PAGE) as page:
        page[: ctypes.sizeof(data)] = bytes(data)
        there = (ctypes.c_char * PAGE).from_buffer(page)
        where = ctypes.addressof(there)
        assert libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(PAGE), mmap.PROT_READ) == 0
        before, files = alive(), open_files()
        assert answer(device.fileno(), ALL[name], where) == EFAULT
        assert (alive(), open_files()) == (before, files)
        assert libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(PAGE), mmap.PROT_READ | mmap.PROT_WRITE) == 0
        del there
    with queue.submit() as job:
        assert job.seqno == 1


@pytest.mark.parametrize(("fd", "refusal"), [(-1, EBADF), (10_000, EBADF), ("fence", EINVAL), ("device", EINVAL)])
def test_attach_takes_dma_bufs(device, fence, nothing_new, fd, refusal):
    number = {"fence": fence.fileno(), "device": device.fileno()}.get(fd, fd)
    assert ask(device, "ATTACH", fd=number, access=3) == refusal


@pytest.mark.parametrize("access", [0, 4, 2**32 - 1])
def test_attach_takes_an_access(device, heap, nothing_new, access):
    with heap.alloc(PAGE) as buf:
        assert ask(device, "ATTACH", fd=buf.fileno(), access=access) == EINVAL


@pytest.mark.parametrize("name", ["PEEK", "POKE"])
def test_transfers(device, mapped, nothing_new, name):
    """Only what is in the buffer, and only from and to memory of the program."""
    for offset, length in ((0, 0), (0, 4 * PAGE + 1), (4 * PAGE, 1), (2**64 - 1, 2), (1, 2**64 - 1)):
        assert ask(device, name, attachment=mapped.id, offset=offset, length=length) == EINVAL
    for where in (0, NOWHERE, 2**63, 2**64 - 1):
        assert ask(device, name, attachment=mapped.id, length=4, data=where) == EFAULT
