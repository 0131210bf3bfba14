"""examples/coherence.py where the device has a copy of each buffer: what each sync brings, cell by cell."""

import pytest
from coherence_words import TWO_VIEWS, observe, printed, seen_of_9f, story, table


@pytest.fixture(scope="module")
def found():
    return observe()


@pytest.mark.parametrize("key", TWO_VIEWS, ids="-".join)
def test_two_views(found, key):
    """Each cell."""
    assert table(found)[key] == TWO_VIEWS[key]


def test_the_rest_of_it(found):
    """The story, what does not fit, and the sentences of 9F."""
    assert table(found).keys() == TWO_VIEWS.keys()
    assert story(found) == "11 11|22 11|22 22|22 33|33 33"
    assert (found["swiotlb"], found["too_large"]) == ("force", "EIO")
    assert [statement["seen"] for statement in found["statements"]] == seen_of_9f("11", "11")
    assert all(statement["holds"] for statement in found["statements"])


def test_what_people_see():
    """The same cells."""
    assert printed() == TWO_VIEWS
