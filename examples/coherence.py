"""Which bytes the CPU and a device see of one buffer, after each sync. `vm/run demo coherence` runs it anywhere, twice.

The device is fencedev, which works on the addresses of its bus. Booted with swiotlb=force there is a copy of the
buffer, which only the exporter's CPU access brings up to date: what a machine without coherent caches does to a
forgotten sync, and x86 does not. With swiotlb=noforce the device and the CPU share the buffer's pages.

It needs root, a system heap, udmabuf, vgem and the fence device. Every byte shown was read from the buffer or the bus.
"""

from __future__ import annotations

import errno
import json
import mmap
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from linuxsync import Access, DmaBuf, DmaHeap, FenceDevice, VgemDevice, udmabuf
from linuxsync.ddi import (
    DDI_FAILURE,
    DDI_SUCCESS,
    BindResult,
    DmaFlags,
    DmaHandle,
    SyncType,
    ddi_dma_addr_bind_handle,
    ddi_dma_alloc_handle,
    ddi_dma_buf_bind_handle,
    ddi_dma_free_handle,
    ddi_dma_sync,
    ddi_dma_unbind_handle,
)
from linuxsync.fencedev import Attachment, Fill

SIZE = 4 * mmap.PAGESIZE
PATIENCE = 10.0  # seconds that a job may take
OLD, CPU, DEVICE = 0x11, 0x22, 0x33  # what is there at first, and what each side writes

DIRECTIONS = {"WRITE": Access.READ, "READ": Access.WRITE, "RDWR": Access.RW}  # and what the device does then
SYNCS = ["none", "bind", "FORDEV", "FORCPU", "FORKERNEL", "unbind"]

WHY = {
    "system": "system_heap_dma_buf_begin_cpu_access and _end_cpu_access sync the mapping of every device, with "
    "dma_sync_sgtable_for_cpu and _for_device in the direction that the request names.",
    "udmabuf": "begin_cpu_udmabuf and end_cpu_udmabuf sync a mapping that udmabuf made for itself. The mapping of "
    "another device is synced when it is made and when it goes, and at no time between.",
    "vgem": "drm_gem_prime_dmabuf_ops has no begin_cpu_access and no end_cpu_access: a sync waits for fences, and that "
    "is all (dma_buf_begin_cpu_access).",
}


@dataclass(frozen=True)
class Row:
    """What each side saw; None where the device may not write."""

    exporter: str
    direction: str
    sync: str
    after_cpu_wrote: tuple[int, int]  # what the CPU read, what the device read
    after_device_wrote: tuple[int, int] | None


@dataclass(frozen=True)
class Statement:
    """Something that ddi_dma_sync(9F) says, what was seen of it, and whether it holds."""

    says: str
    seen: str
    holds: bool


class Buffer:
    """A buffer as both sides see it."""

    def __init__(self, dmabuf: DmaBuf, attachment: Attachment, memory: mmap.mmap) -> None:
        self.dmabuf = dmabuf
        self.attachment = attachment
        self.memory = memory

    def cpu_writes(self, value: int = CPU) -> None:
        """No bracket and no sync: plain stores."""
        self.memory[:] = bytes([value]) * SIZE

    def cpu_reads(self) -> int:
        """Plain loads."""
        (value,) = set(self.memory[:])
        return value

    def device_writes(self, value: int = DEVICE) -> None:
        """A job, and its fence."""
        work = Fill(self.attachment, value * 0x01010101)
        with self.attachment.device.create_queue("writer") as queue, queue.submit(work) as job:
            job.fence.wait(PATIENCE)
            job.fence.raise_for_status()

    def device_reads(self) -> int:
        """What is at the addresses of its bus."""
        (value,) = set(self.attachment.peek(0, SIZE))
        return value

    def seen(self) -> tuple[int, int]:
        """By the CPU, and by the device."""
        return self.cpu_reads(), self.device_reads()


