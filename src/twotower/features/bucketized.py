"""`Bucketized`: a number assigned to one of several equal-width buckets, each with an embedding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Feature, require_fitted
from twotower.features.lookups import Table, embed
from twotower.features.numeric import numbers_of, require_values
from twotower.features.tables import embedding_table

MISSING, FIRST = 0, 1


class Bucketized(Feature):
    """A number as the embedding of the bucket it falls into.

    The buckets have equal width over the range of the training split. A number outside it falls into the
    first or last bucket; a missing one has its own row.

    Args:
        column: The column to read: numbers, dates or timestamps.
        buckets: Number of buckets.
        dim: Embedding dimension.

    Example:
        >>> import pyarrow as pa
        >>> age = Bucketized("age", buckets=4, dim=2)
        >>> age.fit(pa.chunked_array([[0, 100]]))
        >>> age.encode(pa.chunked_array([[10, 30, 99, 250, None]]))
        tensor([1, 2, 4, 4, 0], dtype=torch.int32)
    """

    kind = "bucketized"

    def __init__(self, column: str, buckets: int = 1000, dim: int = 32) -> None:
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ConfigError(f"bucketized {column!r}: buckets={buckets}, dim={dim}; expected both at least 1")
        self.column, self.buckets, self.dim, self.width = column, buckets, dim, dim
        self.range: tuple[float, float] | None = None
        self.table: Table | None = None

    @property
    def read_as(self) -> str:
        """How it reads its column, as shown to users."""
        return f"{self.buckets} buckets"

    @property
    def learned_range(self) -> tuple[float, float] | None:
        """The range of the training split."""
        return self.range

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the range."""
        present = require_values(numbers_of(column, self.column), self.column)
        self._take(float(present.min()), float(present.max()))

    def learned(self) -> pa.Table:
        """The range, one row of `low` and `high`."""
        assert self.range is not None
        return pa.table({"low": [self.range[0]], "high": [self.range[1]]})

    def restore(self, state: pa.Table) -> None:
        """Restores the range."""
        self._take(state["low"][0].as_py(), state["high"][0].as_py())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, int32 `[N]`."""
        require_fitted(self, self.range)
        assert self.range is not None
        low, high = self.range
        values = numbers_of(column, self.column)
        share = (values - low) / (high - low) if high > low else np.where(np.isnan(values), values, 0.0)
        bucket = np.clip(np.nan_to_num(np.floor(share * self.buckets)), 0, self.buckets - 1)
        return torch.from_numpy(np.where(np.isnan(values), MISSING, FIRST + bucket).astype(np.int32))

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` rows as `[n, dim]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        return embed(encoded, self.table)

    def _take(self, low: float, high: float) -> None:
        self.range = (low, high)
        self.table = embedding_table(FIRST + self.buckets, self.dim)
