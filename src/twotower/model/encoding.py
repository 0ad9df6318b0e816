"""Encoded columns: a tower's inputs, encoded once for the whole data set and gathered batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedColumn:
    """One feature's encoded column.

    Attributes:
        values: Encoded rows of the column, `[R, …]`.
        rows: Row in `values` of each of the N entries, `[N]`; None if entry i is row i.
    """

    values: Tensor
    rows: Tensor | None = None

    def gather(self, numbers: Tensor) -> Tensor:
        """The encoded rows of the entries with these `numbers`, `[n, …]`."""
        return self.values.index_select(0, numbers if self.rows is None else self.rows.index_select(0, numbers))


@dataclass(frozen=True)
class EncodedSide:
    """All encoded features of one tower, for N events or N candidates."""

    columns: Sequence[EncodedColumn]
    size: int

    def __len__(self) -> int:
        return self.size

    def gather(self, numbers: Tensor) -> list[Tensor]:
        """The input of a tower's `forward` for the entries with these `numbers`, `[n]`."""
        return [column.gather(numbers) for column in self.columns]

    def whole(self) -> list[Tensor]:
        """The input of a tower's `forward` for all N entries."""
        return [
            column.values if column.rows is None else column.values.index_select(0, column.rows)
            for column in self.columns
        ]

    def spread(self, rows: Tensor, size: int) -> EncodedSide:
        """Renumbers the N entries as `rows` `[N]` of a side with `size` entries; only these may be gathered."""
        places = torch.zeros(size, dtype=torch.int64)
        places[rows] = torch.arange(self.size)
        columns = [EncodedColumn(one.values, places if one.rows is None else one.rows[places]) for one in self.columns]
        return EncodedSide(columns, size)

    def to(self, device: torch.device) -> EncodedSide:
        """Moves all tensors to a device; `rows` shared by several columns stay shared."""
        moved: dict[int, Tensor] = {}
        for column in self.columns:
            if column.rows is not None and id(column.rows) not in moved:
                moved[id(column.rows)] = column.rows.to(device)
        columns = [
            EncodedColumn(column.values.to(device), None if column.rows is None else moved[id(column.rows)])
            for column in self.columns
        ]
        return EncodedSide(columns, self.size)
