"""Our words for the kernel's interface against the installed headers', compiled by the C compiler."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ioctl_opt import IOC, IOC_READ, IOC_WRITE
from linuxsync.vm import kernel as kernels

from benchmarks import plain
from linuxsync import _uapi, drm, kms

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
    # include/uapi/drm/drm.h, drm_mode.h and vgem_drm.h
    "LS_IOCTL_GEM_CLOSE": (IOC_WRITE, "d", 0x09, 8, 0x40086409),
    "LS_IOCTL_PRIME_HANDLE_TO_FD": (BOTH, "d", 0x2D, 12, 0xC00C642D),
    "LS_IOCTL_PRIME_FD_TO_HANDLE": (BOTH, "d", 0x2E, 12, 0xC00C642E),
    "LS_IOCTL_MODE_CREATEPROPBLOB": (BOTH, "d", 0xBD, 16, 0xC01064BD),
    "LS_IOCTL_MODE_DESTROYPROPBLOB": (BOTH, "d", 0xBE, 4, 0xC00464BE),
    "LS_IOCTL_MODE_RMFB": (BOTH, "d", 0xAF, 4, 0xC00464AF),
    "LS_IOCTL_MODE_ADDFB2": (BOTH, "d", 0xB8, 104, 0xC06864B8),
    "LS_IOCTL_MODE_CREATE_DUMB": (BOTH, "d", 0xB2, 32, 0xC02064B2),
    "LS_IOCTL_VGEM_FENCE_ATTACH": (BOTH, "d", 0x41, 16, 0xC0106441),
    "LS_IOCTL_VGEM_FENCE_SIGNAL": (IOC_WRITE, "d", 0x42, 8, 0x40086442),
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
# What only _uapi.py declares.
COLD = {
    "DMA_HEAP_IOCTL_ALLOC": (BOTH, "H", 0, 24, 0xC0184800),
    "UDMABUF_CREATE": (IOC_WRITE, "u", 0x42, 24, 0x40187542),
    "DRM_IOCTL_VERSION": (BOTH, "d", 0x00, 64, 0xC0406400),
    "DRM_IOCTL_GET_CAP": (BOTH, "d", 0x0C, 16, 0xC010640C),
    "DRM_IOCTL_SET_CLIENT_CAP": (IOC_WRITE, "d", 0x0D, 16, 0x4010640D),
    "DRM_IOCTL_MODE_GETRESOURCES": (BOTH, "d", 0xA0, 64, 0xC04064A0),
    "DRM_IOCTL_MODE_GETENCODER": (BOTH, "d", 0xA6, 20, 0xC01464A6),
    "DRM_IOCTL_MODE_GETCONNECTOR": (BOTH, "d", 0xA7, 80, 0xC05064A7),
    "DRM_IOCTL_MODE_GETPROPERTY": (BOTH, "d", 0xAA, 64, 0xC04064AA),
    "DRM_IOCTL_MODE_MAP_DUMB": (BOTH, "d", 0xB3, 16, 0xC01064B3),
    "DRM_IOCTL_MODE_GETPLANERESOURCES": (BOTH, "d", 0xB5, 16, 0xC01064B5),
    "DRM_IOCTL_MODE_GETPLANE": (BOTH, "d", 0xB6, 32, 0xC02064B6),
    "DRM_IOCTL_MODE_OBJ_GETPROPERTIES": (BOTH, "d", 0xB9, 32, 0xC02064B9),
    "DRM_IOCTL_MODE_ATOMIC": (BOTH, "d", 0xBC, 56, 0xC03864BC),
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
    "ls_gem_close": ("handle pad", [0, 4]),
    "ls_prime_handle": ("handle flags fd", [0, 4, 8]),
    "ls_mode_create_dumb": ("height width bpp flags handle pitch size", [0, 4, 8, 12, 16, 20, 24]),
    "ls_mode_create_blob": ("data length blob_id", [0, 8, 12]),
    "ls_mode_fb_cmd2": (
        "fb_id width height pixel_format flags handles pitches offsets modifier",
        [0, 4, 8, 12, 16, 20, 36, 52, 72],
    ),
    "ls_vgem_fence_attach": ("handle flags out_fence pad", [0, 4, 8, 12]),
    "ls_vgem_fence_signal": ("fence flags", [0, 4]),
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
# DRM's headers, which distributions ship as <drm/drm.h>, as <libdrm/drm.h>, or not at all: for each request of ours the
# header's name for its struct.
DRM_STRUCTS = {
    "DRM_IOCTL_VERSION": "drm_version",
    "DRM_IOCTL_GEM_CLOSE": "drm_gem_close",
    "DRM_IOCTL_GET_CAP": "drm_get_cap",
    "DRM_IOCTL_SET_CLIENT_CAP": "drm_set_client_cap",
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": "drm_prime_handle",
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": "drm_prime_handle",
    "DRM_IOCTL_MODE_GETRESOURCES": "drm_mode_card_res",
    "DRM_IOCTL_MODE_GETENCODER": "drm_mode_get_encoder",
    "DRM_IOCTL_MODE_GETCONNECTOR": "drm_mode_get_connector",
    "DRM_IOCTL_MODE_GETPROPERTY": "drm_mode_get_property",
    "DRM_IOCTL_MODE_RMFB": "",
    "DRM_IOCTL_MODE_CREATE_DUMB": "drm_mode_create_dumb",
    "DRM_IOCTL_MODE_MAP_DUMB": "drm_mode_map_dumb",
    "DRM_IOCTL_MODE_GETPLANERESOURCES": "drm_mode_get_plane_res",
    "DRM_IOCTL_MODE_GETPLANE": "drm_mode_get_plane",
    "DRM_IOCTL_MODE_ADDFB2": "drm_mode_fb_cmd2",
    "DRM_IOCTL_MODE_OBJ_GETPROPERTIES": "drm_mode_obj_get_properties",
    "DRM_IOCTL_MODE_ATOMIC": "drm_mode_atomic",
    "DRM_IOCTL_MODE_CREATEPROPBLOB": "drm_mode_create_blob",
    "DRM_IOCTL_MODE_DESTROYPROPBLOB": "",
    "DRM_IOCTL_VGEM_FENCE_ATTACH": "drm_vgem_fence_attach",
    "DRM_IOCTL_VGEM_FENCE_SIGNAL": "drm_vgem_fence_signal",
    "DRM_IOCTL_SYNCOBJ_CREATE": "drm_syncobj_create",
    "DRM_IOCTL_SYNCOBJ_DESTROY": "drm_syncobj_destroy",
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": "drm_syncobj_handle",
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": "drm_syncobj_handle",
    "DRM_IOCTL_SYNCOBJ_WAIT": "drm_syncobj_wait",
    "DRM_IOCTL_SYNCOBJ_RESET": "drm_syncobj_array",
    "DRM_IOCTL_SYNCOBJ_SIGNAL": "drm_syncobj_array",
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": "drm_syncobj_timeline_wait",
    "DRM_IOCTL_SYNCOBJ_QUERY": "drm_syncobj_timeline_array",
    "DRM_IOCTL_SYNCOBJ_TRANSFER": "drm_syncobj_transfer",
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": "drm_syncobj_timeline_array",
    "DRM_IOCTL_SYNCOBJ_EVENTFD": "drm_syncobj_eventfd",
}
# Structs that have grown at their end, and the size that they had before: deadlines came with 6.8, points with 6.16.
GROWN = {"drm_syncobj_wait": 32, "drm_syncobj_timeline_wait": 40, "drm_syncobj_handle": 16}
# Those of our constants whose name in the header is another one than ours.
RENAMED = {
    "VGEM_FENCE_WRITE": "LS_VGEM_FENCE_WRITE",
    "DRM_SYNCOBJ_CREATE_SIGNALED": "LS_SYNCOBJ_CREATE_SIGNALED",
    "DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE": "LS_SYNCOBJ_FD_TO_HANDLE_IMPORT_SYNC_FILE",
    "DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_TIMELINE": "LS_SYNCOBJ_FD_TO_HANDLE_TIMELINE",
    "DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE": "LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE",
    "DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE": "LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE",
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL": "LS_SYNCOBJ_WAIT_ALL",
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT": "LS_SYNCOBJ_WAIT_FOR_SUBMIT",
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE": "LS_SYNCOBJ_WAIT_AVAILABLE",
    "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE": "LS_SYNCOBJ_WAIT_DEADLINE",
    "DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED": "LS_SYNCOBJ_QUERY_LAST_SUBMITTED",
}
# What the kernel's headers need not have: DRM_MODE_CONNECTED is libdrm's name, points came with 6.16.
NEWER = {
    "DRM_MODE_CONNECTED",
    "DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_TIMELINE",
    "DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE",
}
# What GET_CAP and the others are told, and what the headers call it.
CONSTANTS = {
    **{name: getattr(_uapi, name) for name in vars(_uapi) if re.match(r"DRM_(?!IOCTL_)", name)},
    **{f"DRM_CAP_{cap.name}": int(cap) for cap in drm.Cap},
    "DRM_FORMAT_XRGB8888": kms.XRGB8888,
    # Which gem.pyx uses under the names that they are made of.
    "DRM_CLOEXEC": os.O_CLOEXEC,
    "DRM_RDWR": os.O_RDWR,
}


def run_c(folder: Path, headers: str, lines: Sequence[str], *flags: str) -> dict[str, int]:
    """Names and numbers that a C program prints whose main() has these lines."""
    source = folder / "probe.c"
    body = "\n\t".join(lines)
    source.write_text(f"#include <stddef.h>\n#include <stdio.h>\n{headers}\nint main(void)\n{{\n\t{body}\n}}\n")
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-Wall", "-Wextra", "-Werror", *flags, f"-I{ROOT / 'native'}", "-o", str(folder / "probe")]
    subprocess.run([*command, str(source)], check=True)
    printed = subprocess.run([str(folder / "probe")], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in printed.splitlines())}


def shown(name: str, what: str = "") -> str:
    """The line of C that prints a number."""
    return f'printf("{name} %llu\\n", (unsigned long long)({what or name}));'


def if_defined(name: str, *lines: str) -> str:
    """Lines of C for headers that have this macro."""
    return "\n".join([f"\n#ifdef {name}", *lines, "#endif"])


def layout(struct: str, fields: Sequence[str], named: str = "") -> list[str]:
    """The lines that print a struct's size and where its fields lie."""
    sizes = [shown(named or struct, f"sizeof(struct {struct})")]
    return sizes + [shown(f"{named or struct}.{field}", f"offsetof(struct {struct}, {field})") for field in fields]


