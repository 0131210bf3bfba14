"""examples/coherence.py where the CPU and the device share the pages: whatever is forgotten, both see everything."""

import re
import subprocess
import sys

from coherence_words import ONE_VIEW, PROGRAM, STATEMENTS, observe, story, table


def test_one_view(device):
    """What was written last, in each cell; and each sentence of 9F holds, for nothing is left to sync."""
    found = observe()
    assert table(found) == ONE_VIEW
    assert story(found) == "11 11|22 22|22 22|33 33|33 33"
    assert (found["swiotlb"], found["too_large"]) == ("noforce", "mapped")
    assert [statement["holds"] for statement in found["statements"]] == [True] * STATEMENTS


def test_what_it_prints(device):
    """The same, for people: a line for each step, each row and each sentence."""
    shown = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=120, check=True)
    assert (
        len(re.findall(r"^ *(?:WRITE|READ|RDWR)? +(?:none|bind|FORDEV|FORCPU|FORKERNEL|unbind) ", shown.stdout, re.M))
        == 54
    )
    assert len(re.findall(r" holds *$", shown.stdout, re.M)) == STATEMENTS
    assert "share the pages" in shown.stdout
