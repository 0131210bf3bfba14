"""native/ built with gcc's sanitizers: no byte beyond what was allocated, and nothing whose behaviour C leaves open.

Python takes each object's memory from malloc there, so that none can hide in a pool. Leaks are not looked for: an
interpreter leaves much at its end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from other_build import build, extension, guest, pytest_with, run

FLAGS = "-fsanitize=address,undefined"
COMPILED = f"{FLAGS} -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:quarantine_size_mb=32",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",
}
# The first does everything in native/ once, the others do it in many ways; a guest under emulation takes its time.
IN_THE_GUEST = [
    "native.py",
    "sync_file.py",
    "merge.py",
    "wait.py",
    "sw_sync.py",
    "raw_ioctls.py",
    "processes.py",
    "syncobj.py",
    "dma_buf.py",
    "ddi.py",
    "gem.py",
    "drm_raw.py",
    "kms_raw.py",
    "inspect_fences.py::test_pidfd",
    "inspect_fences.py::test_a_batch",
    "trace_fences.py::test_errors",
]
ON_THE_HOST = ["table_json", "inspect_elf", "inspect_debugfs"]
HARNESSES = ["ring_buffer", "table", "processes", "trace"]

# One byte read behind an array of 16, and an int that is one too large.
BROKEN = r"""
#include <Python.h>
#include <stdlib.h>

static PyObject *beyond(PyObject *self, PyObject *number) {
    char *bytes = calloc(16, 1);
    long found = bytes[PyLong_AsLong(number)];
    free(bytes);
    return PyLong_FromLong(found);
}

static PyObject *more(PyObject *self, PyObject *number) {
    int found = (int)PyLong_AsLong(number);
    return PyLong_FromLong(found + 1);
}

static PyMethodDef methods[] = {{"beyond", beyond, METH_O, 0}, {"more", more, METH_O, 0}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "broken", 0, -1, methods};
PyMODINIT_FUNC PyInit_broken(void) { return PyModule_Create(&module); }
"""


@pytest.fixture(scope="module")
def libasan() -> str:
    """The library that has to be there before any other."""
    return subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a linuxsync built so; takes a minute or two."""
    return build(tmp_path_factory.mktemp("sanitized"), "--no-deps", CFLAGS=COMPILED, LDFLAGS=FLAGS)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    """No test failed, and no sanitizer said anything."""
    said = done.stdout[-8000:] + done.stderr[-8000:]
    assert done.returncode == 0, said
    assert "Sanitizer" not in said and "runtime error" not in said, said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("beyond(15)", None),
        ("beyond(16)", "AddressSanitizer: heap-buffer-overflow"),
        ("more(2**31 - 2)", None),
        ("more(2**31 - 1)", "runtime error: signed integer overflow"),
    ],
)
def test_they_bite(call: str, said: str | None, libasan: str, tmp_path: Path) -> None:
    """What is wrong in a module built with these flags ends the process, and is told."""
    extension(tmp_path, "broken", BROKEN, flags=COMPILED)
    command = [sys.executable, "-c", f"import broken; broken.{call}"]
    done = run(command, 60, LD_PRELOAD=libasan, PYTHONPATH=str(tmp_path), **OPTIONS)
    if said is None:
        assert_clean(done)
    else:
        assert done.returncode != 0 and said in done.stderr, done.stderr


def test_on_the_host(sanitized: Path, libasan: str) -> None:
    """What needs no kernel of ours."""
    tests = [f"tests/host/test_{name}.py" for name in ON_THE_HOST]
    assert_clean(run([*pytest_with(sanitized), *tests], 600, LD_PRELOAD=libasan, PYTHONPATH=str(sanitized), **OPTIONS))


@pytest.mark.parametrize("name", HARNESSES)
def test_whatever_bytes(name: str, sanitized: Path, libasan: str) -> None:
    """The parsers in C, with bytes that nobody would send them."""
    command = [sys.executable, f"tests/fuzz/fuzz_{name}.py", "--plain", "3", "1"]
    done = run(command, 600, LD_PRELOAD=libasan, PYTHONPATH=str(sanitized), **OPTIONS)
    assert_clean(done)
    assert int(done.stdout.split()[0]) > 100


def test_in_the_guest(sanitized: Path, libasan: str) -> None:
    """What asks the kernel: its answers, and its refusals."""
    tests = [f"tests/vm/test_{name}" for name in IN_THE_GUEST]
    # Not for the programs that start the guest.
    command = ["env", f"LD_PRELOAD={libasan}", *pytest_with(sanitized), "-p", "all_of_them", *tests]
    assert_clean(guest(command, 2400, "--memory", "2G", PYTHONPATH=str(sanitized), **OPTIONS))
