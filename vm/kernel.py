"""The guest's kernel: built once from the distribution's source package, kept in the cache, found ever after.

A kernel in the cache is a folder of its own, named after everything that it was made from:

    kernels/KEY/boot/vmlinuz-VERSION     the image, and config-VERSION
    kernels/KEY/lib/modules/VERSION      vgem, vkms; what `modprobe -d` and virtme-ng expect
    kernels/KEY/extmod                   what a module out of the tree is built against, checkpatch.pl included
    kernels/KEY/fencedev/KEY.ko          one such, see fencedev.py
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bootstrap import DEBUG, KERNEL, SOURCES, VERSION, choose, known_kernels, sources, version_of
from .make import Make, MakeError, say

FRAGMENT = Path(__file__).resolve().parent / "kernel.config"
DEBUG_FRAGMENT = FRAGMENT.with_name("debug.config")
IMAGE = Path("arch/x86/boot/bzImage")
# Part of the key: a change of what a folder in the cache holds makes a new one.
LAYOUT = 1
# Lines of make's output that stand for an object, in a build of FRAGMENT: the progress bar's full length, near enough
# for either kernel.
OBJECTS = 2080


class KernelError(Exception):
    """There is no kernel, and why; several lines where a build failed."""


@dataclass(frozen=True)
class Kernel:
    """What a guest is booted from.

    Attributes:
        image: a bzImage.
        version: as uname -r says it.
        modules: the folder that has to appear as /lib/modules/VERSION, if there is one.
        extmod: what `make -C` builds a module of one's own against, if there is one.
    """

    image: Path
    version: str
    modules: Path | None = None
    extmod: Path | None = None


@dataclass(frozen=True)
class Source:
    """A packed kernel source tree, as Debian's and Ubuntu's linux-source packages install it.

    Attributes:
        tarball: the file.
        version: what ``--kernel`` calls it: "6.12".
    """

    tarball: Path
    version: str

    @property
    def identity(self) -> str:
        """Changes when the package is updated."""
        stat = self.tarball.stat()
        return f"{self.tarball.name} {stat.st_size} {int(stat.st_mtime)}"


@dataclass(frozen=True)
class Recipe:
    """What a kernel of ours is made from.

    Attributes:
        name: what --kernel calls it: "6.12", "debug"; where another source has taken that one's place, its version.
        source: the packed tree.
        fragments: what its configuration has beyond tinyconfig.
    """

    name: str
    source: Source
    fragments: tuple[Path, ...] = (FRAGMENT,)

    @property
    def title(self) -> str:
        """For people: "6.12", "6.12 (debug)"."""
        return self.source.version if self.name == self.source.version else f"{self.source.version} ({self.name})"

    @property
    def key(self) -> str:
        """What the kernel is called in the cache: its name and a hash of everything that it is made from."""
        command = ["gcc", "--version"]
        try:
            compiler = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise KernelError(f"no working C compiler: gcc --version: {error}") from error
        texts = [fragment.read_text() for fragment in self.fragments]
        return f"{self.name}-{digest(str(LAYOUT), self.source.identity, *texts, compiler.splitlines()[0])}"


def recipe(wanted: str) -> Recipe:
    """That of a version, or of the kernel with the kernel's own detectors on.

    Raises:
        KernelError: its source is not installed.
    """
    source = find_source(wanted=version_of(wanted))
    if wanted == DEBUG:
        return Recipe(DEBUG, source, (FRAGMENT, DEBUG_FRAGMENT))
    return Recipe(source.version, source)


def cache_home() -> Path:
    """This project's folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "linuxsync"


def find_source(folder: Path = SOURCES, wanted: str = KERNEL) -> Source:
    """The packed source of the wanted version, or of one that can take its place.

    Raises:
        KernelError: there is none.
    """
    found = sources(folder)
    chosen = choose(found, wanted)
    if chosen is None:
        known = known_kernels(folder)
        others = "" if wanted in known else f", or take one that is known: {', '.join(known)}"
        raise KernelError(f"no source of Linux {wanted} in {folder}: install the package linux-source-{wanted}{others}")
    return Source(found[chosen], chosen)


