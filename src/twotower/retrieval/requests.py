"""`Requests`: from what a request says of its query to what the query tower takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor

from twotower.errors import ConfigError, DataError
from twotower.features.history import GIVEN
from twotower.model.two_tower import TwoTower, features_of
from twotower.retrieval.ids import CANNOT_CAST, Ids

Request = Mapping[str, Any]
"""One query: its id, its time and whatever other columns the query tower reads, by name."""


class Requests:
    """Reads requests for one model.

    Args:
        model: Whose query tower reads them.
        queries: The query table: what is known of known ids.
        query_id: Name of the id column.
        time: Name of the time column.
        latest_time: The time of requests that do not say when.
    """

    def __init__(
        self, model: TwoTower, queries: pa.Table, query_id: str, time: str | None, latest_time: float | None
    ) -> None:
        self.queries, self.query_id, self.time, self.latest_time = queries, query_id, time, latest_time
        self.ids = Ids(queries[query_id], query_id)
        self.features = features_of(model.query)
        self.reads_history = any(GIVEN in feature.may_read for feature in self.features)
        self._reads = {name for feature in self.features for name in feature.reads}
        self.columns = sorted({*self._reads, query_id, GIVEN, *queries.column_names, *([time] if time else [])})
        self._telling = self._reads - {query_id, time}  # what tells of a query that is not known
        self._recorded = {name: queries[name].combine_chunks() for name in queries.column_names}

    def check(self, request: Request) -> None:
        """Refuses a column that nobody reads.

        Raises:
            ConfigError: The request names one.
        """
        for name in request:
            if name not in self.columns:
                raise ConfigError(f"the query names {name!r}; expected columns among {', '.join(self.columns)}")

    def row(self, request: Request) -> int | None:
        """Row of its query in the query table; None where its id is not known, or not given."""
        value = request.get(self.query_id)
        return None if value is None else self.ids.row(value)

    def tells(self, request: Request) -> bool:
        """Whether it says what a query tower can go by without knowing the id: a history, or another column."""
        if self.reads_history and request.get(GIVEN):
            return True
        return any(request.get(name) is not None for name in self._telling)

    def encode(self, requests: Sequence[Request], rows: Sequence[int | None]) -> list[Tensor]:
        """What the query tower takes: each feature's encoded rows, `[n, …]`.

        Args:
            requests: The requests.
            rows: Row in the query table of each; None where it is not known.

        Raises:
            DataError: A value cannot be read as what the column holds.
        """
        wanted = set(self._reads)
        if self.reads_history and any(GIVEN in request for request in requests):
            wanted.add(GIVEN)
        columns = {name: self._column(name, requests, rows) for name in sorted(wanted)}
        return [feature.encode_columns(columns) for feature in self.features]

    def _column(self, column: str, requests: Sequence[Request], rows: Sequence[int | None]) -> pa.ChunkedArray:
        recorded = self._recorded.get(column)
        values = []
        for request, row in zip(requests, rows, strict=True):
            if column in request:
                values.append(self._said(column, request[column]))
            elif column == self.time:
                values.append(self.latest_time)
            else:
                values.append(recorded[row].as_py() if recorded is not None and row is not None else None)
        try:
            return pa.chunked_array([pa.array(values)])
        except CANNOT_CAST as error:
            raise DataError(f"column {column!r} of the query: {values!r} are not of one kind: {error}") from error

    def _said(self, column: str, value: object) -> object:
        """A value of a request; an id in the type that ids have, so that requests with 1 and "2" go together."""
        if column != self.query_id or value is None:
            return value
        read = self.ids.read(value)
        return value if read is None else read
