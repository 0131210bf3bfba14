"""linuxsync doctor: what it says of a machine that has everything, and of one from which things were taken."""

import ctypes
import os
from pathlib import Path

import pytest
from buffer_words import bufinfo
from drm_words import clients, node_of
from kernel_words import libc
from look_words import as_nobody, become_nobody, elsewhere, linuxsync, without_debugfs
from syncobj_words import there_are_syncobjs

from linuxsync import inspect

MS_BIND = 4096


def states(said):
    """What --require takes, and how it is."""
    return {one["name"]: one["state"] for one in said.json["checks"]}


def checks(said):
    return {one["name"]: one for one in said.json["checks"]}


def hide(*paths):
    """A function that puts something empty in place of folders and nodes, for one process."""

    def hidden():
        without_debugfs()
        assert libc.umount2(b"/sys/kernel/tracing", 2) == 0
        for path in paths:
            kind, source, flags = (b"tmpfs", b"none", 0) if Path(path).is_dir() else (None, b"/dev/null", MS_BIND)
            assert libc.mount(source, os.fsencode(path), kind, ctypes.c_ulong(flags), None) == 0

    return hidden


def test_a_machine_that_has_everything(device):
    """Each thing is there, and it says how that is known."""
    said = linuxsync("doctor", "-J")
    assert (said.status, said.err) == (0, "")
    gpu, old = there_are_syncobjs(), not there_are_syncobjs()
    found = states(said)
    assert found.pop("kvm") in ("ok", "missing")
    for name in ("qemu", "vng", "vm"):  # the host's
        found.pop(name)
    assert found == {
        "sync_file": "ok",
        "set_deadline": "missing" if old else "ok",
        "export_sync_file": "ok",
        "import_sync_file": "ok",
        "sw_sync": "ok",
        "debugfs": "ok",
        "tracefs": "ok",
        "heaps": "ok",
        "udmabuf": "ok",
        "udmabuf_vmap": "missing" if old else "ok",
        "udmabuf_pinned": "missing" if old else "ok",
        "drm": "ok",
        "syncobj": "ok" if gpu else "missing",
        "timeline_syncobj": "ok" if gpu else "missing",
        "syncobj_eventfd": "ok" if gpu else "missing",
        "drm:virtio_gpu": "ok",
        "drm:vgem": "ok",
        "drm:vkms": "ok",
        "fencedev": "ok",
        "pidfd_getfd": "ok",
        "kcmp": "ok",
        "root": "ok",
        "ptrace": "ok",
        "hidepid": "ok",
    }
    each = checks(said)
    assert each["drm:vkms"]["why"] == f"{node_of('vkms')}: no syncobj"
    assert each["drm:vgem"]["why"] == f"{node_of('vgem')}, {node_of('vgem', 'renderD')}: no syncobj"
    said_of_gpu = "syncobj and timeline" if gpu else "no syncobj"
    assert each["drm:virtio_gpu"]["why"].endswith(f": {said_of_gpu}")
    assert all(one["fix"] is None for one in each.values() if one["state"] == "ok")


def test_the_table():
    """What people read."""
    lines = linuxsync("doctor").out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["NAME", "STATE"],
        ["sync_file", "ok"],
        ["set_deadline", "ok"],
    ] or (not there_are_syncobjs())
    heading, heaps = lines[0], next(line for line in lines if line.startswith("heaps "))
    assert heaps[heading.index("WHY") :].startswith("system ")
    assert heaps.endswith("  -")


def test_nothing_is_changed(open_files, gpu):
    """No descriptor, buffer, timeline, handle, node, mount or module more, and no device open."""

    def everything():
        return (
            open_files(),
            bufinfo(),
            Path("/sys/kernel/debug/sync/info").read_text(),
            {driver: clients(driver) for driver in ("vgem", "vkms", "virtio_gpu")},
            sorted(str(path) for path in Path("/dev").rglob("*") if "pts" not in path.parts),
            Path("/proc/self/mountinfo").read_text(),
            [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()],
        )

    before = everything()
    linuxsync("doctor")
    linuxsync("doctor", "-J")
    assert everything() == before


def test_requiring():
    """Status 1 if one of them is not ok, and a line that says why; a name that is none is a mistake."""
    assert linuxsync("doctor", "--require", "sw_sync", "--require", "drm:vgem").status == 0
    said = linuxsync("doctor", "--require", "drm:nouveau", "--require", "sw_sync")
    assert (said.status, said.err) == (
        1,
        "linuxsync: drm:nouveau is required and missing: none that this user may ask\n",
    )
    said = elsewhere(without_debugfs, "doctor", "--require", "sw_sync", "--require", "debugfs")
    assert said.status == 1
    assert said.err == (
        "linuxsync: sw_sync is required and missing: it would be in debugfs: not mounted\n"
        "linuxsync: debugfs is required and missing: not mounted\n"
    )
    said = linuxsync("doctor", "--require", "swsync")
    assert said.status == 2
    assert "'swsync' is none of" in said.err
    said = as_nobody("doctor", "--require", "set_deadline")
    assert (said.status, said.err) == (1, "linuxsync: set_deadline is required and unknown: no fence to ask\n")


