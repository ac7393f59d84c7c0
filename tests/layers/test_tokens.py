"""Blocks of tokens give what all tokens at once do."""

import pytest
import torch
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.layers import tokens
from contrast_arch.layers.tokens import by_token


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 100)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("width", [7, 12])
@pytest.mark.usefixtures("small_blocks")
@torch.no_grad()
def test_is_the_function(overwrite, width):
    layer = nn.Linear(7, width)
    x = torch.randn(2, 5, 9, 7)
    expected, before = layer(x), x.clone()
    sizes = []
    y = by_token(lambda part: sizes.append(len(part)) or layer(part), x, overwrite)
    torch.testing.assert_close(y, expected)
    assert sizes == [14] * 6 + [6]
    taken = overwrite and width == 7
    assert (y.data_ptr() == x.data_ptr()) == taken
    assert taken or torch.equal(x, before)


@pytest.mark.usefixtures("small_blocks")
@torch.no_grad()
def test_what_is_not_contiguous_is_not_overwritten():
    half, other = torch.randn(1, 6, 9, 14).chunk(2, -1)
    before = other.clone()
    torch.testing.assert_close(by_token(torch.exp, half, overwrite=True), half.exp())
    assert torch.equal(other, before)


@pytest.mark.usefixtures("small_blocks")
def test_all_at_once_where_a_gradient_is_wanted():
    sizes = []
    by_token(lambda part: sizes.append(part.shape) or part, torch.randn(2, 5, 9, 7), overwrite=True)
    assert sizes == [(2, 5, 9, 7)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("Contrast", {}),
        ("Contrast", {"ssm_ratio": 2.0}),
        ("Contrast", {"forward_type": "v05"}),
        ("Contrast", {"ssm_conv": 1, "gmlp": True}),
        ("ContrastNoPE", {}),
        ("ContrastNoPENoCA", {}),
        ("MambaLight", {"ssm_conv_bias": True}),
        ("HATLight", {}),
    ],
    ids=str,
)
@torch.no_grad()
def test_networks(monkeypatch, name, options):
    net = getattr(archs, name)(dims=6, depths=[2], num_heads=[2], window_size=4, upscale=2, **options)
    lq = torch.rand(2, 3, 13, 10)
    expected = net(lq)
    monkeypatch.setattr(tokens, "BLOCK", 100)
    torch.testing.assert_close(net(lq), expected)
