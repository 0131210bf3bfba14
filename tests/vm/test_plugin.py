"""The pytest plugin where everything is there: pytest runs another project's tests, here in the guest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
LINE = re.compile(r"^(PASSED|FAILED|ERROR|XFAIL) (\S+)", re.MULTILINE)


@pytest.fixture
def runs(tmp_path: Path) -> Run:
    """A function that writes a test file and runs pytest on it in a process of its own."""

    def run(text: str, *options: str, ini: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers\n{ini}")
        (tmp_path / "test_it.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:hypothesispytest", *options]
        env = {name: value for name, value in os.environ.items() if name != "LINUXSYNC_REQUIRE_VM"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)

    return run


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """What became of each test, by its name."""
    found: dict[str, list[str]] = {}
    for word, nodeid in LINE.findall(done.stdout.partition("short test summary info")[2]):
        found.setdefault(nodeid.partition("::")[2], []).append(word)
    return found


FIXTURES = """
import gc
import os
import pytest
from linuxsync import DmaBuf, DrmDevice, FenceDevice, Timeline, VgemDevice

given = []

def test_all(sw_sync_timeline, dma_buf, vgem, vkms, syncobj_device, fence_device):
    assert isinstance(sw_sync_timeline, Timeline)
    assert sw_sync_timeline.name == "all"
    with sw_sync_timeline.create_fence(1) as fence:
        assert fence.status == 0
        sw_sync_timeline.inc()
        fence.wait(1)
    assert (dma_buf.size, dma_buf.exporter) == (16384, "system")
    assert isinstance(vgem, VgemDevice)
    assert vkms.driver == "vkms"
    assert syncobj_device.has_timeline_syncobj
    with syncobj_device.create_syncobj(signaled=True) as syncobj:
        syncobj.wait(0)
    with fence_device.create_queue("q"):
        pass
    given.extend([sw_sync_timeline, dma_buf, vgem, vkms, syncobj_device, fence_device])

@pytest.mark.parametrize("way", ["a rather long one", "another"])
def test_parameters(way, sw_sync_timeline):
    assert sw_sync_timeline.name in ("parameters[a ra", "parameters[anot")

def test_closed():
    assert [one.closed for one in given] == [True] * 6

@pytest.mark.linuxsync(requires=["sw_sync", "heaps", "tracefs", "fencedev", "syncobj", "drm:vgem", "drm:vkms"])
def test_there():
    pass

@pytest.mark.linuxsync(requires=["drm:amdgpu", "sw_sync"])
def test_not_there():
    pass

def test_a_program_writes():
    with open("/dev/kmsg", "w") as log:
        log.write("WARNING: what a program says\\n")
"""


@pytest.mark.linuxsync(requires=["timeline_syncobj", "fencedev"])
def test_fixtures(runs: Run) -> None:
    """Each works, is named after the test, and is closed after it; what is missing here too is skipped."""
    done = runs(FIXTURES)
    assert outcomes(done) == {
        "test_all": ["PASSED"],
        "test_parameters[a": ["PASSED"],
        "test_parameters[another]": ["PASSED"],
        "test_closed": ["PASSED"],
        "test_there": ["PASSED"],
        "test_a_program_writes": ["PASSED"],
    }, done.stdout
    assert done.returncode == 0
    # In the guest the guest is no advice.
    assert "needs drm:amdgpu: no DRM device of driver 'amdgpu'\n" in done.stdout
    assert done.stderr == ""


LEAKS = """
import os
import pytest
from linuxsync import DmaHeap, DrmDevice, SyncFile, Timeline, VgemDevice

kept = []

@pytest.fixture(scope="module")
def wide():
    with Timeline("wide") as timeline:
        kept.append(timeline.create_fence(1))
        yield timeline
        kept[0].close()

@pytest.fixture(scope="module")
def device():
    with VgemDevice.open() as opened:
        yield opened

@pytest.fixture
def narrow(sw_sync_timeline):
    with sw_sync_timeline.create_fence(5) as fence:
        yield fence

class Circle:
    def __init__(self, what):
        self.what = what
        self.circle = self

def make(timeline, value):
    return timeline.create_fence(value)

def test_clean(narrow, wide, fence_leak_check, dma_buf, vgem):
    with narrow.dup(), dma_buf.dup(), make(wide, 9):
        pass

def test_asked_in_the_middle(request, fence_leak_check):
    request.getfixturevalue("device")

