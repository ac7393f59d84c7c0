"""The networks in half precision: all of them, or under autocast."""

import pytest
import torch
import torch.nn.functional as F

from tests.archs.test_networks import build
from tests.conftest import NETWORKS, relative_error


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_autocast_stays_close(name):
    net = build(name)
    x = torch.rand(1, 3, 8, 12)
    expected = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
        out.float().square().mean().backward()
    assert relative_error(out.float(), expected) < 0.05
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_network_in_bfloat16(name):
    """Weights and image in half precision, with and without gradients: both forms of attention take it."""
    x = torch.rand(1, 3, 8, 12)
    expected = build(name)(x)
    net = build(name).bfloat16()
    out = net(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), expected) < 0.05
    out.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.bfloat16 for p in net.parameters())
    with torch.no_grad():
        assert relative_error(net(x.bfloat16()).float(), expected) < 0.05


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_half_precision_is_float32_rounded(monkeypatch, name, backend, dtype, whole):
    """Output and gradients. The loss is scaled, as GradScaler does it, so that float16 can hold what is small."""
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
    check_network_in_half_precision(name, dtype, whole, window_size=4)


@pytest.mark.parametrize("window_size", [8, 12, 16])
@pytest.mark.parametrize("name", ["Contrast", "ContrastNoPE"])
def test_half_precision_at_other_windows(name, window_size):
    """Their keys fill up vectors (16) or not."""
    for whole in (True, False):
        check_network_in_half_precision(name, torch.float16, whole, window_size=window_size)


def check_network_in_half_precision(name, dtype, whole, **changes):
    lq, gt = torch.rand(1, 3, 3, 7), torch.rand(1, 3, 6, 14)

    def run(half):
        net = build(name, **changes)
        if half and whole:
            net.to(dtype)
        with torch.autocast("cpu", dtype, enabled=half and not whole):
            sr = net(lq.to(dtype) if half and whole else lq)
            with torch.no_grad():
                assert relative_error(net(lq.to(sr.dtype)), sr) <= torch.finfo(dtype).eps
        loss = 2.0**17 * F.mse_loss(sr.float(), gt)
        return sr, dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, net.parameters()), strict=True))

    (sr, gradients), (half_sr, half_gradients) = run(False), run(True)
    eps = torch.finfo(dtype).eps
    assert half_sr.dtype == (dtype if whole else torch.float32)
    assert (half_sr - sr).norm() < eps * sr.norm()
    errors = {key: (half_gradients[key].double() - gradient).norm() for key, gradient in gradients.items()}
    norms = {key: gradient.norm() for key, gradient in gradients.items()}
    error, norm = (torch.stack(list(found.values())).norm() for found in (errors, norms))
    assert error < 2 * eps * norm
    for key in gradients:
        # Where large numbers nearly cancel fewer digits are left.
        assert errors[key] < 32 * eps * norms[key] + 1e-4 * eps * norm, key
