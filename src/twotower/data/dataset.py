"""The `Dataset`: an interaction log with its query side and its candidate side, checked on entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.checks import check_ids, check_times, check_weights, require_columns
from twotower.data.sources import TableSource, read_table
from twotower.errors import DataError

IntArray = npt.NDArray[np.int64]


class Oracle(Protocol):
    """The true choice probabilities behind simulated data: the best score that any model can reach."""

    def log_probabilities(self, query_index: IntArray, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Log-probability of every candidate, `[n, candidates]`, for queries asked at `times` (seconds)."""
        ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """Who chose what, and when: one table of interactions, one of queries, one of candidates.

    Build one with `from_tables`, `movielens` or `simulated`, which check it; `take` gives a part that
    shares the query and candidate tables with the whole, so that row numbers mean the same in every part.

    Attributes:
        name: What the data set is called in reports.
        interactions: One row an event, `[N]` rows.
        queries: One row a query (a user), unique by `query_id`.
        candidates: One row a candidate (an item), unique by `candidate_id`: the whole catalogue.
        query_id: Name of the id column in `interactions` and `queries`.
        candidate_id: Name of the id column in `interactions` and `candidates`.
        time: Name of the time column in `interactions`, in seconds; None when the log has no time.
        weight: Name of the weight column in `interactions`; None when every event counts the same.
        query_index: Row of `queries` of each event, `[N]`.
        candidate_index: Row of `candidates` of each event, `[N]`.
        dropped: Events left out because their candidate is unknown (`unknown_candidates="drop"`).
        oracle: The true choice probabilities where they are known (simulated data).
        terms: Under which terms the data may be used, in a sentence.
    """

    name: str
    interactions: pa.Table
    queries: pa.Table
    candidates: pa.Table
    query_id: str
    candidate_id: str
    time: str | None
    weight: str | None
    query_index: IntArray = field(repr=False)
    candidate_index: IntArray = field(repr=False)
    dropped: int = 0
    oracle: Oracle | None = field(default=None, repr=False)
    terms: str = ""

    def __len__(self) -> int:
        """Number of interactions."""
        return int(self.interactions.num_rows)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds of each event, `[N]`.

        Raises:
            DataError: The data set has no time column.
        """
        if self.time is None:
            raise DataError(f"data set {self.name!r} has no time column, which this needs; name one with time=…")
        column: npt.NDArray[np.float64] = self.interactions[self.time].to_numpy().astype(np.float64)
        return column

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """Weight of each event, `[N]`; ones where the log has no weight column."""
        if self.weight is None:
            return np.ones(len(self), dtype=np.float32)
        column: npt.NDArray[np.float32] = self.interactions[self.weight].to_numpy().astype(np.float32)
        return column

    def take(self, rows: npt.NDArray[Any]) -> Dataset:
        """The events at `rows` (numbers or a boolean mask), in that order, with the same queries and candidates."""
        numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return replace(
            self,
            interactions=self.interactions.take(pa.array(numbers)),
            query_index=self.query_index[numbers],
            candidate_index=self.candidate_index[numbers],
        )

    def candidate_counts(self) -> IntArray:
        """How often each candidate was chosen, `[candidates]`."""
        return np.bincount(self.candidate_index, minlength=self.candidates.num_rows)

    def query_column(self, column: str) -> tuple[pa.ChunkedArray, IntArray]:
        """A query-side column and, for each event, its row in that column.

        A column of the interactions (a timestamp, a device) has one row an event; a column of the query
        table (age) has one row a query. Where both tables have it, the query table's is meant only for ids.

        Raises:
            DataError: Neither table has the column.
        """
        if column in self.queries.column_names and (
            column == self.query_id or column not in self.interactions.column_names
        ):
            return self.queries[column], self.query_index
        if column in self.interactions.column_names:
            return self.interactions[column], np.arange(len(self), dtype=np.int64)
        raise DataError(
            f"column {column!r} is in neither the interactions ({', '.join(self.interactions.column_names)}) "
            f"nor the query table ({', '.join(self.queries.column_names)})"
        )

    def candidate_column(self, column: str) -> pa.ChunkedArray:
        """A column of the candidate table, `[candidates]` rows.

        Raises:
            DataError: The candidate table does not have the column.
        """
        if column not in self.candidates.column_names:
            raise DataError(
                f"column {column!r} is not in the candidate table, which has {', '.join(self.candidates.column_names)}"
            )
        return self.candidates[column]


def from_tables(
    interactions: TableSource,
    *,
    query_id: str,
    candidate_id: str,
    time: str | None = None,
    weight: str | None = None,
    queries: TableSource | None = None,
    candidates: TableSource | None = None,
    unknown_candidates: Literal["refuse", "drop"] = "refuse",
    name: str = "data",
) -> Dataset:
    """Makes a `Dataset` of your own log.

    Args:
        interactions: One row an event. Anything with `__arrow_c_stream__` (pyarrow, Polars, pandas,
            DuckDB), or the path of a Parquet or CSV file, or of a folder of Parquet files.
        query_id: The column that says who chose (in `interactions`, and in `queries` where given).
        candidate_id: The column that says what was chosen (likewise).
        time: The column that says when: seconds since 1970 as a number, or a date or timestamp column.
        weight: The column that says how much an event counts, a non-negative number.
        queries: One row a query. Default: the distinct ids of the log.
        candidates: One row a candidate: the catalogue. Default: the distinct ids of the log.
        unknown_candidates: What to do with events whose candidate is not in `candidates`: `"refuse"`
            the data, or `"drop"` the events and count them in `Dataset.dropped`.
        name: What reports call the data.

    Raises:
        DataError: A column is missing, an id is null or (in `queries`, `candidates`) repeated, an event
            names an unknown query or candidate, a time or weight is not a sensible number, or no event
            is left. The message names column, row, value and what was expected.

    Example:
        >>> import pyarrow as pa
        >>> log = pa.table({"who": ["ann", "bob", "ann"], "what": ["tea", "tea", "rum"], "at": [1, 2, 3]})
        >>> data = from_tables(log, query_id="who", candidate_id="what", time="at")
        >>> len(data), data.candidates.num_rows
        (3, 2)
    """
    log = read_table(interactions, "interactions")
    wanted = [column for column in (query_id, candidate_id, time, weight) if column is not None]
    require_columns(log, wanted, "interactions")
    if log.num_rows == 0:
        raise DataError("the interactions have no rows; expected at least one event")
    check_ids(log[query_id], query_id, "interactions")
    check_ids(log[candidate_id], candidate_id, "interactions")

    query_table = _side_table(queries, log, query_id, "queries")
    candidate_table = _side_table(candidates, log, candidate_id, "candidates")
    query_rows = _rows_of(log[query_id], query_table[query_id])
    candidate_rows = _rows_of(log[candidate_id], candidate_table[candidate_id])
    _refuse_unknown(query_rows, log, query_id, "query table")
    known = ~np.isnan(candidate_rows)
    dropped = int((~known).sum())
    if dropped and unknown_candidates == "refuse":
        _refuse_unknown(
            candidate_rows, log, candidate_id, "candidate table", "; unknown_candidates='drop' leaves such events out"
        )
    if dropped:
        log, query_rows, candidate_rows = log.filter(pa.array(known)), query_rows[known], candidate_rows[known]
        if log.num_rows == 0:
            raise DataError(f"no event is left: all {dropped} name a {candidate_id!r} that the candidate table lacks")
    if time is not None:
        log = _with_column(log, time, check_times(log[time], time))
    if weight is not None:
        log = _with_column(log, weight, check_weights(log[weight], weight))
    return Dataset(
        name=name,
        interactions=log,
        queries=query_table,
        candidates=candidate_table,
        query_id=query_id,
        candidate_id=candidate_id,
        time=time,
        weight=weight,
        query_index=query_rows.astype(np.int64),
        candidate_index=candidate_rows.astype(np.int64),
        dropped=dropped,
    )


def distinct_ids(column: pa.ChunkedArray) -> pa.Array:
    """The distinct values of an id column in ascending order: the same for every order of the rows."""
    values = pc.unique(column)
    return values.take(pc.array_sort_indices(values))


def _side_table(source: TableSource | None, log: pa.Table, id_column: str, which: str) -> pa.Table:
    if source is None:
        return pa.table({id_column: distinct_ids(log[id_column])})
    table = read_table(source, which)
    require_columns(table, [id_column], which)
    if table.num_rows == 0:
        raise DataError(f"the {which} table has no rows; expected one row for each distinct {id_column!r}")
    check_ids(table[id_column], id_column, which, unique=True)
    if table[id_column].type != log[id_column].type:
        table = _with_column(table, id_column, _cast_like(table[id_column], log[id_column], id_column, which))
    return table


def _cast_like(column: pa.ChunkedArray, like: pa.ChunkedArray, name: str, which: str) -> pa.ChunkedArray:
    """Ids of a side table in the type of the log's: integers of another width are the same ids, text is not."""
    number = (pa.types.is_integer(column.type), pa.types.is_integer(like.type))
    text = tuple(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in (column.type, like.type))
    if all(number) or all(text):
        return column.cast(like.type)
    raise DataError(
        f"column {name!r} is {column.type} in {which} and {like.type} in interactions; "
        f"expected one type, so that the ids can be compared"
    )


def _rows_of(ids: pa.ChunkedArray, table_ids: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Row of each id in a table's id column, NaN where it is not there."""
    found = pc.index_in(ids, value_set=table_ids.combine_chunks())
    rows: npt.NDArray[np.float64] = found.cast(pa.float64()).to_numpy()
    return rows


def _refuse_unknown(rows: npt.NDArray[np.float64], log: pa.Table, column: str, where: str, hint: str = "") -> None:
    unknown = np.flatnonzero(np.isnan(rows))
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"interactions, column {column!r}, row {first}: {log[column][first].as_py()!r} is not in the {where} "
            f"({len(unknown)} events are so); expected an id that the {where} has{hint}"
        )


def _with_column(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def concat(parts: Sequence[Dataset]) -> Dataset:
    """The events of several parts of one data set, one part after the other."""
    first = parts[0]
    return replace(
        first,
        interactions=pa.concat_tables([part.interactions for part in parts]),
        query_index=np.concatenate([part.query_index for part in parts]),
        candidate_index=np.concatenate([part.candidate_index for part in parts]),
    )
