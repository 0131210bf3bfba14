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
        ([BEGIN, "WARNING: kernel/dma/debug.c:1108 at check_sync+0xd94/0x1700, CPU#1: python/170", SYNCS, END], None),
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
        # One of which two lines match says nothing of the other.
        ([BEGIN, BEGIN, SYNCS, f"again: {SYNCS}", FREED, OTHER, ONE, END, END], BEGIN),
    ],
)
def test_known_reports(lines: list[str], said: str | None) -> None:
    """A report is left out with all its lines, and none that is not known goes with it."""
    assert alarm([(True, line) for line in lines], KNOWN).partition("\n")[0] == (said or "")


@pytest.mark.parametrize(
    "line",
    [
        "BUG: KASAN: slab-use-after-free in dma_fence_put+0x11/0x22",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:562",
        "UBSAN: shift-out-of-bounds in lib/x.c:1:2",
        "INFO: task python:12 blocked for more than 120 seconds.",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "Oops: general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]",
    ],
)
@pytest.mark.parametrize("ends", [True, False])
def test_another_detector_within_a_known_report(line: str, ends: bool) -> None:
    """It writes what it has to say on another CPU, at the same time."""
    lines = [BEGIN, SYNCS, ONE, line, "Call Trace:", *([END] if ends else [])]
    assert alarm([(True, f"[   12.{at:06d}] {text}") for at, text in enumerate(lines)], KNOWN).endswith(line)


def test_what_programs_write() -> None:
    """That alarms nobody, and neither begins a report nor ends one."""
    assert alarm([(False, ONE), (False, BEGIN)], KNOWN) == ""
    assert alarm([(False, BEGIN), (True, ONE)], KNOWN) == ONE
    assert alarm([(True, BEGIN), (False, END), (True, SYNCS), (True, ONE), (True, END)], KNOWN) == ""
