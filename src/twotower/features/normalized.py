"""`Normalized`: a number, standardised by the mean and deviation of the training split."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from twotower.features.base import Feature, require_fitted
from twotower.features.numeric import numbers_of, require_values


class Normalized(Feature):
    """A number minus the mean of the training split, divided by its standard deviation.

    Numbers are clipped to the range of the training split, so that a time long after training does not push the towers
    into a range they never saw. A missing value becomes a trained number; a column that is constant in train gives
    zeros.

    Args:
        column: The column to read: numbers, dates or timestamps.

    Example:
        >>> import pyarrow as pa
        >>> age = Normalized("age")
        >>> age.fit(pa.chunked_array([[10, 20, 30]]))
        >>> age(age.encode(pa.chunked_array([[20, None]]))).tolist()
        [[0.0], [0.0]]
        >>> age.encode(pa.chunked_array([[30, 900]]))
        tensor([1.2247, 1.2247])
    """

    kind = "normalized"
    read_as = "standardised"

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column, self.width = column, 1
        self.moments: tuple[float, float] | None = None
        self.range: tuple[float, float] | None = None
        self.missing = nn.Parameter(torch.zeros(()))

    @property
    def learned_range(self) -> tuple[float, float] | None:
        """The range of the training split."""
        return self.range

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns mean, deviation and range."""
        present = require_values(numbers_of(column, self.column), self.column)
        low, high = self.range = float(present.min()), float(present.max())
        # Rounding may give equal numbers an inexact mean and a deviation that is not quite zero.
        self.moments = (low, 0.0) if low == high else (float(present.mean()), float(present.std()))
        self.missing = nn.Parameter(torch.zeros(()))

    def learned(self) -> pa.Table:
        """One row of `mean`, `deviation`, `low` and `high`."""
        assert self.moments is not None
        assert self.range is not None
        (mean, deviation), (low, high) = self.moments, self.range
        return pa.table({"mean": [mean], "deviation": [deviation], "low": [low], "high": [high]})

    def restore(self, state: pa.Table) -> None:
        """Restores mean, deviation and range."""
        self.moments = (state["mean"][0].as_py(), state["deviation"][0].as_py())
        self.range = (state["low"][0].as_py(), state["high"][0].as_py())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Standardised numbers, float32 `[N]`, NaN if missing."""
        require_fitted(self, self.range)
        assert self.moments is not None
        assert self.range is not None
        mean, deviation = self.moments
        values = (np.clip(numbers_of(column, self.column), *self.range) - mean) / (deviation or 1.0)
        return torch.from_numpy(values.astype(np.float32))

    def forward(self, encoded: Tensor) -> Tensor:
        """`[n]` numbers as `[n, 1]`."""
        return torch.where(encoded.isnan(), self.missing, encoded).unsqueeze(1)
