"""Attention by PyTorch's fused kernels; one window at a time where they give the bias no gradient."""

import functools
import logging

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from contrast_arch.ops.attention import reference
from contrast_arch.ops.attention.bias import IndexedBias
from contrast_arch.ops.attention.by_window import attend_by_window
from contrast_arch.ops.attention.windows import attend_in_windows
from contrast_arch.ops.operators import NAMESPACE, recording
from contrast_arch.ops.self_test import error_against, self_test_verdict

# PyTorch's fused kernel for CUDA wants heads in whole steps of 16 bytes, 8 numbers in half precision. PyTorch pads the
# rows of a bias itself; the self-test below has rows and heads that are no whole steps.
HEAD_DIM_MULTIPLE = {"cuda": 8}
# PyTorch computes the gradient of a bias for each window before it sums them up: in an OCAB of Contrast 432 MiB at
# batch 8, with windows of 32 1.7 GiB (float32; calculated, not measured on a GPU). So many bytes are allowed at once.
BIAS_GRADIENT_BYTES = 2**28

_log = logging.getLogger(__name__)


def _fused(q, k, v, attn_mask=None, *, scale):
    # cuDNN's kernel may return NaN gradients for a mask and 576 keys, those of OCAB (PyTorch's issue 196678).
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale)


# torch.compile of PyTorch 2.4 and 2.5 cannot look into a function with that context. It takes an operator as it is, and
# traces afterwards what an operator of this kind calls, gradients included.
_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_library.define("fused_attention(Tensor q, Tensor k, Tensor v, Tensor? attn_mask=None, *, float scale) -> Tensor")
_library.impl("fused_attention", _fused, "CompositeImplicitAutograd")
_fused_on_cuda = torch.ops.contrast_arch.fused_attention


def attend_fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v in one kernel that does not keep the weights.

    Args and result as those of :func:`contrast_arch.ops.attention.reference.attend`; the bias is gathered.
    """
    batch, windows, heads, _, head_dim = q.shape
    # A bias alone is broadcast over all windows. With a mask there is a bias for each window: windows then count as
    # heads, and it is broadcast over the images in place of being repeated for them.
    merged, apart = (0, 1), (batch, windows)
    if mask is not None:
        mask = mask[:, None].to(q.dtype if bias is None else bias.dtype)
        bias = mask.expand(-1, heads, -1, -1) if bias is None else bias + mask
        merged, apart = (1, 2), (windows, heads)
    if bias is not None:
        bias = bias.to(q.dtype).reshape(1, -1, *bias.shape[-2:])
    missing = -head_dim % HEAD_DIM_MULTIPLE.get(q.device.type, 1)
    q, k, v = (F.pad(t, (0, missing)).flatten(*merged) if missing else t.flatten(*merged) for t in (q, k, v))
    # A recorded network is for other machines too, where operators of this package need not be.
    function = _fused_on_cuda if q.is_cuda and not recording() else F.scaled_dot_product_attention
    function = functools.partial(function, attn_mask=bias, scale=head_dim**-0.5)
    if bias is not None and bias.requires_grad and torch.is_grad_enabled() and not recording():
        parts = (t.split(max(1, BIAS_GRADIENT_BYTES // bias.nbytes)) for t in (q, k, v))
        out = torch.cat([function(*part) for part in zip(*parts, strict=True)])
    else:
        out = function(q, k, v)
    if recording():
        # The kernels give their output different strides, and run_decompositions of an exported network takes another.
        out = out.clone(memory_format=torch.contiguous_format)
    return out[..., :head_dim].unflatten(merged[0], apart)


def wants_windows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: IndexedBias | None) -> bool:
    """True where one window at a time takes less memory, or is right where PyTorch's fused kernel is not."""
    if bias is None or recording():
        return False
    if q.is_cuda and not _fused_is_right(q.device):
        return True
    # PyTorch's fused backward reads what its forward did not write where only the bias wants a gradient (its pull
    # request 188302). Of float64, and off CUDA, no fused kernel gives a bias its gradient: PyTorch takes its plain form
    # instead, which keeps the weights.
    able = q.is_cuda and q.dtype != torch.float64 and (q.requires_grad or k.requires_grad or v.requires_grad)
    return torch.is_grad_enabled() and bias.table.requires_grad and not able


def attend(q, k, v, bias, mask=None):
    """As :func:`contrast_arch.ops.attention.reference.attend`, with an :class:`IndexedBias` or None."""
    if wants_windows(q, k, v, bias):
        return attend_by_window(q, k, v, *bias, mask)
    return attend_fused(q, k, v, None if bias is None else bias.gathered(), mask)


# The operators, see contrast_arch.ops.
window_attention = overlap_attention = functools.partial(attend_in_windows, attend)


def _fused_is_right(device):
    """True if PyTorch's fused kernel passes its self-test on a GPU; with PyTorch 2.6 on ROCm a mask made it wrong."""
    return _fused_verdict(device.type, device.index)


# A constant of a compiled network, see contrast_arch.ops.dispatch.
_fused_is_right._dynamo_marked_constant = True


@functools.cache
def _fused_verdict(device_type, device_index):
    device = torch.device(device_type, device_index)
    reason = self_test_verdict(_fused_error, device)
    if reason is not None:
        _log.warning("attention on %s runs one window at a time, slower: PyTorch's fused kernel: %s", device, reason)
    return reason is None


# Self-test with a bias, on small windows whose heads and rows are no whole steps.
_shapes = [*((2, 3, 2, n, 10) for n in (16, 36, 36)), (2, 16, 36)]
_fused_error = functools.partial(error_against, reference.attend, lambda *tensors: attend_fused(*tensors), _shapes)
