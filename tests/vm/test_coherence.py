"""examples/coherence.py where the CPU and the device share the pages: whatever is forgotten, both see everything."""

from coherence_words import ONE_VIEW, observe, printed, seen_of_9f, story, table


def test_one_view(device):
    """What was written last, in each cell; and each sentence of 9F holds, for nothing is left to sync."""
    found = observe()
    assert table(found) == ONE_VIEW
    assert story(found) == "11 11|22 22|22 22|33 33|33 33"
    assert (found["swiotlb"], found["too_large"]) == ("noforce", "mapped")
    assert [statement["seen"] for statement in found["statements"]] == seen_of_9f("22", "33")
    assert all(statement["holds"] for statement in found["statements"])


def test_what_people_see(device):
    """The same cells."""
    assert printed() == ONE_VIEW
