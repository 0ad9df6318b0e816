"""Encoded columns: what a tower reads, kept once for the whole data and gathered batch by batch."""

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
        rows: For each of the N things to embed its row in `values`, `[N]`; None where it is its own.
    """

    values: Tensor
    rows: Tensor | None = None

    def gather(self, numbers: Tensor) -> Tensor:
        """The encoded rows of the things with these `numbers`, `[n, …]`."""
        return self.values.index_select(0, numbers if self.rows is None else self.rows.index_select(0, numbers))


@dataclass(frozen=True)
class EncodedSide:
    """Every feature of one tower, encoded, for N events or N candidates."""

    columns: Sequence[EncodedColumn]
    size: int

    def __len__(self) -> int:
        return self.size

    def gather(self, numbers: Tensor) -> list[Tensor]:
        """What a tower's `forward` takes, for the things with these `numbers`, `[n]`."""
        return [column.gather(numbers) for column in self.columns]

    def whole(self) -> list[Tensor]:
        """What a tower's `forward` takes, for all N."""
        return [
            column.values if column.rows is None else column.values.index_select(0, column.rows)
            for column in self.columns
        ]

    def spread(self, rows: Tensor, size: int) -> EncodedSide:
        """These N things as those with the numbers `rows` `[N]` of `size`, none of whose others is asked for."""
        places = torch.zeros(size, dtype=torch.int64)
        places[rows] = torch.arange(self.size)
        columns = [EncodedColumn(one.values, places if one.rows is None else one.rows[places]) for one in self.columns]
        return EncodedSide(columns, size)

    def to(self, device: torch.device) -> EncodedSide:
        """The same on a device; rows that columns share stay shared."""
        moved: dict[int, Tensor] = {}
        for column in self.columns:
            if column.rows is not None and id(column.rows) not in moved:
                moved[id(column.rows)] = column.rows.to(device)
        columns = [
            EncodedColumn(column.values.to(device), None if column.rows is None else moved[id(column.rows)])
            for column in self.columns
        ]
        return EncodedSide(columns, self.size)
