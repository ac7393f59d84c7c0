"""The estimate of memory against what was measured, and against what there is."""

import json

import pytest
import torch

from contrast_arch import ops
from contrast_arch.check import build_on_meta, memory
from contrast_arch.check.memory import most_bytes, step_bytes
from contrast_arch.memory import Memory, device_memory
from contrast_arch.ops import dispatch
from contrast_arch.registration import networks
from tests.conftest import NETWORKS, ROOT, TINY

CPU = torch.device("cpu")
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())["peak_mib"]

needs_numba = pytest.mark.skipif(
    ops.BACKENDS["ss2d"]["cpu"].unsupported_reason(CPU, False) is not None, reason="measured with numba"
)


@needs_numba
@pytest.mark.parametrize("name, batch", [*((name, 8) for name in NETWORKS), ("Contrast", 1), ("HATLight", 1)])
def test_within_the_stated_limits_of_what_was_measured(name, batch):
    network = build_on_meta({"type": name})
    estimated = step_bytes(network, batch, 64, CPU) / 2**20
    assert estimated < most_bytes(network, batch, 64) / 2**20 < 10 * estimated
    # By the name in the table: its defaults are S.
    measured = MEASURED[str(batch)]["ContrastV2 S" if name == "ContrastV2" else name]
    # One window at a time takes memory of its own in backward.
    assert {"HATLight": 0.79, "ContrastV2": 0.92}.get(name, 0.96) < estimated / measured < 1.06


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_what_a_step_keeps(name):
    """Of real tensors the same, but for what is too small to be looked at."""
    network_g = {**TINY, "type": name, "dims": 24}
    estimated = step_bytes(build_on_meta(network_g), 1, 32, CPU)
    assert estimated < most_bytes(build_on_meta(network_g), 1, 32)
    net = networks()[name](**{key: value for key, value in network_g.items() if key != "type"})
    own = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept = {}

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.nn.functional.mse_loss(net(torch.rand(1, 3, 32, 32)), torch.rand(1, 3, 128, 128))
    sizes = [tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in own]
    assert estimated == pytest.approx(sum(sizes) + memory.TEMPORARIES * max(sizes), rel=0.01)


def test_what_takes_less():
    def estimate(batch=2, amp=None, **arguments):
        return step_bytes(build_on_meta({"type": "Contrast", **arguments}), batch, 32, CPU, amp)

    whole = estimate()
    # Its inputs, and one block of 24: measured on the CPU, 0.21 of the whole at batch 8.
    assert 0.1 * whole < estimate(use_checkpoint=True) < 0.4 * whole
    assert estimate(amp=torch.bfloat16) < 0.8 * whole
    assert 1.8 * whole < estimate(batch=4) < 2.2 * whole


def test_nothing_is_logged_or_decided(caplog):
    """The backend is announced when training takes it, not here."""
    dispatch._chosen.cache_clear()
    with caplog.at_level("INFO", "contrast_arch"), ops.quiet_dispatch():
        step_bytes(build_on_meta({"type": "Contrast"}), 1, 32, CPU)
    assert "on cpu: backend" not in caplog.text and dispatch._chosen.cache_info().currsize == 0


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


def test_where_there_is_plenty_nothing_is_estimated(check, monkeypatch):
    """Backends are not compiled for it."""
    monkeypatch.setattr(memory, "step_bytes", lambda *args: pytest.fail("estimated"))
    monkeypatch.setattr(memory, "device_memory", lambda device: Memory(2**40, 2**40))
    assert check() == []


def test_an_estimate_that_fails_is_no_finding(check, monkeypatch):
    def fail(*args):
        raise RuntimeError("no such file")

    monkeypatch.setattr(memory, "device_memory", fail)
    assert check() == []


def test_memory_of_this_machine():
    found = device_memory(CPU)
    if found is not None:
        assert 0 < found.free <= found.total
