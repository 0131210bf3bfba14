"""What a fresh machine lacks for the VM, and how it gets it.

``vm/run`` loads this file by its path, before anything is installed: standard library only, nothing of this package.
What is missing is found by looking for the thing itself (a program, a header), so that any distribution will do; only
the installing is Debian's and Ubuntu's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

EX_UNAVAILABLE = 69
CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
STAMP = VENV / ".linuxsync-stamp"
LOG = CHECKOUT / "build" / "venv.log"
OS_RELEASE = Path("/etc/os-release")
SOURCES = Path("/usr/src")
# The guest's kernel, and the oldest that the tests are run on.
KERNEL = "6.12"
OLDEST = "6.1"
# The first of them once more, with the kernel's own detectors of mistakes on.
DEBUG = "debug"
# What --kernel takes for a version, and not for a path.
VERSION = re.compile(r"\d+(?:\.\d+)+")

USAGE = """\
Usage: vm/run [OPTIONS] COMMAND [ARGS]...
       vm/run [OPTIONS] -- CMD...

Run something in a small Linux guest in which every fence, buffer and tracepoint is real. The first use sets up what is
missing (apt packages, after asking; .venv; a kernel, built once in 4 to 7 minutes); later ones start at once.

Commands:
  demo              a short story told by real fences
  demo pipeline     120 frames from one process's buffers on another's screen; ARGS as in demo pipeline --help
  demo coherence    which bytes the CPU and a device see after which sync, in a guest with --incoherent and one without
  test [ARGS]       pytest: tests/host here and tests/vm in the guest. Without ARGS both run at the same time, and what
                    the guest's say comes last; paths choose the phases, other ARGS go to both, and --kernel may stand
                    here too. All of tests/host takes Linux 6.1 and the debug kernel as well, which are built before the
                    first test
  matrix [ARGS]     tests/vm on Linux 6.12 and 6.1, or on each --kernel that stands behind the word; ARGS are pytest's.
                    Then a table of what each offers, as found by asking it, and how the tests went; --json is the same
                    as data. What a kernel lacks is "unsupported", and the tests of it are left out there
  torture [--minutes N] [ARGS]  tests/torture on the debug kernel: faults injected into every operation, random programs
                    against models, storms, kills; and before that parsers fuzzed and native/ with sanitizers, here, and
                    in the guest what commands may write; for about N minutes, or a short round. ARGS are pytest's; with
                    -k or paths only what these choose of tests/torture
  shell             a root shell in the guest
  bench [ARGS]      the benchmarks; --json FILE writes the numbers to a file, --check fails where a target is missed
  kernel            build the kernel if need be, and print the path of its image; kernel list and kernel prune say which
                    were built, and remove those that are out of date
  -- CMD...         run CMD in the guest: its stdin, stdout, stderr and exit status are those of vm/run

Options:
  --kernel VERSION  boot this Linux instead of 6.12, built once from the package linux-source-VERSION: 6.1 is tested
  --kernel debug    boot 6.12 with KASAN, lockdep and the kernel's other detectors on, and with fault injection: any
                    report of theirs is a lost guest. Everything takes a few times as long
  --kernel PATH     boot this bzImage, or the one in this kernel build tree; one that is called 6.1 is ./6.1
  --kvm, --no-kvm   use KVM, or QEMU's emulation; without either, KVM is tried once and the answer remembered
  --timeout SECONDS the longest that the guest may run, boot included [default: 1800, or 7200 for test, matrix and
                    --kernel debug, and at least half an hour more than the minutes of torture; not for an interactive
                    shell]
  --rw PATH         a folder that the guest may write; may be repeated. "--rw ." is the checkout, if you are in it
  --cpus N          virtual CPUs [default: 2]
  --memory SIZE     the guest's memory [default: 1G]
  --incoherent      devices see what the CPU wrote to a dma-buf, and the CPU what they wrote, only after
                    DMA_BUF_IOCTL_SYNC (swiotlb=force): a program that forgets it works on x86 and fails here.
                    For buffers of the heaps: udmabuf and GEM sync no device, so theirs stay out of date there, and
                    what is larger than 256 KiB in one piece can't be mapped for a device (EIO)
  --append ARG      one more kernel argument; may be repeated
  --device DEVICE   one more device, as QEMU's -device takes it; may be repeated
  --env NAME[=VALUE]  a variable for CMD; may be repeated
  --yes             install missing packages without asking; so does a CI variable in the environment
  -q, --quiet       nothing on stderr that is not the command's, unless something is wrong
  -h, --help        this text

The guest sees the host's files as they are, read-only, but has /run, /dev/shm, /var/tmp, /var/log and /var/cache of its
own; its /tmp starts as a copy of the host's that is thrown away. CMD runs as root in the same working directory, with
.venv/bin first in PATH, and gets PATH, HOME, LANG, LC_*, TERM, CI, PYTHON* and LINUXSYNC_* of the environment, and
LINUXSYNC_VM=1. vgem,
vkms and fencedev are loaded, virtio-gpu is there, debugfs and tracefs are mounted, and there is no network.

Exit status: that of the command; 69 when there is no guest, when it did not come up, when its kernel panicked or oopsed
(even if the command succeeded), or when the time was up: the console's last lines and the whole log's path are then on
stderr. A warning of the guest's kernel (WARN_ON) is shown on stderr and leaves the status as it is; with --kernel debug
that is 69, too. In tests a warning fails the test in which it came.

Examples:
  vm/run demo
  vm/run test -k merge
  vm/run test tests/vm/test_sw_sync.py
  vm/run --kernel 6.1 test tests/vm/test_fencedev.py
  vm/run -- python -c 'from linuxsync import *; t = Timeline("mine"); print(t.create_fence(1).info())'
  vm/run -- sh -c 'cat /sys/kernel/debug/sync/info; dmesg' > log
  echo 'print(6 * 7)' | vm/run -- python -
  vm/run --rw . -- python -m pytest --junitxml=out.xml tests/vm
  vm/run --incoherent -- ./test-of-yours
  vm/run --kernel ~/linux --append loglevel=7 --timeout 60 -- dmesg
"""


class UnavailableError(Exception):
    """The set-up cannot be completed; the message says what is missing and how to get it."""


def say(text: str) -> None:
    """One line about what is going on."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Need:
    """Something that has to be on the machine.

    Attributes:
        what: as one would look for it on any distribution.
        present: whether it is there.
        packages: how it is called there: ID of os-release to package. "debian" is for Ubuntu too.
        only_to_build_kernel: not needed with --kernel PATH.
        only_to_test: needed by the tests alone.
        only_of_checkout: not needed by a package that is installed.
    """

    what: str
    present: Callable[[], bool]
    packages: dict[str, str]
    only_to_build_kernel: bool = False
    only_to_test: bool = False
    only_of_checkout: bool = False


def named(debian: str, fedora: str | None = None, arch: str | None = None) -> dict[str, str]:
    """Package names; where the others are not given, they are the same."""
    return {"debian": debian, "fedora": fedora or debian, "arch": arch or debian}


def program(name: str) -> Callable[[], bool]:
    """Whether a program is installed, also where an ordinary user's PATH does not lead."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return lambda: shutil.which(name, path=path) is not None


def header(name: str) -> Callable[[], bool]:
    """Whether a C header is installed."""
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    folders = [Path("/usr/include"), Path("/usr/include") / triplet, Path("/usr/local/include")]
    return lambda: any((folder / name).exists() for folder in folders)


def python_needs() -> list[Need]:
    """What this Python needs for building an extension module in a virtual environment."""
    own = Path(sys.base_prefix) == Path("/usr")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    # A Python that does not come from the distribution gets nothing from its packages.
    dev = named(f"python{version}-dev", "python3-devel", "python") if own else {}
    venv = named(f"python{version}-venv", "python3", "python") if own else {}
    return [
        Need(f"the C headers of {sys.executable} ({headers})", headers.exists, dev, only_of_checkout=True),
        Need(
            f"the module ensurepip of {sys.executable}",
            lambda: importlib.util.find_spec("ensurepip") is not None,
            venv,
            only_of_checkout=True,
        ),
    ]


def sources(folder: Path = SOURCES) -> dict[str, Path]:
    """The packed kernel sources that are installed, by version."""
    found = {}
    for pattern in ("linux-source-*.tar.*", "linux-source-*/linux-source-*.tar.*"):
        for path in folder.glob(pattern):
            if match := re.fullmatch(rf"linux-source-({VERSION.pattern})\.tar\.(?:xz|bz2|gz|zst)", path.name):
                found[match[1]] = path
    return found


def known_kernels(folder: Path = SOURCES) -> list[str]:
    """What ``--kernel`` takes but for paths: what is tested, and the versions whose source is installed."""
    return list(dict.fromkeys([KERNEL, OLDEST, DEBUG, *sorted(sources(folder))]))


def choose(versions: Iterable[str], wanted: str) -> str | None:
    """The wanted one of some versions; in place of the guest's usual kernel also the newest, but not the oldest."""
    versions = [v for v in versions if v == wanted or (wanted == KERNEL and v != OLDEST)]
    return max(versions, key=lambda v: (v == wanted, [int(n) for n in v.split(".")]), default=None)


def source_need(version: str) -> Need:
    """The packed source of a kernel."""
    file = SOURCES / f"linux-source-{version}.tar.xz"
    instead = "give --kernel PATH" if version == KERNEL else "put kernel.org's there"
    if version not in (known := known_kernels()):
        instead += f", or take one that is known: {', '.join(known)}"
    return Need(
        f"the source of Linux {version}, packed, as {file} (or {instead})",
        lambda: choose(sources(), version) is not None,
        {"debian": f"linux-source-{version}"},
        only_to_build_kernel=True,
    )


def needs(versions: Sequence[str]) -> list[Need]:
    """Everything, in the order in which it is used, with the sources of these kernels."""
    return [
        Need("the program gcc", program("gcc"), named("gcc")),
        Need("the C library's headers (stdio.h)", header("stdio.h"), named("libc6-dev", "glibc-devel", "glibc")),
        Need(
            "the kernel's headers (linux/sync_file.h)",
            header("linux/sync_file.h"),
            named("linux-libc-dev", "kernel-headers", "linux-api-headers"),
        ),
        *python_needs(),
        Need("the program qemu-system-x86_64", program("qemu-system-x86_64"), named("qemu-system-x86")),
        Need("the program udevadm, and udevd", program("udevadm"), named("udev", "systemd-udev", "systemd")),
        Need("the programs modprobe and depmod", program("depmod"), named("kmod")),
        Need("the program setpriv", program("setpriv"), named("util-linux")),
        Need("the program file", program("file"), named("file")),
        Need("the shell zsh", program("zsh"), named("zsh"), only_to_test=True),
        Need("the shell fish", program("fish"), named("fish"), only_to_test=True),
        Need("the program mandoc", program("mandoc"), named("mandoc"), only_to_test=True),
        Need("the program groff", program("groff"), named("groff"), only_to_test=True),
        Need("the program shellcheck", program("shellcheck"), named("shellcheck", "ShellCheck"), only_to_test=True),
        Need("the program strace", program("strace"), named("strace"), only_to_test=True),
        Need(
            "a debug build of Python (python3-dbg)",
            lambda: any(program(name)() for name in ("python3-dbg", "python3-debug")),
            {"debian": "python3-dbg", "fedora": "python3-debug"},
            only_to_test=True,
        ),
        Need("the program dot", program("dot"), named("graphviz"), only_to_test=True),
        Need("the browser chromium", program("chromium"), named("chromium"), only_to_test=True),
        Need(
            "libdrm's headers (xf86drm.h)", header("xf86drm.h"), named("libdrm-dev", arch="libdrm"), only_to_test=True
        ),
        *[
            Need(f"the program {name}", program(name), named(package), only_to_build_kernel=True)
            for name, package in (
                ("make", "make"),
                ("flex", "flex"),
                ("bison", "bison"),
                ("bc", "bc"),
                ("xz", "xz-utils"),
            )
        ],
        Need(
            "libelf's headers (gelf.h)",
            header("gelf.h"),
            named("libelf-dev", "elfutils-libelf-devel", "libelf"),
            only_to_build_kernel=True,
        ),
        *[source_need(version) for version in versions],
    ]


def distribution(os_release: Path = OS_RELEASE) -> str:
    """Which of the package names hold here: debian, fedora, arch, or another ID for which we know none."""
    try:
        text = os_release.read_text()
    except OSError:
        return "unknown"
    values: dict[str, str] = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)"?$', text, re.MULTILINE))
    words = [values.get("ID", "unknown"), *values.get("ID_LIKE", "").split()]
    known: list[str] = [word for word in words if word in ("debian", "fedora", "arch")]
    return known[0] if known else words[0]


def become_root() -> list[str] | None:
    """What to put before a command so that it runs as root; None where there is no way."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    # Without a terminal nobody can type a password.
    return ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]


def explain(missing: Sequence[Need], where: str, why: str) -> str:
    """What is missing and how to get it, for a person."""
    lines = [f"{why}, and this is missing:"]
    lines += [f"  - {need.what}" for need in missing]
    packages = " ".join(packages_of(missing, where))
    install = {"debian": "apt-get install --no-install-recommends", "fedora": "dnf install", "arch": "pacman -S"}.get(
        where
    )
    if packages and install:
        lines.append(f"To get it, as root: {install} {packages}")
    if others := [need for need in missing if where not in need.packages]:
        lines.append(f"No package of this distribution is known here for: {'; '.join(need.what for need in others)}")
    return "\n".join(lines)


def packages_of(missing: Iterable[Need], where: str) -> list[str]:
    """The packages that provide it, each once."""
    return list(dict.fromkeys(need.packages[where] for need in missing if where in need.packages))


def install_packages(missing: Sequence[Need], yes: bool, os_release: Path = OS_RELEASE) -> None:
    """Install what is missing, or raise UnavailableError with the exact list."""
    where = distribution(os_release)
    if where != "debian":
        raise UnavailableError(explain(missing, where, "packages can be installed from here on Debian and Ubuntu only"))
    root = become_root()
    if root is None:
        raise UnavailableError(explain(missing, where, "installing packages takes root or sudo"))
    if any(where not in need.packages for need in missing):
        raise UnavailableError(explain(missing, where, "packages do not provide all that is needed"))
    packages = packages_of(missing, where)
    command = ["apt-get", "install", "--yes", "--no-install-recommends"]
    if not yes:
        if not sys.stdin.isatty():
            raise UnavailableError(explain(missing, where, "there is no terminal to ask on, nor --yes"))
        say("missing: " + "; ".join(need.what for need in missing))
        if input(f"vm: install {' '.join(packages)} with apt-get? [Y/n] ").strip().lower() not in ("", "y", "yes"):
            raise UnavailableError(explain(missing, where, "installing was declined"))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # sudo drops the environment, env does not.
    prefix = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    say("apt-get update")
    # A repository that is down need not be one that is used.
    subprocess.run([*prefix, "apt-get", "-qq", "update"], env=env, stdout=sys.stderr, check=False)
    chosen = {name: source_package(name) if name.startswith("linux-source-") else name for name in packages}
    if unknown := [replace(need, packages={}) for need in missing if not chosen[need.packages[where]]]:
        raise UnavailableError(explain(unknown, where, "apt knows no such package"))
    packages = [name for name in chosen.values() if name]
    say(f"apt-get install {' '.join(packages)}")
    done = subprocess.run([*prefix, *command, "-qq", *packages], env=env, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise UnavailableError(explain(missing, where, "apt-get failed"))
    importlib.invalidate_caches()


def source_package(wanted: str) -> str | None:
    """The package with the source of a kernel, or of one that can take its place; None if apt knows of none."""
    prefix = "linux-source-"
    found = subprocess.run(["apt-cache", "pkgnames", prefix], capture_output=True, text=True, check=False).stdout
    versions: list[str] = re.findall(rf"^{prefix}({VERSION.pattern})$", found, re.MULTILINE)
    chosen = choose(versions, wanted.removeprefix(prefix))
    return chosen and prefix + chosen


def is_ci() -> bool:
    """Whether nobody is there to be asked."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def check_machine(versions: Sequence[str], yes: bool, testing: bool = False, of_checkout: bool = True) -> None:
    """Make sure that everything is installed, also for building the kernels of these versions and for the tests.

    Raises:
        UnavailableError: something is missing, and can't be installed or shall not be.
    """

    def missing() -> list[Need]:
        return [
            need
            for need in needs(versions)
            if (versions or not need.only_to_build_kernel)
            and (testing or not need.only_to_test)
            and (of_checkout or not need.only_of_checkout)
            and not need.present()
        ]

    if first := missing():
        install_packages(first, yes)
        if still := missing():
            raise UnavailableError(explain(still, distribution(), "the packages were installed"))