def compile_and_run(folder: Path, *flags: str) -> dict[str, int]:
    """What the C compiler makes of every name in uapi.h."""
    lines = [shown(name) for name in (*REQUESTS, *RENAMED.values())]
    for struct, (fields, _) in STRUCTS.items():
        lines += layout(struct, fields.split())
    return run_c(folder, '#include "uapi.h"', lines, *flags)


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


@pytest.mark.parametrize("name", COLD)
def test_cold_request_number(name: str) -> None:
    """What ioctl-opt makes of the ctypes struct is the number that a running kernel answers to."""
    direction, kind, number, size, known = COLD[name]
    assert getattr(_uapi, name) == IOC(direction, ord(kind), number, size) == known


FENCEDEV_HEADER = ROOT / "native/fencedev/fencedev.h"
FENCEDEV_STRUCTS = {
    kind.__doc__.removeprefix("``struct ").removesuffix("``."): kind
    for name, kind in vars(_uapi).items()
    if name.startswith("Fencedev")
}


def test_fencedev(tmp_path: Path) -> None:
    """What _uapi.py says of the fence device is what its header says, to programs of 64 bits and of 32."""
    text = FENCEDEV_HEADER.read_text()
    bodies = dict(re.findall(r"^struct (\w+) {(.*?)^}", text, re.MULTILINE | re.DOTALL))
    assert bodies.keys() == FENCEDEV_STRUCTS.keys()
    names = [name for name in vars(_uapi) if name.startswith("FENCEDEV_")]
    requests = set(re.findall(r"#define (FENCEDEV_IOC_\w+) _IOWR", text))
    assert len(requests) == 12 and requests <= set(names)
    expected = {name: getattr(_uapi, name) for name in names}
    for struct, mirror in FENCEDEV_STRUCTS.items():
        fields = [field[0] for field in mirror._fields_]
        assert fields == re.findall(r"(\w+)(?:\[\w+\])?;", bodies[struct])
        expected[f"sizeof(struct {struct})"] = ctypes.sizeof(mirror)
        expected |= {f"offsetof(struct {struct}, {name})": getattr(mirror, name).offset for name in fields}
    checks = [f'_Static_assert(({name}) == {value}ULL, "{name}");' for name, value in expected.items()]
    source = tmp_path / "checks.c"
    source.write_text("\n".join(["#include <stddef.h>", f'#include "{FENCEDEV_HEADER}"', *checks, ""]))
    compiler = os.environ.get("CC", "cc")
    # A compiler for 64 bits can check code of 32 without a C library for that, if it finds these.
    (tmp_path / "gnu").mkdir()
    (tmp_path / "gnu" / "stubs-32.h").touch()
    said = subprocess.run([compiler, "-print-multiarch"], check=True, capture_output=True, text=True)
    small = ["-m32", f"-I{tmp_path}", "-idirafter", f"/usr/include/{said.stdout.strip()}"]
    for flags in ([], small):
        command = [compiler, *flags, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(source)]
        subprocess.run(command, check=True)


