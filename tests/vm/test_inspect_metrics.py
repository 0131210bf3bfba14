"""linuxsync metrics: what Prometheus reads of one look at the machine, printed, in a file and served."""

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from look_words import as_nobody, linuxsync, scene
from prometheus_client.parser import text_string_to_metric_families

from linuxsync.cli import exposition
from linuxsync.inspect import Gauge

# 5 fences and a duplicate, 1 of them signaled, 1 merged; 2 timelines that owe 4 and 2; 3 buffers, one of them shared.
SCENE = """
gpu, display = Timeline("gpu"), Timeline("display")
kept = [gpu.create_fence(n) for n in range(1, 6)]
later = display.create_fence(2)
frame = merge([kept[1], display.create_fence(1)])
gpu.inc()
failed = Timeline("broken")
lost = failed.create_fence(1)
failed.close()
copy = kept[0].dup()
bufs = [DmaHeap().alloc(size) for size in (4096, 8192)]
if len(sys.argv) > 1:
    bufs.append(bufs[1].dup())
    fork(1)
ready()
"""


def parsed(text):
    """Every sample: name and labels, with the numbers."""
    families = list(text_string_to_metric_families(text))
    assert all(family.type == "gauge" and family.documentation for family in families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def samples(found, name):
    """Those of one name: the labels' values, by the labels' names in alphabetical order."""
    return {tuple(value for _, value in key[1:]): number for key, number in found.items() if key[0] == name}


def test_every_number():
    """Of a known scene; nothing else on this machine has fences."""
    with scene(SCENE, name="client") as found:
        said = linuxsync("metrics")
        numbers = parsed(said.out)
        assert (said.status, said.err) == (0, "")
        pid = str(found.pid)
        assert samples(numbers, "linuxsync_descriptors") == {
            ("client", "sync_file", pid): 9,
            ("client", "sw_sync", pid): 2,
            ("client", "dma_buf", pid): 2,
        }
        assert samples(numbers, "linuxsync_sync_files") == {("active",): 6, ("signaled",): 1, ("error",): 1}
        assert samples(numbers, "linuxsync_fences") == {
            ("sw_sync", "active", "gpu"): 5,
            ("sw_sync", "signaled", "gpu"): 1,
            ("sw_sync", "error", "gpu"): 0,
            ("sw_sync", "active", "display"): 2,
            ("sw_sync", "signaled", "display"): 0,
            ("sw_sync", "error", "display"): 0,
            ("sw_sync", "active", "broken"): 0,
            ("sw_sync", "signaled", "broken"): 0,
            ("sw_sync", "error", "broken"): 1,
        }
        assert samples(numbers, "linuxsync_sw_sync_timeline_pending_points") == {
            ("gpu",): 4,
            ("display",): 2,
            ("broken",): 0,  # gone when its fence is
        }
        assert samples(numbers, "linuxsync_dma_bufs") == {("system",): 2}
        assert samples(numbers, "linuxsync_dma_buf_bytes") == {("system",): 12288}
        assert samples(numbers, "linuxsync_process_dma_buf_share_bytes") == {("client", pid): 12288}
        assert samples(numbers, "linuxsync_unseen") == {}
        (took,) = samples(numbers, "linuxsync_scan_seconds").values()
        assert 0 < took < 60
        assert {key[0] for key in numbers} == set(re.findall(r"# TYPE (\w+) gauge", said.out)) - {"linuxsync_unseen"}


def test_shared_with_a_child():
    """Each process's descriptors count, each file once, and memory is divided."""
    with scene(SCENE, "shared", name="client") as found:
        numbers = parsed(linuxsync("metrics").out)
        kinds = samples(numbers, "linuxsync_descriptors")
        assert sorted(value for key, value in kinds.items() if key[1] == "dma_buf") == [3, 3]
        assert sorted(value for key, value in kinds.items() if key[1] == "sync_file") == [9, 9]
        assert samples(numbers, "linuxsync_sync_files") == {("active",): 6, ("signaled",): 1, ("error",): 1}
        assert samples(numbers, "linuxsync_dma_bufs") == {("system",): 2}
        assert [*samples(numbers, "linuxsync_process_dma_buf_share_bytes").values()] == [6144, 6144]
        only = parsed(linuxsync("metrics", "--pid", str(found.pid)).out)
        assert [*samples(only, "linuxsync_process_dma_buf_share_bytes").values()] == [6144]
        assert {key[2] for key in samples(only, "linuxsync_descriptors")} == {str(found.pid)}


def test_without_processes():
    """Sums, and what is 0 is said."""
    with scene(SCENE, "shared"):
        numbers = parsed(linuxsync("metrics", "--no-processes").out)
    assert samples(numbers, "linuxsync_descriptors") == {
        ("sync_file",): 18,
        ("sw_sync",): 4,
        ("dma_buf",): 6,
        ("drm",): 0,
        ("fencedev",): 0,
        ("syncobj_file",): 0,
    }
    assert not [key for key in numbers if any(label in ("pid", "comm") for label, _ in key[1:])]


@pytest.mark.parametrize(
    ("options", "descriptors", "timelines", "owed"),
    [
        (["--comm", "sc*"], {"sync_file": 9, "sw_sync": 2, "dma_buf": 2}, {"gpu", "display", "broken"}, 6),
        (["--comm", "nobody"], {}, set(), 0),
        (["--timeline", "gpu"], {"sync_file": 7}, {"gpu"}, 4),
        (["--driver", "sw_sync"], {"sync_file": 9}, {"gpu", "display", "broken"}, 6),
        (["--driver", "i915"], {}, set(), 0),
    ],
    ids=str,
)
def test_selection(options, descriptors, timelines, owed):
    """By process, and by fence: then what has none does not count."""
    with scene(SCENE):
        numbers = parsed(linuxsync("metrics", *options).out)
    assert {key[1]: value for key, value in samples(numbers, "linuxsync_descriptors").items()} == descriptors
    assert {key[2] for key in samples(numbers, "linuxsync_fences")} == timelines
    assert sum(samples(numbers, "linuxsync_sw_sync_timeline_pending_points").values()) == owed


def test_hostile_names():
    """Newlines, quotes, backslashes, escapes and bytes that are no UTF-8 are valid exposition, and harmless."""
    text = r"""
evil = Timeline(os.fsdecode(b"e\x1b[2J\n\"\\\xff"))
a = evil.create_fence(1)
ready()
"""
    with scene(text, name='ev\n"} 1\n#'):
        said = linuxsync("metrics")
        assert all(one.isprintable() or one == "\n" for one in said.out)
        numbers = parsed(said.out)
        (fence,) = (key for key, value in samples(numbers, "linuxsync_fences").items() if value)
        assert fence == ("sw_sync", "active", r'e\x1b[2J\n"\\\xff')
        assert {key[0] for key in samples(numbers, "linuxsync_descriptors")} == {r'ev\n"} 1\n#'}


def test_names_that_look_alike_are_added_up():
    """Two samples with the same labels would make Prometheus refuse both."""
    gauge = Gauge("linuxsync_x", "Of two.", ("name",), {("\x80",): 1, ("\udc80",): 2})
    assert parsed(exposition.as_text(exposition.measured(lambda: [gauge])))["linuxsync_x", ("name", r"\x80")] == 3


def test_as_an_ordinary_user():
    """Their own, and what they could not see as a number."""
    with scene(SCENE):
        said = as_nobody("metrics")
    numbers = parsed(said.out)
    assert (said.status, said.err) == (0, "")
    assert samples(numbers, "linuxsync_descriptors") == {}
    unseen = sorted((what, number) for (what, _), number in samples(numbers, "linuxsync_unseen").items())
    assert unseen[:2] == [("debugfs file", 1), ("debugfs file", 1)]
    assert [what for what, _ in unseen[2:]] == ["processes"] and unseen[2][1] > 1


def test_textfile(tmp_path):
    """Replaced as a whole, with nothing left beside it, and readable for node_exporter, who is somebody else."""
    path = tmp_path / "linuxsync.prom"
    path.write_text("old\n")
    with path.open() as old, scene(SCENE):
        said = linuxsync("metrics", "--textfile", str(path))
        assert (said.status, said.out, said.err) == (0, "", "")
        assert sum(samples(parsed(path.read_text()), "linuxsync_sync_files").values()) == 8
        assert old.read() == "old\n"
    assert [*tmp_path.iterdir()] == [path]
    assert path.stat().st_mode & 0o444 == 0o444


def test_textfile_that_cannot_be_written():
    """What went wrong, and nothing has changed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "linuxsync.prom"
        path.write_text("old\n")
        said = as_nobody("metrics", "--textfile", str(path))
        assert said.status == 1
        assert said.err == f"Error: can't write {path}: Permission denied; what was there is as it was\n"
        said = linuxsync("metrics", "--textfile", str(folder / "none" / "x.prom"))
        assert said.status == 1 and "No such file or directory" in said.err
        said = linuxsync("metrics", "--textfile", str(folder))
        assert said.status == 1 and "Is a directory" in said.err
        assert [*folder.iterdir()] == [path] and path.read_text() == "old\n"


@contextmanager
def serving(*arguments, end=signal.SIGTERM):
    """A server, the address that it says, and after the block the clean end of it."""
    with subprocess.Popen(
        [sys.executable, "-m", "linuxsync.cli", "metrics", "--listen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            line = server.stderr.readline()
            said = re.fullmatch(r"linuxsync: serving (http://(.+):(\d+))/metrics\n", line)
            assert said, line + server.stderr.read()
            yield said[1], said[2], int(said[3])
            server.send_signal(end)
            assert server.wait(60) == 0
            assert (server.stdout.read(), server.stderr.read()) == ("", "")
        finally:
            server.kill()


def scraped(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


def listening():
    """Local addresses of sockets that listen, by port, as the kernel prints them."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                address, port = words[1].split(":")
                found[int(port, 16)] = address
    return found


def test_listen():
    """On loopback unless told otherwise; each scrape is a fresh look."""
    with serving("0") as (url, host, port):
        assert host == "127.0.0.1"
        assert listening()[port] == "0100007F"
        assert sum(samples(scraped(url), "linuxsync_sync_files").values()) == 0
        with scene(SCENE):
            assert sum(samples(scraped(url), "linuxsync_sync_files").values()) == 8
        assert sum(samples(scraped(url), "linuxsync_sync_files").values()) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 60)


@pytest.mark.parametrize(
    ("address", "host", "bound"),
    [
        ("0.0.0.0", "127.0.0.2", "00000000"),
        ("127.0.0.3", "127.0.0.3", "0300007F"),
        ("[::1]", "[::1]", "00000000000000000000000001000000"),
    ],
)
def test_listen_where_told(address, host, bound):
    """Every interface, one address, IPv6; Ctrl-C is as clean an end as SIGTERM."""
    with serving(f"{address}:0", end=signal.SIGINT) as (_, said, port):
        assert said == address
        assert listening()[port] == bound
        assert samples(scraped(f"http://{host}:{port}"), "linuxsync_scan_seconds")


def test_scrapes_take_turns():
    """Never two looks at a time, however many ask."""
    running, most, lock = 0, 0, threading.Lock()
    first, all_there = threading.Event(), threading.Event()

    def look():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        first.set()
        all_there.wait(60)
        with lock:
            running -= 1
        return [Gauge("linuxsync_x", "One.", (), {(): 1})]

    collector = exposition.Fresh(look)
    threads = [threading.Thread(target=lambda: list(collector.collect())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert first.wait(60)
    threads[-1].join(0.2)  # time to get in, for one that does not wait for its turn
    all_there.set()
    for thread in threads:
        thread.join(60)
    assert (running, most) == (0, 1)


def test_listen_refusals():
    """A port in use, one that is root's, an address of some other machine, and what is no address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = linuxsync("metrics", "--listen", str(port))
    assert (said.status, said.out) == (1, "")
    assert said.err == (
        f"Error: can't listen on 127.0.0.1:{port}: Address already in use; another program has this port, "
        f"`ss -ltnp sport = {port}` says which; or choose another\n"
    )
    said = as_nobody("metrics", "--listen", "80")
    assert said.status == 1 and "Permission denied; ports below 1024 are for root" in said.err
    said = linuxsync("metrics", "--listen", "192.0.2.1:9743")
    assert said.status == 1 and "Cannot assign requested address; see `ip address`" in said.err
    for wrong in ("x", ":9743", "65536", "::1:9743", "127.0.0.1:", "-1"):
        said = linuxsync("metrics", f"--listen={wrong}")
        assert said.status == 2, wrong
        assert ("brackets" if wrong == "::1:9743" else "is no [ADDRESS:]PORT") in said.err
    said = linuxsync("metrics", "--listen", "9743", "--textfile", "x")
    assert said.status == 2 and "choose one" in said.err


def test_without_the_package(monkeypatch):
    """The command says how to get it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "linuxsync.cli.exposition")
    monkeypatch.delattr(sys.modules["linuxsync.cli"], "exposition")
    said = linuxsync("metrics")
    assert said.status == 1
    assert said.err == "Error: this takes the Python package prometheus-client: pip install 'linuxsync[metrics]'\n"
