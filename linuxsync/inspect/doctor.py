"""doctor: what this machine offers to those who work with fences and buffers, what is missing, and what helps."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from .. import fencedev, sw_sync, udmabuf
from .._fd import OwnedFd, may_open
from .._mounts import mounts
from ..dma_buf import Access, DmaBuf
from ..dma_heap import DmaHeap
from ..drm import DrmDevice
from ..errors import OURS
from ..sw_sync import Timeline
from ..sync_file import SyncFile
from ..syncobj import Syncobj
from .findings import VM, Finding, State, for_us, load, look_as_root, missing, of_node, ok, root_says, unknown
from .rights import of_hidepid, of_kcmp, of_pidfd, of_ptrace, of_root
from .syncobjs import device_nodes

__all__ = ["examine"]

PAGE = 4096
HEAPS = Path("/dev/dma_heap")
UDMABUF = Path("/dev/udmabuf")
# What a DRM device may have, and why none has it.
SYNCOBJS = {
    "syncobj": "no DRM device has any; virtio_gpu does, from Linux 6.6 on",
    "timeline_syncobj": "no DRM device has any; virtio_gpu does, from Linux 6.6 on",
    "syncobj_eventfd": "no DRM device has syncobjs that tell an eventfd; Linux 6.6 brought it",
}
FUNCTIONS = {
    "sync_file": b"sync_file_create",
    "sw_sync": b"sw_sync_debugfs_open",
    "udmabuf_vmap": b"vmap_udmabuf",  # drivers/dma-buf/udmabuf.c; Linux 6.1 has none
    "udmabuf_pinned": b"memfd_pin_folios",  # mm/gup.c, made for udmabuf
}


def kernel_functions() -> dict[str, bool] | None:
    """Which of FUNCTIONS the kernel has, as /proc/kallsyms lists them; None where it lists none."""
    names = {function: name for name, function in FUNCTIONS.items()}
    found: set[str] = set()
    listed = False
    try:
        with open("/proc/kallsyms", "rb") as file:
            for line in file:
                listed = True
                found.update(names[word] for word in line.split()[2:3] if word in names)
    except OSError as error:
        if error.errno in OURS:
            raise
        return None
    return {name: name in found for name in FUNCTIONS} if listed else None


def examine() -> list[Finding]:
    """Return what there is, as far as this user can tell; what concerns the VM is not part of it.

    Nothing is changed or left behind. For an answer about fences a page is allocated from a heap, or a syncobj or a
    timeline made, where this user may, and given back; devices are opened for a moment, by the render node where there
    is one.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.

    Mirrors open(2) of the nodes, /proc/filesystems, and of each request the answer to one that can do nothing.
    """
    with ExitStack() as stack:
        buffer = a_buffer(stack)
        fence = a_fence(stack, buffer)
        functions = kernel_functions()
        return [
            of_sync_file(fence, functions),
            of_deadline(fence),
            *of_buffer(buffer),
            of_sw_sync(functions),
            of_mount("debugfs", "/sys/kernel/debug", "CONFIG_DEBUG_FS"),
            of_mount("tracefs", "/sys/kernel/tracing", "CONFIG_TRACING"),
            of_heaps(),
            of_node("udmabuf", UDMABUF, "CONFIG_UDMABUF", load("udmabuf")),
            *of_udmabuf(functions),
            *of_drm(),
            of_fencedev(),
            of_pidfd(),
            of_kcmp(),
            of_root(),
            of_ptrace(),
            of_hidepid(),
        ]


def a_buffer(stack: ExitStack) -> DmaBuf | None:
    """A buffer of one page, of whoever makes one."""
    for name in DmaHeap.names():
        try:
            with DmaHeap(name) as heap:
                return stack.enter_context(heap.alloc(PAGE))
        except MemoryError:
            continue
        except OSError as error:
            if error.errno in OURS - {errno.ENOMEM}:  # a heap with memory of its own may have no more of that
                raise
    try:
        return stack.enter_context(udmabuf.create(PAGE))
    except OSError as error:
        if error.errno in OURS:
            raise
        return None


def a_fence(stack: ExitStack, buffer: DmaBuf | None) -> SyncFile | None:
    """A fence of our own that has signaled: what is done to it concerns nobody."""
    if buffer is not None:
        try:
            return stack.enter_context(buffer.export_sync_file(Access.RW))
        except OSError as error:
            if error.errno in OURS:
                raise
    for path in device_nodes("renderD"):
        try:
            with DrmDevice.open(path=path) as device, Syncobj.create(device, True) as syncobj:
                return stack.enter_context(syncobj.export_sync_file())
        except OSError as error:
            if error.errno in OURS:
                raise
    try:
        with Timeline("doctor") as timeline:
            return stack.enter_context(timeline.create_fence(0))
    except OSError as error:
        if error.errno in OURS:
            raise
        return None


def of_sync_file(fence: SyncFile | None, functions: dict[str, bool] | None) -> Finding:
    name = "sync_file"
    if fence is not None:
        return ok(name, f"SYNC_IOC_FILE_INFO answers: {fence.info().name}")
    if functions is None:
        return unknown(name, "no fence to ask, and /proc/kallsyms tells nothing", look_as_root())
    if functions[name]:
        return ok(name, "/proc/kallsyms has it; there is no fence to ask")
    return missing(name, "this kernel was built without CONFIG_SYNC_FILE", VM)


def of_deadline(fence: SyncFile | None) -> Finding:
    name = "set_deadline"
    if fence is None:
        return unknown(name, "no fence to ask", look_as_root())
    try:
        fence.set_deadline(0)  # which one that has signaled takes no note of
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return missing(name, "the kernel lacks SYNC_IOC_SET_DEADLINE, Linux 6.8 brought it", VM)
    return ok(name, "SYNC_IOC_SET_DEADLINE answers")


def of_buffer(buffer: DmaBuf | None) -> Iterator[Finding]:
    names = ("export_sync_file", "import_sync_file")
    if buffer is None:
        for name in names:
            yield unknown(name, "no dma-buf to ask: this user can make none", look_as_root())
        return
    try:
        with buffer.export_sync_file(Access.RW) as idle:
            yield ok(names[0], "DMA_BUF_IOCTL_EXPORT_SYNC_FILE answers")
            buffer.import_sync_file(idle, Access.READ)
            yield ok(names[1], "DMA_BUF_IOCTL_IMPORT_SYNC_FILE answers")
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        for name in names:
            yield missing(name, "the kernel lacks it: Linux 6.0 brought it, with CONFIG_SYNC_FILE", VM)


def of_sw_sync(functions: dict[str, bool] | None) -> Finding:
    name = "sw_sync"
    try:
        path = sw_sync.find()
    except OSError as error:
        if functions is not None and not functions[name]:
            return missing(name, "this kernel was built without CONFIG_SW_SYNC", VM)
        if isinstance(error, PermissionError):
            state = State.UNKNOWN if functions is None else State.MISSING
            return Finding(name, state, "it would be in debugfs, which only root may enter", look_as_root())
        debugfs = of_mount("debugfs", "/sys/kernel/debug", "CONFIG_DEBUG_FS")
        why = f"it would be in debugfs: {debugfs.why}" if debugfs.fix else str(error.strerror)
        return missing(name, why, debugfs.fix or VM)
    if not sw_sync.available():
        return missing(name, f"{path} is not for this user", look_as_root())
    return ok(name, path)


def of_mount(kind: str, usual: str, option: str) -> Finding:
    """A file system that somebody has to mount."""
    places = [str(place) for place, _ in mounts(kind)]
    for place in places:
        if may_open(place, os.R_OK | os.X_OK):
            return ok(kind, f"mounted on {place}")
    if places:
        return missing(kind, f"mounted on {places[0]}, but not for this user", look_as_root())
    if f"\t{kind}\n" in Path("/proc/filesystems").read_text():
        return missing(kind, "not mounted", root_says(f"mount -t {kind} none {usual}"))
    return missing(kind, f"this kernel was built without {option}", VM)


def of_heaps() -> Finding:
    name, there = "heaps", DmaHeap.names()
    usable = [heap for heap in there if may_open(HEAPS / heap, os.R_OK)]
    if usable:
        return ok(name, ", ".join(usable))
    if there:
        return missing(name, f"not for this user: {', '.join(there)}", for_us(HEAPS / there[0], "r"))
    return missing(name, "the kernel has none (CONFIG_DMABUF_HEAPS, CONFIG_DMABUF_HEAPS_SYSTEM)", VM)


def of_udmabuf(functions: dict[str, bool] | None) -> Iterator[Finding]:
    """What the kernel can do with a udmabuf. Asking for it would take a screen, or break a kernel that can't."""
    for name, has, lacks in (
        (
            "udmabuf_vmap",
            "vkms can show what is in a udmabuf",
            "the kernel can't map a udmabuf for itself: vkms can't show what is in one",
        ),
        (
            "udmabuf_pinned",
            "a memfd may shrink or go while a udmabuf of it is mapped",
            "if a memfd shrinks or goes while a udmabuf of it is mapped, a kernel before 6.11 complains of a bad page",
        ),
    ):
        if not UDMABUF.exists():
            yield missing(name, f"no {UDMABUF}", load("udmabuf"))
        elif functions is None:
            yield unknown(name, "/proc/kallsyms tells nothing", look_as_root())
        elif functions[name]:
            yield ok(name, f"/proc/kallsyms has {FUNCTIONS[name].decode()}: {has}")
        else:
            yield missing(name, lacks, VM)


