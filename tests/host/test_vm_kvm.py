"""Whether KVM works: an answer in bounded time, given once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from linuxsync.vm import kernel as kernels
from linuxsync.vm import kvm


def test_a_real_probe_ends_in_time() -> None:
    """A guest under KVM says its name and panics, or the probe gives up; on a machine where it hangs, too."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm to try")
    kernel = kernels.ensure()
    start = time.monotonic()
    answer = kvm.boots(kernel)
    assert time.monotonic() - start < kvm.PROBE_LIMIT + 60
    assert answer.works == (answer.why == "KVM works")


def test_the_answer_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is booted; another kernel is tried anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "impossible", lambda: None)
    tried = []

    def boots(kernel: kernels.Kernel) -> kvm.Answer:
        tried.append(kernel)
        return kvm.Answer(False, "as if it hung")

    monkeypatch.setattr(kvm, "boots", boots)
    images = [tmp_path / name for name in ("one", "two")]
    for image in images:
        image.write_bytes(b"image")
        for _ in range(2):
            assert kvm.probe(kernels.Kernel(image, "1.2.3")) == kvm.Answer(False, "as if it hung")
    assert [kernel.image for kernel in tried] == images


def test_what_cannot_work_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /dev/kvm, or on a CPU without vmx and svm, the answer is no and says why."""
    if not (why := kvm.impossible()):
        pytest.skip("KVM may work here")

    def boots(kernel: kernels.Kernel) -> kvm.Answer:
        raise AssertionError("tried what is known to be impossible")

    monkeypatch.setattr(kvm, "boots", boots)
    assert kvm.probe(kernels.Kernel(Path("/nonexistent"), "1.2.3")) == kvm.Answer(False, why)
    assert "kvm" in why