def test_a_machine_without_devices():
    """No DRM, no heap, no debugfs: what is left is told apart from what is not known."""
    found = checks(elsewhere(hide("/dev/dri", "/dev/dma_heap", "/dev/udmabuf", "/dev/fencedev"), "doctor", "-J"))
    wanted = {
        "sync_file": ("ok", "/proc/kallsyms has it; there is no fence to ask", None),
        "set_deadline": ("unknown", "no fence to ask", "linuxsync vm shell"),
        "export_sync_file": ("unknown", "no dma-buf to ask: this user can make none", "linuxsync vm shell"),
        "import_sync_file": ("unknown", "no dma-buf to ask: this user can make none", "linuxsync vm shell"),
        "sw_sync": ("missing", "it would be in debugfs: not mounted", "mount -t debugfs none /sys/kernel/debug"),
        "debugfs": ("missing", "not mounted", "mount -t debugfs none /sys/kernel/debug"),
        "tracefs": ("missing", "not mounted", "mount -t tracefs none /sys/kernel/tracing"),
        "drm": ("missing", "no device in /dev/dri", "modprobe vgem"),
        "syncobj": ("missing", "no DRM device has any; virtio_gpu does, from Linux 6.6 on", "linuxsync vm shell"),
        "syncobj_eventfd": (
            "missing",
            "no DRM device has syncobjs that tell an eventfd; Linux 6.6 brought it",
            "linuxsync vm shell",
        ),
    }
    assert {name: tuple(found[name][key] for key in ("state", "why", "fix")) for name in wanted} == wanted
    assert found["heaps"]["state"] == "missing"
    assert not [name for name in found if name.startswith("drm:")]


@pytest.mark.parametrize(("hidden", "asked"), [([], 0), (["/dev/dma_heap", "/dev/udmabuf"], 1)])
def test_how_a_fence_is_come_by(hidden, asked):
    """Without heaps a syncobj or a timeline gives the fence that is asked for deadlines."""

    def prepare():
        if hidden:
            hide(*hidden)()

    found = checks(elsewhere(prepare, "doctor", "-J"))
    assert found["set_deadline"]["state"] == ("ok" if there_are_syncobjs() else found["set_deadline"]["state"])
    assert found["export_sync_file"]["state"] == ("unknown" if asked else "ok")


def test_a_fence_of_sw_sync():
    """Where there is nothing but debugfs."""

    def prepare():
        assert libc.unshare(0x20000) == 0
        assert libc.mount(None, b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None) == 0
        for folder in (b"/dev/dri", b"/dev/dma_heap"):
            assert libc.mount(b"none", folder, b"tmpfs", ctypes.c_ulong(0), None) == 0
        assert libc.mount(b"/dev/null", b"/dev/udmabuf", None, ctypes.c_ulong(MS_BIND), None) == 0

    info = Path("/sys/kernel/debug/sync/info").read_text()
    found = checks(elsewhere(prepare, "doctor", "-J"))
    assert found["sync_file"]["why"].startswith("SYNC_IOC_FILE_INFO answers: sw_sync-doctor")
    assert Path("/sys/kernel/debug/sync/info").read_text() == info


def test_an_ordinary_user():
    """What is not for them is missing, with the command that helps; what they can't know is unknown."""
    linuxsync("doctor")  # loads what Python may keep where only root may read
    said = as_nobody("doctor", "-J")
    assert said.status == 0
    found = checks(said)
    for name in ("sw_sync", "debugfs", "tracefs", "root"):
        assert (found[name]["state"], found[name]["fix"]) == ("missing", "sudo linuxsync doctor"), name
    assert found["sync_file"]["state"] == "ok"
    assert found["set_deadline"]["state"] == "unknown"
    assert found["heaps"] == {
        "name": "heaps",
        "state": "missing",
        "why": "not for this user: system",
        "fix": "sudo setfacl -m u:$USER:r /dev/dma_heap/system",
    }
    assert found["udmabuf"]["state"] == found["drm"]["state"] == "missing"
    assert found["drm"]["fix"] == "sudo usermod -aG render $USER"
    assert found["syncobj"]["state"] == found["syncobj_eventfd"]["state"] == "unknown"
    assert found["ptrace"]["state"] == found["pidfd_getfd"]["state"] == found["kcmp"]["state"] == "ok"


def test_hidden_processes():
    """Mounting /proc with hidepid concerns who may not trace others."""

    def prepare():
        without_debugfs()
        assert libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), b"hidepid=invisible") == 0

    said = checks(elsewhere(prepare, "doctor", "-J"))["hidepid"]
    assert (said["state"], said["fix"]) == ("ok", None)

    def as_somebody_else():
        prepare()
        become_nobody()

    linuxsync("doctor")
    said = checks(elsewhere(as_somebody_else, "doctor", "-J"))["hidepid"]
    assert said == {
        "name": "hidepid",
        "state": "missing",
        "why": "/proc is mounted with hidepid=invisible: it does not show other users' processes, or their descriptors",
        "fix": "sudo mount -o remount,hidepid=0 /proc",
    }


def test_the_library():
    """inspect.examine is all of it but the VM, without the command."""
    found = inspect.examine()
    assert all(isinstance(one, inspect.Finding) for one in found)
    assert {one.name: one.state for one in found}["sw_sync"] is inspect.State.OK
    assert "vng" not in {one.name for one in found}
