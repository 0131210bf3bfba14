"""The machines of tests/models with fresh seeds, for as long as there is time."""

import pytest

from tests.models.buffers import Buffers
from tests.models.handles import Handles
from tests.models.machine import Machine, run_for
from tests.models.queues import Queues
from tests.models.sync_files import SyncFiles
from tests.models.syncobjs import Syncobjs

MACHINES = [SyncFiles, Buffers, Syncobjs, Handles, Queues]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_the_kernel_does_as_the_model(machine: type[Machine], tally, duration: float) -> None:
    """Whatever the program; what fails is printed with its seed."""
    run_for(machine, duration, tally)
