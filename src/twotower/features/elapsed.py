"""`Elapsed`: how long ago the query began, or was last seen."""

from __future__ import annotations

from typing import Literal

import numpy as np

from twotower.features.base import Columns
from twotower.features.log_scaled import LogScaled
from twotower.features.numeric import numbers_of
from twotower.features.record import FloatArray, Record


class Elapsed(LogScaled):
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
        >>> import pyarrow as pa
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
        super().__init__(column, by, buckets, dim)
        self.since = since

    def values(self, record: Record, columns: Columns) -> FloatArray:
        """Elapsed time on the log scale."""
        times = numbers_of(columns[self.column], self.column)
        if self.since == "first":
            begin, end = record.before(columns[self.by], np.full(len(times), np.nan), self.by)
            since = record.times[np.minimum(begin, len(record.times) - 1)]
        else:
            begin, end = record.before(columns[self.by], times, self.by)
            since = record.times[np.maximum(end - 1, 0)]
        seconds = np.where(end > begin, times - since, np.nan)
        scaled: FloatArray = np.sign(seconds) * np.log1p(np.abs(seconds))
        return scaled
