"""linuxsync.inspect.tally: how many descriptors of each sort a process has."""

from look_words import scene

from linuxsync.inspect import Kind, dma_bufs, scan, sync_files, tally

SCENE = """
gpu, display = Timeline("gpu"), Timeline("display")
kept = [gpu.create_fence(n) for n in range(1, 6)]
frames = [merge([fence, display.create_fence(1)]) for fence in kept[:2]]
bufs = [DmaHeap().alloc(4096) for _ in range(3)]
copy = kept[0].dup()
ready()
"""


def test_by_timeline_and_exporter():
    """Merged ones are a sort of their own, so that no descriptor is counted twice."""
    with scene(SCENE) as found:
        look = scan([found.pid])
        counted = tally(look, sync_files(look), dma_bufs(look))
        plain = tally(look, [])
    assert {sort.process.pid for sort in counted} == {found.pid}
    assert {(sort.kind, sort.driver_name, sort.obj_name): count for sort, count in counted.items()} == {
        (Kind.SYNC_FILE, "sw_sync", "gpu"): 6,
        (Kind.SYNC_FILE, "sw_sync", "display, gpu"): 2,
        (Kind.DMA_BUF, "system", ""): 3,
        (Kind.SW_SYNC, "", ""): 2,
    }
    assert {(sort.kind, sort.drivers, sort.timelines): count for sort, count in plain.items()} == {
        (Kind.SYNC_FILE, (), ()): 8,
        (Kind.DMA_BUF, (), ()): 3,
        (Kind.SW_SYNC, (), ()): 2,
    }
