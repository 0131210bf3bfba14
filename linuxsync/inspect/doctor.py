"""doctor: what this machine offers to those who work with fences and buffers, what is missing, and what helps."""

from __future__ import annotations

import errno
import grp
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .. import fencedev, sw_sync, udmabuf
from .._fd import OwnedFd
from .._mounts import mounts
from ..dma_buf import Access, DmaBuf
from ..dma_heap import DmaHeap
from ..drm import DrmDevice
from ..sw_sync import Timeline
from ..sync_file import SyncFile
from ..syncobj import Syncobj
from .pidfd import PidFd, same_file

__all__ = ["Finding", "State", "examine"]

PAGE = 4096
CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
DRI = Path("/dev/dri")
HEAPS = Path("/dev/dma_heap")
VM = "vm/run shell"  # whose kernel has all of it
FUNCTIONS = {"sync_file": b"sync_file_create", "sw_sync": b"sw_sync_debugfs_open"}


class State(Enum):
    """Whether this user can use something now."""

    OK = "ok"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a machine offers, or does not.

    Attributes:
        name: of the thing; one DRM device is called ``drm:DRIVER``, and there may be several of a driver.
        state: whether this user can use it; unknown if that can't be told without doing something.
        why: how that is known, or why not.
        fix: the command that helps; None if nothing is wrong, or no command does.
    """

    name: str
    state: State
    why: str
    fix: str | None = None


def ok(name: str, why: str) -> Finding:
    return Finding(name, State.OK, why)


def missing(name: str, why: str, fix: str | None) -> Finding:
    return Finding(name, State.MISSING, why, fix)


def unknown(name: str, why: str, fix: str | None) -> Finding:
    return Finding(name, State.UNKNOWN, why, fix)


def root_says(command: str) -> str:
    """A command that takes root, for this user."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def look_as_root() -> str:
    """What helps where this user can't look."""
    return VM if os.geteuid() == 0 else "sudo linuxsync doctor"


def load(module: str) -> str:
    """What gives a module: loading it, if this kernel has it."""
    try:
        folder = Path("/lib/modules", os.uname().release)
        known = b"/%s.ko" % module.encode() in (folder / "modules.dep").read_bytes()
    except OSError:
        known = False
    return root_says(f"modprobe {module}") if known else VM


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
    except OSError:
        return None
    return {name: name in found for name in FUNCTIONS} if listed else None