def test_no_request_is_left_out() -> None:
    """Everything that uapi.h and _uapi.py declare stands in the tables above."""
    assert {name for name in vars(_uapi) if re.match(r"DRM_IOCTL_|DMA_HEAP_IOCTL_|UDMABUF_CREATE", name)} == set(COLD)
    text = (ROOT / "native/uapi.h").read_text()
    assert set(re.findall(r"#define (\w+) (?:_IO|LINUXSYNC_DRM_IO)W", text)) <= set(REQUESTS)
    assert set(re.findall(r"#define (LS_\w+) 0x", text)) == set(RENAMED.values())
    assert set(re.findall(r"^struct (\w+) {", text, re.MULTILINE)) <= set(STRUCTS)
    ours = {name.replace("LS_", "DRM_", 1) for name in REQUESTS if name.startswith("LS_")}
    assert ours | {name for name in COLD if name.startswith("DRM_")} == set(DRM_STRUCTS)


def ours(compiled: Mapping[str, int], request: str) -> tuple[int, dict[str, int]]:
    """Our number for one of DRM's requests, and where the fields of our struct lie."""
    if request in COLD:
        classes = {kind.__doc__ or "": kind for kind in vars(_uapi).values() if isinstance(kind, type)}
        struct = DRM_STRUCTS[request]
        found = [kind for text, kind in classes.items() if struct and f"``struct {struct}``" in text]
        return getattr(_uapi, request), {
            field[0]: getattr(kind, field[0]).offset for kind in found for field in kind._fields_
        }
    number = compiled[request.replace("DRM_", "LS_", 1)]
    if not DRM_STRUCTS[request]:
        return number, {}
    struct = "ls_" + DRM_STRUCTS[request].removeprefix("drm_")
    fields, _ = STRUCTS[struct]
    return number, {field: compiled[f"{struct}.{field}"] for field in fields.split()}


