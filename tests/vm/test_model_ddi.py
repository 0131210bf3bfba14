"""Random programs of DMA handles give what 9F promises, and ask of the kernel what the model says."""

from tests.models.handles import Handles
from tests.models.machine import run


def test_the_model():
    """See tests/models: each step of each program, and nothing is left."""
    run(Handles)
