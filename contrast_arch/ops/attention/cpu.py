"""OCAB's attention on the CPU by the kernels of ``cpu_kernels.py``, as ``contrast_arch::overlap_attention``.

Against one window at a time in PyTorch (``by_window.py``) nothing is cut into windows and copied, and a head's logits
of four queries at a time stay in the first cache.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from contrast_arch.ops import simd
from contrast_arch.ops.attention import reference
from contrast_arch.ops.attention.bias import IndexedBias, define_attention
from contrast_arch.ops.operators import check_shapes, compute_dtype
from contrast_arch.ops.self_test import error_against

KERNELS = "contrast_arch.ops.attention.cpu_kernels"
# Logit of what is behind the last key: nothing is left of its exponential.
_NEVER = -1e30


def _groups(batch, heads):
    """Groups of images: the heads are shared out among the threads, and if there are too few of them images as well."""
    workers = torch.get_num_threads()
    return next((n for n in range(1, batch) if n * heads % workers == 0), batch)


def _padded(bias):
    """Keys in whole vectors. float16 has no number as low as _NEVER."""
    return F.pad(bias.to(torch.float32), (0, -bias.shape[2] % simd.LANES), value=_NEVER)


def _launch(name, groups, shape, qkv, *tensors):
    """Run a kernel for every head and group of images; ``shape`` is that of the bias."""
    heads, queries, keys = shape
    dim, span = qkv.shape[3] // (3 * heads), keys + -keys % simd.LANES
    sizes = (*qkv.shape[1:3], heads, dim, math.isqrt(queries), math.isqrt(keys), span)
    arrays = simd.flat(*tensors)
    calls = [(arrays, (*sizes, head, group, groups)) for group in range(groups) for head in range(heads)]
    simd.launch(KERNELS, name, (dim, span), calls)


def _forward(qkv, bias):
    *image, channels = qkv.shape
    y, sums = simd.empty(*image, channels // 3), simd.empty(*image, len(bias))
    _launch("forward", _groups(len(qkv), len(bias)), bias.shape, qkv, qkv, _padded(bias), y, sums)
    return y.to(qkv.dtype), sums


def _backward(dy, y, sums, qkv, bias):
    d_qkv, groups, padded = simd.empty(*qkv.shape).zero_(), _groups(len(qkv), len(bias)), _padded(bias)
    d_bias = simd.empty(groups, *padded.shape).zero_()
    _launch("backward", groups, bias.shape, qkv, dy, y, sums, qkv, padded, d_qkv, d_bias)
    return d_qkv.to(qkv.dtype), d_bias.sum(0)[..., : bias.shape[2]].to(bias.dtype).contiguous()


def _outputs(qkv, bias):
    if qkv.dim() != 4 or bias.dim() != 3:
        raise ValueError(
            f"overlap_attention: qkv {tuple(qkv.shape)} must be (B, H, W, 3 * M * d) and bias {tuple(bias.shape)} "
            "(M, window², overlap²)"
        )
    if compute_dtype(qkv, bias) == torch.float64:
        raise ValueError("overlap_attention computes in float32 and an input is float64; take its plain form")
    batch, height, width, channels = qkv.shape
    heads = bias.shape[0]
    window, overlap = (math.isqrt(count) for count in bias.shape[1:])
    check_shapes("overlap_attention", {"bias": (bias, (heads, window**2, overlap**2))})
    if not 0 < window <= overlap or (overlap - window) % 2:
        raise ValueError(
            f"overlap_attention: bias {tuple(bias.shape)} says windows of {window}x{window} with keys from "
            f"{overlap}x{overlap}: expected keys that reach equally far beyond the window on all sides"
        )
    if heads < 1 or channels % (3 * heads):
        raise ValueError(f"overlap_attention: qkv has {channels} channels: expected a multiple of 3 * {heads} heads")
    if height % window or width % window:
        raise ValueError(
            f"overlap_attention: {height}x{width} pixels are no whole windows of {window}x{window}; pad them, as the "
            "networks do"
        )
    return ((batch, height, width, channels // 3), qkv.dtype), ((batch, height, width, heads), torch.float32)


_operator, _table_operator = define_attention("overlap_attention", "qkv", "y sums", _forward, _backward, _outputs)


def overlap_attention(
    qkv: torch.Tensor, bias: torch.Tensor | IndexedBias | None, heads: int, window_size: int, overlap_size: int
) -> torch.Tensor:
    """See :func:`contrast_arch.ops.overlap_attention`; computed in float32.

    Raises:
        ValueError: a shape that does not fit, or float64.
    """
    if isinstance(bias, IndexedBias):
        return _table_operator(qkv, *bias)[0]
    if bias is None:
        bias = qkv.new_zeros(heads, window_size**2, overlap_size**2)
    return _operator(qkv, bias)[0]


# Self-test on a small image: 2 heads of 3 channels, windows of 4, keys from 6.
_error = partial(
    error_against,
    lambda qkv, bias: reference.overlap_attention(qkv, bias, 2, 4, 6),
    lambda qkv, bias: _operator(qkv, bias)[0],
    [(1, 8, 4, 18), (2, 16, 36)],
)
# Of a device, and float64 or not.
unsupported_reason = partial(simd.unsupported_reason, _error)
