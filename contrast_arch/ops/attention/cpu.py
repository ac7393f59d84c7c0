"""OCAB's attention on the CPU by the kernels of ``cpu_kernels.py``, as ``contrast_arch::overlap_attention``.

Unlike one window at a time in PyTorch (``by_window.py``), nothing is cut into windows and copied, and a head's logits
of four queries at a time stay in the first cache.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from contrast_arch.ops import simd
from contrast_arch.ops.attention import reference
from contrast_arch.ops.attention.bias import IndexedBias
from contrast_arch.ops.operators import check_shapes, compute_dtype, define
from contrast_arch.ops.self_test import error_against

KERNELS = "contrast_arch.ops.attention.cpu_kernels"
# Logit of what is behind the last key: nothing is left of its exponential.
_NEVER = -1e30


def _groups(batch, heads):
    """Groups of images: the heads are shared out among the threads, and if there are too few of them images as well."""
    workers = torch.get_num_threads()
    return next((n for n in range(1, batch) if n * heads % workers == 0), batch)


def _launch(name, qkv, bias, *tensors):
    """Run a kernel for every head and group of images; the bias gets its keys in whole vectors."""
    heads, queries, keys = bias.shape
    dim, span = qkv.shape[3] // (3 * heads), keys + -keys % simd.LANES
    sizes = (*qkv.shape[1:3], heads, dim, math.isqrt(queries), math.isqrt(keys), span)
    groups = _groups(len(qkv), heads)
    arrays = simd.flat(qkv, F.pad(bias, (0, span - keys), value=_NEVER), *tensors)
    calls = [(arrays, (*sizes, head, group, groups)) for group in range(groups) for head in range(heads)]
    simd.launch(KERNELS, name, (dim, span), calls)


def _forward(qkv, *bias):
    *image, channels = qkv.shape
    bias = IndexedBias(*bias).wide()
    y, sums = simd.empty(*image, channels // 3), simd.empty(*image, len(bias))
    _launch("forward", qkv, bias, y, sums)
    return y.to(qkv.dtype), sums


def _backward(dy, y, sums, qkv, *bias):
    bias = IndexedBias(*bias)
    heads, queries, keys = (len(t) for t in bias)
    d_qkv = simd.empty(*qkv.shape).zero_()
    d_bias = simd.empty(_groups(len(qkv), heads), heads, queries, keys + -keys % simd.LANES).zero_()
    _launch("backward", qkv, bias.wide(), dy, y, sums, d_qkv, d_bias)
    return d_qkv.to(qkv.dtype), bias.gradient(d_bias.sum(0)[..., :keys])


def _outputs(qkv, *bias):
    heads, queries, keys = IndexedBias(*bias).check("overlap_attention")
    window, overlap = math.isqrt(queries), math.isqrt(keys)
    if qkv.dim() != 4:
        raise ValueError(f"overlap_attention: qkv {tuple(qkv.shape)} must be (B, H, W, 3 * M * d)")
    if compute_dtype(qkv, bias[0]) == torch.float64:
        raise ValueError("overlap_attention computes in float32 and an input is float64; take its plain form")
    check_shapes("overlap_attention", {"query_rows": (bias[1], (window**2,)), "key_rows": (bias[2], (overlap**2,))})
    batch, height, width, channels = qkv.shape
    if not 0 < window <= overlap or (overlap - window) % 2:
        raise ValueError(
            f"overlap_attention: windows of {window}x{window} with keys from {overlap}x{overlap}: expected keys that "
            "reach equally far beyond the window on all sides"
        )
    if heads < 1 or channels % (3 * heads):
        raise ValueError(f"overlap_attention: qkv has {channels} channels: expected a multiple of 3 * {heads} heads")
    if height % window or width % window:
        raise ValueError(
            f"overlap_attention: {height}x{width} pixels are no whole windows of {window}x{window}; pad them, as the "
            "networks do"
        )
    return ((batch, height, width, channels // 3), qkv.dtype), ((batch, height, width, heads), torch.float32)


_operator = define(
    "overlap_attention",
    "Tensor qkv, Tensor table, Tensor query_rows, Tensor key_rows",
    2,
    "Tensor y, Tensor sums",
    slice(None),
    _forward,
    _backward,
    _outputs,
)


def overlap_attention(
    qkv: torch.Tensor, bias: IndexedBias | None, heads: int, window_size: int, overlap_size: int
) -> torch.Tensor:
    """See :func:`contrast_arch.ops.overlap_attention`; computed in float32.

    Raises:
        ValueError: a shape that does not fit, or float64.
    """
    if bias is None:
        rows = (torch.zeros(size**2, dtype=torch.int64, device=qkv.device) for size in (window_size, overlap_size))
        bias = IndexedBias(qkv.new_zeros(heads, 0), *rows)
    return _operator(qkv, *bias)[0]


def _indexed(table):
    """A bias of four windows' pixels, every row of the table used: those of 4x4 queries and 6x6 keys."""
    queries, keys = (torch.arange(size**2, device=table.device) for size in (4, 6))
    return IndexedBias(table, -36 * queries, keys)


# Self-test on a small image: 2 heads of 3 channels, windows of 4, keys from 6.
self_test_error = partial(
    error_against,
    lambda qkv, table: reference.overlap_attention(qkv, _indexed(table), 2, 4, 6),
    lambda qkv, table: overlap_attention(qkv, _indexed(table), 2, 4, 6),
    [(1, 8, 4, 18), (2, 16 * 36)],
)
REQUIREMENT = simd.REQUIREMENT
