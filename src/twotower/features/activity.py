"""`Activity`: how many events the query has before this one, after it, at the same instant, or in total."""

from __future__ import annotations

from typing import Literal

import numpy as np

from twotower.features.log_scaled import LogScaled
from twotower.features.record import FloatArray, IntArray, Places, Record

Counted = Literal["before", "after", "instant", "all"]


class Activity(LogScaled):
    """The number of the query's training events before or after this one, or in total, on a log scale.

    The count n becomes log(1 + n). The feature outputs that number, standardised, and the embedding of its bucket.
    The event itself does not count. A query without training events has n = 0.

    Args:
        column: The time of the events.
        by: The id of the queries.
        events: Count events `before` this one, `after` it, at the same `instant`, or `all` of them.
        buckets: Number of buckets, of equal width on the log scale.
        dim: Embedding dimension; the feature's width is one more.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"who": pa.chunked_array([["a", "a", "b"]]), "at": pa.chunked_array([[100, 200, 300]])}
        >>> activity = Activity("at", by="who", dim=2)
        >>> activity.fit_columns(columns)
        >>> activity.encode_columns(columns).exp().round().tolist()  # 1 + the events before
        [1.0, 2.0, 1.0]
    """

    kind = "activity"
    read_as = "counts of events"
    when_unknown = 0.0

    def __init__(
        self,
        column: str,
        by: str,
        events: Counted = "before",
        buckets: int = 64,
        dim: int = 16,
    ) -> None:
        super().__init__(column, by, buckets, dim)
        self.events = events

    def values(self, record: Record, places: Places, times: FloatArray, is_own_event: IntArray) -> FloatArray:
        """The count on the log scale."""
        del record, times
        count = {
            "before": places.instant - places.begin,
            "after": places.end - places.later,
            "instant": places.later - places.instant - is_own_event,
            "all": places.end - places.begin - is_own_event,
        }[self.events]
        counted: FloatArray = np.log1p(count.astype(np.float64))
        return counted
