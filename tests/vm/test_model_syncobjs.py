"""Random programs of syncobjs do in the kernel what the model says."""

import pytest

from tests.models.machine import run
from tests.models.syncobjs import Syncobjs


@pytest.mark.linuxsync(requires=["syncobj", "timeline_syncobj"])
def test_the_model():
    """See tests/models: each step of each program, and nothing is left."""
    run(Syncobjs)
