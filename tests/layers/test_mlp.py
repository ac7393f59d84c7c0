import copy

import pytest
import torch
from torch import nn

from contrast_arch.layers.mlp import Mlp, SpatialGateMlp
from contrast_arch.layers.tokens import depthwise


def test_mlp():
    layer, x = Mlp(4, 6, nn.ReLU), torch.randn(2, 3, 4)
    hidden = (x @ layer.fc1.weight.T + layer.fc1.bias).clamp(min=0)
    torch.testing.assert_close(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_gated_mlp_gates_with_its_second_half():
    layer, x = Mlp(4, 6, nn.ReLU, gated=True), torch.randn(2, 3, 4)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    expected = (hidden[..., :6] * hidden[..., 6:].clamp(min=0)) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), expected)


def test_spatial_gate_mlp_gates_with_the_neighbours_of_its_second_half():
    """The gate of one pixel is a sum over its 3x3 surroundings, zero beyond the border."""
    layer, x = SpatialGateMlp(4, 6, nn.ReLU), torch.randn(2, 5, 3, 4)
    hidden = (x @ layer.fc1.weight.T + layer.fc1.bias).clamp(min=0)
    value, gate = hidden[..., :3], hidden[..., 3:]
    gate = (gate - gate.mean(-1, keepdim=True)) / (gate.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    padded = torch.zeros(2, 7, 5, 3)
    padded[:, 1:-1, 1:-1] = gate
    summed = layer.sg.conv.bias.expand(2, 5, 3, 3).clone()
    for dy in range(3):
        for dx in range(3):
            summed += padded[:, dy : dy + 5, dx : dx + 3] * layer.sg.conv.weight[:, 0, dy, dx]
    expected = (value * summed) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "autocast"])
def test_products_of_a_gate_beyond_float16(whole):
    """Their result and all gradients are near to those of float32."""
    layer, x = SpatialGateMlp(8, 16), torch.randn(2, 6, 6, 8)
    with torch.no_grad():
        for parameter, factor in ((layer.fc1.weight, 500), (layer.sg.conv.weight, 2000), (layer.fc2.weight, 1e-5)):
            parameter.mul_(factor)
        value, gate = layer.act(layer.fc1(x)).chunk(2, -1)
        gate = depthwise(layer.sg["conv"], layer.sg["norm"](gate))
        limit = torch.finfo(torch.float16).max
        assert (value * gate).abs().max() > 4 * limit and max(value.abs().max(), gate.abs().max()) < limit / 4

    def run(layer, x, autocast=False):
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            y = layer(x)
        # Scaled, as GradScaler does it.
        gradients = torch.autograd.grad(2.0**12 * y.float().square().mean(), list(layer.parameters()))
        return {"": y.detach(), **dict(zip(dict(layer.named_parameters()), gradients, strict=True))}

    expected = run(layer, x)
    found = run(copy.deepcopy(layer).half(), x.half()) if whole else run(layer, x, autocast=True)
    assert found[""].dtype == (torch.float16 if whole else torch.float32)
    if whole:  # as large as the products, and in float16 as its weight is
        del expected["fc2.weight"]
    for name, value in expected.items():
        assert (found[name].float() - value).norm() < 0.03 * value.norm(), name
