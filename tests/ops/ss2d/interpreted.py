"""The Triton kernels under Triton's interpreter, on the CPU; run by ``test_cuda.py`` in a process of its own.

The interpreter is chosen when triton is imported (TRITON_INTERPRET=1) and is slow: small images, and tiles to match.
"""

import pytest
import torch
import torch.nn.functional as F

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.ops.ss2d import cuda, cuda_kernels
from tests.archs.test_half_precision import check_network_in_half_precision
from tests.ops.ss2d.inputs import (
    check_against_definition,
    check_backward_without_states,
    check_empty,
    check_half_precision,
    check_nan,
    check_not_contiguous,
    check_operators,
    check_order_of_pixels,
    ss2d_inputs,
)

# 8 steps of 8 channels, carried 4 chunks at a time: small images have several of each.
SMALL_TILES = cuda.Config(8, 8, 4, carry_chunks=4, carry_channels=8)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(cuda, "STEPS", SMALL_TILES.steps)
    monkeypatch.setattr(cuda, "config", lambda dim: SMALL_TILES)


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
    check_against_definition("cuda", ss2d_inputs(shape, torch.float32), 2e-6)


def test_matches_definition_with_shipped_tiles():
    check_against_definition("cuda", ss2d_inputs((1, 3, 6, 65, 1, 1), torch.float32), 2e-6)


@pytest.mark.parametrize("dt_bias", [-13.0, 20.0, 120.0])
@pytest.mark.usefixtures("small_tiles")
def test_small_and_large_steps(dt_bias):
    """dt from 1e-6 to 120. Where exp(dt A) is below float32 A's gradient is too, hence the absolute part."""
    check_against_definition("cuda", ss2d_inputs((1, 5, 7, 5, 2, 2), torch.float32, dt_bias), 5e-6, absolute=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("small_tiles")
def test_half_precision_has_float32_state(dtype):
    check_half_precision("cuda", dtype)


@pytest.mark.usefixtures("small_tiles")
def test_not_contiguous():
    check_not_contiguous("cuda")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3, 1, 2), (2, 0, 4, 3, 1, 2)], ids=str)
def test_empty(shape):
    check_empty("cuda", shape)


@pytest.mark.parametrize("which", range(6))
@pytest.mark.usefixtures("small_tiles")
def test_nan_goes_through_and_stays_in_its_image(which):
    check_nan("cuda", which)


@pytest.mark.usefixtures("small_tiles")
def test_backward_without_saved_states():
    check_backward_without_states("cuda", ss2d_inputs((2, 3, 5, 3, 2, 2), torch.float32))


@pytest.mark.usefixtures("small_tiles")
def test_operators_pass_opcheck():
    check_operators("cuda", ss2d_inputs((1, 2, 5, 3, 1, 2), torch.float32))


@pytest.mark.usefixtures("small_tiles")
def test_network_on_the_kernels_is_the_network_on_pytorch(monkeypatch):
    net = archs.Contrast(dims=6, depths=[1], num_heads=[2], window_size=4, upscale=2)
    lq, gt = torch.rand(1, 3, 4, 7), torch.rand(1, 3, 8, 14)
    results = {}
    for backend in ("torch", "cuda"):
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
        torch.compiler.reset()
        run = torch.compile(net, fullgraph=True, backend="aot_eager")
        sr = run(lq)
        results[backend] = [sr, *torch.autograd.grad(F.mse_loss(sr, gt), list(net.parameters()))]
    for a, b in zip(results["cuda"], results["torch"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype, whole", [(torch.float16, True), (torch.bfloat16, False)])
@pytest.mark.usefixtures("small_tiles")
def test_network_in_half_precision(monkeypatch, dtype, whole):
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "cuda")
    check_network_in_half_precision("Contrast", dtype, whole, dims=6, depths=[1], num_heads=[2], window_size=4)


def test_self_test_passes_and_sees_a_wrong_scan(monkeypatch):
    device = torch.device("cpu")
    assert cuda._scan_error(device) < 1e-6
    monkeypatch.setattr(cuda_kernels, "combine_adjoint", cuda_kernels.combine_split)
    assert cuda._scan_error(device) > 0.01


def test_scan_order_is_that_of_the_definition():
    check_order_of_pixels("cuda")
