"""Blocks and groups of the networks; each part is passed in, or absent."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from contrast_arch.layers.mlp import add_mlp


class Block(nn.Module):
    """x = x + conv_scale * CAB(norm1(x)) + mixer(norm1(x)), then x = x + MLP(norm2(x)) (HAB of HAT, arXiv 2205.04437).

    Args:
        norm1, norm2: norms over C.
        mixer_name: attribute of the mixer, "mamba" or "attn"; checkpoints hold its weights under this name.
        conv_block: CAB, or None to go without.

    Shapes: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(
        self,
        norm1: nn.Module,
        mixer: nn.Module,
        mixer_name: str,
        norm2: nn.Module,
        mlp: nn.Module,
        conv_block: nn.Module | None = None,
        conv_scale: float = 0.01,
    ):
        super().__init__()
        self.norm1 = norm1
        self.mixer_name = mixer_name
        self.add_module(mixer_name, mixer)
        self.conv_block = conv_block
        self.conv_scale = conv_scale
        self.norm2 = norm2
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        mixed = getattr(self, self.mixer_name)(normed)
        # In place: a mixer's output is its own, and no gradient needs it.
        if self.conv_block is not None:
            mixed = mixed.add_(self.conv_block(normed), alpha=self.conv_scale)
        x = mixed.add_(x) if mixed.dtype == x.dtype else mixed + x
        return add_mlp(x, self.norm2, self.mlp)


class ResidualGroup(nn.Module):
    """Blocks, OCAB, a 3x3 convolution (or nn.Identity), and the group's input added (RHAG of HAT, arXiv 2205.04437).

    Args:
        overlap_attn: OCAB or None.
        use_checkpoint: keep only the inputs of each block for backward and compute the rest again.

    Shapes: (B, H, W, C) -> (B, H, W, C).
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
