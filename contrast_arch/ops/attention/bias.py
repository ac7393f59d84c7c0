"""Position biases that are gathered from a table."""

from typing import NamedTuple

import torch

from contrast_arch.ops.operators import compute_dtype


class IndexedBias(NamedTuple):
    """A position bias as a table and the rows of it.

    Operators gather the bias themselves: of its size, (M, queries, keys), nothing is kept for backward.

    Args:
        table: (M, rows); without rows the bias is zero.
        query_rows: (queries,) int64.
        key_rows: (keys,) int64. The row of a pair is key_rows[j] - query_rows[i], counted from the end below 0.
    """

    table: torch.Tensor
    query_rows: torch.Tensor
    key_rows: torch.Tensor

    def rows(self) -> torch.Tensor:
        """Row of every query and key, (queries * keys,)."""
        rows = self.key_rows - self.query_rows[:, None]
        return torch.where(rows < 0, rows + self.table.shape[1], rows).flatten()

    def gathered(self) -> torch.Tensor:
        """(M, queries, keys) in the dtype of the table."""
        shape = len(self.table), len(self.query_rows), len(self.key_rows)
        if not self.table.shape[1]:
            return self.table.new_zeros(shape)
        # Half as long as with an index that PyTorch has to check.
        return self.table.index_select(1, self.rows()).view(shape)

    def wide(self) -> torch.Tensor:
        """The gathered bias in the dtype of a computation."""
        return self._replace(table=self.table.to(compute_dtype(self.table))).gathered()

    def gradient(self, d_bias: torch.Tensor) -> torch.Tensor:
        """Gradient of the table from that of the gathered bias."""
        d_table = d_bias.new_zeros(self.table.shape)
        if d_table.numel():
            d_table.index_add_(1, self.rows(), d_bias.flatten(1))
        return d_table.to(self.table.dtype)

    def check(self, function: str) -> tuple[int, int, int]:
        """(M, queries, keys); ValueError unless the tensors have as many dimensions as they must."""
        if (self.table.dim(), self.query_rows.dim(), self.key_rows.dim()) != (2, 1, 1):
            raise ValueError(
                f"{function}: table {tuple(self.table.shape)} must be (M, rows), query_rows "
                f"{tuple(self.query_rows.shape)} (queries,) and key_rows {tuple(self.key_rows.shape)} (keys,)"
            )
        return len(self.table), len(self.query_rows), len(self.key_rows)
