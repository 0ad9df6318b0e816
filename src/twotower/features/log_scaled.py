"""`LogScaled`: base class of features that count or time a query's events on a log scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Columns, RecordKey, require_fitted
from twotower.features.lookups import Table, embed
from twotower.features.numeric import numbers_of
from twotower.features.record import FloatArray, IntArray, Places, Record
from twotower.features.recorded import Recorded
from twotower.features.tables import embedding_table

MISSING, FIRST = 0, 1


class LogScaled(Recorded):
    """A number computed from a query's record, on a log scale: standardised, and as the embedding of its bucket.

    A subclass computes the number in `values`; NaN has its own row. Numbers are clipped to the range of the training
    split.

    Args:
        column: The time of the events.
        by: The id of the queries.
        buckets: Number of buckets, of equal width over the range of the training split.
        dim: Embedding dimension; the feature's width is one more.
    """

    def __init__(self, column: str, by: str, buckets: int, dim: int) -> None:
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ConfigError(f"{self.kind} {column!r}: buckets={buckets}, dim={dim}; expected both at least 1")
        self.column, self.by, self.buckets, self.dim = column, by, buckets, dim
        self.width = dim + 1
        self.table: Table | None = None
        for name in ("low", "high", "mean", "deviation"):
            self.register_buffer(name, torch.zeros(()))

    @abstractmethod
    def values(self, record: Record, places: Places, times: FloatArray, is_own_event: IntArray) -> FloatArray:
        """The number of each row on the log scale, `[N]`, NaN for none.

        Args:
            record: The record.
            places: The place of each row's time in the record.
            times: Seconds of each row, NaN if missing.
            is_own_event: 1 if the record holds the row's own event, at its instant, else 0.
        """

    when_unknown: ClassVar[float] = float("nan")
    """The number of a query without a record."""

    @property
    def record_key(self) -> RecordKey:
        """The query id and the time."""
        return RecordKey(self.by, self.column)

    def fit_record(self, record: Record, columns: Columns) -> None:
        """Learns the range of the numbers."""
        self.take_record(record)
        values = self.encode_training(columns)
        present = values[~values.isnan()]
        if len(present) > 0:
            self.low.fill_(present.min())
            self.high.fill_(present.max())
            self.mean.fill_(present.mean())
            self.deviation.fill_(present.std(correction=0))

    def take_record(self, record: Record) -> None:
        """Stores the record and creates the table."""
        self.record = record
        self.table = embedding_table(FIRST + self.buckets, self.dim)

    def encode_columns(self, columns: Columns) -> Tensor:
        """The numbers, float32 `[N]`, NaN for none."""
        return self._encoded(columns, training=False)

    def encode_training(self, columns: Columns) -> Tensor:
        """The numbers as if each event were not in the record, float32 `[N]`."""
        return self._encoded(columns, training=True)

    def as_unknown(self, encoded: Tensor, unknown: Tensor) -> Tensor:
        """Replaces these rows by the number of a query without a record."""
        return encoded.masked_fill(unknown, self.when_unknown)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` numbers as `[n, dim + 1]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        missing = encoded.isnan()
        value = encoded.nan_to_num()
        share = (value - self.low) / (self.high - self.low).clamp_min(1e-6)
        bucket = FIRST + (share * self.buckets).long().clamp(0, self.buckets - 1)
        # Training also sees queries made unknown, whose number may lie outside the range of the training events.
        low = self.low if math.isnan(self.when_unknown) else self.low.clamp(max=self.when_unknown)
        high = self.high if math.isnan(self.when_unknown) else self.high.clamp(min=self.when_unknown)
        value = torch.minimum(torch.maximum(value, low), high)
        standardised = ((value - self.mean) / self.deviation.clamp_min(1e-6)).masked_fill(missing, 0.0)
        embedded = embed(bucket.masked_fill(missing, MISSING), self.table)
        return torch.cat([embedded, standardised.unsqueeze(1)], dim=1)

    def _encoded(self, columns: Columns, training: bool) -> Tensor:
        require_fitted(self, self.record)
        assert self.record is not None
        times = numbers_of(columns[self.column], self.column)
        places = self.record.places(columns[self.by], times)
        is_own_event = (places.later > places.instant) & training
        values = self.values(self.record, places, times, is_own_event.astype(np.int64))
        return torch.from_numpy(values.astype(np.float32))

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor
