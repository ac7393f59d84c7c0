"""Work of the parts of a network, as the shares of the peak count it."""

import sys

import pytest
import torch

from contrast_arch.layers.ss2d import SS2D
from tests.conftest import ROOT, TINY

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import shares
finally:
    sys.path.remove(str(ROOT / "benchmarks"))


def test_work_of_parts():
    """2 images of 16x16; bytes are 4 a number, read or written once."""
    pixels = 2 * 16 * 16
    parts = shares.parts(2, 16)

    def work(name):
        return shares.work(*parts[name][1:])

    linear = work("linear 60-120 (fc1)")
    read, written = 60 * pixels + 60 * 120 + 120, 120 * pixels
    assert linear["forward"] == {"flops": 2 * 60 * 120 * pixels, "bytes": 4 * (read + written)}
    assert linear["backward"] == {"flops": 4 * 60 * 120 * pixels, "bytes": 4 * (written + 2 * read)}
    # Four directions of dt_rank 4 and d_state 1, by the table of contrast_arch.experiments.bench.multiply_adds.
    assert work("scan")["forward"]["flops"] == 2 * 4 * 60 * (4 + 4 + 2) * pixels
    assert work("depthwise convolution 3x3")["forward"]["flops"] == 2 * 9 * 60 * pixels
    # q k^T and the sum over v, for 24x24 keys each.
    assert work("overlapping attention")["forward"]["flops"] == 4 * 24 * 24 * 60 * pixels
    assert work("GELU of 60")["forward"] == {"flops": 0, "bytes": 8 * 60 * pixels}


def test_calls_are_those_of_contrast():
    """Linear layers and norms of the network are as many as the calls say."""
    net = shares.build("Contrast", "fp32")
    parts = shares.parts(1, 16)
    calls = {name: count for name, (count, _, _) in parts.items()}

    def count(kind, fits=lambda module: True):
        return sum(isinstance(module, kind) and fits(module) for module in net.modules())

    assert calls["LayerNorm"] == count(torch.nn.LayerNorm)
    assert calls["scan"] == count(SS2D)
    shapes = {"60-60": (60, 60), "60-120 (fc1)": (60, 120), "120-60 (fc2)": (120, 60), "60-180 (qkv)": (60, 180)}
    for name, shape in shapes.items():
        found = count(torch.nn.Linear, lambda m, shape=shape: (m.in_features, m.out_features) == shape)
        assert calls[f"linear {name}"] == found
    assert calls["convolution 3x3 60-60"] == count(
        torch.nn.Conv2d, lambda m: (m.in_channels, m.out_channels, m.groups) == (60, 60, 1)
    )


def test_a_share_is_of_the_bound_that_takes_longer(monkeypatch):
    """The machine copies 16 GB and multiplies at 8 GFLOP in a second; every part takes a second."""
    monkeypatch.setattr(shares, "several", lambda call: (call, 1))
    own = {shares.GEMM: 0.25, shares.COPY: 8 * 60 * 256 / 16e9, shares.FAR_COPY: 1.0}
    timed = lambda calls, rounds: {key: [own.get(key, 1.0)] * rounds for key in calls}  # noqa: E731
    monkeypatch.setattr(shares, "interleaved", timed)
    threads = torch.get_num_threads()
    try:
        found = shares.measure_shares(1, 1, 16, 3, gemm=1000, far=8)
    finally:
        torch.set_num_threads(threads)
    assert found["peaks"] == pytest.approx({shares.GEMM: 8, shares.COPY: 16, shares.FAR_COPY: 64e-9})
    rows = {(row["part"], row["pass"]): row for row in found["rows"]}
    assert len(rows) == 2 * len(shares.parts(1, 16))
    linear, gelu = rows["linear 60-60", "forward"], rows["GELU of 60", "backward"]
    assert (linear["bound"], gelu["bound"]) == (shares.GEMM, shares.COPY)
    assert linear["share"] == pytest.approx(2 * 60 * 60 * 256 / 8e9)
    assert gelu["share"] == pytest.approx(12 * 60 * 256 / 16e9)
    machine = dict.fromkeys(("cpu", "system", "torch", "numba", "python", "commit"), "?")
    text = shares.tables({"machine": machine, "size": 16, "shares": [found], "bf16": []})
    assert "| GELU of 60 | backward | 24 | 1000.00 | 24000 | 0 | 0.0 | copy | 0 % |" in text


def test_bf16_is_autocast_around_the_network():
    arguments = {key: value for key, value in TINY.items() if key != "type"}
    fp32, bf16 = (shares.build("Contrast", precision, **arguments) for precision in ("fp32", "bf16"))
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        error = (fp32(x) - bf16(x)).abs().max()
    assert 1e-6 < error < 2e-2
    assert next(bf16.parameters()).dtype == torch.float32
