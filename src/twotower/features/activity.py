"""`Activity`: how many choices the query had made by then, or makes in all."""

from __future__ import annotations

from typing import Literal

import numpy as np

from twotower.features.base import Columns
from twotower.features.log_scaled import LogScaled
from twotower.features.numeric import numbers_of
from twotower.features.record import FloatArray, Record


class Activity(LogScaled):
    """The number of the query's training events strictly before this one, or of all of them, on a log scale.

    The number n becomes log(1 + n), which is given as itself, standardised, and as the embedding of the
    bucket it falls into. A query that training does not know has none: n = 0.

    Args:
        column: The time of the events.
        by: The id of the queries.
        events: Count those `before` this one, or `all`.
        buckets: Buckets of equal width on the log scale.
        dim: Numbers in the embedding; the feature gives one more.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"who": pa.chunked_array([["a", "a", "b"]]), "at": pa.chunked_array([[100, 200, 300]])}
        >>> activity = Activity("at", by="who", dim=2)
        >>> activity.fit_columns(columns)
        >>> activity.encode_columns(columns).exp().round().tolist()  # 1 + the events before
        [1.0, 2.0, 1.0]
    """

    kind = "activity"

    def __init__(
        self, column: str, by: str, events: Literal["before", "all"] = "before", buckets: int = 64, dim: int = 16
    ) -> None:
        super().__init__(column, by, buckets, dim)
        self.events = events

    def values(self, record: Record, columns: Columns) -> FloatArray:
        """The count on the log scale."""
        times = numbers_of(columns[self.column], self.column)
        moments = times if self.events == "before" else np.full(len(times), np.nan)
        begin, end = record.before(columns[self.by], moments, self.by)
        counted: FloatArray = np.log1p(end - begin)
        return counted