INSTALLED = [folder for folder in ("drm", "libdrm") if Path("/usr/include", folder, "drm.h").exists()]
PARTS = ("drm", "drm_mode", "drm_fourcc", "vgem_drm")


@pytest.mark.parametrize("whose", ["the kernel's", *INSTALLED])
def test_headers_of_drm(compiled: dict[str, int], tmp_path: Path, whose: str) -> None:
    """Numbers, sizes, fields and constants are those of the guest's kernel, and of what is installed."""
    include = []
    if whose == "the kernel's":
        extmod = kernels.ensure().extmod
        assert extmod is not None
        (tmp_path / "uapi").mkdir()
        (tmp_path / "uapi" / "drm").symlink_to(extmod / "include/uapi/drm")
        include = [f"-I{tmp_path / 'uapi'}", "-D__user="]
    folder = tmp_path / "uapi/drm" if include else Path("/usr/include", whose)
    parts = [f"{folder.name}/{part}.h" for part in PARTS if (folder / f"{part}.h").exists()]
    headers = "".join(f"#include <{name}>\n" for name in ("fcntl.h", *parts))
    numbers = run_c(tmp_path, headers, [if_defined(name, shown(name)) for name in DRM_STRUCTS], *include)
    # Those that came last are EVENTFD and DESTROYPROPBLOB; libdrm has not the two of vgem.
    assert len(numbers) >= len(DRM_STRUCTS) - (2 if len(parts) == len(PARTS) else 4)
    assert len(parts) == len(PARTS) or whose != "the kernel's"
    lines = []
    for request, number in numbers.items():
        known, offsets = ours(compiled, request)
        size, struct = number >> 16 & 0x3FFF, DRM_STRUCTS[request]
        if size != known >> 16 & 0x3FFF:
            assert size == GROWN[struct]
        assert number & ~(0x3FFF << 16) == known & ~(0x3FFF << 16)
        if struct:
            lines += layout(struct, [name for name, at in offsets.items() if at < size], request)
    found = run_c(tmp_path, headers, lines, *include)
    assert found == {
        **{name: numbers[name] >> 16 & 0x3FFF for name in found if "." not in name},
        **{name: ours(compiled, name.split(".")[0])[1][name.split(".")[1]] for name in found if "." in name},
    }
    wanted = CONSTANTS | {theirs: compiled[name] for theirs, name in RENAMED.items()}
    values = run_c(tmp_path, headers, [if_defined(name, shown(name)) for name in wanted], *include)
    assert values == {name: wanted[name] for name in values}
    assert whose != "the kernel's" or wanted.keys() - values <= NEWER


