"""SS2D against a direct transcription of its definition, channels first, one direction after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrast_arch.layers.ss2d import SS2D


def transcription(layer: SS2D, x: torch.Tensor) -> torch.Tensor:
    B, H, W, _ = x.shape
    x = x @ layer.in_proj.weight.T
    z = None
    if layer.gate:
        x, z = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    x = x.movedim(-1, 1)
    if layer.conv2d is not None:
        conv = layer.conv2d
        x = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding, groups=x.shape[1])
    x = layer.act(x)
    D, N, R = x.shape[1], layer.A_logs.shape[1], layer.dt_projs_weight.shape[2]
    rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
    total = 0
    for k, sequence in enumerate((rows, columns, rows.flip(-1), columns.flip(-1))):
        projected = layer.x_proj_weight[k] @ sequence
        dt = F.softplus(layer.dt_projs_weight[k] @ projected[:, :R] + layer.dt_projs_bias[k][:, None])
        A = -layer.A_logs.view(4, D, N)[k].exp()
        h, out = x.new_zeros(B, D, N), []
        for t in range(H * W):
            drive = (dt[:, :, t] * sequence[:, :, t])[..., None] * projected[:, None, R : R + N, t]
            h = torch.exp(dt[:, :, t, None] * A) * h + drive
            out.append((h * projected[:, None, R + N :, t]).sum(-1) + layer.Ds.view(4, D)[k] * sequence[:, :, t])
        out = torch.stack(out, -1)
        out = out.flip(-1) if k >= 2 else out
        total = total + (out.view(B, D, H, W) if k % 2 == 0 else out.view(B, D, W, H).transpose(2, 3))
    y = layer.out_norm(total.movedim(1, -1))
    if z is not None:
        y = y * layer.act(z)
    return y @ layer.out_proj.weight.T


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gate": True, "act_layer": nn.SiLU},
        {"d_state": 3, "ratio": 2.0, "init": "v0"},
        {"ratio": 0.5, "dt_rank": 3, "conv": 5, "conv_bias": True, "init": "v1"},
        {"conv": 1},
    ],
    ids=str,
)
def test_matches_transcription(settings):
    layer = SS2D(8, **settings).double()
    x = torch.randn(2, 5, 7, 8, dtype=torch.float64, requires_grad=True)
    parameters = [x, *layer.parameters()]
    got, expected = layer(x), transcription(layer, x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    weight = torch.randn_like(got)
    got, expected = (torch.autograd.grad((y * weight).sum(), parameters) for y in (got, expected))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


def test_initial_values():
    v0, v1, v2 = (SS2D(32, d_state=2, init=name) for name in ("v0", "v1", "v2"))
    assert all(torch.equal(layer.Ds, torch.ones(128)) for layer in (v0, v1, v2))
    torch.testing.assert_close(-v0.A_logs.exp(), torch.tensor([[-1.0, -2.0]]).expand(128, 2))
    dt = F.softplus(v0.dt_projs_bias)
    assert dt.min() > 0.0009 and dt.max() < 0.11
    assert 0.8 < v1.A_logs.std() < 1.2 and 0.08 < v1.dt_projs_bias.std() < 0.12
    assert torch.equal(v2.A_logs, torch.zeros(128, 2))
    assert v2.dt_projs_weight.min() >= 0 and 0.09 < v2.dt_projs_weight.max() <= 0.1
    assert v2.dt_projs_weight.shape == (4, 32, 2)  # dt_rank auto: 32 / 16
