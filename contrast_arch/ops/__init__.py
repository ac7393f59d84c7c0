"""Operators of the networks: SS2D's scans and attention in windows.

A call goes to the backend that :mod:`contrast_arch.ops.dispatch` chooses. An operator has a folder here, with its
definition (``reference.py``), plain PyTorch (``torch.py``), and a file for each type of device that has kernels.
"""

import torch
import torch.nn.functional as F

from contrast_arch.ops.attention.bias import IndexedBias
from contrast_arch.ops.dispatch import (
    BACKENDS,
    ENVIRONMENT,
    check_backend,
    check_environment,
    choose_all,
    chosen_backend,
    forced_backend,
    implementation,
    unsupported_reason,
)
from contrast_arch.ops.operators import check_shapes, compute_dtype, exporting, no_autocast, recording

__all__ = [
    "BACKENDS",
    "ENVIRONMENT",
    "IndexedBias",
    "check_backend",
    "check_environment",
    "choose_all",
    "chosen_backend",
    "exporting",
    "forced_backend",
    "no_autocast",
    "overlap_attention",
    "recording",
    "selective_scan",
    "ss2d_scan",
    "unsupported_reason",
    "window_attention",
]


def ss2d_scan(x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds, backend=None):
    """The core of SS2D: four scans over an image, their outputs put back in pixel order and summed.

    Args:
        x: (B, H, W, D).
        p: (B, H, W, K, R + 2N), K = 4: for each direction dt_r (R), B_t (N) and C_t (N) of every pixel. The
            projection does not depend on the order of the scan, so one matrix product makes it.
        dt_projs_weight: (K, D, R).
        dt_projs_bias: (K, D).
        A_logs: (K * D, N).
        Ds: (K * D,).
        backend: "reference", "torch", "cpu" or "cuda"; None takes what :mod:`~contrast_arch.ops.dispatch` chooses.

    Returns:
        (B, H, W, D) in the dtype of x. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown.
        RuntimeError: the backend that was asked for does not support this device or dtype; the message says why.

    Source: VMamba, arXiv 2401.10166, section 4.2.
    """
    inputs = (x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    function = implementation("ss2d", *inputs, backend=backend)
    # A recorded network would otherwise have the shape of the states, and with it the size of the image, fixed.
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not recording()
    return function(*inputs, keep)[0]


def selective_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, backend=None):
    """One selective scan along the last axis, with the arguments of mamba's ``selective_scan_fn``.

    With dt = softplus(delta + delta_bias) (the softplus if ``delta_softplus``):
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t . h_t + D u_t.

    Args:
        u, delta: (B, D, L).
        A: (D, N), negative for a stable scan.
        B, C: (B, N, L), or (B, G, N, L) for G groups of D / G channels each.
        D, delta_bias: (D,) or None.
        backend: "torch" or "reference"; None takes "torch", whatever the environment says.

    Returns:
        (B, D, L) in the dtype of u. State and exponentials are float32, float64 where an input is.

    Raises:
        ValueError: a shape does not fit, or the backend is unknown or has no scan of one direction.

    Source: Mamba, arXiv 2312.00752, equation 2.
    """
    batch, dim, length = u.shape
    if A.dim() != 2 or B.dim() not in (3, 4) or (B.dim() == 4 and dim % B.shape[1]):
        raise ValueError(f"selective_scan: A {tuple(A.shape)} must be (D, N) and B {tuple(B.shape)} (B, [G,] N, L)")
    state = (batch, *B.shape[1:-2], A.shape[1], length)
    expected = {"delta": (delta, (batch, dim, length)), "A": (A, (dim, A.shape[1])), "B": (B, state), "C": (C, state)}
    expected |= {name: (t, (dim,)) for name, t in (("D", D), ("delta_bias", delta_bias)) if t is not None}
    check_shapes("selective_scan", expected)
    able = {name: module for name, module in BACKENDS["ss2d"].items() if hasattr(module, "selective_scan")}
    backend = backend or "torch"
    if backend not in able:
        raise ValueError(f"selective_scan: backend {backend!r} is not one of {', '.join(able)}; leave it out")
    dtype = compute_dtype(u, delta, A, B, C)
    wide, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    y = able[backend].selective_scan(wide, delta, A, B, C)
    return (y if D is None else y + D.to(dtype)[:, None] * wide).to(u.dtype)


def window_attention(
    qkv: torch.Tensor, bias: torch.Tensor | IndexedBias | None, heads: int, window_size: int, shift: int = 0
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in windows; nothing of the size of the weights is kept for backward.

    Args:
        qkv: (B, H, W, 3 * M * d), H and W multiples of window_size.
        bias: (M, window_size², window_size²), gathered or not, or None.
        heads: M.
        window_size: side of the windows.
        shift: by how many pixels the image was moved up and to the left, around the border; positions that only this
            made neighbours do not see each other.

    Returns:
        (B, H, W, M * d) in the dtype of qkv.

    Source: Swin, arXiv 2103.14030, section 3.2.
    """
    return implementation("window_attention", qkv)(qkv, bias, heads, window_size, shift=shift)


def overlap_attention(
    qkv: torch.Tensor, bias: torch.Tensor | IndexedBias | None, heads: int, window_size: int, overlap_size: int
) -> torch.Tensor:
    """As :func:`window_attention`, the keys of each window from an enlarged one, zeros beyond the border.

    Args:
        bias: (M, window_size², overlap_size²), gathered or not, or None.
        overlap_size: side of the windows of keys.

    Source: HAT, arXiv 2205.04437, section 3.2.
    """
    return implementation("overlap_attention", qkv)(qkv, bias, heads, window_size, overlap_size)
