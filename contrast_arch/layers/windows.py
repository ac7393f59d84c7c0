"""Windows over channels-last features: cut, put back, and what positions in them have to do with each other."""

import torch
import torch.nn.functional as F
from einops import rearrange

from contrast_arch.ops import exporting


def mirrored_index(size: int, padded: int, device: torch.device) -> torch.Tensor:
    """Pixels of an axis for reflection padding at its end; the last one repeated if the axis is no longer than that.

    Returns:
        (padded,) int64 in [0, size).
    """
    at, last = torch.arange(padded, device=device), size - 1
    mirrored = last - (at - last).abs()
    # Negative where there are too few pixels to reflect.
    return torch.where(mirrored[-1:] < 0, at.clamp(max=last), mirrored)


def window_partition(x: torch.Tensor, window_size: int) -> torch.Tensor:
    """(B, H, W, C) -> (B, windows, window_size², C). H and W are multiples of window_size."""
    if not exporting():
        return rearrange(x, "b (nh h) (nw w) c -> b (nh nw) (h w) c", h=window_size, w=window_size)
    batch, height, width, channels = x.shape
    order = _window_order(height, width, window_size, x.device)
    # At least two windows, a single one twice: torch.export fixes whether the length of an axis is 1.
    count = torch.sym_max(height // window_size * (width // window_size), 2)
    at = torch.arange(count * window_size**2, device=x.device) % (height * width)
    return x.flatten(1, 2).index_select(1, order[at]).view(batch, count, window_size**2, channels)


def window_reverse(windows: torch.Tensor, window_size: int, height: int, width: int) -> torch.Tensor:
    """(B, windows, window_size², C) -> (B, height, width, C), the inverse of :func:`window_partition`."""
    if not exporting():
        return rearrange(
            windows,
            "b (nh nw) (h w) c -> b (nh h) (nw w) c",
            nh=height // window_size,
            nw=width // window_size,
            h=window_size,
            w=window_size,
        )
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
    return rearrange(windows, "b nh nw c h w -> b (nh nw) (h w) c")


def relative_position_rows(
    window_size: int, key_size: int | None = None, aligned: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of queries and keys that give the rows of the bias table, for :func:`~contrast_arch.ops.gather_bias`.

    Args:
        window_size: side of the query window.
        key_size: side of an enlarged key window (OCAB); None where keys and queries share a window.
        aligned: of an enlarged window, count rows from the lowest offset, so that row and coordinates of
            :func:`~contrast_arch.layers.position_bias.relative_coords_table` belong together; False counts as HAT does.

    Returns:
        (window_size²,) and (key_size²,) int64. The row of a pair is the key's number less the query's; the table has
        (window_size + key_size - 1)² rows, and is counted from its end below 0.

    Source: Swin (arXiv 2103.14030), equation 4, and HAT (arXiv 2205.04437), whose published tables fix the order: in
    a shared window the difference is query minus key, in an enlarged one key minus query. HAT's index for enlarged
    windows runs below zero and wraps around the table. In a learned table that is a matter of order alone. In a
    computed one the rows have coordinates.
    """
    side = window_size + (key_size or window_size) - 1

    def rows(size):
        at = torch.arange(size)
        return (at[:, None] * side + at).flatten()

    # Of an offset (lowest, lowest), and of one pixel down and right.
    diagonal = side + 1
    if key_size is None:
        return -rows(window_size) - (window_size - 1) * diagonal, -rows(window_size)
    # The enlarged window begins (key_size - window_size) / 2 before the query's. HAT's number would leave a table of
    # one row.
    lowest = window_size - 1 if aligned or key_size == 1 else window_size - key_size + 1
    return rows(window_size) - lowest * diagonal, rows(key_size)


def relative_position_index(
    window_size: int, key_size: int | None = None, aligned: bool = False, wrapped: bool = True
) -> torch.Tensor:
    """Row of the bias table for every pair of a query and a key position; see :func:`relative_position_rows`.

    Args:
        wrapped: False for the numbers that files of the published code hold, below zero in an enlarged window.

    Returns:
        (window_size², key_size²) int64, wrapped in [0, (window_size + key_size - 1)²).
    """
    side = window_size + (key_size or window_size) - 1
    queries, keys = relative_position_rows(window_size, key_size, aligned)
    rows = keys - queries[:, None]
    return rows % side**2 if wrapped else rows


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
