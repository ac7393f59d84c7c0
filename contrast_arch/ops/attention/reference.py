"""The definition: attention in three steps, the weights kept for backward."""

from functools import partial

import torch

from contrast_arch.ops.attention.bias import IndexedBias
from contrast_arch.ops.attention.windows import attend_in_windows


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | IndexedBias | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v.

    Args:
        q: (B, windows, M, queries, d); k, v: (B, windows, M, keys, d).
        bias: (M, queries, keys), gathered or not, or None.
        mask: (windows, queries, keys) or None.

    Returns:
        (B, windows, M, queries, d).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if bias is not None:
        logits = logits + (bias.gathered() if isinstance(bias, IndexedBias) else bias)
    if mask is not None:
        logits = logits + mask[:, None].to(logits.dtype)
    return torch.softmax(logits, -1) @ v


# The operators, see contrast_arch.ops.
window_attention = overlap_attention = partial(attend_in_windows, attend)
