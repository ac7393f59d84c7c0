"""CAB: the convolutions with channel attention that run beside the token mixer of a block."""

import torch
from torch import nn


class ChannelAttention(nn.Module):
    """Scale each channel by a function of the means of all channels (RCAN, arXiv 1807.02758, section 3.3)."""

    def __init__(self, channels: int, squeeze_factor: int):
        super().__init__()
        squeezed = max(1, channels // squeeze_factor)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    """Two 3x3 convolutions, C // compress_ratio channels between them, and channel attention (HAT, arXiv 2205.04437).

    Shapes: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(self, channels: int, compress_ratio: int = 3, squeeze_factor: int = 30):
        super().__init__()
        compressed = max(1, channels // compress_ratio)
        self.cab = nn.Sequential(
            nn.Conv2d(channels, compressed, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(compressed, channels, 3, 1, 1),
            ChannelAttention(channels, squeeze_factor),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cab(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
