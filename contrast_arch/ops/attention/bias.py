"""Position biases that are gathered from a table, and operators that gather theirs."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from contrast_arch.ops.operators import compute_dtype, define


class IndexedBias(NamedTuple):
    """A position bias as a table and the rows of it.

    Args:
        table: (M, rows).
        query_rows: (queries,) int64.
        key_rows: (keys,) int64. The row of a pair is key_rows[j] - query_rows[i], counted from the end below 0.
    """

    table: torch.Tensor
    query_rows: torch.Tensor
    key_rows: torch.Tensor

    def rows(self) -> torch.Tensor:
        """Row of every query and key, (queries, keys)."""
        rows = self.key_rows - self.query_rows[:, None]
        return torch.where(rows < 0, rows + self.table.shape[1], rows)

    def gathered(self) -> torch.Tensor:
        """(M, queries, keys)."""
        rows = self.rows()
        # Half as long as with an index that PyTorch has to check.
        return self.table.index_select(1, rows.flatten()).view(-1, *rows.shape)


def define_attention(
    name: str, inputs: str, results: str, forward: Callable, backward: Callable, outputs: Callable
) -> tuple[Callable, Callable]:
    """Register an operator whose last input is a bias (M, queries, keys), and ``NAME_table``.

    The latter takes the tensors of an :class:`IndexedBias` in place of the bias, and keeps nothing of the bias' size
    for backward. Arguments as those of :func:`~contrast_arch.ops.operators.define`; all results are kept.
    """

    def gather(given):
        indexed = IndexedBias(*given[-3:])
        return indexed, (*given[:-3], indexed._replace(table=indexed.table.to(compute_dtype(indexed.table))).gathered())

    def table_forward(*given):
        return forward(*gather(given)[1])

    def table_backward(dy, *given):
        indexed, given = gather(given)
        *gradients, d_bias = backward(dy, *given)
        d_table = d_bias.new_zeros(indexed.table.shape).index_add_(1, indexed.rows().flatten(), d_bias.flatten(1))
        return *gradients, d_table.to(indexed.table.dtype)

    def table_outputs(*given):
        *others, table, query_rows, key_rows = given
        if (table.dim(), query_rows.dim(), key_rows.dim()) != (2, 1, 1):
            raise ValueError(
                f"{name}: table {tuple(table.shape)} must be (M, rows), query_rows {tuple(query_rows.shape)} "
                f"(queries,) and key_rows {tuple(key_rows.shape)} (keys,)"
            )
        return outputs(*others, table.new_empty(()).expand(len(table), len(query_rows), len(key_rows)))

    plain = define(name, f"{inputs} bias", results, slice(None), forward, backward, outputs)
    tables = f"{inputs} table query_rows key_rows"
    return plain, define(f"{name}_table", tables, results, slice(None), table_forward, table_backward, table_outputs)
