"""After all others, for this file comes last: memory of the kernel that nothing points to any more.

Only with ``--append kmemleak=on``, which makes every allocation some fifty times slower under emulation.
"""

import gc
import re
import time
from pathlib import Path

KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
YOUNG = 6.0  # seconds; what is younger than 5 is not told of


def is_on():
    return "kmemleak=on" in Path("/proc/cmdline").read_text().split()


def orphans():
    """What kmemleak knows of now, each with its backtrace."""
    for _ in range(2):  # what is found once may have been on its way from one place to another
        time.sleep(YOUNG)
        KMEMLEAK.write_text("scan")
    return re.split(r"\n(?=unreferenced object)", KMEMLEAK.read_text().strip()) if KMEMLEAK.read_text() else []


def test_no_memory_is_orphaned(tally):
    """Where that is off, the table says so."""
    if not is_on():
        return
    gc.collect()
    found = orphans()
    tally.memory_orphaned = len(found)
    assert found == [], f"{len(found)} orphans:\n" + "\n".join(found[:20])


def test_kmemleak_is_alive_where_it_is_on():
    """It turns itself off for good when it runs out of its own memory, and then refuses to scan."""
    if is_on():
        KMEMLEAK.write_text("scan")
