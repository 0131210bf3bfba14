"""examples/client.c: its tests pass on this kernel, see what the kernel sees, and fail where something is wrong."""

import re
import subprocess

import pytest
from drm_words import nothing_left_behind
from example_words import EXAMPLES
from syncobj_words import there_are_syncobjs

from linuxsync import trace

SOURCE = (EXAMPLES / "client.c").read_text()
(COMMAND,) = re.findall(r"^ \*\t(cc .*)$", SOURCE, re.MULTILINE)  # as its head says


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that compiles a text as the program says that it is compiled, with warnings as errors."""

    def compiled(text=SOURCE):
        folder = tmp_path_factory.mktemp("client")
        (folder / "client.c").write_text(text)
        command = COMMAND.replace("examples/", "").split()
        subprocess.run([*command, "-Wextra", "-Werror"], cwd=folder, check=True, timeout=120)
        return str(folder / "client")

    return compiled


@pytest.fixture(scope="module")
def client(build):
    """The program."""
    return build()


def tap(program, *arguments):
    """Its exit status, and its results by number: whether it is ok, and what it is called."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "TAP version 13"
    results = [re.fullmatch(r"(not )?ok (\d+) - (.*)", line) for line in lines[1:] if not line.startswith("#")]
    if "Bail out!" in done.stdout:
        return done.returncode, lines[-1].partition(":")[0]
    assert lines[-1] == f"1..{len(results) - 1}"
    assert [int(result[2]) for result in results[:-1]] == list(range(1, len(results)))
    return done.returncode, [(not result[1], result[3]) for result in results[:-1]]


def test_it_passes(client):
    """Every test; what the kernel has not is skipped, and only that."""
    with nothing_left_behind():
        status, results = tap(client)
    assert status == 0
    assert all(passed for passed, _ in results)
    skipped = [name for _, name in results if "# SKIP" in name]
    if there_are_syncobjs():
        assert (len(results), skipped) == (24, [])
    else:
        assert (len(results), len(skipped)) == (17, 2)


def test_its_fence_is_the_kernels(client):
    """One fence of vgem was made by the program, and signaled by it."""
    with trace.recording() as recorded:
        assert tap(client)[0] == 0
    # The second writer's was made, too, before it was refused.
    fence, _ = [fence for fence in recorded.fences if fence.timeline.driver == "vgem"]
    assert fence.creator.comm == fence.signaler.comm == "client"
    assert fence.signal_ns > fence.init_ns


@pytest.mark.parametrize(
    ("what", "instead", "fails"),
    [
        ("memory[0] = 0xa5;", "memory[0] = 0;", "what was written through vgem is read through the dma-buf"),
        (
            "!drmIoctl(vgem, DRM_IOCTL_VGEM_FENCE_SIGNAL, &done)",
            "done.fence",
            "signaled, and poll on the sync_file returns",
        ),
    ],
)
def test_it_can_fail(what, instead, fails, build):
    """A step that is left out fails the test that is for it, and the exit status says so."""
    assert SOURCE.count(what) == 1
    status, results = tap(build(SOURCE.replace(what, instead)))
    assert status == 1
    assert (False, fails) in results


def test_without_a_device(build):
    """It says what is missing, and does not claim to have passed."""
    missing = SOURCE.replace('drmOpen("vkms", NULL)', 'drmOpen("none", NULL)')
    assert tap(build(missing)) == (1, "Bail out! vkms")


def test_help(client):
    """--help has an end of 0, everything else that it does not know one of 2."""
    for word, status in (("--help", 0), ("--what", 2)):
        done = subprocess.run([client, word], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout.partition(" ")[0]) == (status, "Usage:")
