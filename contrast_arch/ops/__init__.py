"""Operators of the networks: SS2D's scans and attention in windows.

A call goes to the backend that :mod:`contrast_arch.ops.dispatch` chooses. An operator has a folder here, with its
definition (``reference.py``), plain PyTorch (``torch.py``), and a file for each type of device that has kernels.
"""

import torch

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
from contrast_arch.ops.operators import exporting, no_autocast, recording

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
        RuntimeError: the named backend does not support this device or dtype; the message says why.

    Source: VMamba, arXiv 2401.10166, section 4.2.
    """
    inputs = (x, p, dt_projs_weight, dt_projs_bias, A_logs, Ds)
    function = implementation("ss2d", *inputs, backend=backend)
    # States would fix the size of the image in a recorded network.
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not recording()
    return function(*inputs, keep)[0]


def window_attention(
    qkv: torch.Tensor, bias: IndexedBias | None, heads: int, window_size: int, shift: int = 0
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in windows; nothing of the size of the weights is kept for backward.

    Args:
        qkv: (B, H, W, 3 * M * d), H and W multiples of window_size.
        bias: (M, window_size², window_size²) when gathered, or None.
        heads: M.
        window_size: side of the windows.
        shift: number of pixels by which the image was rolled up and to the left; positions that only this made
            neighbours do not see each other.

    Returns:
        (B, H, W, M * d) in the dtype of qkv.

    Source: Swin, arXiv 2103.14030, section 3.2.
    """
    return implementation("window_attention", qkv)(qkv, bias, heads, window_size, shift=shift)


def overlap_attention(
    qkv: torch.Tensor, bias: IndexedBias | None, heads: int, window_size: int, overlap_size: int
) -> torch.Tensor:
    """As :func:`window_attention`, the keys of each window from an enlarged one, zeros beyond the border.

    Args:
        bias: (M, window_size², overlap_size²) when gathered, or None.
        overlap_size: side of the windows of keys.

    Source: HAT, arXiv 2205.04437, section 3.2.
    """
    return implementation("overlap_attention", qkv)(qkv, bias, heads, window_size, overlap_size)
