"""pytest --linuxsync-vm for real: tests run in guests, and come back as if they had run here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from guest_runs import run
from linuxsync.vm import kernel as kernels

SUITE = '''
import ctypes
import fcntl
import os
import platform
import time

import pytest


class Array(ctypes.Structure):
    """``struct drm_syncobj_array``."""

    _fields_ = [("handles", ctypes.c_uint64), ("count", ctypes.c_uint32), ("pad", ctypes.c_uint32)]


def absurd(device, request=0xC01064C4):
    """Reset 2**31 syncobjs, for which the kernel has no memory: its allocator warns, once unless told to forget."""
    with open("/sys/kernel/debug/clear_warn_once", "w") as once:
        once.write("1")
    with pytest.raises(OSError, match="Cannot allocate memory"):
        fcntl.ioctl(device.fileno(), request, Array(0x1000, 2**31, 0))


def test_passes(sw_sync_timeline, tmp_path, record_property):
    record_property("kernel", platform.release())
    (tmp_path / "file").write_text("writable")
    assert os.environ["LINUXSYNC_VM"] and os.environ["PYTEST_OF_OURS"] == "told"
    with sw_sync_timeline.create_fence(1) as fence:
        sw_sync_timeline.inc()
        fence.wait(1)
    time.sleep(0.3)


class TestIt:
    def test_fails(self, sw_sync_timeline, fence_trace):
        print("this is", platform.release())
        with sw_sync_timeline.create_fence(3) as fence:
            assert fence.status == 1, "nobody came"


@pytest.mark.linuxsync(requires=["drm:amdgpu"])
def test_skips():
    pass


@pytest.mark.xfail(reason="not yet")
def test_fails_as_expected():
    assert not platform.release()


def test_makes_the_kernel_warn(syncobj_device):
    absurd(syncobj_device)


def test_makes_the_kernel_warn_and_gives_up(syncobj_device):
    absurd(syncobj_device)
    pytest.xfail("known")


def test_makes_the_kernel_warn_and_fails(syncobj_device):
    absurd(syncobj_device)
    pytest.fail("not as expected")


@pytest.mark.xfail(reason="not like this", strict=True)
def test_makes_the_kernel_warn_and_was_to_fail(syncobj_device):
    absurd(syncobj_device)


@pytest.mark.xfail(reason="not like this")
def test_makes_the_kernel_warn_and_fails_as_expected(syncobj_device):
    absurd(syncobj_device)
    assert not platform.release()


@pytest.mark.linuxsync(kernel_may_warn=True)
def test_may_make_the_kernel_warn(syncobj_device):
    absurd(syncobj_device)


def test_panics():
    with open("/proc/sys/kernel/sysrq", "w") as allowed:
        allowed.write("1")
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")
    time.sleep(100)


def test_after_that():
    pass


def test_last(request, syncobj_device):
    request.session.leftover = os.dup(syncobj_device.fileno())
'''

CONFTEST = '''
import os, struct, fcntl
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """The kernel warns when the last test is over."""
    if hasattr(session, "leftover"):
        with open("/sys/kernel/debug/clear_warn_once", "w") as once:
            once.write("1")
        try:
            fcntl.ioctl(session.leftover, 0xC01064C4, struct.pack("QII", 0x1000, 2**31, 0))
        except OSError:
            pass
'''


def test_as_if_local(project: Path, cache: Path, kernel: kernels.Kernel) -> None:
    """Outcomes, tracebacks, output, durations, JUnit, pages and the exit status; a panic costs one test its guest."""
    (project / "tests").mkdir()
    (project / "tests" / "test_suite.py").write_text(SUITE)
    (project / "conftest.py").write_text(CONFTEST)
    status, printed = run(project, cache, "-ra", "--durations=1", "--junitxml=out.xml", "tests")
    assert status == 1, printed
    assert "linuxsync: tests run in a guest (linuxsync vm)" in printed
    failed, suite = "FAILED tests/test_suite.py::", "tests/test_suite.py::"
    printed, _, summary = printed.partition("short test summary info")  # which repeats messages where there is a CI
    assert set(re.findall(rf"^{failed}(\S+)", summary, re.MULTILINE)) == {
        "TestIt::test_fails",
        "test_makes_the_kernel_warn",
        "test_makes_the_kernel_warn_and_gives_up",
        "test_makes_the_kernel_warn_and_fails",
        "test_makes_the_kernel_warn_and_was_to_fail",
        "test_makes_the_kernel_warn_and_fails_as_expected",
        "test_panics",
    }, printed
    assert re.search(r"^SKIPPED \[1\] tests/test_suite.py:\d+: needs drm:amdgpu: ", summary, re.MULTILINE)
    assert f"XFAIL {suite}test_fails_as_expected - not yet" in summary
    assert "7 failed, 4 passed, 1 skipped, 1 xfailed" in summary
    # A failure comes with its line, its rewritten assert and its output.
    assert '>           assert fence.status == 1, "nobody came"\nE           AssertionError: nobody came' in printed
    assert "E           assert 0 == 1\nE            +  where 0 = SyncFile(" in printed
    assert f"this is {kernel.version}" in printed
    assert re.search(r"slowest 1 durations =+\n\d+\.\d+s \w+ +tests/test_suite.py::", printed)
    # The page has come out of the guest.
    page = project / ".pytest_cache/d/linuxsync-traces/tests-test_suite.py.TestIt.test_fails.html"
    assert f"{page}\n" in printed
    assert page.read_text().lower().startswith("<!doctype html>")
    # The kernel's lines come with the test that ran, those of the last one's end with the run.
    alarm = r"the kernel warned during the test:\n\[ *\d+\.\d{6}\] -+\[ cut here \]-+\n\[.*WARNING: .*alloc_pages"
    assert len(re.findall(alarm, printed)) == 4
    assert "E       Failed: not as expected\n" in printed
    assert re.search(r"^-+ Captured kernel log call -+\n\[ *\d+\.\d{6}\] -+\[ cut here", printed, re.MULTILINE)
    late = r"= the kernel warned =+\nafter tests/test_suite.py::\w+, the last test here:\n.*cut here"
    assert re.search(late, printed)
    assert re.search(r"^_+ test_panics _+$", printed, re.MULTILINE)
    assert "the guest was lost while it ran tests/test_suite.py::test_panics\n" in printed
    assert "Kernel panic - not syncing: sysrq triggered crash" in printed
    cases = {case.get("name"): case for case in ET.parse(project / "out.xml").iter("testcase")}
    properties = {
        name: {one.get("name"): one.get("value") for one in case.iter("property")} for name, case in cases.items()
    }
    assert properties["test_passes"] == {"kernel": kernel.version}
    assert properties["test_fails"] == {"linuxsync_trace": str(page)}
    assert float(cases["test_passes"].get("time", "0")) > 0.3
    assert "nobody came" in ET.tostring(cases["test_fails"], encoding="unicode")


PAIR = """
import json, os, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_pair(name, record_property, sw_sync_timeline):
    record_property("boot", Path("/proc/sys/kernel/random/boot_id").read_text())
    record_property("version", os.uname().release)
    time.sleep(1)
