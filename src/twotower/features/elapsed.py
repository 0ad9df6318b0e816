"""`Elapsed`: how long ago the query began, or was last seen."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.features.base import Columns, Feature, require_fitted
from twotower.features.numeric import numbers_of
from twotower.features.record import Record
from twotower.features.tables import embedding_table

MISSING, FIRST = 0, 1


class Elapsed(Feature):
    """The time since the query's first training event, or since its latest one before this, on a log scale.

    The seconds s become sign(s) · log(1 + |s|), which is given as itself, standardised, and as the
    embedding of the bucket it falls into. A query without such an event has a row of its own.

    Args:
        column: The time of the events.
        by: The id of the queries.
        since: `first` or `previous` training event.
        buckets: Buckets of equal width on the log scale.
        dim: Numbers in the embedding; the feature gives one more.

    Example:
        >>> columns = {"who": pa.chunked_array([["a", "a", "b"]]), "at": pa.chunked_array([[100, 200, 300]])}
        >>> since = Elapsed("at", by="who", since="previous", dim=2)
        >>> since.fit_columns(columns)
        >>> since.encode_columns(columns).exp().round().tolist()  # 1 + seconds; nothing came before the others
        [nan, 101.0, nan]
    """

    kind = "elapsed"

    def __init__(
        self, column: str, by: str, since: Literal["first", "previous"] = "first", buckets: int = 64, dim: int = 16
    ) -> None:
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ConfigError(f"elapsed {column!r}: buckets={buckets}, dim={dim}; expected both at least 1")
        self.column, self.by, self.since, self.buckets, self.dim = column, by, since, buckets, dim
        self.width = dim + 1
        self.record: Record | None = None
        self.table: nn.Parameter | None = None
        for name in ("low", "high", "mean", "deviation"):
            self.register_buffer(name, torch.zeros(()))

    @property
    def reads(self) -> tuple[str, ...]:
        """The time and the id."""
        return (self.column, self.by)

    def fit_columns(self, columns: Columns) -> None:
        """Learns the record of the queries and the range of the elapsed times."""
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
        """Elapsed time on the log scale, float32 `[N]`, NaN where there is none."""
        require_fitted(self, self.record)
        assert self.record is not None
        times = numbers_of(columns[self.column], self.column)
        if self.since == "first":
            begin, end = self.record.before(columns[self.by], np.full(len(times), np.nan), self.by)
            since = self.record.times[np.minimum(begin, len(self.record.times) - 1)]
        else:
            begin, end = self.record.before(columns[self.by], times, self.by)
            since = self.record.times[np.maximum(end - 1, 0)]
        seconds = np.where(end > begin, times - since, np.nan)
        return torch.from_numpy((np.sign(seconds) * np.log1p(np.abs(seconds))).astype(np.float32))

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` log times as `[n, dim + 1]`."""
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
