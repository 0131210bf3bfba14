"""Models of the kernel's fences, buffers and syncobjs in plain Python, and machines that compare them with the kernel.

Each machine is a hypothesis RuleBasedStateMachine: it draws a program, has the kernel (through linuxsync) and the model
do every step of it, and after each step asks both about everything there is. The models say what the kernel documents,
and nothing of how linuxsync does it. tests/vm/test_model_*.py run them for a short while, tests/torture for long.

`vm/run torture` draws other programs in each round, from a seed that is printed, as "Buffers: seed 7", and that pytest
shows of a test that fails. In tests/vm they are the same in each run, so that what fails there is about a change; two
environment variables, which linuxsync vm hands to the guest, say otherwise:

    LINUXSYNC_MODEL_SEED=7         the programs of that seed, instead of 1
    LINUXSYNC_MODEL_EXAMPLES=300   how many programs of each machine, instead of 30
"""

import sys
from pathlib import Path

import pytest

# What the kernel says by itself, without linuxsync, is read by the words of the tests in the guest.
_WORDS = str(Path(__file__).parents[1] / "vm")
if _WORDS not in sys.path:
    sys.path.append(_WORDS)
pytest.register_assert_rewrite(*(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*.py")))
