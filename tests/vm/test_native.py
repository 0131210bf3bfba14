"""Every operation of native/ twice, done and refused: that these are right, which other tests do under other builds."""

import sys
import warnings
from pathlib import Path

import native_refusals  # noqa: F401, adds to OPERATIONS
import pytest
from native_words import OPERATIONS, opened


def needing(operation):
    """With the marker that leaves it out where the kernel lacks what it takes."""
    needs = ["syncobj", "timeline_syncobj"] if operation.__name__.startswith("syncobjs") else []
    return pytest.param(operation, marks=pytest.mark.linuxsync(requires=needs), id=operation.__name__)


@pytest.mark.parametrize("operation", [needing(one) for one in OPERATIONS])
def test_operation(operation, keep):
    """Nothing stays open, by the fixture that looks after each test."""
    things = opened(keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of what is left to __del__
        operation(things)
        operation(things)


def test_no_module_is_left_out():
    """What a module does can only be tried if it is imported."""
    native = Path(__file__).parents[2] / "native"
    wanted = {f"linuxsync._native.{path.stem}" for path in native.glob("*.pyx")}
    assert wanted and wanted <= set(sys.modules)
