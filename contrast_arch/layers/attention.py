"""Attention inside windows: HAT-light's (shifted) window attention, and the overlapping cross-attention block."""

import torch
from torch import nn

from contrast_arch.layers.mlp import add_mlp
from contrast_arch.layers.windows import dynamic_position_bias, relative_coords_table, relative_position_rows
from contrast_arch.ops import IndexedBias, no_autocast, overlap_attention, window_attention

COORDS_TABLE = "relative_coords_table"


class PositionBias(nn.Module):
    """Base of attention with a bias for each relative position and head, or without one.

    Args:
        dims: C.
        num_heads: M, divides C.
        window_size, key_size, aligned: see :func:`relative_position_rows`.
        position_bias: "table" for a learned bias, "computed" for one of :func:`dynamic_position_bias`, None for none.

    Shapes: (B, H, W, C) -> (B, H, W, C); H and W are multiples of window_size.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        window_size: int,
        key_size: int | None = None,
        position_bias: str | None = "table",
        aligned: bool = True,
    ):
        super().__init__()
        self.num_heads, self.window_size, self.position_bias = num_heads, window_size, position_bias
        if position_bias is None:
            return
        side = window_size + (key_size or window_size) - 1
        if position_bias == "table":
            self.relative_position_bias_table = nn.Parameter(torch.empty(side**2, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        else:
            self.cpb_mlp = dynamic_position_bias(dims, num_heads)
            self.register_buffer(COORDS_TABLE, relative_coords_table(side), persistent=False)
        # Not the index itself, (queries, keys): 19 MB a layer with windows of 32.
        rows = relative_position_rows(window_size, key_size, aligned=position_bias == "computed" and aligned)
        for name, own in zip(("query_rows", "key_rows"), rows, strict=True):
            self.register_buffer(name, own, persistent=False)

    def bias(self) -> IndexedBias | None:
        """Bias of (M, queries, keys), not gathered; None without one."""
        if self.position_bias is None:
            return None
        if self.position_bias == "table":
            table = self.relative_position_bias_table
        else:
            coordinates = self.relative_coords_table.to(self.cpb_mlp.pos_proj.weight.dtype)
            # In the dtype of its weights, as a learned table is.
            with no_autocast(coordinates.device):
                table = self.cpb_mlp(coordinates.flatten(0, 2))
        # Of a transposed table the bias would be transposed too, and copied by all who use it.
        return IndexedBias(table.t().contiguous(), self.query_rows, self.key_rows)


class WindowAttention(PositionBias):
    """Window attention, moved by ``shift`` pixels: the mixer of HAT-light (Swin, arXiv 2103.14030, section 3.2)."""

    def __init__(self, dims: int, window_size: int, num_heads: int, shift: int = 0):
        super().__init__(dims, num_heads, window_size)
        self.shift = shift
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.proj(window_attention(self.qkv(x), self.bias(), self.num_heads, self.window_size, self.shift))
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class OverlapAttention(PositionBias):
    """OCAB: queries look at the keys and values of an enlarged window (HAT, arXiv 2205.04437, section 3.2).

    Args:
        overlap_ratio: key windows are window_size * (1 + overlap_ratio) wide.
        norm_layer: C -> a norm.
        mlp: layer behind the attention.
        bias: ``position_bias`` and ``aligned`` of :class:`PositionBias`.
    """

    def __init__(
        self,
        dims: int,
        window_size: int,
        overlap_ratio: float,
        num_heads: int,
        norm_layer: type,
        mlp: nn.Module,
        **bias,
    ):
        overlap_size = int(window_size * overlap_ratio) + window_size
        super().__init__(dims, num_heads, window_size, overlap_size, **bias)
        self.overlap_size = overlap_size
        self.norm1 = norm_layer(dims)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)
        self.norm2 = norm_layer(dims)
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm1(x))
        attended = overlap_attention(qkv, self.bias(), self.num_heads, self.window_size, self.overlap_size)
        return add_mlp(x + self.proj(attended), self.norm2, self.mlp)
