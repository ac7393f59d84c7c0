"""Blocks and groups of the networks, (B, H, W, C) -> (B, H, W, C); each part is passed in, or absent."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from contrast_arch.layers.mlp import add_mlp


class ChannelAttention(nn.Module):
    """Scale each channel by a function of the means of all channels (RCAN, arXiv 1807.02758, section 3.3)."""

    def __init__(self, channels: int, squeeze_factor: int):
        super().__init__()
        squeezed = max(1, channels // squeeze_factor)
        layers = (nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True), nn.Conv2d(squeezed, channels, 1))
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    """Two 3x3 convolutions, C // compress_ratio channels between them, and channel attention (HAT)."""

    def __init__(self, channels: int, compress_ratio: int, squeeze_factor: int):
        super().__init__()
        compressed = max(1, channels // compress_ratio)
        convs = (nn.Conv2d(channels, compressed, 3, 1, 1), nn.GELU(), nn.Conv2d(compressed, channels, 3, 1, 1))
        self.cab = nn.Sequential(*convs, ChannelAttention(channels, squeeze_factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cab(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """x = x + conv_scale * CAB(norm1(x)) + mixer(norm1(x)), then x = x + MLP(norm2(x)) (HAB of HAT, arXiv 2205.04437).

    Args:
        mixer: name of the part that mixes tokens; checkpoints hold its weights under it.
        conv_scale: of the CAB.
        parts: by name, in the order of the parameters: ``norm1``, the mixer, ``conv_block`` (CAB or None), ``norm2``,
            ``mlp``.
    """

    def __init__(self, mixer: str, conv_scale: float, **parts: nn.Module | None):
        super().__init__()
        self.mixer, self.conv_scale = mixer, conv_scale
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        mixed = getattr(self, self.mixer)(normed)
        # In place: a mixer's output is its own, and no gradient needs it.
        if self.conv_block is not None:
            mixed = mixed.add_(self.conv_block(normed), alpha=self.conv_scale)
        x = mixed.add_(x) if mixed.dtype == x.dtype else mixed + x
        return add_mlp(x, self.norm2, self.mlp)


class ResidualGroup(nn.Module):
    """Blocks, OCAB or None, a 3x3 convolution (or nn.Identity), and the group's input added (RHAG of HAT).

    With ``use_checkpoint`` only the inputs of each block are kept for backward, and the rest is computed again.
    """

    def __init__(self, blocks: list[nn.Module], overlap_attn: nn.Module | None, conv: nn.Module, use_checkpoint: bool):
        super().__init__()
        # The names of checkpoints.
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        if overlap_attn is not None:
            self.residual_group["overlap_attn"] = overlap_attn
        self.conv = conv
        self.use_checkpoint = use_checkpoint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks, *overlap = self.residual_group.values()
        features = x
        for part in (*blocks, *overlap):
            if self.use_checkpoint and torch.is_grad_enabled():
                features = checkpoint(part, features, use_reentrant=False)
            else:
                features = part(features)
        return x + self.conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
