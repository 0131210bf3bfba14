"""The two rules of tests/conftest.py themselves: who leaks fails, and where a VM is required so does who skips."""

import os
import subprocess
import sys
from pathlib import Path

RULES = Path(__file__).parents[1] / "conftest.py"

BROKEN = """
import os
import pytest

def test_leaks():
    os.dup(0)

def test_replaces(somebody_elses):
    os.dup2(0, somebody_elses)

def test_closes_what_it_got(somebody_elses):
    os.close(somebody_elses)

def test_skips():
    pytest.skip("not today")

@pytest.mark.skip(reason="not today")
def test_skipped_by_mark():
    pass

@pytest.mark.xfail(strict=True)
def test_fails_as_expected():
    assert False

def test_is_fine():
    pass
"""

FIXTURE = """
@pytest.fixture(scope="module")
def somebody_elses():
    fd = os.open("/dev/zero", os.O_RDONLY)
    yield fd
    try:
        os.close(fd)
    except OSError:
        pass
"""

SKIPPED_MODULES = {
    "test_module.py": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "test_import.py": "import pytest\npytest.importorskip('no_such_module')\n",
}


def test_the_rules(tmp_path):
    """Leaks fail, and where the VM is required so do skips: of a test, by mark, of a module, by an import."""
    (tmp_path / "conftest.py").write_text(RULES.read_text() + FIXTURE)
    (tmp_path / "test_broken.py").write_text(BROKEN)
    for name, text in SKIPPED_MODULES.items():
        (tmp_path / name).write_text(text)
    options = [
        "-rA",
        "--tb=line",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=os.environ | {"LINUXSYNC_REQUIRE_VM": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    summary = done.stdout.partition("short test summary info")[2].splitlines()[1:-1]
    # What goes wrong before or after a test, in a mark, a module or a fixture, is an ERROR for pytest.
    assert {line.split(" - ")[0] for line in summary if not line.startswith("PASSED")} == {
        "ERROR test_broken.py::test_leaks",
        "ERROR test_broken.py::test_closes_what_it_got",
        "ERROR test_broken.py::test_replaces",
        "ERROR test_broken.py::test_skipped_by_mark",
        "ERROR test_module.py",
        "ERROR test_import.py",
        "FAILED test_broken.py::test_skips",
        "XFAIL test_broken.py::test_fails_as_expected",
    }
    assert "PASSED test_broken.py::test_is_fine" in summary
