"""The estimate of memory against what was measured, and against what there is."""

import json

import pytest
import torch

from contrast_arch import ops
from contrast_arch.memory import Memory, device_memory
from contrast_arch.preflight import check_network, memory
from contrast_arch.preflight.memory import step_bytes
from tests.conftest import ROOT

CPU = torch.device("cpu")
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())["peak_mib"]
NETWORKS = ("Contrast", "ContrastNoPE", "HATLight", "ContrastNoPENoCA", "MambaLight")

needs_numba = pytest.mark.skipif(ops.BACKENDS["numba"].why_not(CPU, False) is not None, reason="measured with numba")


@needs_numba
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 8])
def test_within_the_stated_limits_of_what_was_measured(name, batch):
    estimated = step_bytes(check_network({"type": name}), batch, 64, CPU) / 2**20
    measured = MEASURED[str(batch)][name]
    assert (0.86 if name == "HATLight" else 0.96) < estimated / measured < 1.06


def test_what_takes_less():
    def estimate(batch=2, amp=None, **arguments):
        return step_bytes(check_network({"type": "Contrast", **arguments}), batch, 32, CPU, amp)

    whole = estimate()
    assert estimate(use_checkpoint=True) < 0.4 * whole
    assert estimate(amp=torch.bfloat16) < 0.8 * whole
    assert 1.8 * whole < estimate(batch=4) < 2.2 * whole


def test_nothing_is_logged_or_decided(caplog):
    """The backend is announced when training takes it, not here."""
    ops._chosen.cache_clear()
    with caplog.at_level("INFO", "contrast_arch"), ops.unannounced():
        step_bytes(check_network({"type": "Contrast"}), 1, 32, CPU)
    assert "SS2D on cpu" not in caplog.text and ops._chosen.cache_info().currsize == 0


def test_findings(check, monkeypatch):
    def of(total, free, **changes):
        monkeypatch.setattr(memory, "device_memory", lambda device: Memory(total, free))
        return check(**changes)

    assert of(2**40, 2**40) == []
    (found,) = of(2**40, 2**10)
    assert found[0] == "warning" and "batch_size_per_gpu: 2, gt_size: 32: an iteration takes about" in found[1]
    (found,) = of(2**10, 2**10)
    assert found[0] == "error" and "cpu has 0.0 GiB; lower batch_size_per_gpu or gt_size, or write" in found[1]
    # Processes share a machine.
    (found,) = of(2**10, 2**10, processes=2, launched=False)
    assert "(2 processes)" in found[1]


def test_an_estimate_that_fails_is_no_finding(check, monkeypatch):
    def fail(*args):
        raise RuntimeError("no such file")

    monkeypatch.setattr(memory, "device_memory", fail)
    assert check() == []


def test_memory_of_this_machine():
    found = device_memory(CPU)
    if found is not None:
        assert 0 < found.free <= found.total
