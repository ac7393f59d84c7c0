"""The Triton kernels under Triton's interpreter, on the CPU; run by ``test_triton.py`` in a process of its own.

The interpreter is chosen when triton is imported (TRITON_INTERPRET=1) and is slow: small images, and tiles to match.
"""

import pytest
import torch
import torch.nn.functional as F

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.ops import reference, ss2d_scan, triton, triton_kernels
from tests.ops.scan_inputs import (
    check_backward_without_states,
    check_operators,
    outputs_and_gradients,
    ss2d_inputs,
)

# 8 steps of 8 channels, carried 4 chunks at a time: small images have several of each.
SMALL_TILES = triton.Config(8, 8, 4, carry_chunks=4, carry_channels=8)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(triton, "STEPS", SMALL_TILES.steps)
    monkeypatch.setattr(triton, "config", lambda dim: SMALL_TILES)


def on_triton(*inputs):
    return ss2d_scan(*inputs, backend="triton")


def assert_matches_definition(inputs, tolerance):
    """Output and gradients against the float64 definition on the same numbers."""
    weight = torch.randn(inputs[0].shape)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = outputs_and_gradients(lambda *t: ss2d_scan(*t, backend="reference"), wide, weight)
    names = ["y", "x", "p", "dt_w", "dt_b", "A_logs", "Ds"]
    for name, a, b in zip(names, outputs_and_gradients(on_triton, inputs, weight), expected, strict=True):
        assert a.isfinite().all(), name
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max(), name


@pytest.mark.parametrize(
    "shape",  # B, H, W, D, N, R
    [
        (2, 5, 7, 5, 1, 4),
        (1, 4, 8, 4, 1, 4),  # whole chunks
        (1, 1, 1, 2, 1, 1),
        (1, 7, 1, 3, 1, 2),
        (1, 1, 19, 3, 2, 3),
        (1, 4, 5, 3, 4, 4),
        (1, 3, 4, 5, 4, 1),
        (1, 5, 4, 19, 1, 2),  # three blocks of channels
        (1, 3, 3, 2, 1, 10),  # a rank that is not unrolled
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_tiles")
def test_matches_definition(shape):
    assert_matches_definition(ss2d_inputs(shape, torch.float32), 2e-6)


def test_matches_definition_with_shipped_tiles():
    assert_matches_definition(ss2d_inputs((1, 3, 6, 68, 1, 1), torch.float32), 2e-6)


@pytest.mark.parametrize("dt_bias", [-13.0, 20.0, 120.0])
@pytest.mark.usefixtures("small_tiles")
def test_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120. Where exp(dt A) is below float32 A's gradient is too, hence the absolute part."""
    inputs = ss2d_inputs((1, 5, 7, 5, 2, 2), torch.float32, dt_bias)
    weight = torch.randn(inputs[0].shape)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = outputs_and_gradients(lambda *t: ss2d_scan(*t, backend="reference"), wide, weight)
    for a, b in zip(outputs_and_gradients(on_triton, inputs, weight), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=5e-6 * b.abs().max().item() + 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("small_tiles")
def test_half_precision_has_float32_state(dtype):
    """x, p, y and their gradients in half precision; the error is that of rounding the result once."""
    inputs = ss2d_inputs((1, 5, 7, 5, 1, 2), dtype, parameter_dtype=torch.float32)
    weight = torch.randn(inputs[0].shape).to(dtype)
    wide = [t.detach().float().requires_grad_() for t in inputs]
    full = outputs_and_gradients(on_triton, wide, weight)
    half = outputs_and_gradients(on_triton, inputs, weight)
    assert [t.dtype for t in half] == [dtype] * 3 + [torch.float32] * 4
    for a, b in zip(half, full, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2 * torch.finfo(a.dtype).eps, atol=1e-6)


@pytest.mark.usefixtures("small_tiles")
def test_not_contiguous():
    inputs = ss2d_inputs((2, 3, 5, 4, 1, 2), torch.float32)
    strided = [t.detach().permute(3, 2, 1, 0, *range(4, t.dim())).contiguous() for t in inputs[:2]]
    strided = [t.permute(3, 2, 1, 0, *range(4, t.dim())).requires_grad_() for t in strided]
    weight = torch.randn(2, 5, 3, 4).transpose(1, 2)
    assert not strided[0].is_contiguous()
    for a, b in zip(
        outputs_and_gradients(on_triton, strided + inputs[2:], weight),
        outputs_and_gradients(on_triton, inputs, weight.contiguous()),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 1, 2), (2, 0, 4, 3, 1, 2)], ids=str)
def test_empty(shape):
    inputs = ss2d_inputs(shape, torch.float32)
    y, *gradients = outputs_and_gradients(on_triton, inputs, torch.empty(shape[:4]))
    assert y.shape == shape[:4]
    for gradient, t in zip(gradients, inputs, strict=True):
        assert gradient.shape == t.shape and not gradient.any()


@pytest.mark.parametrize("which", range(6))
@pytest.mark.usefixtures("small_tiles")
def test_nan_goes_through_and_stays_in_its_image(which):
    inputs = [t.detach() for t in ss2d_inputs((2, 3, 5, 3, 1, 2), torch.float32)]
    clean = on_triton(*inputs)
    inputs[which].view(-1)[0] = float("nan")
    y = on_triton(*inputs)
    assert y[0].isnan().any()
    if which < 2:
        assert torch.equal(y[1], clean[1])


@pytest.mark.usefixtures("small_tiles")
def test_backward_without_saved_states():
    check_backward_without_states("triton", ss2d_inputs((2, 3, 5, 3, 2, 2), torch.float32))


@pytest.mark.usefixtures("small_tiles")
def test_operators_pass_opcheck():
    check_operators("triton", ss2d_inputs((1, 2, 5, 3, 1, 2), torch.float32))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.usefixtures("small_tiles")
def test_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch, compiled):
    net = archs.Contrast(dims=6, depths=[1], num_heads=[2], window_size=4, upscale=2)
    lq, gt = torch.rand(1, 3, 4, 7), torch.rand(1, 3, 8, 14)
    results = {}
    for backend in ("torch", "triton"):
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
        torch.compiler.reset()
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        sr = run(lq)
        results[backend] = [sr, *torch.autograd.grad(F.mse_loss(sr, gt), list(net.parameters()))]
    for a, b in zip(results["triton"], results["torch"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_self_test_passes_and_sees_a_wrong_scan(monkeypatch):
    device = torch.device("cpu")
    assert triton._scan_error(device) < 1e-6
    monkeypatch.setattr(triton_kernels, "combine_adjoint", triton_kernels.combine_split)
    assert triton._scan_error(device) > 0.01


def test_scan_order_is_that_of_the_definition():
    """An input that only the last visited pixel of each direction can see is told apart by direction."""
    H, W = 3, 4
    for direction in range(4):
        first = reference.scan_order(H, W, direction)[0].item()
        x = torch.zeros(1, H, W, 1)
        x.view(-1)[first] = 1
        p = torch.zeros(1, H, W, 4, 3)
        p[..., direction, 1:] = 1  # B = C = 1 in this direction only
        y = on_triton(x, p, torch.zeros(4, 1, 1), torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4)).view(-1)
        expected = 0.5 ** torch.arange(H * W) * torch.log(torch.tensor(2.0))  # dt = softplus(0) = ln 2
        torch.testing.assert_close(y[reference.scan_order(H, W, direction)], expected)
