"""The backends of the CPU against the sequential definition, and the definition by hand."""

import pytest
import torch

from contrast_arch.ops import ss2d_scan
from contrast_arch.ops.ss2d import torch as backend_torch
from contrast_arch.ops.ss2d.reference import scan_order, selective_scan
from tests.ops.ss2d.inputs import CHECKS, check_definition, on, outputs_and_gradients, ss2d_inputs

BACKENDS = ["torch", "cpu"]


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_scan_order_of_a_small_image():
    # Pixels 0 1 2 / 3 4 5.
    assert scan_order(2, 3, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert scan_order(2, 3, 1).tolist() == [0, 3, 1, 4, 2, 5]
    assert scan_order(2, 3, 2).tolist() == [5, 4, 3, 2, 1, 0]
    assert scan_order(2, 3, 3).tolist() == [5, 2, 4, 1, 3, 0]


def test_definition_by_hand():
    # h1 = ln2 * 3 * 2, h2 = h1 / 2 + ln2 * 5 * 1 (exp(-ln2) = 1/2); y = C h.
    ln2 = torch.log(torch.tensor(2.0, dtype=torch.float64))
    u = torch.tensor([[[3.0, 5.0]]], dtype=torch.float64)
    B = torch.tensor([[[[2.0, 1.0]]]], dtype=torch.float64)
    C = torch.tensor([[[[1.0, 10.0]]]], dtype=torch.float64)
    h1 = 6 * ln2
    h2 = h1 / 2 + 5 * ln2
    y = selective_scan(u, ln2.expand(1, 1, 2), torch.tensor([[-1.0]], dtype=torch.float64), B, C)
    torch.testing.assert_close(y[0, 0], torch.stack([h1, 10 * h2]))


@pytest.mark.parametrize(
    "shape, workers",  # B, H, W, D, N, R; 1, 2 or 4 groups of directions
    [
        ((2, 4, 9, 12, 1, 3), 1),
        ((1, 8, 8, 32, 1, 4), 1),  # whole chunks and vectors
        ((1, 5, 7, 60, 1, 4), 2),
        ((3, 5, 7, 33, 2, 2), 4),
        ((3, 1, 1, 2, 1, 1), 2),
        ((2, 1, 67, 4, 2, 2), 3),
        ((1, 35, 1, 3, 16, 1), 4),
        ((1, 3, 5, 100, 1, 10), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_definition(backend, shape, workers, threads):
    threads(workers)
    check_definition(backend, shape)


@pytest.mark.parametrize("dt_bias", [-13.0, 20.0, 120.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_small_and_large_steps(backend, dt_bias):
    """dt from 1e-6 to 120: no overflow, and no digits lost where softplus' derivative is small."""
    check_definition(backend, (1, 6, 7, 6, 2, 2), dt_bias=dt_bias)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_checks_of_all_backends(backend, check):
    check(backend, (5, 7))


@pytest.mark.parametrize("images", [0, 2])
def test_float64_with_images_together_and_apart(monkeypatch, images):
    """All of the default limit together; also where the last block of the batch is smaller."""
    if images:
        monkeypatch.setattr(backend_torch, "_IMAGES_TOGETHER_LIMIT", images * 9 * 11 * 4)
    check_definition("torch", (3, 9, 11, 4, 2, 2), torch.float64)


def test_autocast_does_not_narrow_the_definition():
    """The gradient is asked for outside, as in training."""

    def under_autocast(*inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return on("reference")(*inputs)

    inputs, weight = ss2d_inputs((1, 3, 5, 4, 1, 2), torch.float32), torch.randn(1, 3, 5, 4)
    found = (outputs_and_gradients(function, inputs, weight) for function in (under_autocast, on("reference")))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradient_of_one_input():
    inputs = ss2d_inputs((2, 6, 5, 4, 1, 2))
    x = inputs[0].detach().requires_grad_()
    (only_x,) = torch.autograd.grad(ss2d_scan(x, *(t.detach() for t in inputs[1:])).sum(), x)
    torch.testing.assert_close(only_x, torch.autograd.grad(ss2d_scan(*inputs).sum(), inputs[0])[0])


def test_backward_of_the_last_pixel_ignores_a_nan_in_the_first():
    """Channels do not mix and directions 0 and 1 end in the last pixel; with p zero nothing is carried at all."""
    x = torch.zeros(1, 5, 7, 2)
    x[0, 0, 0, 0] = float("nan")
    x.requires_grad_()
    parameters = [t.detach().float() for t in ss2d_inputs((1, 5, 7, 2, 1, 2))[2:]]
    y = ss2d_scan(x, torch.zeros(1, 5, 7, 4, 4), *parameters, backend="torch")
    assert torch.autograd.grad(y.sum(), x)[0][..., 1].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_memory_of_a_block(backend):
    """Beyond its inputs a scan keeps the carried states only: less than half a MiB at 64x64, D 60."""
    inputs = ss2d_inputs((1, 64, 64, 60, 1, 4), torch.float32)
    known = {t.untyped_storage().data_ptr() for t in inputs}
    saved = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in known:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = ss2d_scan(*inputs, backend=backend)
    assert y.requires_grad
    assert 0 < sum(saved.values()) < 2**19


def test_wrong_shapes_and_backends_are_named():
    inputs = ss2d_inputs((1, 2, 3, 4, 1, 2))
    with pytest.raises(ValueError, match=r"p has shape \(1, 2, 3, 4, 3\), expected \(1, 2, 3, 4, 4\)"):
        ss2d_scan(inputs[0], inputs[1][..., :3], *inputs[2:])
    with pytest.raises(ValueError, match=r"ss2d_scan: Ds has shape \(15,\)"):
        ss2d_scan(*inputs[:5], inputs[5][1:], backend="reference")
    with pytest.raises(ValueError, match=r"ss2d: backend 'xpu': expected one of reference, torch, cpu, cuda"):
        ss2d_scan(*inputs, backend="xpu")
