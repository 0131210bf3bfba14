"""debugfs: whatever is in sync/info and dma_buf/bufinfo, what is not understood is counted, and nothing is raised."""

from __future__ import annotations

import os

from harness import instrumented, run, stretched

with instrumented("linuxsync.inspect.debugfs"):
    from linuxsync.inspect.debugfs import parse_bufinfo, parse_sync_info


def one(data: bytes) -> None:
    for text in stretched(data):
        buffers, lost = parse_bufinfo(text)
        assert 0 <= lost + len(buffers) <= len(text)
        for buffer in buffers:
            assert buffer.name is None or len(os.fsencode(buffer.name)) <= 31
            assert buffer.ino >= 0 and buffer.size >= 0
            assert all(fence.usage in ("kernel", "write", "read") and fence.seqno >= 0 for fence in buffer.fences)
        timelines, lost = parse_sync_info(text)
        assert 0 <= lost + len(timelines) <= len(text) + 1
        for timeline in timelines:
            assert len(os.fsencode(timeline.name)) <= 15
            assert all(point.state.isalpha() for point in timeline.points)


if __name__ == "__main__":
    run(one)
