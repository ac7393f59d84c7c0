"""Attention inside windows: HAT-light's (shifted) window attention, and the overlapping cross-attention block."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from contrast_arch.layers.windows import (
    overlapping_windows,
    relative_position_index,
    shift_mask,
    window_partition,
    window_reverse,
)


class PositionBias(nn.Module):
    """Base of attention with a learned bias for each relative position and head, or without one.

    Args:
        num_heads: M.
        window_size: side of the query window.
        key_size: side of an enlarged key window, None where it is the query window.
        position_bias: whether there is a bias; without one there is no table.
    """

    def __init__(self, num_heads: int, window_size: int, key_size: int | None, position_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.position_bias = position_bias
        if position_bias:
            side = window_size + (key_size or window_size) - 1
            self.relative_position_bias_table = nn.Parameter(torch.empty(side**2, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            index = relative_position_index(window_size, key_size)
            self.register_buffer("relative_position_index", index, persistent=False)

    def bias(self) -> torch.Tensor | None:
        """(M, queries, keys) or None."""
        if not self.position_bias:
            return None
        return self.relative_position_bias_table.t()[:, self.relative_position_index]

    def attend(self, q, k, v, mask=None):
        """softmax(q k^T / sqrt(d) + bias + mask) v for every window and head.

        Args:
            q: (B, windows, queries, C); k, v: (B, windows, keys, C).
            mask: (windows, queries, keys) or None.

        Returns:
            (B, windows, queries, C).
        """
        q, k, v = (rearrange(t, "b w n (m d) -> b w m n d", m=self.num_heads) for t in (q, k, v))
        bias = self.bias()
        if mask is not None:
            mask = mask[:, None].to(q.dtype if bias is None else bias.dtype)
            bias = mask if bias is None else bias + mask
        # With a bias that wants its gradient, PyTorch's fused kernel for the CPU is not taken, and what is taken
        # instead costs more than the three steps here.
        if bias is None or not (torch.is_grad_enabled() and bias.requires_grad):
            bias = None if bias is None else bias.to(q.dtype).expand(*q.shape[:-1], k.shape[-2]).flatten(0, 1)
            out = F.scaled_dot_product_attention(*(t.flatten(0, 1) for t in (q, k, v)), attn_mask=bias)
            out = out.unflatten(0, q.shape[:2])
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
            out = torch.softmax(logits, -1) @ v
        return rearrange(out, "b w m n d -> b w n (m d)")


class WindowAttention(PositionBias):
    """(Shifted) window attention, the mixer of HAT-light (Swin, arXiv 2103.14030, section 3.2).

    Args:
        dims: C.
        window_size: side of a window.
        num_heads: divides C.
        shift: 0, or by how many pixels the windows are moved.

    Shapes: (B, H, W, C) -> (B, H, W, C); H and W are multiples of window_size.
    """

    def __init__(self, dims: int, window_size: int, num_heads: int, shift: int = 0):
        super().__init__(num_heads, window_size, None, position_bias=True)
        self.shift = shift
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = shift_mask(height, width, self.window_size, self.shift, x.device)
        q, k, v = self.qkv(window_partition(x, self.window_size)).chunk(3, -1)
        x = window_reverse(self.proj(self.attend(q, k, v, mask)), self.window_size, height, width)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class OverlapAttention(PositionBias):
    """OCAB: queries look at the keys and values of an enlarged window (HAT, arXiv 2205.04437, section 3.2).

    Args:
        dims: C.
        window_size: side of the query windows.
        overlap_ratio: key windows are window_size * (1 + overlap_ratio) wide.
        num_heads: divides C.
        norm_layer: C -> a norm.
        mlp: what follows the attention, (B, H, W, C) -> (B, H, W, C).
        position_bias: whether there is a relative position bias.

    Shapes: (B, H, W, C) -> (B, H, W, C); H and W are multiples of window_size.
    """

    def __init__(
        self,
        dims: int,
        window_size: int,
        overlap_ratio: float,
        num_heads: int,
        norm_layer: Callable[[int], nn.Module],
        mlp: nn.Module,
        position_bias: bool = True,
    ):
        overlap_size = int(window_size * overlap_ratio) + window_size
        super().__init__(num_heads, window_size, overlap_size, position_bias)
        self.overlap_size = overlap_size
        self.norm1 = norm_layer(dims)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)
        self.norm2 = norm_layer(dims)
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, dims = x.shape[1:]
        q, kv = self.qkv(self.norm1(x)).split([dims, 2 * dims], -1)
        k, v = overlapping_windows(kv, self.window_size, self.overlap_size).chunk(2, -1)
        attended = self.attend(window_partition(q, self.window_size), k, v)
        x = x + self.proj(window_reverse(attended, self.window_size, height, width))
        return x + self.mlp(self.norm2(x))
