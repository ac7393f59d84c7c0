import torch
from torch import nn

from contrast_arch.layers.mlp import GatedMlp, Mlp


def test_mlp():
    layer, x = Mlp(4, 6, nn.ReLU), torch.randn(2, 3, 4)
    hidden = (x @ layer.fc1.weight.T + layer.fc1.bias).clamp(min=0)
    torch.testing.assert_close(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_gated_mlp_gates_with_its_second_half():
    layer, x = GatedMlp(4, 6, nn.ReLU), torch.randn(2, 3, 4)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    expected = (hidden[..., :6] * hidden[..., 6:].clamp(min=0)) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), expected)