def examine() -> list[Finding]:
    """Return what there is, as far as this user can tell; what concerns the VM is not part of it.

    Nothing is changed or left behind. For an answer about fences a page is allocated from a heap, or a syncobj or a
    timeline made, where this user may, and given back; devices are opened for a moment, by the render node where there
    is one.

    Raises:
        OSError: EMFILE, ENOMEM: of our own.
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
            of_node("udmabuf", Path("/dev/udmabuf"), "CONFIG_UDMABUF", load("udmabuf")),
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
        except (OSError, MemoryError):
            continue
    try:
        return stack.enter_context(udmabuf.create(PAGE))
    except OSError:
        return None


def a_fence(stack: ExitStack, buffer: DmaBuf | None) -> SyncFile | None:
    """A fence of our own that has signaled: what is done to it concerns nobody."""
    if buffer is not None:
        try:
            return stack.enter_context(buffer.export_sync_file(Access.RW))
        except OSError:
            pass
    for path in sorted(DRI.glob("renderD*")):
        try:
            with DrmDevice.open(path=path) as device, Syncobj.create(device, True) as syncobj:
                return stack.enter_context(syncobj.export_sync_file())
        except OSError:
            continue
    try:
        with Timeline("doctor") as timeline:
            return stack.enter_context(timeline.create_fence(0))
    except OSError:
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
        if os.access(place, os.R_OK | os.X_OK, effective_ids=True):
            return ok(kind, f"mounted on {place}")
    if places:
        return missing(kind, f"mounted on {places[0]}, but not for this user", look_as_root())
    if f"\t{kind}\n" in Path("/proc/filesystems").read_text():
        return missing(kind, "not mounted", root_says(f"mount -t {kind} none {usual}"))
    return missing(kind, f"this kernel was built without {option}", VM)


def of_heaps() -> Finding:
    name, there = "heaps", DmaHeap.names()
    usable = [heap for heap in there if os.access(HEAPS / heap, os.R_OK, effective_ids=True)]
    if usable:
        return ok(name, ", ".join(usable))
    if there:
        return missing(name, f"not for this user: {', '.join(there)}", for_us(HEAPS / there[0], "r"))
    return missing(name, "the kernel has none (CONFIG_DMABUF_HEAPS, CONFIG_DMABUF_HEAPS_SYSTEM)", VM)


def of_node(name: str, path: Path, option: str, fix: str) -> Finding:
    """A device node to be read and written."""
    if not path.exists():
        return missing(name, f"no {path}: the module is not loaded, or the kernel lacks {option}", fix)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return missing(name, f"{path} is not for this user", for_us(path))
    return ok(name, str(path))


def for_us(path: Path, wanted: str = "rw") -> str:
    """The command with which this user gets to open a node."""
    there = path.stat()
    bits = (0o040 if "r" in wanted else 0) | (0o020 if "w" in wanted else 0)
    if there.st_gid and there.st_mode & bits == bits:
        try:
            return f"sudo usermod -aG {grp.getgrgid(there.st_gid).gr_name} $USER"
        except KeyError:
            pass  # a group without a name
    return f"sudo setfacl -m u:$USER:{wanted} {path}"


def of_drm() -> Iterator[Finding]:
    """All devices together, what syncobjs there are, and each device."""
    devices = [drm_device(nodes) for nodes in drm_nodes()]
    named = [finding.name.removeprefix("drm:") for finding, _, _ in devices]
    if not devices:
        yield missing("drm", "no device in /dev/dri", load("vgem"))
    elif all(finding.state is not State.OK for finding, _, _ in devices):
        yield missing("drm", f"none for this user: {', '.join(named)}", devices[0][0].fix)
    else:
        yield ok("drm", ", ".join(named))
    for at, name in ((1, "syncobj"), (2, "timeline_syncobj")):
        having = [one[0].name.removeprefix("drm:") for one in devices if one[at]]
        if having:
            yield ok(name, ", ".join(having))
        elif any(one[at] is None for one in devices):
            yield unknown(name, "devices that are not for this user may have them", look_as_root())
        else:
            yield missing(name, "no DRM device has any; virtio_gpu does, from Linux 6.6 on", VM)
    for finding, _, _ in devices:
        yield finding


def drm_nodes() -> list[list[Path]]:
    """The nodes of each device, the render node first, in the order of their numbers; udev is not asked."""
    devices: dict[Path, list[Path]] = {}
    for pattern in ("renderD[0-9]*", "card[0-9]*"):
        for node in sorted(DRI.glob(pattern), key=number):
            owner = Path("/sys/class/drm", node.name, "device")
            # One without a device behind it is one by itself.
            devices.setdefault(owner.resolve() if owner.exists() else node, []).append(node)
    return sorted(devices.values(), key=lambda nodes: number(nodes[-1]) % 128)


def number(node: Path) -> int:
    """That of a node; renderD128 belongs to card0, if all devices have both."""
    return int(re.sub(r"\D", "", node.name))


def drm_device(nodes: list[Path]) -> tuple[Finding, bool | None, bool | None]:
    """A device, and whether it has syncobjs and timelines; None where it can't be asked."""
    shown = ", ".join(map(str, reversed(nodes)))
    why: str | None = None
    fix: str | None = None
    for node in nodes:
        try:
            with DrmDevice.open(path=node) as device:
                plain, timeline = device.has_syncobj, device.has_timeline_syncobj
                said = "syncobj and timeline" if timeline else "syncobj, no timeline" if plain else "no syncobj"
                return ok(f"drm:{device.driver}", f"{shown}: {said}"), plain, timeline
        except PermissionError:
            why, fix = "not for this user", fix or for_us(node)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            why = why or error.strerror
    driver = Path("/sys/class/drm", nodes[-1].name, "device", "driver")
    name = driver.resolve().name if driver.exists() else nodes[-1].name
    return missing(f"drm:{name}", f"{shown}: {why}", fix), None, None


