"""Random programs of the fence device do what the model says."""

import pytest

from tests.models.machine import run
from tests.models.queues import Queues


@pytest.mark.usefixtures("fence_device_module")
def test_the_model():
    """See tests/models: each step of each program, and nothing is left."""
    run(Queues)
