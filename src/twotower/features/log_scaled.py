"""`LogScaled`: what features share that count or time what a query did before, on a log scale."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.features.base import Columns, Feature, require_fitted
from twotower.features.record import FloatArray, Record
from twotower.features.tables import embedding_table

MISSING, FIRST = 0, 1


class LogScaled(Feature):
    """A number made from the record of a query, on a log scale: standardised, and as the embedding of its bucket.

    A kind of it says in `values` which number; NaN has a row of its own.

    Args:
        column: The time of the events.
        by: The id of the queries.
        buckets: Buckets of equal width over the range of the training split.
        dim: Numbers in the embedding; the feature gives one more.
    """

    def __init__(self, column: str, by: str, buckets: int, dim: int) -> None:
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ConfigError(f"{self.kind} {column!r}: buckets={buckets}, dim={dim}; expected both at least 1")
        self.column, self.by, self.buckets, self.dim = column, by, buckets, dim
        self.width = dim + 1
        self.record: Record | None = None
        self.table: nn.Parameter | None = None
        for name in ("low", "high", "mean", "deviation"):
            self.register_buffer(name, torch.zeros(()))

    @abstractmethod
    def values(self, record: Record, columns: Columns) -> FloatArray:
        """The number of each row on the log scale, `[N]`, NaN where there is none."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The time and the id."""
        return (self.column, self.by)

    def fit_columns(self, columns: Columns) -> None:
        """Learns the record of the queries and the range of the numbers."""
        nothing = np.zeros(len(columns[self.by]), dtype=np.int64)
        self._take(Record.of(columns[self.by], columns[self.column], nothing, self.column))
        values = self.encode_columns(columns)
        present = values[~values.isnan()]
        if len(present) > 0:
            self.low.fill_(present.min())
            self.high.fill_(present.max())
            self.mean.fill_(present.mean())
            self.deviation.fill_(present.std(correction=0))

    def learned(self) -> pa.Table:
        """The record, one row an event."""
        assert self.record is not None
        return self.record.table()

    def restore(self, state: pa.Table) -> None:
        """Takes the record back."""
        self._take(Record.restored(state))

    def encode_columns(self, columns: Columns) -> Tensor:
        """The numbers, float32 `[N]`, NaN where there is none."""
        require_fitted(self, self.record)
        assert self.record is not None
        return torch.from_numpy(self.values(self.record, columns).astype(np.float32))

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` numbers as `[n, dim + 1]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        missing = encoded.isnan()
        value = encoded.nan_to_num()
        share = (value - self.low) / (self.high - self.low).clamp_min(1e-6)
        bucket = FIRST + (share * self.buckets).long().clamp(0, self.buckets - 1)
        standardised = ((value - self.mean) / self.deviation.clamp_min(1e-6)).masked_fill(missing, 0.0)
        embedded = F.embedding(bucket.masked_fill(missing, MISSING), self.table)
        return torch.cat([embedded, standardised.unsqueeze(1)], dim=1)

    def _take(self, record: Record) -> None:
        self.record = record
        self.table = embedding_table(FIRST + self.buckets, self.dim)

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor
