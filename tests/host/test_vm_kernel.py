"""How the guest's kernel is configured, built, cached and found, with the real source and the real make."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels
from linuxsync.vm.bootstrap import KERNEL, OLDEST
from linuxsync.vm.make import OBJECT, Make
from processes import assert_nothing_left, processes_of

LIMIT = 600.0


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The part of the kernel's source that its configuration is made from, unpacked once."""
    folder = tmp_path_factory.mktemp("kernel")
    command = ["tar", "-xf", str(kernels.find_source().tarball), "-C", str(folder), "--strip-components=1"]
    parts = ["*/Kconfig*", "*/Makefile*", "*/Kbuild*", "*/scripts/*", "*/configs/*"]
    subprocess.run([*command, "--wildcards", *parts], check=True, timeout=LIMIT)
    yield folder
    # pytest keeps the folders of three sessions.
    shutil.rmtree(folder)


def test_option_that_cannot_survive_is_named(tree: Path, tmp_path: Path) -> None:
    fragment = tmp_path / "fragment"
    # The first does not exist, the second depends on 32-bit, the third is selected by DRM.
    extra = "CONFIG_NO_SUCH_OPTION=y\nCONFIG_X86_32=y\n# CONFIG_DMA_SHARED_BUFFER is not set\n"
    fragment.write_text(kernels.FRAGMENT.read_text() + extra)
    with pytest.raises(kernels.KernelError) as error:
        kernels.configure(tree, tmp_path / "output", [fragment], Make(tmp_path / "log"))
    lost = "CONFIG_NO_SUCH_OPTION=y, CONFIG_X86_32=y, CONFIG_DMA_SHARED_BUFFER (to be off)"
    assert f"lost what {fragment} asks for: {lost}\n" in str(error.value)
    # Ours survives in the same tree, or every option of it would be in the list.
    assert kernels.lost_options(kernels.FRAGMENT.read_text(), (tmp_path / "output/.config").read_text()) == []


def test_lost_options() -> None:
    config = "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=64\n"
    assert kernels.lost_options("CONFIG_A=y\n# a comment\n\nCONFIG_D=64\n# CONFIG_C is not set\n", config) == []
    assert kernels.lost_options("# CONFIG_UNKNOWN is not set\n", config) == []
    assert kernels.lost_options("CONFIG_B=y\nCONFIG_C=y\n# CONFIG_A is not set\nCONFIG_D=6\n", config) == [
        "CONFIG_B=y",
        "CONFIG_C=y",
        "CONFIG_A (to be off)",
        "CONFIG_D=6",
    ]


