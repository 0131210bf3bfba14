"""Which lines of the kernel's log fail a test, where known reports are left out. The lines are real, and cut."""

from __future__ import annotations

import re

import pytest

from linuxsync.pytest_plugin.kernel_log import alarm

KNOWN = [re.compile("DMA-API: misc udmabuf: device driver syncs DMA memory with different direction")]
BEGIN, END = "------------[ cut here ]------------", "---[ end trace 0000000000000000 ]---"
SYNCS = "DMA-API: misc udmabuf: device driver syncs DMA memory with different direction [size=4096 bytes]"
FREED = "DMA-API: misc udmabuf: device driver frees DMA memory with wrong function [size=4096 bytes]"
ONE, OTHER = (
    "WARNING: CPU: 0 PID: 170 at check_sync+0xd94/0x1700",
    "WARNING: CPU: 1 PID: 169 at check_sync+0xd94/0x1700",
)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([BEGIN, SYNCS, ONE, END, "DMA-API: Mapped at:"], None),
        ([BEGIN, SYNCS, ONE, END, BEGIN, SYNCS, OTHER, END], None),
        ([BEGIN, SYNCS, ONE], None),  # more comes in the next test
        ([BEGIN, FREED, ONE, END], BEGIN),
        ([BEGIN, SYNCS, ONE, END, ONE], ONE),
        ([BEGIN, SYNCS, ONE, END, BEGIN, FREED, OTHER, END], BEGIN),
        # Two CPUs at once.
        ([BEGIN, SYNCS, ONE, BEGIN, SYNCS, END, OTHER, END], None),
        ([BEGIN, BEGIN, SYNCS, SYNCS, OTHER, ONE, END, END, "vkms_vblank_simulate: vblank timer overrun"], None),
        ([BEGIN, SYNCS, ONE, BEGIN, FREED, END, OTHER, END], BEGIN),
        ([BEGIN, FREED, ONE, BEGIN, SYNCS, END, OTHER, END], BEGIN),
        ([BEGIN, SYNCS, ONE, BEGIN, SYNCS, END, OTHER, END, ONE], ONE),
    ],
)
def test_known_reports(lines: list[str], said: str | None) -> None:
    """A report is left out with all its lines, and none that is not known goes with it."""
    assert alarm([(True, line) for line in lines], KNOWN).partition("\n")[0] == (said or "")


def test_what_programs_write() -> None:
    """That alarms nobody, and neither begins a report nor ends one."""
    assert alarm([(False, ONE), (False, BEGIN)], KNOWN) == ""
    assert alarm([(False, BEGIN), (True, ONE)], KNOWN) == ONE
    assert alarm([(True, BEGIN), (False, END), (True, SYNCS), (True, ONE), (True, END)], KNOWN) == ""
