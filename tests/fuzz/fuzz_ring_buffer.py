"""The pages of the kernel's trace buffer, wherever their form says that things are: ValueError, or events of the page.

The first two bytes of an input are where the number of bytes is and where the events begin, less 8.
"""

from __future__ import annotations

from harness import instrumented, run

with instrumented("linuxsync._ring_buffer"):
    from linuxsync._ring_buffer import records


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    page = data[2:]
    try:
        lost, found = records(page, data[0] - 8, data[1] - 8)
    except ValueError as error:
        assert "trace buffer" in str(error)
        return
    assert lost >= 0
    assert sum(len(event) for _, event in found) <= len(page)
    assert all(event in page for _, event in found)


if __name__ == "__main__":
    run(one)