def inputs_hash() -> str:
    """Changes with everything that the installed package in .venv is made from."""
    total = hashlib.sha256()
    files = [CHECKOUT / "setup.py", CHECKOUT / "pyproject.toml", *sorted((CHECKOUT / "native").rglob("*"))]
    for file in files:
        if file.is_file() and file.suffix not in (".so", ".c", ".pyc"):
            total.update(f"\n{file.relative_to(CHECKOUT)}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()


def check_venv() -> None:
    """Make sure that .venv holds the package as the checkout has it."""
    wanted = wanted_stamp()
    if read_stamp() == wanted:
        return
    # The lock goes with the process, whatever ends it.
    folder = os.open(CHECKOUT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        stamp = read_stamp()
        if stamp == wanted:
            return
        LOG.parent.mkdir(exist_ok=True)
        LOG.unlink(missing_ok=True)
        # Without a stamp an earlier set-up was interrupted, and nothing in the folder can be trusted.
        if stamp is None or not stamp.startswith(f"{python_identity()}\n"):
            # From within .venv: the Python that it was made with, for this one is about to be removed.
            python = getattr(sys, "_base_executable", sys.executable)
            step("making .venv", [python, "-m", "venv", "--clear", str(VENV)])
        STAMP.unlink(missing_ok=True)
        pip = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
        step("installing linuxsync and what it needs into .venv", [*pip, "-e", f"{CHECKOUT}[vm,test]"])
        STAMP.write_text(wanted)
    finally:
        os.close(folder)


def python_identity() -> str:
    """Which Python a .venv belongs to, and where it is.

    An update that keeps the binary interface is the same Python, but a checkout that was copied or moved has a .venv
    full of paths into the old place.
    """
    return f"{sys.implementation.cache_tag} {sys.base_prefix} {VENV}"


def wanted_stamp() -> str:
    """What .venv has to be made from, to be this checkout's."""
    return f"{python_identity()}\n{inputs_hash()}\n"


def read_stamp() -> str | None:
    """What .venv was made from, if it was completed."""
    try:
        return STAMP.read_text()
    except OSError:
        return None


def step(what: str, command: Sequence[str]) -> None:
    """Run one step with its output in a log, saying what it is and that it is alive."""
    say(what)
    terminal = sys.stderr.isatty()
    # Nothing goes on behind the back of a set-up that was killed.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    started = told = time.monotonic()
    with (
        open(LOG, "ab") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=CHECKOUT) as process,
    ):
        while True:
            try:
                status = process.wait(1 if terminal else 5)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if terminal:
                    print(f"\rvm: {now - started:.0f} s ", end="", file=sys.stderr, flush=True)
                elif now - told >= 30:
                    told = now
                    say(f"{what}: {now - started:.0f} s")
            except BaseException:
                process.terminate()
                raise
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if status != 0:
        tail = "\n".join(LOG.read_text(errors="replace").rstrip().split("\n")[-30:])
        raise UnavailableError(f"{what} failed with status {status}:\n{tail}\nThe whole log: {LOG}")


COMMANDS = ("demo", "test", "matrix", "torture", "shell", "bench", "kernel", "--")
EXAMPLES = (["pipeline"], ["coherence"])  # demos that have a help of their own
# The options that have a value, so that the command behind them is found.
VALUED = ("--kernel", "--timeout", "--rw", "--cpus", "--memory", "--append", "--device", "--env")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options, and the command with its arguments."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "--":
        at += 2 if arguments[at] in VALUED else 1
    return list(arguments[:at]), list(arguments[at:])


def oldest_is_tested(os_release: Path = OS_RELEASE) -> bool:
    """Whether the oldest kernel can be had here: its source is installed, or in Debian 12, to which it belongs."""
    with contextlib.suppress(OSError):
        if re.search(r"^VERSION_CODENAME=.?bookworm", os_release.read_text(), re.MULTILINE):
            return True
    return OLDEST in sources()


def all_host_tests(arguments: Sequence[str]) -> bool:
    """Whether these arguments of ``test`` are for all of tests/host, which needs the oldest kernel too."""
    if any(word.startswith(("-k", "-m", "--lf", "--ff")) for word in arguments):
        return False  # a few of them; whichever needs it builds it
    words = [word.split("::")[0] for word in arguments if not word.startswith("-")]
    named = [path for word in words if word for path in (Path(word), CHECKOUT / word) if path.exists()]
    return not named or any((CHECKOUT / "tests/host").is_relative_to(path.resolve()) for path in named)


def named_kernels(words: Sequence[str]) -> list[str]:
    """What --kernel has been given, in its order."""
    found = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == "--kernel":
            found.append(following)
        elif word.startswith("--kernel="):
            found.append(word.partition("=")[2])
    return found


def version_of(kernel: str) -> str:
    """The version of a kernel that --kernel names, whose source it is built from."""
    return KERNEL if kernel == DEBUG else kernel


def kernel_versions(options: Sequence[str], command: Sequence[str]) -> list[str]:
    """The versions of the kernels that this run boots and that are ours to build."""
    chosen = named_kernels(options)[-1:] or [DEBUG if command[:1] == ["torture"] else KERNEL]
    if command[:1] == ["matrix"]:
        chosen = named_kernels(command[1:]) or named_kernels(options)[-1:] or [KERNEL, OLDEST]
    elif command[:1] in (["test"], ["torture"]):
        chosen = named_kernels(command[1:])[-1:] or chosen
    versions = [version for version in map(version_of, chosen) if VERSION.fullmatch(version)]
    words = [word for before, word in itertools.pairwise(command) if before != "--kernel"]
    if command[:1] == ["test"] and all_host_tests(words):
        versions += [KERNEL, OLDEST] if oldest_is_tested() else [KERNEL]
    return list(dict.fromkeys(versions))


def main(arguments: Sequence[str]) -> int:
    """Set up what is missing, then become ``python -m linuxsync.vm``."""
    options, command = split(arguments)
    wants_help = {"-h", "--help"}
    ours = command[:1] in ([name] for name in ("shell", "kernel", "torture"))
    ours = ours or (command[:1] == ["demo"] and command[1:2] not in EXAMPLES)
    if wants_help & set(options) or (ours and wants_help & set(command)):
        print(USAGE, end="")
        return 0
    if not command:
        print(USAGE, end="", file=sys.stderr)
        return 2
    if command[0] not in COMMANDS:
        say(f"no such command: {command[0]}; there are {', '.join(COMMANDS)} (vm/run --help)")
        return 2
    yes = "--yes" in options or is_ci()
    try:
        check_machine(kernel_versions(options, command), yes, testing=command[0] in ("test", "matrix", "torture"))
        check_venv()
    except (UnavailableError, OSError) as error:
        say(str(error))
        return EX_UNAVAILABLE
    except KeyboardInterrupt:
        return 130
    return hand_over(arguments)


def hand_over(arguments: Sequence[str]) -> NoReturn:
    """Become the program that was set up, isolated: a module that lies in the working directory is not ours."""
    python = str(VENV / "bin/python")
    os.execv(python, [python, "-I", "-m", "linuxsync.vm", *arguments])