def of_drm() -> Iterator[Finding]:
    """All devices together, what syncobjs there are, and each device."""
    devices = [drm_device(nodes) for nodes in drm_nodes()]
    named = [finding.name.removeprefix("drm:") for finding, _ in devices]
    if not devices:
        yield missing("drm", "no device in /dev/dri", load("vgem"))
    elif all(finding.state is not State.OK for finding, _ in devices):
        yield missing("drm", f"none for this user: {', '.join(named)}", devices[0][0].fix)
    else:
        yield ok("drm", ", ".join(named))
    for name, why in SYNCOBJS.items():
        having = [finding.name.removeprefix("drm:") for finding, has in devices if has and name in has]
        if having:
            yield ok(name, ", ".join(having))
        elif any(has is None for _, has in devices):
            yield unknown(name, "devices that are not for this user may have them", look_as_root())
        else:
            yield missing(name, why, VM)
    for finding, _ in devices:
        yield finding


def drm_nodes() -> list[list[Path]]:
    """The nodes of each device, the render node first, in the order of their numbers; udev is not asked."""
    devices: dict[Path, list[Path]] = {}
    for kind in ("renderD", "card"):
        for node in sorted(device_nodes(kind), key=number):
            owner = Path("/sys/class/drm", node.name, "device")
            # One without a device behind it is one by itself.
            devices.setdefault(owner.resolve() if owner.exists() else node, []).append(node)
    return sorted(devices.values(), key=lambda nodes: number(nodes[-1]) % 128)


