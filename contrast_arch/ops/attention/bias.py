"""Position biases that are gathered from a table, and operators that gather theirs."""

from typing import NamedTuple

import torch

from contrast_arch.ops.operators import compute_dtype, define


class IndexedBias(NamedTuple):
    """A position bias as a table and the rows of it.

    Args:
        table: (M, rows).
        query_rows: (queries,) int64.
        key_rows: (keys,) int64.
    """

    table: torch.Tensor
    query_rows: torch.Tensor
    key_rows: torch.Tensor

    def gathered(self) -> torch.Tensor:
        """(M, queries, keys), see :func:`gather_bias`."""
        return gather_bias(*self)


def gather_bias(table: torch.Tensor, query_rows: torch.Tensor, key_rows: torch.Tensor) -> torch.Tensor:
    """Bias of every query and key: row key_rows[j] - query_rows[i] of the table, counted from its end below 0.

    Args:
        table: (M, rows).
        query_rows: (queries,) int64.
        key_rows: (keys,) int64.

    Returns:
        (M, queries, keys).
    """
    rows = _rows(table, query_rows, key_rows)
    # Half as long as with an index that PyTorch has to check.
    return table.index_select(1, rows.flatten()).view(len(table), *rows.shape)


def _rows(table, query_rows, key_rows):
    rows = key_rows - query_rows[:, None]
    return torch.where(rows < 0, rows + table.shape[1], rows)


def define_with_table(name, forward, backward, schemas, outputs, kept):
    """Register ``contrast_arch::NAME_table`` for an operator ``NAME`` whose last input is a bias (M, queries, keys).

    In place of the bias it takes the arguments of :func:`gather_bias`. Nothing of the size of the bias is kept for
    backward. Arguments as those of :func:`define`.
    """

    def gather(inputs):
        *others, table, query_rows, key_rows = inputs
        return others, gather_bias(table.to(compute_dtype(table)), query_rows, key_rows)

    def table_forward(*inputs):
        others, bias = gather(inputs)
        return forward(*others, bias)

    def table_backward(dy, *given):
        others, bias = gather(given)
        table = given[-3]
        *gradients, d_bias = backward(dy, *others, bias)
        d_table = bias.new_zeros(table.shape).index_add_(1, _rows(*given[-3:]).flatten(), d_bias.flatten(1))
        return *gradients, d_table.to(table.dtype)

    def table_outputs(*inputs):
        *others, table, query_rows, key_rows = inputs
        if (table.dim(), query_rows.dim(), key_rows.dim()) != (2, 1, 1):
            raise ValueError(
                f"{name}: table {tuple(table.shape)} must be (M, rows), query_rows {tuple(query_rows.shape)} "
                f"(queries,) and key_rows {tuple(key_rows.shape)} (keys,)"
            )
        return outputs(*others, table.new_empty(()).expand(len(table), len(query_rows), len(key_rows)))

    schemas = tuple(s.replace("Tensor bias", "Tensor table, Tensor query_rows, Tensor key_rows") for s in schemas)
    return define(f"{name}_table", table_forward, table_backward, schemas, table_outputs, kept)