@pytest.mark.usefixtures("fence_leak_check")
def test_leaks(sw_sync_timeline, wide):
    kept.append(make(sw_sync_timeline, 7))
    kept.append(make(sw_sync_timeline, 8) | make(wide, 9) | kept[-1])
    with DmaHeap() as heap:
        kept.append(heap.alloc(4096))
    kept[-1].set_name("leaked")
    kept.append(Timeline("forgotten"))
    kept.append(VgemDevice.open())
    kept.append(kept[-1].create_dumb(8, 8, 32))
    os.dup(wide.fileno())

def test_leaks_a_handle(device, fence_leak_check):
    kept.append(device.create_dumb(8, 8, 32))

@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_forgets_a_circle(fence_leak_check, sw_sync_timeline):
    Circle(make(sw_sync_timeline, 1))

def test_fails(fence_leak_check, sw_sync_timeline):
    fence = make(sw_sync_timeline, 1)
    assert fence.signaled

@pytest.mark.xfail
def test_fails_as_expected(fence_leak_check, sw_sync_timeline):
    fence = make(sw_sync_timeline, 1)
    assert fence.signaled

def test_skips(fence_leak_check, sw_sync_timeline):
    fence = make(sw_sync_timeline, 1)
    pytest.skip("not today")

def test_is_not_checked(sw_sync_timeline):
    kept.append(make(sw_sync_timeline, 1))
"""

LEFT = r"""the test left 6 open:
  fd \d+: sync_file 'sw_sync-leaks\d+-7': sw_sync leaks, active
      made at test_it.py:31: return timeline.create_fence\(value\)
  fd \d+: sync_file '[^']+' of 2 fences, active
      fence of sw_sync (?:leaks|wide), active
      fence of sw_sync (?:leaks|wide), active
      made at test_it.py:43: kept.append\(make\(sw_sync_timeline, 8\) .*
  fd \d+: sw_sync timeline forgotten
      made at test_it.py:47: kept.append\(Timeline\("forgotten"\)\)
  fd \d+: dma-buf 'leaked' of system, 4096 bytes
      made at test_it.py:45: kept.append\(heap.alloc\(4096\)\)
  fd \d+: DRM device vgem, /dev/dri/card\d
      made at test_it.py:48: kept.append\(VgemDevice.open\(\)\)
  fd \d+: sw_sync timeline wide
      no object of linuxsync's owns it that was made by the test: it was detached, or opened by other means
"""


def test_leaks(runs: Run) -> None:
    """Exactly what a test left, by the line that made it; not what fixtures hold or give back, wider ones included."""
    done = runs(LEAKS)
    assert outcomes(done) == {
        "test_clean": ["PASSED"],
        "test_asked_in_the_middle": ["PASSED"],
        "test_leaks": ["PASSED", "ERROR"],
        "test_leaks_a_handle": ["PASSED", "ERROR"],
        "test_forgets_a_circle": ["PASSED"],
        "test_fails": ["FAILED"],
        "test_fails_as_expected": ["XFAIL"],
        "test_is_not_checked": ["PASSED"],
    }, done.stdout
    assert " 1 skipped" in done.stdout
    assert re.search(LEFT, done.stdout), done.stdout
    handle = r"the test left 1 open:\n  GemBuffer \d+ of vgem, fd \d+\n      made at test_it.py:53: kept.append\(device"
    assert re.search(handle, done.stdout), done.stdout


IN_PLACE = """
import pytest
from linuxsync import SyncFile, Timeline

kept = []

@pytest.fixture(scope="module")
def wide():
    with Timeline("wide") as timeline:
        yield [timeline.create_fence(1), timeline.create_fence(2), timeline.create_fence(3).detach()]

def test_takes_a_number(wide, fence_leak_check, sw_sync_timeline):
    number = wide[0].fileno()
    wide[0].close()
    kept.append(sw_sync_timeline.create_fence(4))
    assert kept[0].fileno() == number

def test_takes_it_for_a_while(wide, fence_leak_check, sw_sync_timeline):
    wide[1].close()
    sw_sync_timeline.create_fence(4).close()

def test_takes_what_was_there(wide, fence_leak_check):
    kept.append(SyncFile(wide[2]))
"""


def test_a_number_that_is_given_again(runs: Run) -> None:
    """A fence in the place of one that a wider fixture had, and that was closed, is another one."""
    done = runs(IN_PLACE)
    assert outcomes(done) == {
        "test_takes_a_number": ["PASSED", "ERROR"],
        "test_takes_it_for_a_while": ["PASSED"],
        "test_takes_what_was_there": ["PASSED"],
    }, done.stdout
    left = (
        r"left 1 open:\n  fd \d+: sync_file '.*': sw_sync takes_a_number, active\n      made at test_it.py:15: kept.ap"
    )
    assert re.search(left, done.stdout), done.stdout


FORGETS = """
class Circle:
    def __init__(self, what):
        self.what = what
        self.circle = self

def test_forgets(fence_leak_check, sw_sync_timeline):
    Circle(sw_sync_timeline.create_fence(1))

def test_next(sw_sync_timeline):
    pass
"""


def test_warnings_are_errors(runs: Run) -> None:
    """What is in a circle of garbage is the fault of the test that forgot it, and not of the next one."""
    done = runs(FORGETS, ini="filterwarnings = error\n")
    assert outcomes(done) == {"test_forgets": ["PASSED", "ERROR"], "test_next": ["PASSED"]}, done.stdout
    assert "ResourceWarning: unclosed SyncFile(" in done.stdout
    assert not re.search(r"^the test left", done.stdout, re.MULTILINE)


def test_leak_check_of_all(runs: Run) -> None:
    """The ini value checks every test, and one that leaks does not fail those after it."""
    done = runs(
        "kept = []\n"
        "def test_a(sw_sync_timeline): kept.append(sw_sync_timeline.create_fence(1))\n"
        "def test_b(sw_sync_timeline): sw_sync_timeline.create_fence(1).close()\n",
        ini="linuxsync_leak_check = true\n",
    )
    assert outcomes(done) == {"test_a": ["PASSED", "ERROR"], "test_b": ["PASSED"]}, done.stdout
    assert "made at test_it.py:2: def test_a(sw_sync_timeline)" in done.stdout


TRACED = """
import pytest
recordings = []

@pytest.fixture
def asked(fence_trace):
    yield fence_trace
    recordings.append(fence_trace)

def test_passes(asked, sw_sync_timeline):
    sw_sync_timeline.create_fence(1).close()

def test_fails(fence_trace, sw_sync_timeline):
    with sw_sync_timeline.create_fence(1) as fence:
        sw_sync_timeline.inc()
        fence.wait(1)
        assert fence.status == 0

def test_leaks(fence_leak_check, fence_trace, sw_sync_timeline):
    recordings.append(sw_sync_timeline.create_fence(3))

def test_recording():
    assert [fence.timeline.name for fence in recordings[0].fences] == ["passes"]
"""


def test_traces(runs: Run, tmp_path: Path) -> None:
    """A failure, be it at the end, has a page with the test's fences; a test that passed has nothing."""
    done = runs(TRACED, "--linuxsync-traces", "pages/of failures", "--junitxml", "out.xml")
    assert outcomes(done) == {
        "test_passes": ["PASSED"],
        "test_fails": ["FAILED"],
        "test_leaks": ["PASSED", "ERROR"],
        "test_recording": ["PASSED"],
    }, done.stdout
    pages = tmp_path / "pages" / "of failures"
    assert {page.name for page in pages.iterdir()} == {"test_it.py.test_fails.html", "test_it.py.test_leaks.html"}
    page = pages / "test_it.py.test_fails.html"
    assert "fails" in page.read_text()
    assert f"{page}\n(a page for a browser; fences: 1)" in done.stdout
    cases = ET.parse(tmp_path / "out.xml").iter("testcase")
    properties = {case.get("name"): [one.get("value") for one in case.iter("property")] for case in cases}
    assert properties["test_fails"] == [str(page)]
    assert properties["test_passes"] == []


def test_traces_without_a_folder(runs: Run, tmp_path: Path) -> None:
    """In pytest's cache, and where there is none in a folder of its own."""
    done = runs(TRACED, "-k", "passes or fails")
    pages = tmp_path / ".pytest_cache" / "d" / "linuxsync-traces"
    assert [page.name for page in pages.iterdir()] == ["test_it.py.test_fails.html"], done.stdout
    done = runs(TRACED, "-k", "fails", "-p", "no:cacheprovider")
    assert re.search(r"^/tmp/linuxsync-traces-\w+/test_it.py.test_fails.html$", done.stdout, re.MULTILINE)