def of_fencedev() -> Finding:
    if fencedev.available():
        return ok("fencedev", "/dev/fencedev")
    return of_node("fencedev", Path("/dev/fencedev"), "the module of native/fencedev", VM)


def of_pidfd() -> Finding:
    """Asked of this process itself."""
    name = "pidfd_getfd"
    try:
        with PidFd.open(os.getpid()) as process, process.get(OwnedFd, process.fileno()):
            return ok(name, "it answers: fences of other processes can be looked at")
    except OSError as error:
        return refused(name, error, "Linux 5.6 brought it")


def of_kcmp() -> Finding:
    """Asked of this process itself."""
    name = "kcmp"
    try:
        with OwnedFd._taking(os.open, "/", os.O_PATH | os.O_CLOEXEC) as any_file:
            one = (os.getpid(), any_file.fileno())
            same_file(one, one)
        return ok(name, "it answers: what several processes hold is one line")
    except OSError as error:
        return refused(name, error, "the kernel was built without CONFIG_KCMP")


def refused(name: str, error: OSError, lacking: str) -> Finding:
    """A system call that the kernel lacks, or that somebody has forbidden."""
    if error.errno == errno.ENOSYS:
        return missing(name, f"{lacking}, or a seccomp filter hides it", VM)
    if error.errno in (errno.EPERM, errno.EACCES):
        return missing(name, "a seccomp filter or security module forbids it, as containers do", None)
    raise error


def of_root() -> Finding:
    if os.geteuid() == 0:
        return ok("root", "effective uid 0")
    return missing("root", "an ordinary user: descriptors of other users' processes are not shown", look_as_root())


def of_ptrace() -> Finding:
    """Whose descriptors may be duplicated."""
    name = "ptrace"
    scope = yama()
    if scope == 3:
        return missing(name, "kernel.yama.ptrace_scope is 3: no fence of another process, until the next boot", None)
    if has_capability(CAP_SYS_PTRACE):
        return ok(name, "CAP_SYS_PTRACE: fences of all processes can be looked at")
    if scope == 0:
        return ok(name, "fences of this user's processes can be looked at")
    if scope is None:
        return unknown(name, "kernel.yama.ptrace_scope can't be read", look_as_root())
    whose = "none" if scope == 2 else "only descendants"
    why = f"kernel.yama.ptrace_scope is {scope}: of other processes' fences {whose} can be looked at"
    return missing(name, why, root_says("sysctl kernel.yama.ptrace_scope=0"))


def yama() -> int | None:
    """kernel.yama.ptrace_scope, 0 for a kernel without; None if it can't be read."""
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        return None


def has_capability(number: int) -> bool:
    """Whether this thread has a capability in effect."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/thread-self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def of_hidepid() -> Finding:
    """Whether /proc shows other users' processes at all."""
    name = "hidepid"
    options = next((options for place, options in reversed(mounts("proc")) if place == Path("/proc")), "")
    found = re.search(r"(?:^|,)hidepid=([^,]+)", options)
    if found is None or found[1] in ("0", "off"):
        return ok(name, "/proc shows all processes")
    if has_capability(CAP_SYS_PTRACE):
        return ok(name, f"hidepid={found[1]}, which does not concern who has CAP_SYS_PTRACE")
    why = f"/proc is mounted with hidepid={found[1]}: it does not show other users' processes, or their descriptors"
    return missing(name, why, root_says("mount -o remount,hidepid=0 /proc"))
