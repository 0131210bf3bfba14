"""The fence device's module: built once for a kernel, and kept beside that."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .kernel import Kernel, cache_home, digest
from .make import Make, MakeError, say

# In a checkout, and where a wheel installs it.
PLACES = [Path(__file__).resolve().parents[1] / name / "fencedev" for name in ("native", "_native")]


def sources() -> list[Path]:
    """What the module is made from; nothing if it is not there."""
    return sorted(
        path for folder in PLACES for path in folder.glob("*") if path.name == "Makefile" or path.suffix in (".c", ".h")
    )


def module(kernel: Kernel) -> Path | None:
    """The module for this kernel; None where it can't be built, said unless there is nothing to build it against."""
    if not kernel.extmod or not kernel.modules or not (parts := sources()):
        return None
    key = digest(*(text for path in parts for text in (path.name, path.read_text())))
    # A kernel of the cache and the modules of a tree that --kernel names lie in folders that no other kernel gets.
    result = kernel.modules.parents[2] / "fencedev" / f"{key}.ko"
    if result.exists():
        return result
    log = cache_home() / "fencedev.log"
    try:
        result.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=result.parent) as folder:
            for path in parts:
                shutil.copyfile(path, Path(folder, path.name))
            Make(log).run(["make", "-C", str(kernel.extmod), f"M={folder}", "modules"])
            Path(folder, "fencedev.ko").replace(result)
    except (MakeError, OSError) as error:
        # The guest can do without, if nothing in it asks for the device.
        say(f"no fence device for Linux {kernel.version}: {error}")
        return None
    return result
