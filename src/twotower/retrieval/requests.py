"""`Requests`: from what a request says of its query to what the query tower takes."""

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
from twotower.model.two_tower import TwoTower, features_of
from twotower.retrieval.ids import CANNOT_CAST, Ids, plain_id
from twotower.retrieval.moments import date_of, is_date, seconds_of, utc_text

Request: TypeAlias = Mapping[str, Any]
"""One query: its id, its time and whatever other columns the query tower reads, by name; a null is not named."""

Query: TypeAlias = Request | str | int
"""A request, or the id alone."""

Queries: TypeAlias = Iterable[Query] | ArrowStream
"""Several queries: a list of them, or a table (Arrow, Polars, pandas, DuckDB) with a row for each."""

EXCLUDED = "exclude"
"""The key of a request with the ids of candidates that it does not want; a column of that name goes before."""

INDEX = "__index_level_"
"""How the columns begin that pandas makes of an index."""


class Requests:
    """Reads requests for one model.

    Args:
        model: Whose query tower reads them.
        queries: The query table: what is known of known ids.
        query_id: Name of the id column.
        time: Name of the time column.
        latest_time: The time of requests that do not say when.
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
        self._telling = self._reads - {query_id, time}  # what tells of a query that is not known
        self._recorded = {name: queries[name].combine_chunks() for name in queries.column_names}
        self._has_events = np.ones(queries.num_rows, dtype=bool) if has_events is None else has_events

    def read(self, query: Query) -> Request:
        """The query as columns by name, without nulls, checked.

        Raises:
            ConfigError: It is neither a request nor an id, or names a column that nobody reads.
            DataError: Its id, its time or its history is none.
        """
        if hasattr(query, "__arrow_c_stream__"):
            raise ConfigError(
                f"a query is a {type(query).__name__}; expected one query here, and a table of queries in "
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
        """Ids of candidates that a request, once read, does not want."""
        given = request.get(EXCLUDED, ()) if self._may_exclude else ()
        return [value for value in given if value is not None]

    def read_all(self, queries: Queries) -> list[Request]:
        """Each of several queries, read.

        Raises:
            ConfigError, DataError: As `read`; or it is one query.
        """
        if isinstance(queries, str | Mapping):
            raise ConfigError(f"expected several queries, in a list or a table; got the one {queries!r}")
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
        """Row of its query in the query table; None where its id is not there, or not given."""
        value = request.get(self.query_id)
        return None if value is None else self.ids.row(value)

    def ids_of(self, requests: Sequence[Request]) -> pa.Array:
        """The id of each request, null where it names none."""
        return pa.array([request.get(self.query_id) for request in requests], self.ids.kind)

    def basis(self, request: Request, row: int | None) -> Literal["query", "features", "popularity"]:
        """What the score of a request comes from; see `Answer.basis`.

        Args:
            request: The request.
            row: Row of its query in the query table; None where it is not there.
        """
        if row is not None and self._known[row]:
            return "query"
        if self.reads_history and request.get(GIVEN):
            return "features"
        told = any(self._value(name, request, row) is not None for name in self._telling)
        return "features" if told else "popularity"

    def note_on_time(self, request: Request) -> str | None:
        """What to know of the moment a request names, where features take it for another one; None elsewhere."""
        ranges = [feature.learned_range for feature in self.features if feature.column == self.time]
        learned = next((one for one in ranges if one is not None), None)
        if self.time is None or request.get(self.time) is None or learned is None:
            return None
        seconds, (first, last) = seconds_of(request[self.time], self.time), learned
        if first <= seconds <= last:
            return None
        where, nearest = ("after", last) if seconds > last else ("before", first)
        return (
            f"{self.time} {utc_text(seconds)} lies {where} all that the model learned from; it reads the time itself "
            f"as {utc_text(nearest)}"
        )

    def encode(self, requests: Sequence[Request], rows: Sequence[int | None]) -> list[Tensor]:
        """What the query tower takes: each feature's encoded rows, `[n, …]`.

        Args:
            requests: The requests.
            rows: Row in the query table of each; None where it is not known.

        Raises:
            DataError: A value cannot be read as what the column holds.
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
        """Which rows of the query table some feature knows by their id, `[queries]`."""
        known = np.zeros(self.queries.num_rows, dtype=bool)
        for feature in self.features:
            if (learned := feature.knows(self.query_id, self.queries[self.query_id])) is not None:
                known |= learned
            elif self.query_id in feature.reads:  # it does not say which ids it learned
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
                f"column {column!r} of the query: {values!r} are not of one kind: {error}", column=column
            ) from error

    def _value(self, column: str, request: Request, row: int | None) -> object:
        """What the request says, or else what is known of its query; None where nothing is."""
        said = request.get(column)
        if said is not None:
            return self._said(column, said)
        if column == self.time:
            return self.latest_time
        recorded = self._recorded.get(column)
        return recorded[row].as_py() if recorded is not None and row is not None else None

    def _said(self, column: str, value: object) -> object:
        """A value of a request in the type that the column has, so that requests with 1 and "2" go together."""
        if column == self.time:
            return seconds_of(value, column)
        recorded = self._recorded.get(column)
        return date_of(value, column, recorded.type) if recorded is not None and is_date(recorded.type) else value


def _candidate_ids(column: str, given: object) -> list[int | str | None]:
    """The ids of candidates that a request lists, some of which may be null.

    Raises:
        DataError: It is no list of ids.
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
    """Whether a value is missing, as None, or as the NaN and NaT of pandas."""
    return value is None or (isinstance(value, float | datetime | np.datetime64) and bool(value != value))


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