def number(node: Path) -> int:
    """That of a node; renderD128 belongs to card0, if all devices have both."""
    return int(re.sub(r"\D", "", node.name))


def drm_device(nodes: list[Path]) -> tuple[Finding, set[str] | None]:
    """A device, and which of SYNCOBJS it has; None where it can't be asked."""
    shown = ", ".join(map(str, reversed(nodes)))
    why: str | None = None
    fix: str | None = None
    for node in nodes:
        try:
            with DrmDevice.open(path=node) as device:
                has = of_syncobjs(device)
                said = "syncobj, no timeline" if "syncobj" in has else "no syncobj"
                said = "syncobj and timeline" if "timeline_syncobj" in has else said
                return ok(f"drm:{device.driver}", f"{shown}: {said}"), has
        except PermissionError:
            why, fix = "not for this user", fix or for_us(node)
        except OSError as error:
            if error.errno in OURS:
                raise
            why = why or error.strerror
    driver = Path("/sys/class/drm", nodes[-1].name, "device", "driver")
    name = driver.resolve().name if driver.exists() else nodes[-1].name
    return missing(f"drm:{name}", f"{shown}: {why}", fix), None


def of_syncobjs(device: DrmDevice) -> set[str]:
    """Which of SYNCOBJS a device has."""
    has = {"syncobj"} if device.has_syncobj else set()
    has |= {"timeline_syncobj"} if device.has_timeline_syncobj else set()
    if has:
        with (
            Syncobj.create(device, True) as signaled,
            OwnedFd._taking(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) as event,
        ):
            try:
                signaled.eventfd(None, event)  # which tells it at once, and keeps nothing of it
                has.add("syncobj_eventfd")
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
    return has


def of_fencedev() -> Finding:
    if fencedev.available():
        return ok("fencedev", "/dev/fencedev")
    return of_node("fencedev", Path("/dev/fencedev"), "the module of native/fencedev", VM)
