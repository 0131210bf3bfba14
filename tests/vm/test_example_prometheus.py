"""examples/fence_to_prometheus.py: what is served is what the kernel's timestamps say, and a recording beside it."""

import asyncio
import errno
import re
import signal
import time
import urllib.request
from contextlib import ExitStack

import pytest
from example_words import called, helps, load, started
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from linuxsync import Timeline, trace


@pytest.fixture(scope="module")
def program():
    return load("fence_to_prometheus")


def scraped(port):
    """Every sample that is served, by its name and then the values of its labels, in their names' order."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_histogram_is_what_happened(program, keep):
    """Each fence is in the bucket that its timestamps say, and a recording of the same fences agrees."""
    registry = CollectorRegistry()
    delays = [0.0, 0.003, 0.012, 0.05, 0.3]
    since, fences = [], []

    async def submit():
        latency = program.FenceLatency(registry)
        with Timeline("measured") as timeline:
            for number, delay in enumerate(delays, 1):
                fence = keep(timeline.create_fence(number))
                fences.append(fence)
                since.append(time.monotonic_ns())
                latency.watch(fence, since[-1])
                await asyncio.sleep(delay)
                timeline.inc()
            await latency.idle()

    with trace.recording() as recorded:
        asyncio.run(submit())
    took = [(fence.timestamp_ns - begun) / 1e9 for fence, begun in zip(fences, since, strict=True)]
    assert all(one >= delay for one, delay in zip(took, delays, strict=True))
    with program.served(registry, 0) as port:
        found = scraped(port)
    mine = ("sw_sync", "measured")
    for bound in program.BOUNDS:
        in_bucket = found["fence_latency_seconds_bucket", "sw_sync", str(bound), "measured"]
        assert in_bucket == sum(one <= bound for one in took)
    assert found[("fence_latency_seconds_count", *mine)] == len(delays)
    assert found[("fence_latency_seconds_sum", *mine)] == pytest.approx(sum(took), abs=1e-9)
    assert found[("fences_active", *mine)] == 0
    # The kernel made each just before it was watched, and signaled it when its timestamp says.
    seen = [fence for fence in recorded.fences if fence.timeline.name == "measured"]
    assert [fence.seqno for fence in seen] == [1, 2, 3, 4, 5]
    for fence, begun, its in zip(seen, since, fences, strict=True):
        assert fence.init_ns < begun
        assert fence.exact
        assert fence.signal_ns == its.timestamp_ns


def test_failures_and_what_is_under_way(program, keep):
    """A failure is counted by its errno and not as a latency; what is under way is a gauge until it is closed."""
    registry = CollectorRegistry()

    async def submit():
        latency = program.FenceLatency(registry)
        with Timeline("lost") as timeline:
            for number in (1, 2, 3):
                with timeline.create_fence(number) as fence:  # its own is closed at once
                    latency.watch(fence)
            await asyncio.sleep(0.01)
            with program.served(registry, 0) as port:
                before = await asyncio.to_thread(scraped, port)
                timeline.inc()
                timeline.close()
                await latency.idle()
                return before, await asyncio.to_thread(scraped, port)

    before, after = asyncio.run(submit())
    assert before["fences_active", "sw_sync", "lost"] == 3
    assert after["fences_active", "sw_sync", "lost"] == 0
    assert after["fence_latency_seconds_count", "sw_sync", "lost"] == 1
    assert after["fence_failures_total", "sw_sync", errno.errorcode[errno.ENOENT], "lost"] == 2


@pytest.mark.parametrize("begun", [True, False])
def test_closing_lets_go(program, begun):
    """Of fences that never signal: no descriptor is left, which the fixture of all tests sees, and no task."""

    async def submit():
        latency = program.FenceLatency(CollectorRegistry())
        with Timeline("never") as timeline, timeline.create_fence(1) as fence:
            latency.watch(fence)
            if begun:
                await asyncio.sleep(0)
            latency.close()
            await latency.idle()
            assert not fence.poll()

    asyncio.run(submit())


def test_the_program_and_ctrl_c():
    """It serves to this machine while it works, and ends with 130 and nothing left open."""
    with started("fence_to_prometheus", "--port", "0", "--fail-every", "3") as program, ExitStack() as ended:
        ended.callback(program.kill)
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/metrics\n", program.stdout.readline())[1])
        failures = before = 0
        while failures < 3:
            before = failures
            found = scraped(port)
            failures = found.get(("fence_failures_total", "sw_sync", "ENOENT", "gpu"), 0)
        # Two of three did not fail. The histogram was read after the counter of the look before, and before its own.
        assert 2 * (before - 1) <= found["fence_latency_seconds_count", "sw_sync", "gpu"] <= 2 * (failures + 1)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (130, "", "")


def test_it_ends_in_time(program, monkeypatch, capfd):
    """With 0, when it is told how long."""
    status, out, err = called(program, monkeypatch, capfd, "--port", "0", "--for", "0.2")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1


def test_help(program, monkeypatch, capfd):
    """--help teaches."""
    assert "--fail-every" in helps(program, monkeypatch, capfd)
