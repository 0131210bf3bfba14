"""Our words for the kernel's interface against the installed headers', compiled by the C compiler."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest
from ioctl_opt import IOC, IOC_READ, IOC_WRITE

from benchmarks import plain
from linuxsync import _uapi

ROOT = Path(__file__).resolve().parents[2]
# include/uapi/linux/sync_file.h and drivers/dma-buf/sw_sync.c: direction, type, number, size.
BOTH = IOC_READ | IOC_WRITE
REQUESTS = {
    "SYNC_IOC_MERGE": (BOTH, ">", 3, 48, 0xC0303E03),
    "SYNC_IOC_FILE_INFO": (BOTH, ">", 4, 56, 0xC0383E04),
    "SYNC_IOC_SET_DEADLINE": (IOC_WRITE, ">", 5, 16, 0x40103E05),
    "SW_SYNC_IOC_CREATE_FENCE": (BOTH, "W", 0, 40, 0xC0285700),
    "SW_SYNC_IOC_INC": (IOC_WRITE, "W", 1, 4, 0x40045701),
    "SW_SYNC_GET_DEADLINE": (BOTH, "W", 2, 16, 0xC0105702),
    # include/uapi/linux/dma-buf.h, dma-heap.h and udmabuf.h
    "DMA_BUF_IOCTL_SYNC": (IOC_WRITE, "b", 0, 8, 0x40086200),
    "DMA_BUF_SET_NAME_B": (IOC_WRITE, "b", 1, 8, 0x40086201),
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE": (BOTH, "b", 2, 8, 0xC0086202),
    "DMA_BUF_IOCTL_IMPORT_SYNC_FILE": (IOC_WRITE, "b", 3, 8, 0x40086203),
    "DMA_HEAP_IOCTL_ALLOC": (BOTH, "H", 0, 24, 0xC0184800),
    "UDMABUF_CREATE": (IOC_WRITE, "u", 0x42, 24, 0x40187542),
    # include/uapi/drm/drm.h
    "LS_IOCTL_SYNCOBJ_CREATE": (BOTH, "d", 0xBF, 8, 0xC00864BF),
    "LS_IOCTL_SYNCOBJ_DESTROY": (BOTH, "d", 0xC0, 8, 0xC00864C0),
    "LS_IOCTL_SYNCOBJ_HANDLE_TO_FD": (BOTH, "d", 0xC1, 24, 0xC01864C1),
    "LS_IOCTL_SYNCOBJ_FD_TO_HANDLE": (BOTH, "d", 0xC2, 24, 0xC01864C2),
    "LS_IOCTL_SYNCOBJ_WAIT": (BOTH, "d", 0xC3, 40, 0xC02864C3),
    "LS_IOCTL_SYNCOBJ_RESET": (BOTH, "d", 0xC4, 16, 0xC01064C4),
    "LS_IOCTL_SYNCOBJ_SIGNAL": (BOTH, "d", 0xC5, 16, 0xC01064C5),
    "LS_IOCTL_SYNCOBJ_TIMELINE_WAIT": (BOTH, "d", 0xCA, 48, 0xC03064CA),
    "LS_IOCTL_SYNCOBJ_QUERY": (BOTH, "d", 0xCB, 24, 0xC01864CB),
    "LS_IOCTL_SYNCOBJ_TRANSFER": (BOTH, "d", 0xCC, 32, 0xC02064CC),
    "LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": (BOTH, "d", 0xCD, 24, 0xC01864CD),
    "LS_IOCTL_SYNCOBJ_EVENTFD": (BOTH, "d", 0xCF, 24, 0xC01864CF),
}
STRUCTS = {
    "sync_merge_data": ("name fd2 fence flags pad", plain.MergeData),
    "sync_file_info": ("name status flags num_fences pad sync_fence_info", plain.FileInfo),
    "sync_fence_info": ("obj_name driver_name status flags timestamp_ns", plain.FenceInfo),
    "sync_set_deadline": ("deadline_ns pad", None),
    "sw_sync_create_fence_data": ("value name fence", plain.CreateFence),
    "sw_sync_get_deadline": ("deadline_ns pad fence_fd", None),
    "dma_buf_export_sync_file": ("flags fd", [0, 4]),
    "dma_buf_import_sync_file": ("flags fd", [0, 4]),
    "dma_heap_allocation_data": ("len fd fd_flags heap_flags", _uapi.DmaHeapAllocationData),
    "udmabuf_create": ("memfd flags offset size", _uapi.UdmabufCreate),
    "ls_syncobj_create": ("handle flags", [0, 4]),
    "ls_syncobj_destroy": ("handle pad", [0, 4]),
    "ls_syncobj_handle": ("handle flags fd pad point", [0, 4, 8, 12, 16]),
    "ls_syncobj_wait": (
        "handles timeout_nsec count_handles flags first_signaled pad deadline_nsec",
        [0, 8, 16, 20, 24, 28, 32],
    ),
    "ls_syncobj_timeline_wait": (
        "handles points timeout_nsec count_handles flags first_signaled pad deadline_nsec",
        [0, 8, 16, 24, 28, 32, 36, 40],
    ),
    "ls_syncobj_array": ("handles count_handles pad", [0, 8, 12]),
    "ls_syncobj_timeline_array": ("handles points count_handles flags", [0, 8, 16, 20]),
    "ls_syncobj_transfer": ("src_handle dst_handle src_point dst_point flags pad", [0, 4, 8, 16, 24, 28]),
    "ls_syncobj_eventfd": ("handle flags point fd pad", [0, 4, 8, 16, 20]),
}
# What only ctypes declares comes from the headers themselves.
COLD = "#include <linux/dma-heap.h>\n#include <linux/udmabuf.h>\n"


def compile_and_run(folder: Path, *flags: str) -> dict[str, int]:
    """What the C compiler makes of every name in uapi.h."""
    lines = [f'printf("{name} %lu\\n", (unsigned long){name});' for name in REQUESTS]
    for struct, (fields, _) in STRUCTS.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        lines += [f'printf("{struct}.{field} %zu\\n", offsetof(struct {struct}, {field}));' for field in fields.split()]
    source = folder / "probe.c"
    body = "\n\t".join(lines)
    headers = f'#include <stddef.h>\n#include <stdio.h>\n#include "uapi.h"\n{COLD}'
    source.write_text(f"{headers}int main(void)\n{{\n\t{body}\n}}\n")
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-Wall", "-Wextra", "-Werror", *flags, f"-I{ROOT / 'native'}", "-o", str(folder / "probe")]
    subprocess.run([*command, str(source)], check=True)
    printed = subprocess.run([str(folder / "probe")], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in printed.splitlines())}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return compile_and_run(tmp_path_factory.mktemp("probe"))


@pytest.mark.parametrize("name", REQUESTS)
def test_request_number(compiled: dict[str, int], name: str) -> None:
    """The compiler's number, ioctl-opt's and the one that a running kernel answers to are the same."""
    direction, kind, number, size, known = REQUESTS[name]
    assert compiled[name] == IOC(direction, ord(kind), number, size) == known


@pytest.mark.parametrize("struct", STRUCTS)
def test_struct_layout(compiled: dict[str, int], struct: str) -> None:
    """Every field lies where ctypes puts it, and nothing is padded unseen."""
    fields, mirror = STRUCTS[struct]
    if isinstance(mirror, list):
        assert [compiled[f"{struct}.{field}"] for field in fields.split()] == mirror
        return
    if mirror is None:
        assert [compiled[f"{struct}.{field}"] for field in fields.split()] == (
            [0, 8] if "set" in struct else [0, 8, 12]
        )
        return
    assert compiled[struct] == ctypes.sizeof(mirror)
    assert [(f, compiled[f"{struct}.{f}"]) for f in fields.split()] == [
        (field[0], getattr(mirror, field[0]).offset) for field in mirror._fields_
    ]


@pytest.mark.parametrize("name", ["DMA_HEAP_IOCTL_ALLOC", "UDMABUF_CREATE"])
def test_cold_request_number(compiled: dict[str, int], name: str) -> None:
    """What ioctl-opt makes of the ctypes struct is what the compiler makes of the header's."""
    assert getattr(_uapi, name) == compiled[name]


def test_newer_headers_take_precedence(tmp_path: Path, compiled: dict[str, int]) -> None:
    """Headers of 6.8 and newer declare deadlines themselves: uapi.h then steps back instead of redefining them."""
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux" / "sync_file.h").write_text(
        "#include_next <linux/sync_file.h>\n"
        "#ifndef SYNC_IOC_SET_DEADLINE\n"
        "struct sync_set_deadline { __u64 deadline_ns; __u64 pad; };\n"
        "#define SYNC_IOC_SET_DEADLINE _IOW(SYNC_IOC_MAGIC, 5, struct sync_set_deadline)\n"
        "#endif\n"
    )
    assert compile_and_run(tmp_path, f"-I{tmp_path}") == compiled


def test_every_request_is_declared_once() -> None:
    """No number of the kernel's is typed a second time anywhere in the package."""
    numbers = "|".join(f"0x{known:08x}" for *_, known in REQUESTS.values())
    for path in [*(ROOT / "linuxsync").rglob("*.py"), *(ROOT / "native").glob("*.py[xi]")]:
        assert not re.search(rf"{numbers}|IOW?R?\(", path.read_text(), re.IGNORECASE) or path.stem == "_uapi"
