"""What examples/coherence.py has to have seen: every cell of its table, where there are two views and where one.

A cell is what the CPU read and what the device read, in hex; 11 was there at first, the CPU wrote 22, the device 33.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "coherence.py"
SYNCS = ["none", "bind", "FORDEV", "FORCPU", "FORKERNEL", "unbind"]

# After the CPU has written, and after the device has: one cell for each of SYNCS.
TWO_VIEWS = {
    ("system", "WRITE"): ("22 11|22 22|22 22|22 11|22 11|22 11", None),
    ("system", "READ"): ("22 11|22 11|22 11|11 11|11 11|11 11", "11 33|11 33|11 33|33 33|33 33|33 33"),
    ("system", "RDWR"): ("22 11|22 22|22 22|11 11|11 11|11 11", "11 33|11 11|11 11|33 33|33 33|33 33"),
    # Syncs move bytes between the CPU and a copy of udmabuf's own, of which the device knows nothing.
    ("udmabuf", "WRITE"): ("22 11|22 11|22 11|22 11|22 11|22 11", None),
    ("udmabuf", "READ"): ("22 11|22 11|22 11|11 11|11 11|11 11", "11 33|11 33|11 33|11 33|11 33|11 33"),
    ("udmabuf", "RDWR"): ("22 11|22 11|22 11|11 11|11 11|11 11", "11 33|11 33|11 33|11 33|11 33|11 33"),
    # Syncs move nothing at all.
    ("vgem", "WRITE"): ("22 11|22 11|22 11|22 11|22 11|22 11", None),
    ("vgem", "READ"): ("22 11|22 11|22 11|22 11|22 11|22 11", "11 33|11 33|11 33|11 33|11 33|11 33"),
    ("vgem", "RDWR"): ("22 11|22 11|22 11|22 11|22 11|22 11", "11 33|11 33|11 33|11 33|11 33|11 33"),
}
ONE_VIEW = {
    (exporter, direction): ("|".join(["22 22"] * 6), None if direction == "WRITE" else "|".join(["33 33"] * 6))
    for exporter, direction in TWO_VIEWS
}


def seen_of_9f(before_fordev: str, before_forcpu: str) -> list[str]:
    """What was seen of each sentence, with what each side read while nobody had synced."""
    explicit = f"the CPU wrote 22; the device read {before_fordev}, after the sync 22"
    device_wrote = "the device wrote 44, then 55; the CPU read 44, then 55"
    return [
        f"the CPU wrote 22; the device read {before_fordev}, after ddi_dma_buf_bind_handle 22",
        f"the device wrote 33; the CPU read {before_forcpu}, after ddi_dma_unbind_handle 33",
        explicit,
        explicit,
        "the CPU wrote 44, then 55; the device read 44, then 55",
        device_wrote,
        device_wrote,
        "offset 16383, length 0: 0, and the device read 22 there",
        f"one byte too many: -1, and the device read {before_fordev}",
    ]


def observe() -> dict[str, Any]:
    """Run the program, here."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(found: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str | None]]:
    """What it saw, as it is written above."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault((row["exporter"], row["direction"]), []).append(row)
    seen = {}
    for key, of_it in rows.items():
        assert [row["sync"] for row in of_it] == SYNCS
        after = [[row[f"after_{who}_wrote"] for row in of_it] for who in ("cpu", "device")]
        texts = ["|".join(f"{cpu:02x} {device:02x}" for cpu, device in cells) for cells in after if None not in cells]
        seen[key] = (texts[0], texts[1] if len(texts) > 1 else None)
    return seen


def printed() -> dict[tuple[str, str], tuple[str, str | None]]:
    """The table that people see, as it is written above."""
    shown = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=120, check=True)
    cells: dict[tuple[str, str], list[list[str]]] = {}
    exporter = direction = ""
    for line in shown.stdout.splitlines():
        if header := re.match(r"(system|udmabuf|vgem): ", line):
            exporter = header[1]
        elif row := re.fullmatch(r"(WRITE|READ|RDWR)? +(\w+) +(\w\w) +(\w\w) +(?:may not|(\w\w) +(\w\w)) *", line):
            direction = row[1] or direction
            of_it = cells.setdefault((exporter, direction), [])
            assert row[2] == SYNCS[len(of_it)]
            # The one that wrote stands first, each time.
            of_it.append([f"{row[3]} {row[4]}"] + ([f"{row[6]} {row[5]}"] if row[5] else []))
    texts = {key: ["|".join(column) for column in zip(*rows, strict=True)] for key, rows in cells.items()}
    return {key: (columns[0], columns[1] if len(columns) > 1 else None) for key, columns in texts.items()}


def story(found: dict[str, Any]) -> str:
    """The bytes of the story, a cell for each of its steps."""
    return "|".join(f"{cpu:02x} {device:02x}" for _, cpu, device in found["story"])
