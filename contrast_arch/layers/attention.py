"""Attention inside windows: HAT-light's (shifted) window attention, and the overlapping cross-attention block."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contrast_arch.layers.mlp import add_mlp
from contrast_arch.layers.position_bias import DynamicPositionBias, relative_coords_table
from contrast_arch.layers.windows import (
    overlapping_windows,
    relative_position_rows,
    shift_mask,
    window_partition,
    window_reverse,
)
from contrast_arch.ops import chosen_backend, recording
from contrast_arch.ops.attention import window_attention
from contrast_arch.ops.library import gather_bias
from contrast_arch.ops.overlap import overlap_attention
from contrast_arch.ops.reference import no_autocast

# PyTorch's fused kernel for CUDA wants heads in whole steps of 16 bytes, 8 numbers in half precision.
HEAD_DIM_MULTIPLE = {"cuda": 8}
COORDS_TABLE = "relative_coords_table"


def plain_attention(q, k, v, bias):
    """softmax(q k^T / sqrt(d) + bias) v in three steps, the weights kept for backward.

    Args:
        q: (B, windows, M, queries, d); k, v: (B, windows, M, keys, d).
        bias: (M, queries, keys), (windows, M, queries, keys) or None.

    Returns:
        (B, windows, M, queries, d).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(logits if bias is None else logits + bias, -1) @ v


def fused_attention(q, k, v, bias):
    """As :func:`plain_attention`, in one kernel that does not keep the weights; the bias keeps its gradient."""
    batch, windows, heads, _, head_dim = q.shape
    # One bias for all windows is broadcast over them. With one for each, windows count as heads: it is broadcast over
    # the images in place of being repeated for them.
    merged, apart = (0, 1), (batch, windows)
    if bias is not None:
        bias = bias.to(q.dtype)
        if bias.dim() == 4 and (recording() or batch > 1):
            merged, apart = (1, 2), (windows, heads)
        if bias.dim() == 3 or merged == (1, 2):
            bias = bias.reshape(1, -1, *bias.shape[-2:])
    missing = -head_dim % HEAD_DIM_MULTIPLE.get(q.device.type, 1)
    q, k, v = (F.pad(t, (0, missing)).flatten(*merged) if missing else t.flatten(*merged) for t in (q, k, v))
    # cuDNN's kernel may return NaN gradients for a mask and 576 keys, those of OCAB (PyTorch's issue 196678).
    kernels = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if q.is_cuda else nullcontext()
    with kernels:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=head_dim**-0.5)
    if recording():
        # The kernels give their output different strides, and run_decompositions of an exported network takes another.
        out = out.clone(memory_format=torch.contiguous_format)
    return out[..., :head_dim].unflatten(merged[0], apart)


FORMS = {"plain": plain_attention, "fused": fused_attention, "windows": window_attention}


def fastest_form(q, k, v, bias) -> str:
    """The form that takes the least time and memory for these tensors, a name of ``FORMS``.

    Of a bias, or the table that it is gathered from, only what wants a gradient is looked at.
    """
    if bias is None or recording() or not (torch.is_grad_enabled() and bias.requires_grad):
        return "fused"
    # PyTorch's fused backward reads what its forward did not write where only the bias wants a gradient (its pull
    # request 188302). Of float64, and off CUDA, no fused kernel gives a bias its gradient: PyTorch takes its plain form
    # instead, which keeps the weights.
    able = q.is_cuda and q.dtype != torch.float64
    return "fused" if able and (q.requires_grad or k.requires_grad or v.requires_grad) else "windows"


