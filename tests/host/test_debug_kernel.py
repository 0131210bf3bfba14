"""``--kernel debug``: each detector finds what it is for, and what it finds loses the guest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from linuxsync.vm import console
from linuxsync.vm import kernel as kernels
from processes import environment

LIMIT = 1200.0

MODULE = r"""
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>

static char *how = "";
module_param(how, charp, 0);
static int bits = 40;
module_param(bits, int, 0);
static DEFINE_MUTEX(one);
static DEFINE_MUTEX(other);
static DEFINE_SPINLOCK(spin);
static volatile int sink;

static void tick(struct timer_list *timer) { }

static int __init start(void)
{
	volatile char *bytes = kmalloc(64, GFP_KERNEL);
	struct timer_list *timer;
	struct device *device;

	if (!strcmp(how, "freed")) {
		kfree((void *)bytes);
		sink = bytes[8];
		return -ENODEV;
	}
	if (!strcmp(how, "beyond"))
		sink = bytes[64];
	if (!strcmp(how, "order")) {
		mutex_lock(&one);
		mutex_lock(&other);
		mutex_unlock(&other);
		mutex_unlock(&one);
		mutex_lock(&other);
		mutex_lock(&one);
		mutex_unlock(&one);
		mutex_unlock(&other);
	}
	if (!strcmp(how, "sleep")) {
		spin_lock(&spin);
		msleep(1);
		spin_unlock(&spin);
	}
	if (!strcmp(how, "shift"))
		sink = 1 << bits;
	if (!strcmp(how, "dma")) {
		device = root_device_register("misbehave");
		device->dma_mask = &device->coherent_dma_mask;
		dma_set_mask_and_coherent(device, DMA_BIT_MASK(64));
		dma_unmap_page(device, 0x1000, 64, DMA_TO_DEVICE);
		root_device_unregister(device);
	}
	if (!strcmp(how, "object")) {
		timer = kmalloc(sizeof(*timer), GFP_KERNEL);
		timer_setup(timer, tick, 0);
		mod_timer(timer, jiffies + 1000 * HZ);
		kfree(timer);
	}
	if (!strcmp(how, "leak"))
		for (bits = 0; bits < 100; bits++) /* of some a stale pointer may lie about */
			bytes = kmalloc(64, GFP_KERNEL);
	else
		kfree((void *)bytes);
	return -ENODEV;
}
module_init(start);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def debug() -> kernels.Kernel:
    """The debug kernel."""
    return kernels.ensure("debug")


@pytest.fixture(scope="module")
def module(debug: kernels.Kernel, build_module: Callable[[kernels.Kernel, str], Path]) -> Path:
    """A module with every kind of mistake, for the debug kernel."""
    return build_module(debug, MODULE)


def in_debug(cache: Path, script: str, *append: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a guest with it."""
    options = [word for argument in append for word in ("--append", argument)]
    command = [sys.executable, "-m", "linuxsync.vm", "--kernel", "debug", *options, "--", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment(cache))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("freed", r"BUG: KASAN: slab-use-after-free in start\S* \[misbehave\]"),
        ("beyond", r"BUG: KASAN: slab-out-of-bounds in start\S* \[misbehave\]"),
        ("order", r"WARNING: possible circular locking dependency detected"),
        ("sleep", r"BUG: scheduling while atomic|BUG: sleeping function called from invalid context"),
        ("shift", r"UBSAN: shift-out-of-bounds in .*misbehave"),
        ("dma", r"DMA-API: +misbehave: device driver tries to free DMA memory it has not allocated"),
    ],
)
def test_detectors(cache: Path, debug: kernels.Kernel, module: Path, how: str, said: str) -> None:
    """A mistake in the kernel is a lost guest, though the command passes; its report is in the log that is kept."""
    done = in_debug(cache, f"insmod {module} how={how} 2>/dev/null; echo survived")
    assert done.stdout == "survived\n"
    assert done.returncode == 69, done.stderr
    assert f"vm: booting Linux {debug.version} " in done.stderr
    assert re.search(r"^vm: the guest's kernel (found a mistake|is broken): ", done.stderr, re.MULTILINE)
    log = Path(done.stderr.rpartition("console log: ")[2].strip())
    assert re.search(said, console.read(log)), console.read(log)


@pytest.mark.parametrize(
    ("option", "script", "said"),
    [
        ("debug_objects", "insmod {module} how=object 2>/dev/null", "ODEBUG: free active"),
        (
            "kmemleak=on",
            # An object has to be 5 s old, and the same in two scans.
            "insmod {module} how=leak; sleep 6; cd /sys/kernel/debug; for n in 1 2; do echo scan >kmemleak; done",
            r"kmemleak: \d+ new suspected memory leaks",
        ),
    ],
)
def test_slow_detectors(cache: Path, module: Path, option: str, script: str, said: str) -> None:
    """Two are off unless they are asked for, since each makes an allocation many times slower."""
    done = in_debug(cache, script.format(module=module), option)
    assert done.returncode == 69, done.stderr
    log = Path(done.stderr.rpartition("console log: ")[2].strip())
    assert re.search(said, console.read(log)), console.read(log)


def test_nothing_is_found_where_nothing_is_wrong(cache: Path) -> None:
    """A merge, a wait and a record in it, and it ends with 0 and without a word."""
    done = in_debug(cache, "python -m linuxsync.demo > /dev/null")
    assert done.returncode == 0, done.stderr