def test_headers_of_heaps_and_udmabuf(tmp_path: Path) -> None:
    """What _uapi.py says of them is what the installed headers say."""
    headers = "#include <linux/dma-heap.h>\n#include <linux/udmabuf.h>\n#include <linux/fcntl.h>"
    structs = {"dma_heap_allocation_data": _uapi.DmaHeapAllocationData, "udmabuf_create": _uapi.UdmabufCreate}
    names = ["DMA_HEAP_IOCTL_ALLOC", "UDMABUF_CREATE", "UDMABUF_FLAGS_CLOEXEC", "F_SEAL_FUTURE_WRITE"]
    lines = [shown(name) for name in names]
    expected = {name: getattr(_uapi, name) for name in names}
    for struct, mirror in structs.items():
        fields = [field[0] for field in mirror._fields_]
        lines += layout(struct, fields)
        expected[struct] = ctypes.sizeof(mirror)
        expected |= {f"{struct}.{field}": getattr(mirror, field).offset for field in fields}
    assert run_c(tmp_path, headers, lines) == expected


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
    numbers = "|".join(f"0x{known:08x}" for *_, known in (*REQUESTS.values(), *COLD.values()))
    for path in [*(ROOT / "linuxsync").rglob("*.py"), *(ROOT / "native").glob("*.py[xi]")]:
        assert not re.search(rf"{numbers}|\bIOW?R?\(", path.read_text(), re.IGNORECASE) or path.stem == "_uapi"


def test_old_headers(tmp_path: Path, compiled: dict[str, int]) -> None:
    """Wheels are compiled in an image with headers of 4.18, and what these lack is the same in them."""
    assert compile_and_run(tmp_path, f"-I{ROOT / 'tests/host/old_headers'}") == compiled
    names = ["DMA_BUF_MAGIC", "SYS_pidfd_open", "SYS_pidfd_getfd"]
    ours, theirs = (
        run_c(tmp_path, "\n".join(headers), [shown(name) for name in names], *flags)
        for headers, flags in (
            (['#include "uapi.h"'], [f"-I{ROOT / 'tests/host/old_headers'}"]),
            (["#include <linux/magic.h>", "#include <sys/syscall.h>"], []),
        )
    )
    assert ours == theirs
