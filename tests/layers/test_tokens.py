"""Blocks of tokens give what all tokens at once do."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from contrast_arch.layers import tokens
from contrast_arch.layers.mlp import SpatialGateMlp, add_mlp
from contrast_arch.layers.tokens import depthwise, in_bands, pointwise_in_chunks


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", 100)


@pytest.mark.usefixtures("small_blocks")
def test_is_the_function():
    """In blocks, or all at once where a gradient is wanted."""
    layer, x, sizes = nn.Linear(7, 12), torch.randn(2, 5, 9, 7), []

    def run():
        sizes.clear()
        return pointwise_in_chunks(lambda part: sizes.append(part.shape[:-1].numel()) or layer(part), x)

    torch.testing.assert_close(run(), layer(x))
    assert sizes == [90]
    with torch.no_grad():
        torch.testing.assert_close(run(), layer(x))
    assert sizes == [14] * 6 + [6]


@pytest.mark.parametrize("height, heights", [(1, [1]), (4, [4]), (6, [5, 3]), (9, [5, 6, 2]), (12, [5, 6, 5])])
@torch.no_grad()
def test_bands_of_rows_see_their_neighbours(height, heights, monkeypatch):
    """Four rows and what is around them at a time, in the place of the input; at the borders zeros."""
    monkeypatch.setattr(tokens, "CHUNK", 2)
    monkeypatch.setattr(tokens, "ROWS", 4)
    mlp, norm = SpatialGateMlp(6, 12), nn.LayerNorm(6)
    x = torch.randn(2, height, 5, 6)
    expected, seen = x + mlp(norm(x)), []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    y = add_mlp(x, norm, mlp)
    torch.testing.assert_close(y, expected)
    assert y is x and seen == heights


@torch.no_grad()
def test_bands_of_rows_keep_the_dtype_of_the_function(monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", 2)
    x = torch.randn(1, 40, 3, 4)
    before = x.clone()
    y = in_bands(lambda part: part.double(), x)
    assert torch.equal(y, before.double()) and torch.equal(x, before)


@pytest.mark.parametrize("device, channels_last", [("cpu", True), ("cuda", False)])
def test_layout_of_depthwise_convolutions(device, channels_last):
    """For channels last on a GPU PyTorch takes cuDNN's grouped kernels."""
    found = []
    with FakeTensorMode():
        conv = nn.Conv2d(6, 6, 3, padding=1, groups=6, device=device)
        conv.register_forward_pre_hook(lambda conv, args: found.extend(args))
        assert depthwise(conv, torch.empty(2, 5, 7, 6, device=device)).shape == (2, 5, 7, 6)
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in found] == [channels_last]
