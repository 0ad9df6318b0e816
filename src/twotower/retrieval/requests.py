"""`Requests`: parses requests and encodes them as inputs of the query tower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
from torch import Tensor

from twotower.data.sources import ArrowStream, read_table
from twotower.errors import CellError, ConfigError, DataError, about
from twotower.features.base import BoolArray
from twotower.features.history import GIVEN
from twotower.model.tower_module import features_of
from twotower.model.two_tower import TwoTower
from twotower.retrieval.ids import CANNOT_CAST, Ids, plain_id
from twotower.retrieval.moments import date_of, is_date, seconds_of, utc_text

Request: TypeAlias = Mapping[str, Any]
"""One query as columns by name: its id, its time and other columns that the query tower reads; nulls are ignored."""

Query: TypeAlias = Request | str | int
"""A request, or just its id."""

Queries: TypeAlias = Iterable[Query] | ArrowStream
"""Several queries: a list, or a table (Arrow, Polars, pandas, DuckDB) with one row per query."""

EXCLUDED = "exclude"
"""A request's key for candidate ids to exclude; a query column of that name takes precedence."""

INDEX = "__index_level_"
"""Prefix of the columns that pandas writes for an index."""


class Requests:
    """Parses and encodes requests for one model.

    Args:
        model: The model whose query tower reads the requests.
        queries: The query table, with the columns of known ids.
        query_id: Name of the id column.
        time: Name of the time column.
        latest_time: The default time of requests.
        has_events: Which rows of the query table have training events, `[queries]`; default: all.
    """

    def __init__(
        self,
        model: TwoTower,
        queries: pa.Table,
        query_id: str,
        time: str | None,
        latest_time: float | None,
        has_events: BoolArray | None = None,
    ) -> None:
        self.queries, self.query_id, self.time, self.latest_time = queries, query_id, time, latest_time
        self.ids = Ids(queries[query_id], query_id)
        self.features = features_of(model.query)
        self.reads_history = any(GIVEN in feature.may_read for feature in self.features)
        self._reads = {name for feature in self.features for name in feature.reads}
        self.columns = sorted({*self._reads, query_id, GIVEN, *queries.column_names, *([time] if time else [])})
        self._may_exclude = EXCLUDED not in self.columns
        if self._may_exclude:
            self.columns = sorted([*self.columns, EXCLUDED])
        self._describing = self._reads - {query_id, time}  # columns that describe an unknown query
        self._recorded = {name: queries[name].combine_chunks() for name in queries.column_names}
        self._has_events = np.ones(queries.num_rows, dtype=bool) if has_events is None else has_events

    def read(self, query: Query) -> Request:
        """The query as checked columns by name, without nulls.

        Raises:
            ConfigError: It is neither a request nor an id, or has an unknown column.
            DataError: Its id, time or history is invalid.
        """
        if hasattr(query, "__arrow_c_stream__"):
            raise ConfigError(
                f"a query is a {type(query).__name__}; expected a single query: pass a table of queries to "
                f"recommend_many, which answers each row"
            )
        if isinstance(query, str | Integral) and not isinstance(query, bool):
            query = {self.query_id: query}
        if not isinstance(query, Mapping):
            raise ConfigError(
                f"a query is {query!r}, a {type(query).__name__}; expected its {self.query_id}, or its columns by name"
            )
        for name in query:
            if name not in self.columns:
                near = [known for known in self.columns if known.casefold() == str(name).casefold()]
                guess = f", did you mean {near[0]!r}?" if near else ";"
                expected = f"expected columns among {', '.join(self.columns)}"
                raise ConfigError(f"the query names {name!r}{guess} {expected}", column=name)
        request = {name: _plain(value) for name, value in query.items() if not _is_null(value)}
        if self.time is not None and self.time in request:
            with about("query", column=self.time):
                seconds_of(request[self.time], self.time)
        if self.query_id in request:
            with about("query", column=self.query_id):
                request[self.query_id] = self.ids.required(request[self.query_id])
        for name in (GIVEN, EXCLUDED) if self._may_exclude else (GIVEN,):
            if name in request:
                request[name] = _candidate_ids(name, request[name])
        return request

    def exclusions(self, request: Request) -> list[object]:
        """Ids of candidates that a parsed request excludes."""
        given = request.get(EXCLUDED, ()) if self._may_exclude else ()
        return [value for value in given if value is not None]

    def read_all(self, queries: Queries) -> list[Request]:
        """Parses several queries with `read`.

        Raises:
            ConfigError, DataError: As `read`; or `queries` is a single query.
        """
        if isinstance(queries, str | Mapping):
            raise ConfigError(f"expected several queries, in a list or a table; got the single query {queries!r}")
        if isinstance(queries, Iterable) and not hasattr(queries, "__arrow_c_stream__"):
            return self._each(queries)
        if not hasattr(queries, "__arrow_c_stream__"):
            raise ConfigError(f"expected several queries, in a list or a table; got {queries!r}")
        if not hasattr(queries, "columns") and not hasattr(queries, "schema"):  # a column of ids
            return self._each({self.query_id: value} for value in pa.chunked_array(queries).to_pylist())
        table = read_table(cast("ArrowStream", queries), "the queries")
        table = table.select([name for name in table.column_names if not name.startswith(INDEX)])
        return self._each(table.to_pylist())

    def _each(self, queries: Iterable[Query]) -> list[Request]:
        requests = []
        for place, query in enumerate(queries):
            with about("query", row=place):
                requests.append(self.read(query))
        return requests

    def row(self, request: Request) -> int | None:
        """Row of a request's query in the query table; None if its id is unknown or missing."""
        value = request.get(self.query_id)
        return None if value is None else self.ids.row(value)

    def ids_of(self, requests: Sequence[Request]) -> pa.Array:
        """The id of each request, null if it has none."""
        return pa.array([request.get(self.query_id) for request in requests], self.ids.kind)

    def basis(self, request: Request, row: int | None) -> Literal["query", "features", "popularity"]:
        """What the scores of a request are based on; see `Answer.basis`.

        Args:
            request: The request.
            row: Row of its query in the query table; None if unknown.
        """
        if row is not None and self._known[row]:
            return "query"
        if self.reads_history and request.get(GIVEN):
            return "features"
        is_described = any(self._value(name, request, row) is not None for name in self._describing)
        return "features" if is_described else "popularity"

    def note_on_time(self, request: Request) -> str | None:
        """A note if a request's time is outside the training range, which features clamp to; otherwise None."""
        ranges = [feature.learned_range for feature in self.features if feature.column == self.time]
        learned = next((one for one in ranges if one is not None), None)
        if self.time is None or request.get(self.time) is None or learned is None:
            return None
        seconds, (first, last) = seconds_of(request[self.time], self.time), learned
        if first <= seconds <= last:
            return None
        where, nearest = ("after", last) if seconds > last else ("before", first)
        return (
            f"{self.time} {utc_text(seconds)} is {where} all training events; the model reads the time itself as "
            f"{utc_text(nearest)}"
        )

    def encode(self, requests: Sequence[Request], rows: Sequence[int | None]) -> list[Tensor]:
        """Inputs of the query tower: each feature's encoded rows, `[n, …]`.

        Args:
            requests: The requests.
            rows: The query table row of each request; None if unknown.

        Raises:
            DataError: A value does not fit the type of its column.
        """
        wanted = set(self._reads)
        if self.reads_history and any(request.get(GIVEN) is not None for request in requests):
            wanted.add(GIVEN)
        columns = {name: self._column(name, requests, rows) for name in sorted(wanted)}
        try:
            return [feature.encode_columns(columns) for feature in self.features]
        except CellError as error:
            message = f"column {error.column!r} of the query: {error.reason}"
            raise DataError(message, column=error.column, row=error.row) from error

    @cached_property
    def _known(self) -> BoolArray:
        """Which rows of the query table at least one feature knows by id, `[queries]`."""
        known = np.zeros(self.queries.num_rows, dtype=bool)
        for feature in self.features:
            if (learned := feature.knows(self.query_id, self.queries[self.query_id])) is not None:
                known |= learned
            elif self.query_id in feature.reads:  # it cannot tell which ids it learned
                known |= self._has_events
        return known

    def _column(self, column: str, requests: Sequence[Request], rows: Sequence[int | None]) -> pa.ChunkedArray:
        values = []
        for place, (request, row) in enumerate(zip(requests, rows, strict=True)):
            with about("query", column=column, row=place):
                values.append(self._value(column, request, row))
        recorded = self._recorded.get(column)
        kind = recorded.type if column != self.time and recorded is not None and is_date(recorded.type) else None
        try:
            return pa.chunked_array([pa.array(values, kind)])
        except CANNOT_CAST as error:
            raise DataError(
                f"column {column!r} of the query: {values!r} do not have one type: {error}", column=column
            ) from error

    def _value(self, column: str, request: Request, row: int | None) -> object:
        """The request's value, else that of the query table; None if there is neither."""
        given = request.get(column)
        if given is not None:
            return self._converted(column, given)
        if column == self.time:
            return self.latest_time
        is_history = column == GIVEN and self.reads_history  # which only requests pass
        recorded = None if is_history else self._recorded.get(column)
        return recorded[row].as_py() if recorded is not None and row is not None else None

    def _converted(self, column: str, value: object) -> object:
        """A request's value in the type of its column, so that requests with different types can be batched."""
        if column == self.time:
            return seconds_of(value, column)
        recorded = self._recorded.get(column)
        return date_of(value, column, recorded.type) if recorded is not None and is_date(recorded.type) else value


def _candidate_ids(column: str, given: object) -> list[int | str | None]:
    """The candidate ids in a request's list, some of which may be null.

    Raises:
        DataError: It is not a list of ids.
    """
    expected = "expected a list of candidate ids, each text or a whole number"
    if not isinstance(given, list | tuple):
        raise DataError(f"column {column!r} of the query: {given!r}; {expected}", column=column)
    ids = [None if value is None else plain_id(value) for value in given]
    for value, read in zip(given, ids, strict=True):
        if value is not None and read is None:
            message = f"column {column!r} of the query: {value!r} is {type(value).__name__}; {expected}"
            raise DataError(message, column=column)
    return ids


def _is_null(value: object) -> bool:
    """Whether a value is missing: None, or the NaN or NaT of pandas."""
    return value is None or (isinstance(value, float | datetime | np.datetime64) and bool(value != value))


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