def digest(*parts: str) -> str:
    """A short name for some texts, different for different ones."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def in_cache(folder: Path) -> Kernel | None:
    """The kernel in one folder of the cache, or None if that does not exist."""
    for image in folder.glob("boot/vmlinuz-*"):
        version = image.name.removeprefix("vmlinuz-")
        extmod = folder / "extmod"
        return Kernel(image, version, folder / "lib/modules" / version, extmod if extmod.is_dir() else None)
    return None


def ensure(wanted: str = KERNEL) -> Kernel:
    """The kernel of a version, or the debug kernel, from the cache; built first where it is not there yet.

    Raises:
        KernelError: it cannot be built.
    """
    ours = recipe(wanted)
    folder = cache_home() / "kernels" / ours.key
    if kernel := in_cache(folder):
        return kernel
    with build_lock(folder):
        # Whoever had the lock before us may have built it.
        if kernel := in_cache(folder):
            return kernel
        remove_stale_builds(folder.name)
        build(ours, folder)
    kernel = in_cache(folder)
    assert kernel
    return kernel


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Only one process at a time builds a kernel; the others wait, and say so. The lock ends with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock_file(folder.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is building this kernel; waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def lock_file(key: str) -> Path:
    """The file whose lock a builder holds."""
    return cache_home() / "kernels" / f"{key}.lock"


def remove_stale_builds(ours: str) -> None:
    """Remove what builders left that were killed; `ours` is the key whose lock this process holds."""
    for folder in (cache_home() / "build").glob("*"):
        # Named KEY.RANDOM. A key that nobody has locked has no living builder. That is so for ours, but asking for its
        # lock a second time would find our own.
        key = folder.name.rpartition(".")[0]
        if key == ours:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with contextlib.suppress(OSError), open(lock_file(key), "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)


def build(ours: Recipe, result: Path) -> None:
    """Build a kernel into the folder `result`, which appears complete or not at all."""
    builds = cache_home() / "build"
    builds.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=builds, prefix=f"{result.name}."))
    log = cache_home() / "build.log"
    log.unlink(missing_ok=True)
    try:
        make = Make(log)
        say(f"unpacking {ours.source.tarball.name}")
        tree = unpack(ours.source, work, make)
        output = work / "output"
        configure(tree, output, ours.fragments, make)
        say(f"building Linux {ours.title} (once; 4 to 7 minutes on 2 CPUs; log: {log})")
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        make.run_with_progress([*make_in(tree, output), jobs, "bzImage", "modules"], OBJECTS)
        check_config(ours.fragments, output)
        stage = work / "stage"
        install(tree, output, stage, make)
        result.parent.mkdir(parents=True, exist_ok=True)
        stage.rename(result)
        say(f"kernel ready: {result}")
    except MakeError as error:
        raise KernelError(str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(source: Source, folder: Path, make: Make) -> Path:
    """Unpack the source into a folder; returns the tree."""
    tree = folder / "source"
    tree.mkdir()
    make.run(["tar", "-xf", str(source.tarball), "-C", str(tree), "--strip-components=1"])
    return tree


def configure(tree: Path, output: Path, fragments: Sequence[Path], make: Make) -> None:
    """`make tinyconfig` plus the fragments, of which every option must survive."""
    output.mkdir()
    make.run([*make_in(tree, output), "tinyconfig"])
    merge = ["sh", str(tree / "scripts/kconfig/merge_config.sh"), "-m", "-O", str(output)]
    make.run([*merge, str(output / ".config"), *map(str, fragments)])
    make.run([*make_in(tree, output), "olddefconfig"])
    check_config(fragments, output)


def make_in(tree: Path, output: Path) -> list[str]:
    """The beginning of every make command."""
    return ["make", "-C", str(tree), f"O={output}", "ARCH=x86"]


def check_config(fragments: Sequence[Path], output: Path) -> None:
    """KernelError naming every option of the fragments that is not in the kernel's .config."""
    config = (output / ".config").read_text()
    for fragment in fragments:
        if lost := lost_options(fragment.read_text(), config):
            raise KernelError(
                f"the kernel's configuration lost what {fragment} asks for: {', '.join(lost)}\n"
                "An option is lost when this kernel does not have it, or when something that it depends on is missing."
            )


def lost_options(fragment: str, config: str) -> list[str]:
    """The lines of a fragment that a .config does not fulfil."""
    lines = set(config.split("\n"))
    enabled = {line.partition("=")[0] for line in lines if line.startswith("CONFIG_")}
    lost = []
    for line in (line.strip() for line in fragment.split("\n")):
        if match := re.match(r"# (CONFIG_\w+) is not set$", line):
            # A kernel without the option fulfils this too.
            if match[1] in enabled:
                lost.append(f"{match[1]} (to be off)")
        elif line.startswith("CONFIG_") and line not in lines:
            lost.append(line)
    return lost


