"""Import every module of the installed linuxsync, and let the kernel refuse something: what a wheel must be able to do.

    python tests/import_all.py [EXTRA...]

It needs no special kernel, nothing of the checkout, and not pytest: cibuildwheel runs it with each wheel. A module may
ask for what only an extra brings, unless that extra is named. Prints one line; exit status 1 if something is wrong.
"""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import sys

# What each extra brings, as it is imported.
EXTRAS = {"pytest": {"pytest", "xdist"}, "metrics": {"prometheus_client"}, "perfetto": {"perfetto"}, "vm": {"virtme"}}


def main(installed: list[str]) -> str:
    """Import them all; what was found, or SystemExit with what is wrong."""
    import linuxsync

    missing = {name for extra, names in EXTRAS.items() if extra not in installed for name in names}
    imported, left_out, wrong = 0, [], []
    for module in pkgutil.walk_packages(linuxsync.__path__, "linuxsync.", onerror=lambda name: None):
        if module.name.endswith("__main__"):
            continue  # a program
        try:
            importlib.import_module(module.name)
            imported += 1
        except ModuleNotFoundError as error:
            (left_out if error.name in missing else wrong).append(f"{module.name} ({error})")
        except Exception as error:
            wrong.append(f"{module.name} ({error!r})")
    try:
        linuxsync.SyncFile(os.open(os.devnull, os.O_RDONLY))
        wrong.append("a file was taken for a fence")
    except OSError as error:
        if error.errno != errno.ENOTTY:
            wrong.append(f"the kernel refused a file that is no fence with {error!r}")
    if wrong:
        sys.exit("\n".join(["wrong:", *wrong]))
    return f"{imported} modules of {linuxsync.__file__}; for extras: {'; '.join(left_out) or 'none'}"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
