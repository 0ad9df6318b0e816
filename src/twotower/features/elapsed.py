"""`Elapsed`: the time since the query's first or previous event, or until its next or last one."""

from __future__ import annotations

from typing import Literal

import numpy as np

from twotower.features.log_scaled import LogScaled
from twotower.features.record import FloatArray, IntArray, Places, Record

Since = Literal["first", "previous", "next", "last"]


class Elapsed(LogScaled):
    """The time since one of the query's training events, on a log scale.

    The seconds s become sign(s) · log(1 + |s|). The feature outputs that number, standardised, and the embedding
    of its bucket. A query without such an event has its own row. `next` and `last` events are usually in the
    future, so s is negative: use them only with splits that hold out events from the middle of a query's life;
    they carry no information when serving.

    Args:
        column: The time of the events.
        by: The id of the queries.
        since: Measure from the query's `first` event, the `previous` one, the `next` one, or the `last`.
        buckets: Number of buckets, of equal width on the log scale.
        dim: Embedding dimension; the feature's width is one more.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"who": pa.chunked_array([["a", "a", "b"]]), "at": pa.chunked_array([[100, 200, 300]])}
        >>> since = Elapsed("at", by="who", since="previous", dim=2)
        >>> since.fit_columns(columns)
        >>> since.encode_columns(columns).exp().round().tolist()  # 1 + seconds; nothing came before the others
        [nan, 101.0, nan]
    """

    kind = "elapsed"
    read_as = "time between events"

    def __init__(
        self,
        column: str,
        by: str,
        since: Since = "first",
        buckets: int = 64,
        dim: int = 16,
    ) -> None:
        super().__init__(column, by, buckets, dim)
        self.since = since

    def values(self, record: Record, places: Places, times: FloatArray, is_own_event: IntArray) -> FloatArray:
        """Elapsed time on the log scale."""
        place, there = self._place(places, is_own_event)
        since = record.times[np.clip(place, 0, len(record.times) - 1)]
        seconds = np.where(there, times - since, np.nan)
        scaled: FloatArray = np.sign(seconds) * np.log1p(np.abs(seconds))
        return scaled

    def _place(self, places: Places, is_own_event: IntArray) -> tuple[IntArray, np.ndarray]:
        """The place in the record of the event to measure from, and whether there is one."""
        if self.since == "previous":
            return places.instant - 1, places.instant > places.begin
        if self.since == "next":
            return places.later, places.later < places.end
        others = places.end - places.begin > is_own_event
        if self.since == "first":  # the event itself does not count: if it is the first, use the second
            return places.begin + is_own_event * (places.instant == places.begin), others
        return places.end - 1 - is_own_event * (places.later == places.end), others
