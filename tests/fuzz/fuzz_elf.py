"""Programs and libraries: functions by address, or none; what a file claims costs nothing."""

from __future__ import annotations

from io import BytesIO

from harness import instrumented, run

with instrumented("linuxsync.inspect.elf"):
    from linuxsync.inspect.elf import MOST_NAME, Symbols


def one(data: bytes) -> None:
    symbols = Symbols(BytesIO(data))
    assert 0 <= symbols.spent <= 6 * len(data)  # six parts, each all of it
    for place in (0, 1, len(data) // 2, (1 << 64) - 1):
        address = symbols.address(place)
        for where in (place, address):
            name = None if where is None else symbols.function(where)
            assert name is None or 0 < len(name) <= MOST_NAME


if __name__ == "__main__":
    run(one)
