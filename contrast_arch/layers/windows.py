"""Positions in windows: padding to whole ones, and rows of bias tables for pairs of positions."""

import torch


def mirrored_index(size: int, padded: int, device: torch.device) -> torch.Tensor:
    """Pixels of an axis for reflection padding at its end; the last one repeated if the axis is no longer than that.

    Returns:
        (padded,) int64 in [0, size).
    """
    at, last = torch.arange(padded, device=device), size - 1
    mirrored = last - (at - last).abs()
    # Negative where there are too few pixels to reflect.
    return torch.where(mirrored[-1:] < 0, at.clamp(max=last), mirrored)


def relative_position_rows(
    window_size: int, key_size: int | None = None, aligned: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of queries and keys for the rows of the bias table, as :class:`~contrast_arch.ops.IndexedBias` has them.

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
