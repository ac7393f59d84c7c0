"""Position biases that a small network computes from coordinates."""

import torch
from torch import nn

# Coordinates run from -COORDINATE_RANGE to COORDINATE_RANGE before the logarithm.
COORDINATE_RANGE = 8


def relative_coords_table(side: int) -> torch.Tensor:
    """Logarithmic coordinates (y, x) of all offsets between a query and a key.

    Args:
        side: number of offsets along an axis, odd; offset 0 is in the middle.

    Returns:
        (1, side, side, 2) float32.

    Source: Swin V2 (arXiv 2111.09883), equation 4, with a logarithm to the base 2 over that of 8.
    """
    offsets = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    offsets = offsets / max(1, (side - 1) / 2) * COORDINATE_RANGE
    offsets = offsets.sign() * (offsets.abs() + 1).log2() / torch.tensor(COORDINATE_RANGE).log2()
    return torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1)[None]


class DynamicPositionBias(nn.Module):
    """Network from coordinates to a bias for each head, dims // 4 wide (CrossFormer, arXiv 2108.00154, section 3.3).

    Shapes: (..., 2) -> (..., num_heads).
    """

    def __init__(self, dims: int, num_heads: int):
        super().__init__()
        width = max(1, dims // 4)

        def layer(out):
            return nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out))

        self.pos_proj = nn.Linear(2, width)
        self.pos1, self.pos2, self.pos3 = layer(width), layer(width), layer(num_heads)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        return self.pos3(self.pos2(self.pos1(self.pos_proj(coordinates))))
