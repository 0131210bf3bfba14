"""Random programs of dma-bufs and implicit fences do in the kernel what the model says."""

from tests.models.buffers import Buffers
from tests.models.machine import run


def test_the_model():
    """See tests/models: each step of each program, and nothing is left."""
    run(Buffers)