"""


def test_two_guests(project: Path, cache: Path, kernel: kernels.Kernel) -> None:
    """-n 2 is two of them, which boot at once; options of the guest come from the ini file; -k and --lf choose."""
    (project / "test_pair.py").write_text(PAIR)
    (project / "pytest.ini").write_text("[pytest]\nlinuxsync_vm_options = --memory 512M\n")
    status, printed = run(project, cache, "-n", "2", "--junitxml=out.xml", "-k", "not d", "-v")
    assert status == 0, printed
    assert "linuxsync: tests run in 2 guests (linuxsync vm --memory 512M)" in printed
    assert "3 passed" in printed
    tree = ET.parse(project / "out.xml")
    found = {
        name: {one.get("value") for one in tree.iter("property") if one.get("name") == name}
        for name in ("boot", "version")
    }
    assert len(found["boot"]) == 2
    assert found["version"] == {kernel.version}


KNOWN = (
    SUITE.partition("def test_passes")[0]
    + """
def test_known(syncobj_device):
    absurd(syncobj_device)

def test_other(syncobj_device):
    absurd(syncobj_device, 0xC01064C5)

def test_known_and_other(syncobj_device):
    absurd(syncobj_device)
    absurd(syncobj_device, 0xC01064C5)
"""
)


def test_known_reports(project: Path, cache: Path) -> None:
    """What the ini names fails no test; another report does, also right behind it."""
    (project / "test_it.py").write_text(KNOWN)
    status, printed = run(project, cache, "-o", "linuxsync_kernel_log_ignore=[^?] drm_syncobj_reset_ioctl")
    assert status == pytest.ExitCode.TESTS_FAILED, printed
    summary = printed.rpartition("short test summary info")[2]
    assert re.findall(r"^FAILED test_it.py::(\w+)", summary, re.MULTILINE) == ["test_other", "test_known_and_other"]
    assert "  drm_syncobj_signal_ioctl+0x" in printed and "  drm_syncobj_reset_ioctl+0x" not in printed


def test_no_such_kernel(project: Path, cache: Path) -> None:
    """What stands in the way is said by `linuxsync vm`, before anything else happens."""
    (project / "test_it.py").write_text("def test_it(): pass\n")
    status, printed = run(project, cache, "--linuxsync-kernel", "/nonexistent/bzImage")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert re.search(r"^vm: .*/nonexistent/bzImage", printed, re.MULTILINE), printed
    assert "ERROR: no kernel for the guest: " in printed


def test_a_guest_that_does_not_come_up(project: Path, cache: Path) -> None:
    """The reason is part of the error; pytest does not hang, and tries no second time."""
    (project / "test_it.py").write_text("def test_it(): pass\n")
    status, printed = run(project, cache, "-o", "linuxsync_vm_options=--append rootflags=trans=virtio,version=no-such")
    assert status == pytest.ExitCode.USAGE_ERROR, printed
    assert "ERROR: no guest:" in printed
    assert "Unable to mount root fs" in printed
