"""OCAB's attention on the CPU by the kernels of ``cpu_kernels.py``, as ``contrast_arch::overlap_attention``.

Against one window at a time in PyTorch (``by_window.py``) nothing is cut into windows and copied, and a head's logits
of four queries at a time stay in the first cache.
"""

import math

import torch
import torch.nn.functional as F

from contrast_arch.ops import simd
from contrast_arch.ops.attention import reference
from contrast_arch.ops.attention.bias import IndexedBias, define_with_table
from contrast_arch.ops.operators import check_shapes, compute_dtype, define
from contrast_arch.ops.self_test import error_of

KERNELS = "contrast_arch.ops.attention.cpu_kernels"
# Logit of what is behind the last key: nothing is left of its exponential.
_NEVER = -1e30


class _Call:
    """Sizes and bias as the kernels take them.

    The heads are shared out among the threads, and if there are too few of them the images as well.
    """

    def __init__(self, qkv, bias):
        batch, height, width, channels = qkv.shape
        self.heads, self.queries, self.keys = bias.shape
        self.dim = channels // (3 * self.heads)
        self.span = -(-self.keys // simd.LANES) * simd.LANES
        # float16 has no number as low as _NEVER.
        bias, missing = bias.to(torch.float32), self.span - self.keys
        self.bias = F.pad(bias, (0, missing), value=_NEVER) if missing else bias
        sides = math.isqrt(self.queries), math.isqrt(self.keys)
        self.sizes = (height, width, self.heads, self.dim, *sides, self.span)
        self.kernels = simd.kernels(KERNELS)
        workers = torch.get_num_threads()
        self.groups = next((n for n in range(1, batch) if n * self.heads % workers == 0), batch)

    def launch(self, kernel, scratch, tensors):
        arrays = simd.flat(*tensors)
        numbers = [
            (*self.sizes, head, group, self.groups) for group in range(self.groups) for head in range(self.heads)
        ]
        simd.launch(kernel, scratch(self.dim, self.span), [(arrays, own) for own in numbers])


def _forward(qkv, bias):
    batch, height, width, channels = qkv.shape
    y = simd.empty(batch, height, width, channels // 3)
    sums = simd.empty(batch, height, width, bias.shape[0])
    if qkv.numel():
        call = _Call(qkv, bias)
        call.launch(call.kernels.forward, call.kernels.forward_scratch, (qkv, call.bias, y, sums))
    return y.to(qkv.dtype), sums


def _backward(dy, y, sums, qkv, bias):
    d_qkv = simd.empty(*qkv.shape).zero_()
    if not qkv.numel():
        return d_qkv.to(qkv.dtype), torch.zeros_like(bias)
    call = _Call(qkv, bias)
    d_bias = simd.empty(call.groups, call.heads, call.queries, call.span).zero_()
    tensors = (dy, y, sums, qkv, call.bias, d_qkv, d_bias)
    call.launch(call.kernels.backward, call.kernels.backward_scratch, tensors)
    d_bias = d_bias.sum(0)[..., : call.keys].to(bias.dtype).contiguous()
    return d_qkv.to(qkv.dtype), d_bias


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


_definition = (
    "overlap_attention",
    _forward,
    _backward,
    (
        "(Tensor qkv, Tensor bias) -> (Tensor, Tensor)",
        "(Tensor dy, Tensor y, Tensor sums, Tensor qkv, Tensor bias) -> (Tensor, Tensor)",
    ),
    _outputs,
    slice(None),
)
_operator = define(*_definition)
_table_operator = define_with_table(*_definition)


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


def unsupported_reason(device: torch.device, double: bool) -> str | None:
    """Reason why the kernels cannot serve tensors of this device, None if they can."""
    return simd.unsupported_reason(_error, device, double)


def _error(device) -> float:
    """Largest error of output and gradients on a small image, each relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    heads, window, overlap = 2, 4, 6
    inputs = [torch.randn(shape, generator=generator) for shape in ((1, 8, 4, 18), (heads, window**2, overlap**2))]
    dy = torch.randn(1, 8, 4, 6, generator=generator)
    y, sums = _forward(*inputs)
    wide = [t.double().requires_grad_() for t in inputs]
    expected = reference.overlap_attention(*wide, heads, window, overlap)
    gradients = torch.autograd.grad(expected, wide, dy.double())
    return error_of((y, *_backward(dy, y, sums, *inputs)), (expected.detach(), *gradients))
