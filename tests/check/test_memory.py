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
@pytest.mark.parametrize(
    "name, batch, least",
    # One window at a time takes memory of its own in backward.
    [("Contrast", 1, 0.96), ("ContrastNoPENoCA", 8, 0.96), ("HATLight", 8, 0.79), ("ContrastV2", 8, 0.92)],
)
def test_within_the_stated_limits_of_what_was_measured(name, batch, least):
    network = build_on_meta({"type": name})
    estimated = step_bytes(network, batch, 64, CPU) / 2**20
    assert estimated < most_bytes(network, batch, 64) / 2**20 < 10 * estimated
    # By the name in the table: its defaults are S.
    measured = MEASURED[str(batch)]["ContrastV2 S" if name == "ContrastV2" else name]
    assert least < estimated / measured < 1.06


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


def test_what_takes_less(caplog):
    """Nothing is logged or decided: the backend is announced when training takes it."""

    def estimate(batch=2, amp=None, **arguments):
        return step_bytes(build_on_meta({"type": "Contrast", "depths": [6], **arguments}), batch, 16, CPU, amp)

    dispatch._chosen.cache_clear()
    with caplog.at_level("INFO", "contrast_arch"), ops.quiet_dispatch():
        whole = estimate()
        # Its inputs, and one block: a quarter of the whole.
        assert 0.1 * whole < estimate(use_checkpoint=True) < 0.5 * whole
        assert estimate(amp=torch.bfloat16) < 0.8 * whole
        assert 1.8 * whole < estimate(batch=4) < 2.2 * whole
    assert "on cpu: backend" not in caplog.text and dispatch._chosen.cache_info().currsize == 0


def test_findings(check, monkeypatch):
    def of(total, free, **context):
        monkeypatch.setattr(memory, "device_memory", lambda device: Memory(total, free))
        return check(**context)

    (found,) = of(2**40, 2**10)
    assert "warning: " in found and "batch_size_per_gpu: 2, gt_size: 32: an iteration takes about" in found
    (found,) = of(2**10, 2**10)
    assert "error: " in found and "cpu has 0.0 GiB; lower batch_size_per_gpu or gt_size, or write" in found
    # Processes share a machine.
    (found,) = of(2**10, 2**10, processes=2, launched=False)
    assert "(2 processes)" in found
    # Where there is plenty, backends are not compiled for an estimate.
    monkeypatch.setattr(memory, "step_bytes", lambda *args: pytest.fail("estimated"))
    assert of(2**40, 2**40) == []
    # An estimate that fails is no finding.
    monkeypatch.setattr(memory, "device_memory", lambda device: 1 / 0)
    assert check() == []


def test_memory_of_this_machine():
    found = device_memory(CPU)
    assert found is None or 0 < found.free <= found.total
