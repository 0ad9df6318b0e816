"""`Tiles`: logits split into rectangles, one contiguous piece of memory each, and which pairs lie in which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Logits `[size, width]` split into tiles of `rows` × `columns`; the last ones are smaller."""

    size: int
    width: int
    rows: int
    columns: int

    def place(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The offsets of (row, column) pairs in the memory of their tiles."""
        last = (self._across - 1) * self.columns
        widths = torch.where(columns < last, self.columns, self.width - last)
        return rows % self.rows * widths + columns % self.columns

    def sorted(self, rows: Tensor, columns: Tensor) -> Pairs:
        """Sorts pairs by tile; they must be sorted by row."""
        tile = rows // self.rows * self._across + columns // self.columns
        place = self.place(rows, columns)
        if self._across > 1:
            tile, order = tile.sort(stable=True)
            rows, place = rows[order], place[order]
        ends = torch.arange(-(-self.size // self.rows) * self._across + 1, device=tile.device)
        return Pairs(self, rows, place, torch.searchsorted(tile, ends).tolist())

    @property
    def _across(self) -> int:
        return -(-self.width // self.columns)

    def number(self, row: int, column: int) -> int:
        """The number of the tile that holds this logit."""
        return row // self.rows * self._across + column // self.columns


@dataclass(frozen=True)
class Pairs:
    """(row, column) pairs sorted by tile: their rows, their offsets, and how many come before each tile."""

    tiles: Tiles
    rows: Tensor
    place: Tensor
    before: list[int]

    def within(self, row: int, column: int) -> slice:
        """The pairs in the tile that holds this logit."""
        number = self.tiles.number(row, column)
        return slice(self.before[number], self.before[number + 1])