class PositionBias(nn.Module):
    """Base of attention with a bias for each relative position and head, or without one.

    Args:
        num_heads: M.
        window_size: side of the query window.
        key_size: side of an enlarged key window, None where it is the query window.
        position_bias: "table" for a learned bias, "computed" for one of :class:`DynamicPositionBias`, None for none.
        dims: C, of a computed bias.
        aligned: False for HAT's index in a computed bias, see :func:`relative_position_rows`.

    The class attribute ``form`` is None for :func:`fastest_form`, or a name of ``FORMS`` to force one.
    """

    form: str | None = None

    def __init__(
        self,
        num_heads: int,
        window_size: int,
        key_size: int | None,
        position_bias: str | None,
        dims: int | None = None,
        aligned: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.position_bias = position_bias
        self._kept = None
        if position_bias is None:
            return
        side = window_size + (key_size or window_size) - 1
        if position_bias == "table":
            self.relative_position_bias_table = nn.Parameter(torch.empty(side**2, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        else:
            self.cpb_mlp = DynamicPositionBias(dims, num_heads)
            self.register_buffer(COORDS_TABLE, relative_coords_table(side), persistent=False)
        # Not the index itself, (queries, keys): 19 MB a layer with windows of 32, which DistributedDataParallel would
        # send in every iteration.
        rows = relative_position_rows(window_size, key_size, aligned=position_bias == "computed" and aligned)
        for name, own in zip(("query_rows", "key_rows"), rows, strict=True):
            self.register_buffer(name, own, persistent=False)

    def bias(self) -> torch.Tensor | None:
        """(M, queries, keys) or None; where no gradient is wanted, kept for as long as its parameters do not change."""
        if self.position_bias is None:
            return None
        parameters = self._bias_parameters()
        traced = recording() or torch.compiler.is_compiling()
        if self._bias_wants_gradient() or traced or any(p.is_inference() for p in parameters):
            return gather_bias(*self._indexed_bias())
        # The parameters themselves are kept too, so that no others can come to lie at their addresses.
        key = torch.is_inference_mode_enabled(), *((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, [p.detach() for p in parameters], gather_bias(*self._indexed_bias())
        return self._kept[2]

    def _bias_parameters(self):
        return [self.relative_position_bias_table] if self.position_bias == "table" else [*self.cpb_mlp.parameters()]

    def _bias_wants_gradient(self):
        if self.position_bias is None or not torch.is_grad_enabled():
            return False
        return any(p.requires_grad for p in self._bias_parameters())

    def _indexed_bias(self):
        """Arguments of :func:`gather_bias`."""
        if self.position_bias == "table":
            table = self.relative_position_bias_table
        else:
            coordinates = self.relative_coords_table.to(self.cpb_mlp.pos_proj.weight.dtype)
            # In the dtype of its weights, as a learned table is.
            with no_autocast(coordinates.device):
                table = self.cpb_mlp(coordinates.flatten(0, 2))
        # Of a transposed table the bias would be transposed too, and copied by all who use it.
        return table.t().contiguous(), self.query_rows, self.key_rows

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if self.position_bias == "computed":
            state_dict.pop(prefix + COORDS_TABLE, None)  # published files have it
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self):
        return self.__dict__ | {"_kept": None}

    def attend(self, q, k, v, mask=None):
        """softmax(q k^T / sqrt(d) + bias + mask) v for every window and head.

        Args:
            q: (B, windows, queries, C); k, v: (B, windows, keys, C).
            mask: (windows, queries, keys) or None.

        Returns:
            (B, windows, queries, C).
        """
        q, k, v = (rearrange(t, "b w n (m d) -> b w m n d", m=self.num_heads) for t in (q, k, v))
        indexed = self._indexed_bias() if mask is None and self._bias_wants_gradient() else None
        if indexed is not None and (self.form or fastest_form(q, k, v, indexed[0])) == "windows":
            out = window_attention(q, k, v, *indexed)
        else:
            bias = self.bias() if indexed is None else gather_bias(*indexed)
            if mask is not None:
                mask = mask[:, None].to(q.dtype if bias is None else bias.dtype)
                bias = mask.expand(-1, self.num_heads, -1, -1) if bias is None else bias + mask
            out = FORMS[self.form or fastest_form(q, k, v, bias)](q, k, v, bias)
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
        super().__init__(num_heads, window_size, None, "table")
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
        position_bias, aligned: as :class:`PositionBias` has them.

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
        position_bias: str | None = "table",
        aligned: bool = True,
    ):
        overlap_size = int(window_size * overlap_ratio) + window_size
        super().__init__(num_heads, window_size, overlap_size, position_bias, dims, aligned)
        self.overlap_size = overlap_size
        self.norm1 = norm_layer(dims)
        self.qkv = nn.Linear(dims, 3 * dims)
        self.proj = nn.Linear(dims, dims)
        self.norm2 = norm_layer(dims)
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended = self._attended(self.qkv(self.norm1(x)))
        return add_mlp(x + self.proj(attended), self.norm2, self.mlp)

    def _attended(self, qkv):
        """(B, H, W, 3 * C) -> (B, H, W, C)."""
        height, width, channels = qkv.shape[1:]
        if self.form is None and qkv.device.type == "cpu" and chosen_backend(qkv) == "numba":
            if self._bias_wants_gradient():
                return overlap_attention(qkv, *self._indexed_bias())
            bias = self.bias()
            if bias is None:
                queries, keys = self.window_size**2, self.overlap_size**2
                bias = qkv.new_zeros(1, 1, 1).expand(self.num_heads, queries, keys)
            return overlap_attention(qkv, bias)
        q, kv = qkv.split([channels // 3, channels // 3 * 2], -1)
        k, v = overlapping_windows(kv, self.window_size, self.overlap_size).chunk(2, -1)
        attended = self.attend(window_partition(q, self.window_size), k, v)
        return window_reverse(attended, self.window_size, height, width)