def install(tree: Path, output: Path, stage: Path, make: Make) -> None:
    """Copy what is worth keeping of a build: 30 MB of 2 GB."""
    (stage / "boot").mkdir(parents=True)
    version = (output / "include/config/kernel.release").read_text().strip()
    shutil.copyfile(output / IMAGE, stage / "boot" / f"vmlinuz-{version}")
    shutil.copyfile(output / ".config", stage / "boot" / f"config-{version}")
    make.run([*make_in(tree, output), f"INSTALL_MOD_PATH={stage}", "INSTALL_MOD_STRIP=1", "modules_install"])
    modules = stage / "lib/modules" / version
    if not (modules / "modules.dep").exists():
        raise KernelError("depmod did not run: the package kmod is missing")
    (modules / "build").unlink(missing_ok=True)
    script = "scripts/package/install-extmod-build"
    if (tree / script).exists():
        command = f"KBUILD_RUN_COMMAND=$(srctree)/{script} {stage / 'extmod'}"
        make.run([*make_in(tree, output), "run-command", command])
    else:
        install_extmod(tree, output, stage / "extmod")
    (modules / "build").symlink_to("../../../extmod")


def install_extmod(tree: Path, output: Path, extmod: Path) -> None:
    """What install-extmod-build does, for Linux 6.1, where scripts/package/builddeb does it (deploy_kernel_headers)."""
    # What was generated or compiled lies in the output, under the same names.
    for root in (tree, output):
        for name in ("include", "scripts", "arch/x86/include"):
            shutil.copytree(root / name, extmod / name, symlinks=True, dirs_exist_ok=True)
    for path in [tree / "Makefile", *tree.glob("arch/x86/Makefile*")]:
        shutil.copyfile(path, extmod / path.relative_to(tree))
    for name in (".config", "Module.symvers", "tools/objtool/objtool"):
        # No objtool is made for a kernel that does not need it.
        if (output / name).exists():
            (extmod / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(output / name, extmod / name)


def find(kernel: str | None) -> Kernel:
    """The kernel that --kernel names: by its version, as the debug kernel, or by its path; ours if it names none.

    Raises:
        KernelError: there is no such kernel, nor can one be built.
    """
    if kernel is None or kernel == DEBUG or VERSION.fullmatch(kernel):
        return ensure(kernel or KERNEL)
    if not os.path.lexists(kernel):
        raise KernelError(f"{kernel}: No such file or folder, nor a version; known are {', '.join(known_kernels())}")
    return from_path(Path(kernel))


def from_path(path: Path) -> Kernel:
    """An image, or a tree in which one has been built.

    Raises:
        KernelError: it is neither.
    """
    path = path.resolve()
    if not path.is_dir():
        version = image_version(path)
        # As virtme-ng does it: an image in ROOT/boot has its modules in ROOT/lib/modules.
        for root in path.parents:
            if (modules := root / "lib/modules" / version).is_dir():
                return Kernel(path, version, modules)
        return Kernel(path, version)
    if kernel := in_cache(path):
        return kernel
    image = path / IMAGE
    if not image.exists():
        raise KernelError(f"{path} is no kernel build tree: it has no {IMAGE}")
    version = image_version(image)
    if not (path / "modules.order").exists():
        return Kernel(image, version)
    return Kernel(image, version, tree_modules(path, version), path)


def tree_modules(tree: Path, version: str) -> Path:
    """The modules of a build tree, installed into the cache; again whenever the tree has been built again."""
    stat = (tree / IMAGE).stat()
    order = (tree / "modules.order").stat()
    state = f"{tree} {stat.st_mtime_ns} {stat.st_size} {order.st_mtime_ns}"
    folder = cache_home() / "trees" / digest(state)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
        try:
            say(f"installing the modules of {tree}")
            make = Make(cache_home() / "build.log")
            make.run(["make", "-C", str(tree), f"INSTALL_MOD_PATH={stage}", "INSTALL_MOD_STRIP=1", "modules_install"])
            with contextlib.suppress(OSError):
                stage.rename(folder)
        except MakeError as error:
            raise KernelError(str(error)) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return folder / "lib/modules" / version


def image_version(path: Path) -> str:
    """The version in an image's header (Documentation/arch/x86/boot.rst).

    Raises:
        KernelError: it is no x86 kernel image, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}") from error
    if head[0x202:0x206] != b"HdrS":
        raise KernelError(f"{path} is no x86 kernel image (bzImage)")
    start = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    words = head[start : start + 256].split(b"\0")[0].decode("ascii", "replace").split()
    return words[0] if words else "unknown"


def supported() -> None:
    """KernelError where the guest cannot run at all."""
    if platform.machine() != "x86_64":
        raise KernelError(f"the VM is for x86-64 hosts, and this is {platform.machine()}")
