"""Relative positions in windows: rows of bias tables, coordinates, and a network that computes biases from them."""

from collections import OrderedDict

import torch
from torch import nn

# Coordinates run from -COORDINATE_RANGE to COORDINATE_RANGE before the logarithm.
COORDINATE_RANGE = 8


def relative_position_rows(window_size: int, key_size: int | None = None, aligned: bool = False):
    """Numbers of queries and keys for the rows of a bias table, as :class:`~contrast_arch.ops.IndexedBias` takes them.

    Args:
        window_size: side of the query window.
        key_size: side of an enlarged key window (OCAB); None where keys and queries share a window.
        aligned: count the rows of an enlarged window as :func:`relative_coords_table` does; False counts as HAT does.

    Returns:
        (window_size²,) and (key_size²,) int64, for tables of (window_size + key_size - 1)² rows.

    Source: Swin (arXiv 2103.14030), equation 4, and HAT (arXiv 2205.04437). Their published tables fix the order: query
    minus key in a shared window, key minus query in an enlarged one. There HAT's rows wrap around the table: a matter
    of order in a learned table, but in a computed one rows have coordinates.
    """
    side = window_size + (key_size or window_size) - 1

    def rows(size):
        at = torch.arange(size)
        return (at[:, None] * side + at).flatten()

    # Of one pixel down and right.
    diagonal = side + 1
    if key_size is None:
        return -rows(window_size) - (window_size - 1) * diagonal, -rows(window_size)
    # The enlarged window begins (key_size - window_size) / 2 before the query's. HAT's number would leave a table of
    # one row.
    lowest = window_size - 1 if aligned or key_size == 1 else window_size - key_size + 1
    return rows(window_size) - lowest * diagonal, rows(key_size)


def relative_position_index(window_size: int, key_size: int | None = None, aligned: bool = False) -> torch.Tensor:
    """Row of the bias table for every query and key, (window_size², key_size²); see :func:`relative_position_rows`."""
    queries, keys = relative_position_rows(window_size, key_size, aligned)
    return keys - queries[:, None]


def relative_coords_table(side: int) -> torch.Tensor:
    """Logarithmic coordinates (y, x) of all offsets between a query and a key.

    Args:
        side: number of offsets along an axis, odd; offset 0 is in the middle of (1, side, side, 2) float32.

    Source: Swin V2 (arXiv 2111.09883), equation 4, with a logarithm to the base 2 over that of 8.
    """
    offsets = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    offsets = offsets / max(1, (side - 1) / 2) * COORDINATE_RANGE
    offsets = offsets.sign() * (offsets.abs() + 1).log2() / torch.tensor(COORDINATE_RANGE).log2()
    return torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1)[None]


def dynamic_position_bias(dims: int, num_heads: int) -> nn.Sequential:
    """Network from coordinates (..., 2) to a bias for each head (..., num_heads), max(1, dims // 4) wide.

    Source: CrossFormer (arXiv 2108.00154), section 3.3.
    """
    width = max(1, dims // 4)
    layers = OrderedDict(pos_proj=nn.Linear(2, width))
    for name, out in (("pos1", width), ("pos2", width), ("pos3", num_heads)):
        layers[name] = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out))
    return nn.Sequential(layers)
