import torch
from torch import nn

from contrast_arch.layers.attention import OverlapAttention, PositionBias, WindowAttention
from contrast_arch.layers.windows import relative_position_index


def test_shifted_windows_do_not_see_around_the_border():
    """A change in the last column must not reach the first one, though the cyclic shift puts them side by side."""
    layer = WindowAttention(4, 4, 2, shift=2)
    x = torch.randn(1, 8, 8, 4)
    changed = x.clone()
    changed[:, :, -1] += 1
    differs = (layer(x) - layer(changed)).abs().amax((0, 1, 3)) > 1e-6
    assert differs.tolist() == [False] * 6 + [True] * 2


def test_a_window_sees_its_enlarged_surroundings_only():
    layer = OverlapAttention(4, 4, 0.5, 2, nn.LayerNorm, nn.Identity())
    x = torch.randn(1, 4, 12, 4)
    for column, reaches in ((0, [0]), (3, [0, 1]), (4, [0, 1]), (5, [1]), (8, [1, 2])):
        changed = x.clone()
        changed[:, :, column] += torch.randn(4)
        differs = (layer(x) - layer(changed)).abs().amax((0, 1, 3)) > 1e-7
        assert differs.view(3, 4).any(1).nonzero().flatten().tolist() == reaches, column


def test_the_bias_follows_its_table():
    """Also where the table is written behind autograd's back, as BasicSR's model_ema does."""
    attend = PositionBias(12, 2, 4, 6, "table")
    table = attend.relative_position_bias_table
    with torch.no_grad():
        first = attend.bias().gathered()
        assert torch.equal(first, table.t()[:, relative_position_index(4, 6)])
        table.data.mul_(2)
        assert torch.equal(attend.bias().gathered(), 2 * first)
        assert attend.double().bias().table.dtype == torch.float64
    assert attend.bias().table.requires_grad