def test_key_follows_everything_the_kernel_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball, fragment = tmp_path / "linux-source-6.12.tar.xz", tmp_path / "fragment"
    tarball.write_bytes(b"one")
    fragment.write_text("CONFIG_A=y\n")
    ours = kernels.Recipe("6.12", kernels.Source(tarball, "6.12"), (fragment,))
    keys = [ours.key, ours.key]
    assert keys[0] == keys[1]
    fragment.write_text("CONFIG_A=m\n")
    keys.append(ours.key)
    tarball.write_bytes(b"other")
    keys.append(ours.key)
    (tmp_path / "gcc").write_text("#!/bin/sh\necho gcc 99\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    keys.append(ours.key)
    keys.append(replace(ours, fragments=(fragment, fragment)).key)
    assert len(set(keys)) == 5
    assert all(re.fullmatch(r"6\.12-[0-9a-f]{16}", key) for key in keys)


def test_source_of_the_wanted_version_or_the_newest(tmp_path: Path) -> None:
    with pytest.raises(kernels.KernelError, match=r"no source of Linux 6\.12 in .*the package linux-source-6\.12"):
        kernels.find_source(tmp_path)
    # This one is for who asks for it: where it is the only one, the guest's usual kernel is still to be installed.
    (tmp_path / "linux-source-6.1.tar.xz").touch()
    assert kernels.find_source(tmp_path, "6.1").version == "6.1"
    with pytest.raises(kernels.KernelError):
        kernels.find_source(tmp_path)
    # As on Ubuntu: in a folder of its own.
    (tmp_path / "linux-source-6.8.0").mkdir()
    (tmp_path / "linux-source-6.8.0/linux-source-6.8.0.tar.bz2").touch()
    assert kernels.find_source(tmp_path).version == "6.8.0"
    (tmp_path / "linux-source-6.17.tar.xz").touch()
    assert kernels.find_source(tmp_path).version == "6.17"
    (tmp_path / "linux-source-6.12.tar.xz").touch()
    assert kernels.find_source(tmp_path).version == "6.12"
    assert kernels.find_source(tmp_path, "6.1").version == "6.1"
    known = r"or take one that is known: 6\.12, 6\.1, debug, 6\.17, 6\.8\.0$"
    with pytest.raises(kernels.KernelError, match=rf"no source of Linux 6\.2 in .*, {known}"):
        kernels.find_source(tmp_path, "6.2")


@pytest.mark.parametrize("version", [KERNEL, OLDEST])
def test_cached_kernel_is_complete_and_found_at_once(version: str) -> None:
    kernel = kernels.find(version)
    assert kernel.version.startswith(f"{version}.")
    start = time.monotonic()
    assert kernels.ensure(version) == kernel
    assert time.monotonic() - start < 30  # to build it takes minutes
    assert kernels.image_version(kernel.image) == kernel.version
    assert kernel.modules and kernel.extmod
    assert {path.stem for path in kernel.modules.rglob("*.ko")} >= {"vgem", "vkms"}
    assert (kernel.modules / "modules.dep").is_file()
    assert (kernel.modules / "build").resolve() == kernel.extmod.resolve()
    assert kernels.from_path(kernel.image) == kernels.Kernel(kernel.image, kernel.version, kernel.modules)
    assert kernels.from_path(kernel.image.parent.parent) == kernel


def test_path_that_looks_like_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ./ it is a path."""
    monkeypatch.chdir(tmp_path)
    Path("6.1").mkdir()
    assert kernels.find("6.1") == kernels.ensure("6.1")
    assert kernels.find(None) == kernels.ensure()
    with pytest.raises(kernels.KernelError, match=r"6\.1 is no kernel build tree"):
        kernels.find("./6.1")


def test_folder_that_is_no_kernel_tree(tmp_path: Path) -> None:
    with pytest.raises(kernels.KernelError, match="is no kernel build tree: it has no arch/x86/boot/bzImage"):
        kernels.from_path(tmp_path)
    with pytest.raises(kernels.KernelError, match="No such file"):
        kernels.from_path(tmp_path / "missing")


@pytest.mark.parametrize("name", ["debgu", "./6.1", "/nowhere/vmlinuz"])
def test_what_is_no_kernel_at_all(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who mistypes it is told what there is."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kernels.KernelError, match=rf"^{name}: No such file .* known are {KERNEL}, {OLDEST}\b"):
        kernels.find(name)


def test_progress_counts_objects() -> None:
    lines = [
        b"  CC      kernel/fork.o\n",
        b"  CC [M]  drivers/gpu/drm/vgem/vgem_drv.o\n",
        b"  AR      lib/built-in.a\n",
    ]
    assert all(OBJECT.match(line) for line in lines)
    assert not any(OBJECT.match(line) for line in [b"  GEN     Makefile\n", b"make[1]: Entering\n", b"CC was set\n"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "-m", "linuxsync.vm", "kernel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr
            assert b"unpacking linux-source-" in process.stderr.readline()
            if number == signal.SIGKILL:
                # The worst moment: make and its compilers are running.
                assert b"building Linux 6.12 (once" in process.stderr.readline()
            time.sleep(2)
            end = time.monotonic() + LIMIT
            while not processes_of(tmp_path):
                assert time.monotonic() < end
                time.sleep(0.01)
            process.send_signal(number)
            status = process.wait(LIMIT)
        finally:
            process.kill()
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert_nothing_left(tmp_path)
    cache = tmp_path / "linuxsync"
    assert [path.suffix for path in (cache / "kernels").iterdir()] == [".lock"]
    left = list((cache / "build").iterdir())
    assert len(left) == (1 if number == signal.SIGKILL else 0)
    if left:
        # The next build of the same kernel removes it.
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr
            assert b"unpacking linux-source-" in process.stderr.readline()
            assert not left[0].exists()
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 130


HOLDER = """
import sys, time
from pathlib import Path
from linuxsync.vm import kernel
folder = Path(sys.argv[1])
with kernel.build_lock(folder):
    print("locked", flush=True)
    sys.stdin.read()
    (folder / "boot").mkdir(parents=True)
    (folder / "boot" / "vmlinuz-1.2.3").touch()
"""


def test_second_builder_waits_and_uses_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = kernels.recipe(KERNEL).key
    folder = kernels.cache_home() / "kernels" / key
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdin=pipe, stdout=pipe) as first:
        assert first.stdin and first.stdout
        assert first.stdout.readline() == b"locked\n"
        # A build that somebody is at is no stale one.
        (tmp_path / "linuxsync/build" / f"{key}.abc").mkdir(parents=True)
        kernels.remove_stale_builds("another")
        assert (tmp_path / "linuxsync/build" / f"{key}.abc").exists()
        command = [sys.executable, "-m", "linuxsync.vm", "kernel"]
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as second:
            assert second.stdout and second.stderr
            assert second.stderr.readline() == "vm: another process is building this kernel; waiting for it\n"
            assert second.poll() is None
            first.stdin.close()
            assert second.stdout.read() == f"{folder}/boot/vmlinuz-1.2.3\n"
            assert second.wait(LIMIT) == 0
        assert first.wait(LIMIT) == 0
