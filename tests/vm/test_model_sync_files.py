"""Random programs of timelines and sync_files do in the kernel what the model says."""

from tests.models.machine import run
from tests.models.sync_files import SyncFiles


def test_the_model():
    """See tests/models: each step of each program, and nothing is left."""
    run(SyncFiles)
