"""native/ under a debug build of Python, which counts every reference and stops where the C API is misused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from other_build import MODULES, build, extension, guest, pytest_with, run

TIMES = 50
NOISE = TIMES // 10
# Those in which objects are made, shared and ended in every way; what each operation leaves is counted apart from them.
TESTS = ["native", "sync_file", "merge", "wait", "gem", "ownership", "syncobj"]

# One reference lost a call, one block of memory, and neither.
LOSING = r"""
#include <Python.h>

static PyObject *reference(PyObject *self, PyObject *nothing) {
    Py_INCREF(self);
    Py_RETURN_NONE;
}

static PyObject *memory(PyObject *self, PyObject *nothing) {
    if (PyMem_Malloc(64) == NULL)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *nothing(PyObject *self, PyObject *nothing) {
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reference", reference, METH_NOARGS, 0},
    {"memory", memory, METH_NOARGS, 0},
    {"nothing", nothing, METH_NOARGS, 0},
    {0},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "losing", 0, -1, methods};
PyMODINIT_FUNC PyInit_losing(void) { return PyModule_Create(&module); }
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter, by a short name: the kernel cuts off what fences are called after a long one."""
    found = shutil.which("python3-dbg") or shutil.which("python3-debug")
    assert found is not None, "vm/run test installs it"
    link = tmp_path_factory.mktemp("bin") / "python"
    link.symlink_to(found)
    done = run([str(link), "-c", "import sys; print(sys.gettotalrefcount() > 0)"], 60)
    assert done.stdout == "True\n", done.stderr
    return str(link)


@pytest.fixture(scope="module")
def lib(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a linuxsync built for it, and what that and its tests need."""
    return build(tmp_path_factory.mktemp("debug_python"), "pytest", "typing_extensions", python=python)


def counted(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """What each operation left behind, as (references, blocks), and the files of the modules."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    said = json.loads(done.stdout)
    return said["grown"], said["modules"]


def test_nothing_is_left_behind(python: str, lib: Path) -> None:
    """No reference and no block of memory, by any operation that is done or refused."""
    command = [python, "tests/vm/references.py", str(TIMES)]
    grown, modules = counted(guest(command, 1200, PYTHONPATH=str(lib)))
    assert {name: left for name, left in grown.items() if left[0] >= NOISE or left[1] >= TIMES / 2} == {}
    suffix = run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"], 60).stdout.strip()
    assert sorted(modules) == MODULES
    assert all(file.startswith(str(lib)) and file.endswith(suffix) for file in modules.values()), modules


@pytest.mark.parametrize("lost", ["reference", "memory", "nothing"])
def test_it_bites(lost: str, python: str, lib: Path, tmp_path: Path) -> None:
    """What loses one at each call is found."""
    extension(tmp_path, "losing", LOSING, python)
    command = [python, "tests/vm/references.py", str(TIMES), f"losing:{lost}"]
    grown, _ = counted(run(command, 600, PYTHONPATH=f"{lib}:{tmp_path}"))
    references, blocks = grown[lost]
    assert (references > TIMES / 2, blocks > TIMES / 2) == (lost == "reference", lost == "memory"), grown


def test_the_tests_pass(python: str, lib: Path) -> None:
    """With all that such a Python asserts."""
    tests = [f"tests/vm/test_{name}.py" for name in TESTS]
    done = guest([*pytest_with(lib, python), *tests], 1200, PYTHONPATH=str(lib))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