class Lab:
    """The device, and where buffers come from."""

    def __init__(self, stack: ExitStack) -> None:
        self.device = stack.enter_context(FenceDevice())
        heap = stack.enter_context(DmaHeap())
        vgem = stack.enter_context(VgemDevice.open())

        def dumb() -> DmaBuf:
            with vgem.create_dumb(mmap.PAGESIZE, SIZE // mmap.PAGESIZE, 8) as gem:
                return gem.export()

        self.exporters: dict[str, Callable[[], DmaBuf]] = {
            "system": lambda: heap.alloc(SIZE),
            "udmabuf": lambda: udmabuf.create(SIZE),
            "vgem": dumb,
        }
        self.heap = heap

    def buffer(self, stack: ExitStack, exporter: str = "system", access: Access = Access.RW) -> Buffer:
        """A new one with OLD in it, mapped for the device after that: both sides see it."""
        dmabuf = stack.enter_context(self.exporters[exporter]())
        memory = stack.enter_context(dmabuf.mmap())
        memory[:] = bytes([OLD]) * SIZE
        made = Buffer(dmabuf, stack.enter_context(self.device.attach(dmabuf, access)), memory)
        if made.seen() != (OLD, OLD):
            raise click.ClickException(f"{exporter}: the device does not see what was there when it mapped the buffer")
        return made

    def row(self, exporter: str, direction: str, sync: str) -> Row:
        """One sync, after a write of the CPU, and once more after one of the device."""
        return Row(
            exporter,
            direction,
            sync,
            self.observe(exporter, direction, sync, Buffer.cpu_writes),
            self.observe(exporter, direction, sync, Buffer.device_writes) if direction != "WRITE" else None,
        )

    def observe(self, exporter: str, direction: str, sync: str, write: Callable[[Buffer], None]) -> tuple[int, int]:
        """Write, sync, and look from both sides."""
        with ExitStack() as stack:
            buffer = self.buffer(stack, exporter, DIRECTIONS[direction])
            handle = stack.enter_context(DmaHandle())
            if sync == "bind":
                write(buffer)
                handle.bind(buffer.dmabuf, DmaFlags[direction])
                return buffer.seen()
            handle.bind(buffer.dmabuf, DmaFlags[direction])
            if exporter == "udmabuf":
                buffer.cpu_writes(OLD)  # its first START has fetched what its own mapping had
            write(buffer)
            if sync == "unbind":
                handle.unbind()
            elif sync != "none":
                handle.sync(SyncType[sync])
            return buffer.seen()

    def rows(self, exporter: str) -> Iterator[Row]:
        """Every cell of an exporter's table."""
        for direction in DIRECTIONS:
            for sync in SYNCS:
                yield self.row(exporter, direction, sync)

    def story(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Who does what to a buffer of the system heap, and what both see then."""
        with ExitStack() as stack:
            buffer = self.buffer(stack)
            yield f"the device has mapped a buffer full of {OLD:02x}", buffer.seen()
            buffer.cpu_writes()
            yield f"the CPU writes {CPU:02x}, and no sync", buffer.seen()
            buffer.dmabuf.end_cpu_access(Access.WRITE)
            yield "DMA_BUF_IOCTL_SYNC with END|WRITE, which is FORDEV", buffer.seen()
            buffer.device_writes()
            yield f"a job of the device writes {DEVICE:02x}, its fence has signaled", buffer.seen()
            buffer.dmabuf.begin_cpu_access(Access.READ)
            yield "DMA_BUF_IOCTL_SYNC with START|READ, which is FORCPU", buffer.seen()
            buffer.dmabuf.end_cpu_access(Access.READ)

    def too_large(self) -> str:
        """What becomes of a heap's buffer that is one piece of 1 MiB."""
        try:
            with self.heap.alloc(1 << 20) as dmabuf, self.device.attach(dmabuf):
                return "mapped"
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def statements(self) -> Iterator[Statement]:
        """The page of ddi_dma_sync(9F), sentence by sentence, on a buffer of the system heap."""
        yield self.implicit_at_bind()
        yield self.implicit_at_unbind()
        for attribute in ("CONSISTENT", "STREAMING"):
            yield self.explicit_between(attribute)
        yield self.for_device()
        yield self.for_cpu(SyncType.FORCPU, "after the device wrote and before the CPU reads: FORCPU")
        yield self.for_cpu(SyncType.FORKERNEL, "FORKERNEL, a hint: where it is not cheaper, as FORCPU")
        yield self.to_the_end()
        yield self.out_of_range()

    def bound(self, stack: ExitStack, flags: DmaFlags = DmaFlags.RDWR) -> tuple[Buffer, DmaHandle]:
        """A buffer and a handle that it is bound to, by the calls of 9F."""
        buffer = self.buffer(stack)
        result, handle = ddi_dma_alloc_handle()
        check(result == DDI_SUCCESS)
        stack.callback(ddi_dma_free_handle, handle)
        check(ddi_dma_buf_bind_handle(handle, buffer.dmabuf, flags) == BindResult.MAPPED)
        stack.callback(lambda: handle.bound and ddi_dma_unbind_handle(handle))
        return buffer, handle

    def implicit_at_bind(self) -> Statement:
        """What the CPU wrote before is there for the device."""
        with ExitStack() as stack:
            buffer = self.buffer(stack)
            buffer.cpu_writes()
            before = buffer.device_reads()
            with DmaHandle() as handle:
                ddi_dma_buf_bind_handle(handle, buffer.dmabuf, DmaFlags.RDWR)
                after = buffer.device_reads()
        return Statement(
            "an implicit sync when memory is bound",
            f"the CPU wrote {CPU:02x}; the device read {before:02x}, after ddi_dma_buf_bind_handle {after:02x}",
            after == CPU,
        )

    def implicit_at_unbind(self) -> Statement:
        """What the device wrote is there for the CPU."""
        with ExitStack() as stack:
            buffer, handle = self.bound(stack)
            buffer.device_writes()
            before = buffer.cpu_reads()
            ddi_dma_unbind_handle(handle)
            after = buffer.cpu_reads()
        return Statement(
            "an implicit sync when it is unbound",
            f"the device wrote {DEVICE:02x}; the CPU read {before:02x}, after ddi_dma_unbind_handle {after:02x}",
            after == DEVICE,
        )

    def explicit_between(self, attribute: str) -> Statement:
        """Nothing syncs by itself."""
        with ExitStack() as stack:
            buffer, handle = self.bound(stack, DmaFlags.RDWR | DmaFlags[attribute])
            buffer.cpu_writes()
            before = buffer.device_reads()
            ddi_dma_sync(handle, 0, 0, SyncType.FORDEV)
            after = buffer.device_reads()
        return Statement(
            f"between the two a sync is required, {attribute.lower()} memory or not",
            f"the CPU wrote {CPU:02x}; the device read {before:02x}, after the sync {after:02x}",
            after == CPU and (before == OLD or not bouncing()),
        )

    def for_device(self) -> Statement:
        """Twice, so that it is not the first mapping that did it."""
        with ExitStack() as stack:
            buffer, handle = self.bound(stack)
            seen = []
            for value in (0x44, 0x55):
                buffer.cpu_writes(value)
                ddi_dma_sync(handle, 0, 0, SyncType.FORDEV)
                seen.append(buffer.device_reads())
        return Statement(
            "after the CPU wrote and before the device reads: FORDEV",
            f"the CPU wrote 44, then 55; the device read {seen[0]:02x}, then {seen[1]:02x}",
            seen == [0x44, 0x55],
        )

    def for_cpu(self, kind: SyncType, says: str) -> Statement:
        """Twice, for the same reason."""
        with ExitStack() as stack:
            buffer, handle = self.bound(stack)
            seen = []
            for value in (0x44, 0x55):
                buffer.device_writes(value)
                ddi_dma_sync(handle, 0, 0, kind)
                seen.append(buffer.cpu_reads())
        return Statement(
            says,
            f"the device wrote 44, then 55; the CPU read {seen[0]:02x}, then {seen[1]:02x}",
            seen == [0x44, 0x55],
        )

    def to_the_end(self) -> Statement:
        """From the last byte on."""
        with ExitStack() as stack:
            buffer, handle = self.bound(stack)
            buffer.cpu_writes()
            result = ddi_dma_sync(handle, SIZE - 1, 0, SyncType.FORDEV)
            last = buffer.attachment.peek(SIZE - 1, 1)[0]
        return Statement(
            "a length of 0 means up to the end; DDI_SUCCESS once it is synced",
            f"offset {SIZE - 1}, length 0: {result}, and the device read {last:02x} there",
            (result, last) == (DDI_SUCCESS, CPU),
        )

    def out_of_range(self) -> Statement:
        """One byte more than half a buffer, of which half is bound."""
        with ExitStack() as stack:
            buffer = self.buffer(stack)
            handle = stack.enter_context(DmaHandle())
            ddi_dma_addr_bind_handle(handle, buffer.dmabuf, 0, SIZE // 2, DmaFlags.RDWR)
            buffer.cpu_writes()
            result = ddi_dma_sync(handle, 0, SIZE // 2 + 1, SyncType.FORDEV)
            after = buffer.device_reads()
        return Statement(
            "DDI_FAILURE for a range outside of what is bound, and no sync",
            f"one byte too many: {result}, and the device read {after:02x}",
            result == DDI_FAILURE and (after == OLD or not bouncing()),
        )


def check(expected: bool) -> None:
    """What has to be so for the rest to mean anything."""
    if not expected:
        raise click.ClickException("a call of 9F did not answer as it must")


def bouncing() -> bool:
    """Whether this kernel was booted so that devices and the CPU have different views."""
    return "swiotlb=force" in Path("/proc/cmdline").read_text().split()


def cell(value: int, expected: int) -> str:
    """A byte, marked where it is not the one that was written last."""
    return f"{value:02x}" if value == expected else f"[bold red]{value:02x}[/]"


def views(rows: Iterable[Row]) -> Table:
    """One exporter's rows."""
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    who = [
        f"CPU wrote {CPU:02x}:\nCPU reads",
        "\ndevice reads",
        f"device wrote {DEVICE:02x}:\ndevice reads",
        "\nCPU reads",
    ]
    for heading in ("\nbound for", "\nsync", *who):
        shown.add_column(heading, no_wrap=True)
    for row in rows:
        (cpu, device), back = row.after_cpu_wrote, row.after_device_wrote
        cells = [cell(cpu, CPU), cell(device, CPU)]
        cells += [cell(back[1], DEVICE), cell(back[0], DEVICE)] if back else ["may not", ""]
        shown.add_row(row.direction if row.sync == SYNCS[0] else "", row.sync, *cells)
    return shown


def show(console: Console, lab: Lab) -> bool:
    """Print everything; whether all statements hold."""
    mode = "swiotlb=force: the device has a copy" if bouncing() else "the device and the CPU share the pages"
    console.print(f"\n[bold]Linux {platform.release()}, {platform.machine()}, {mode}[/]\n")
    story = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("what happens", "CPU", "device"):
        story.add_column(heading, no_wrap=True)
    for what, (cpu, device) in lab.story():
        story.add_row(what, f"{cpu:02x}", f"{device:02x}")
    console.print(story)
    console.print("\nWhat both see, by where the buffer is from, what it is bound for, and which sync comes after:")
    for exporter in lab.exporters:
        console.print(f"\n[bold]{exporter}[/]: {WHY[exporter]}\n")
        console.print(views(lab.rows(exporter)))
    limit = ": a copy has at most 256 KiB in one piece (swiotlb_tbl_map_single)" if bouncing() else ""
    console.print(f"\nThe device maps one piece of 1 MiB of the system heap: {lab.too_large()}{limit}.")
    console.print("\nddi_dma_sync(9F), sentence by sentence, on the system heap:\n")
    page = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("it says", "seen", ""):
        page.add_column(heading)
    statements = list(lab.statements())
    for statement in statements:
        page.add_row(statement.says, statement.seen, "holds" if statement.holds else "[bold red]does not hold[/]")
    console.print(page)
    return all(statement.holds for statement in statements)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON instead.")
def main(as_json: bool) -> None:
    """Show which bytes the CPU and a device see of one buffer, after each sync.

    For buffers of the system heap, udmabuf and vgem, for each direction and each sync of ddi_dma_sync(9F), as bytes
    that were read from the buffer and from the device's bus; then what that page says, sentence by sentence. Bytes in
    red are not the ones that were written last. Exit status 1 if a sentence does not hold.

    vm/run demo coherence boots twice: once so that the device has a copy of the buffer, as on a machine without
    coherent caches, and once as x86 is.
    """
    with ExitStack() as stack:
        lab = Lab(stack)
        if as_json:
            found = {
                "swiotlb": "force" if bouncing() else "noforce",
                "story": [[what, *seen] for what, seen in lab.story()],
                "rows": [asdict(row) for exporter in lab.exporters for row in lab.rows(exporter)],
                "too_large": lab.too_large(),
                "statements": [asdict(statement) for statement in lab.statements()],
            }
            print(json.dumps(found))
            holds = all(statement["holds"] for statement in found["statements"])
        else:
            holds = show(Console(highlight=False, width=None if sys.stdout.isatty() else 110), lab)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    try:
        main(prog_name="python examples/coherence.py")
    except OSError as error:
        sys.exit(f"coherence: {error}\nvm/run demo coherence runs it in a virtual machine that has everything")
