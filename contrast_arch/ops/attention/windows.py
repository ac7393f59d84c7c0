"""Windows over channels-last features, and a mask for shifted ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from contrast_arch.ops.operators import exporting


def attend_in_windows(
    attend: Callable,
    qkv: torch.Tensor,
    bias: torch.Tensor | tuple | None,
    heads: int,
    window_size: int,
    overlap_size: int | None = None,
    shift: int = 0,
) -> torch.Tensor:
    """Apply an attention to the windows of an image.

    Args:
        attend: takes q (B, windows, M, queries, d), k and v (B, windows, M, keys, d), ``bias`` and a mask, see
            :func:`shift_mask`, or None; returns (B, windows, M, queries, d).
        overlap_size: None where keys and queries share a window. The other arguments are those of
            :mod:`contrast_arch.ops`.
    """
    height, width, channels = qkv.shape[1:]
    if overlap_size is None:
        parts = window_partition(qkv, window_size).chunk(3, -1)
    else:
        q, kv = qkv.split([channels // 3, channels // 3 * 2], -1)
        k, v = overlapping_windows(kv, window_size, overlap_size).chunk(2, -1)
        parts = window_partition(q, window_size), k, v
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(2, 3) for t in parts)
    mask = shift_mask(height, width, window_size, shift, qkv.device) if shift else None
    return window_reverse(attend(q, k, v, bias, mask).transpose(2, 3).flatten(-2), window_size, height, width)


def window_partition(x: torch.Tensor, window_size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, window_size², C). H and W are multiples of window_size."""
    batch, height, width, channels = x.shape
    if not exporting():
        windows = x.view(batch, height // window_size, window_size, width // window_size, window_size, channels)
        return windows.transpose(2, 3).reshape(batch, -1, window_size**2, channels)
    order = _window_order(height, width, window_size, x.device)
    # At least two windows, a single one twice: torch.export fixes whether the length of an axis is 1.
    count = torch.sym_max(height // window_size * (width // window_size), 2)
    at = torch.arange(count * window_size**2, device=x.device) % (height * width)
    return x.flatten(1, 2).index_select(1, order[at]).view(batch, count, window_size**2, channels)


def window_reverse(windows: torch.Tensor, window_size: int, height: int, width: int) -> torch.Tensor:
    """(B, windows, window_size², C) -> (B, height, width, C), the inverse of :func:`window_partition`."""
    if not exporting():
        rows, columns = height // window_size, width // window_size
        x = windows.reshape(-1, rows, columns, window_size, window_size, windows.shape[-1])
        return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])
    order = _window_order(height, width, window_size, windows.device)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(height * width, device=order.device))
    return windows.flatten(1, 2).index_select(1, back).view(-1, height, width, windows.shape[3])


def _window_order(height, width, window_size, device):
    """Pixels of a flattened image, window by window, as indices: (height * width,)."""
    at = torch.arange(height * width, device=device)
    window, inside = at // window_size**2, at % window_size**2
    across = width // window_size
    y = window // across * window_size + inside // window_size
    return y * width + window % across * window_size + inside % window_size


def overlapping_windows(x: torch.Tensor, window_size: int, overlap_size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, overlap_size², C).

    The windows of :func:`window_partition` enlarged to ``overlap_size`` on all sides, zeros beyond the border.
    """
    margin = (overlap_size - window_size) // 2
    x = F.pad(x, (0, 0, margin, margin, margin, margin))
    if exporting():
        for axis in (1, 2):
            at = torch.arange((x.shape[axis] - 2 * margin) // window_size * overlap_size, device=x.device)
            x = x.index_select(axis, at // overlap_size * window_size + at % overlap_size)
        return window_partition(x, overlap_size)
    windows = x.unfold(1, overlap_size, window_size).unfold(2, overlap_size, window_size)
    return windows.movedim(3, -1).flatten(3, 4).flatten(1, 2)


def shift_mask(height: int, width: int, window_size: int, shift: int, device: torch.device) -> torch.Tensor:
    """Mask between positions that only the cyclic shift made neighbours.

    Returns:
        (windows, window_size², window_size²) float32: 0 where two positions belong together, -100 (Swin's value)
        where not.
    """

    def bands(size):
        at = torch.arange(size, device=device)
        return (at >= size - window_size).int() + (at >= size - shift).int()

    region = 3 * bands(height)[:, None] + bands(width)
    region = window_partition(region[None, :, :, None], window_size)[0, :, :, 0]
    return (region[:, None, :] != region[:, :, None]) * -100.0
