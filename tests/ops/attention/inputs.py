"""Biases for tests of attention."""

import torch


def gathered_rows(queries, keys):
    """Rows of a table that holds the gathered bias itself: (M, queries, keys).flatten(1)."""
    return -keys * torch.arange(queries, device="cpu"), torch.arange(keys, device="cpu")
