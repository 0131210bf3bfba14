"""Each operation of native/ over and over: how many references and blocks of memory it leaves behind.

For a debug build of Python, which counts all references; see tests/host/test_debug_python.py. Prints a JSON object with
`grown`, [references, blocks] of each operation, and `modules`, the file of each module of native/.

    references.py TIMES [MODULE:FUNCTION]    the function in place of all operations
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import native_refusals  # noqa: F401, adds to OPERATIONS
from native_words import OPERATIONS, opened

ROUNDS = 3


def counted(call: Callable[[], object], times: int) -> tuple[int, int]:
    """References and blocks more after so many calls; of a few rounds the least, for some of it comes by chance."""
    for _ in range(times):
        call()
    found = []
    for _ in range(ROUNDS):
        gc.collect()
        before = sys.gettotalrefcount(), sys.getallocatedblocks()
        for _ in range(times):
            call()
        gc.collect()
        found.append((sys.gettotalrefcount() - before[0], sys.getallocatedblocks() - before[1]))
    return min(one for one, _ in found), min(one for _, one in found)


def main() -> None:
    warnings.simplefilter("ignore")  # of what is left to __del__
    times = int(sys.argv[1])
    grown = {}
    if len(sys.argv) > 2:
        module, _, function = sys.argv[2].partition(":")
        grown[function] = counted(getattr(importlib.import_module(module), function), times)
    else:
        with ExitStack() as stack:
            things = opened(stack.enter_context)
            for one in OPERATIONS:
                grown[one.__name__] = counted(partial(one, things), times)
    modules = {name: one.__file__ for name, one in sys.modules.items() if name.startswith("linuxsync._native.")}
    print(json.dumps({"grown": grown, "modules": modules}))


if __name__ == "__main__":
    main()
