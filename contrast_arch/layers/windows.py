"""Windows over channels-last features: cut, put back, and what positions in them have to do with each other."""

import torch
import torch.nn.functional as F
from einops import rearrange


def window_partition(x: torch.Tensor, window_size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, window_size², C). H and W are multiples of window_size."""
    return rearrange(x, "b (nh h) (nw w) c -> b (nh nw) (h w) c", h=window_size, w=window_size)


def window_reverse(windows: torch.Tensor, window_size: int, height: int, width: int) -> torch.Tensor:
    """(B, windows, window_size², C) -> (B, height, width, C), the inverse of :func:`window_partition`."""
    return rearrange(
        windows,
        "b (nh nw) (h w) c -> b (nh h) (nw w) c",
        nh=height // window_size,
        nw=width // window_size,
        h=window_size,
        w=window_size,
    )


def overlapping_windows(x: torch.Tensor, window_size: int, overlap_size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, overlap_size², C).

    The windows of :func:`window_partition` enlarged to ``overlap_size`` on all sides, zeros beyond the border.
    """
    margin = (overlap_size - window_size) // 2
    x = F.pad(x, (0, 0, margin, margin, margin, margin))
    windows = x.unfold(1, overlap_size, window_size).unfold(2, overlap_size, window_size)
    return rearrange(windows, "b nh nw c h w -> b (nh nw) (h w) c")


def relative_position_index(window_size: int, key_size: int | None = None) -> torch.Tensor:
    """Row of the bias table for every pair of a query and a key position.

    Args:
        window_size: side of the query window.
        key_size: side of an enlarged key window (OCAB); None where keys and queries share a window.

    Returns:
        (window_size², key_size²) int64 in [0, (window_size + key_size - 1)²).

    Source: Swin (arXiv 2103.14030), equation 4, and HAT (arXiv 2205.04437), whose published tables fix the order: in
    a shared window the difference is query minus key, in an enlarged one key minus query. HAT's index for enlarged
    windows runs below zero and wraps around the table; the remainder says the same without negative numbers.
    """

    def positions(size):
        return torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)

    side = window_size + (key_size or window_size) - 1
    query = positions(window_size)[:, :, None]
    if key_size is None:
        dy, dx = query - positions(window_size)[:, None, :] + window_size - 1
    else:
        dy, dx = positions(key_size)[:, None, :] - query + window_size - key_size + 1
    return (dy * side + dx) % side**2


def shift_mask(height: int, width: int, window_size: int, shift: int, device: torch.device) -> torch.Tensor:
    """What keeps positions apart that only the cyclic shift made neighbours.

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
