"""`from_tables`: checks tables and makes a `Dataset` of them; `LogTables`: the side tables that events refer to."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import checks_arguments
from twotower.data.availability import Limits, limits_in
from twotower.data.checks import (
    UnknownCandidates,
    check_chosen,
    check_data_name,
    check_ids,
    check_times,
    check_weights,
    refuse_no_weight,
    require_columns,
    roles_of,
)
from twotower.data.chosen import separated
from twotower.data.dataset import Dataset, IntArray
from twotower.data.exposures import BoolArray
from twotower.data.lookup import IdRows, distinct_ids
from twotower.data.notes import EXAMPLES, warn_of_dropped, warn_of_mistakes, warn_of_unavailable
from twotower.data.origin import Origin
from twotower.data.place import WHOLE, Place
from twotower.data.sources import CsvFormat, Decimal, Source, TableSource, read_source, with_ids_like
from twotower.data.time_format import check_time_format
from twotower.errors import DataError


@checks_arguments
def from_tables(
    interactions: TableSource,
    *,
    query_id: str,
    candidate_id: str,
    time: str | None = None,
    weight: str | None = None,
    chosen: str | None = None,
    request: str | None = None,
    queries: TableSource | None = None,
    candidates: TableSource | None = None,
    available_from: str | None = None,
    available_until: str | None = None,
    unknown_candidates: UnknownCandidates = "refuse",
    delimiter: str | None = None,
    decimal: Decimal = ".",
    time_format: str | None = None,
    name: str = "data",
) -> Dataset:
    """Makes a `Dataset` of your own log.

    Args:
        interactions: One row per event. Anything with `__arrow_c_stream__` (pyarrow, Polars, pandas,
            DuckDB), or the path of a Parquet, CSV or JSON Lines file or of a folder of them, or a pattern with `*`.
        query_id: The user (query) column, in `interactions` and, if given, in `queries`.
        candidate_id: The item (candidate) column, in `interactions` and, if given, in `candidates`.
        time: The time column: numbers (seconds since 1970, or milli-, micro- or nanoseconds, told by their size),
            dates or timestamps (UTC if they have no zone), or text in one of these forms.
        weight: The column of event weights, which must not be negative.
        chosen: A column of booleans, or of 1 and 0, that is false for rows that were shown and not chosen, or disliked.
            They are no events but `Dataset.exposures`; their weights do not matter. Default: every row was chosen.
        request: With `chosen`, a column of request ids: rows of one query and request were shown together. Default:
            rows that were not chosen belong to the query's event nearest in time.
        queries: One row per query. Default: the distinct ids of the log.
        candidates: One row per candidate: the catalogue. Default: the distinct ids of the log.
        available_from: A column of `candidates` with the time from which each is available; null: always. Candidates
            that were not available at the time of an event are neither negatives in its row of a loss nor counted in
            its rank.
        available_until: The same for the time until which each is available.
        unknown_candidates: What to do with events whose candidate is not in `candidates`: `"refuse"`
            the data, or `"drop"` the events with a `DataWarning` and count them in `Dataset.dropped`.
        delimiter: Delimiter of CSV files; default: detected from the header of each.
        decimal: Decimal mark of CSV files: `.` or `,`.
        time_format: How times are written, in Python's strptime format, such as `%d.%m.%Y %H:%M`. Default: as above.
        name: Name of the data in reports.

    Raises:
        ConfigError: `unknown_candidates`, `delimiter`, `decimal` or `time_format` is not an allowed value, a column
            has two roles, or the name is blank.
        DataError: A column is missing, an id is null or (in `queries`, `candidates`) repeated, an event has an
            unknown query or candidate, a time, weight or value of `chosen` is invalid, or no event is left. The message
            names the column, the row, the value and what was expected.

    Example:
        >>> import pyarrow as pa
        >>> log = pa.table({"who": ["ann", "bob", "ann"], "what": ["tea", "tea", "rum"], "at": [1, 2, 3]})
        >>> data = from_tables(log, query_id="who", candidate_id="what", time="at")
        >>> len(data), data.candidates.num_rows
        (3, 2)
    """
    check_data_name(name)
    check_time_format(time_format)
    csv = CsvFormat(delimiter, decimal)
    log = _read_log(interactions, roles_of(query_id, candidate_id, time, weight, chosen, request), csv)
    log, query_table, _ = _side_table(queries, log, query_id, "queries", csv)
    log, candidate_table, origin = _side_table(candidates, log, candidate_id, "candidates", csv)
    limits = limits_in(candidate_table, time, Limits(available_from, available_until, time_format), origin)
    tables = LogTables(
        name,
        query_table,
        candidate_table,
        query_id,
        candidate_id,
        time,
        weight,
        unknown_candidates,
        chosen=chosen,
        request=request,
        time_format=time_format,
        limits=limits,
    )
    data = _with_some_weight(tables.events(log.table, Place(origin=log.origin)))
    if data.availability is not None:
        wrong = data.candidate_index[data.availability.lacks(data.candidate_index, data.times)]
        warn_of_unavailable(len(wrong), len(data), candidate_table[candidate_id].take(wrong[:1]).to_pylist())
    return data


def _read_log(interactions: TableSource, wanted: Sequence[str], csv: CsvFormat) -> Source:
    """Reads the interactions and checks that they have the `wanted` columns, of which the ids come first."""
    read = read_source(interactions, "interactions", csv)
    require_columns(read.table, wanted, "interactions")
    if read.table.num_rows == 0:
        raise DataError("the interactions have no rows; expected at least one event")
    for column in wanted[:2]:
        check_ids(read.table[column], column, "interactions", place=Place(origin=read.origin))
    warn_of_mistakes(read, "interactions", wanted)
    return read


def _with_some_weight(data: Dataset) -> Dataset:
    if data.weight is not None:
        refuse_no_weight(float(data.weights.sum()), data.weight)
    return data


class LogTables:
    """The side tables that events refer to, the column names, and lookups from ids to rows.

    Attributes and arguments are those of `Dataset` and `from_tables`; the side tables must already be checked.
    """

    def __init__(
        self,
        name: str,
        queries: pa.Table,
        candidates: pa.Table,
        query_id: str,
        candidate_id: str,
        time: str | None = None,
        weight: str | None = None,
        unknown_candidates: UnknownCandidates = "refuse",
        *,
        chosen: str | None = None,
        request: str | None = None,
        time_format: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name, self.queries, self.candidates = name, queries, candidates
        self.query_id, self.candidate_id, self.time, self.weight = query_id, candidate_id, time, weight
        self.unknown_candidates, self.chosen, self.request = unknown_candidates, chosen, request
        self.time_format, self.limits = time_format, limits
        self._query_rows, self._candidate_rows = IdRows(queries[query_id]), IdRows(candidates[candidate_id])

    def with_queries(self, queries: pa.Table) -> LogTables:
        """A copy with another query table."""
        other = copy(self)
        other.queries, other._query_rows = queries, IdRows(queries[self.query_id])
        return other

    def with_chosen(self, chosen: str | None, request: str | None) -> LogTables:
        """A copy that tells chosen rows from others; None: every row is an event."""
        other = copy(self)
        other.chosen, other.request = chosen, request
        return other

    def without_weight(self) -> LogTables:
        """A copy that does not read weights."""
        other = copy(self)
        other.weight = None
        return other

    @property
    def columns(self) -> list[str]:
        """The interaction columns that are always read."""
        roles = self.query_id, self.candidate_id, self.time, self.weight, self.chosen, self.request
        return [column for column in roles if column is not None]

    def events(self, log: pa.Table, place: Place = WHOLE) -> Dataset:
        """`dataset` for a whole log: refuses it if no event is left, and warns about dropped events."""
        data = self.dataset(log, place)
        if len(data) == 0:
            raise no_event_left(data.dropped, self.candidate_id)
        warn_of_dropped(data.dropped, len(data) + data.dropped, self.candidate_id, data.dropped_candidates)
        return data

    def dataset(self, log: pa.Table, place: Place = WHOLE) -> Dataset:
        """Checks interactions, which may be empty without `chosen`, and looks up their queries and candidates.

        Args:
            log: The interactions; the id columns have the types of the side tables.
            place: Where the rows come from, for errors.

        Raises:
            DataError: As `from_tables`.
        """
        rows, is_chosen = self.rows(log, place)
        return rows if self.chosen is None else separated(rows, is_chosen, self.chosen, self.request)

    def rows(self, log: pa.Table, place: Place = WHOLE) -> tuple[Dataset, BoolArray]:
        """Every row as an event, whether chosen or not, and a mask of those that were chosen; as `dataset`."""
        check_ids(log[self.query_id], self.query_id, "interactions", place=place)
        check_ids(log[self.candidate_id], self.candidate_id, "interactions", place=place)
        if self.time is not None:
            log = _with_column(log, self.time, check_times(log[self.time], self.time, place, self.time_format))
        is_chosen = np.ones(len(log), dtype=bool)
        if self.chosen is not None:
            is_chosen = check_chosen(log[self.chosen], self.chosen, place)
        if self.weight is not None:
            weights = _or_zero(log[self.weight], is_chosen)
            log = _with_column(log, self.weight, check_weights(weights, self.weight, place))
        query_rows = self._query_rows.of(log[self.query_id])
        candidate_rows = self._candidate_rows.of(log[self.candidate_id])
        _refuse_unknown(query_rows, log, self.query_id, "query table", place)
        known = candidate_rows >= 0
        lost = is_chosen & ~known
        dropped, unknown = int(lost.sum()), ()
        if self.unknown_candidates == "refuse":
            hint = ", or unknown_candidates='drop'"
            _refuse_unknown(candidate_rows, log, self.candidate_id, "candidate table", place, hint)
        elif not known.all():
            unknown = tuple(pc.unique(log[self.candidate_id].filter(pa.array(lost))).slice(0, EXAMPLES).to_pylist())
            log, query_rows, candidate_rows = log.filter(pa.array(known)), query_rows[known], candidate_rows[known]
        rows = Dataset(
            name=self.name,
            interactions=log,
            queries=self.queries,
            candidates=self.candidates,
            query_id=self.query_id,
            candidate_id=self.candidate_id,
            time=self.time,
            weight=self.weight,
            query_index=query_rows,
            candidate_index=candidate_rows,
            dropped=dropped,
            dropped_candidates=unknown,
            limits=self.limits,
        )
        return rows, is_chosen[known]


def no_event_left(dropped: int, candidate_id: str) -> DataError:
    """The error for a log whose events were all dropped."""
    return DataError(f"no events are left: all {dropped} have a {candidate_id!r} that is not in the candidate table")


def _side_table(
    source: TableSource | None, log: Source, id_column: str, which: str, csv: CsvFormat
) -> tuple[Source, pa.Table, Origin]:
    """The log and the query or candidate table, with ids of the same type; and the files of the latter."""
    if source is None:
        return log, pa.table({id_column: distinct_ids(log.table[id_column])}), Origin()
    side = read_source(source, which, csv)
    require_columns(side.table, [id_column], which)
    log = with_ids_like(log, side.table[id_column].type, id_column)
    return log, side_table(side, log.table.schema.field(id_column).type, id_column, which), side.origin


def side_table(side: Source, kind: pa.DataType, id_column: str, which: str) -> pa.Table:
    """Checks a query or candidate table and casts its ids to the log's id type.

    Raises:
        DataError: It lacks the id column, has no rows, or an id is null, repeated or not of the log's kind.
    """
    require_columns(side.table, [id_column], which)
    if side.table.num_rows == 0:
        raise DataError(f"the {which} table has no rows; expected one row for each distinct {id_column!r}")
    check_ids(side.table[id_column], id_column, which, unique=True, place=Place(origin=side.origin))
    warn_of_mistakes(side, which, [id_column])
    table = with_ids_like(side, kind, id_column).table
    if table[id_column].type != kind:
        table = _with_column(table, id_column, cast_ids(table[id_column], kind, id_column, which))
    return table


def cast_ids(column: pa.ChunkedArray, kind: pa.DataType, name: str, which: str) -> pa.ChunkedArray:
    """Casts ids of another table to the log's id type: from integers of another width, but not from text.

    Raises:
        DataError: One type is text and the other is not, or an id is too large for the log's type.
    """
    number = (pa.types.is_integer(column.type), pa.types.is_integer(kind))
    text = (pa.types.is_string(column.type), pa.types.is_string(kind))
    if not (all(number) or all(text)):
        raise DataError(
            f"column {name!r} is {column.type} in {which} and {kind} in interactions; "
            f"expected one type, so that the ids can be compared"
        )
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"column {name!r} is {column.type} in {which} and {kind} in interactions: {error}; expected ids that fit"
        ) from error


def _refuse_unknown(rows: IntArray, log: pa.Table, column: str, where: str, place: Place, hint: str = "") -> None:
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"interactions, column {column!r}, {place.row(first)}: {log[column][first].as_py()!r} is not "
            f"in the {where} (rows affected: {len(unknown)}{place.where}); expected an id from the {where}{hint}"
        )


def _or_zero(column: pa.ChunkedArray, is_chosen: BoolArray) -> pa.ChunkedArray:
    """Weights, with 0 for rows that were not chosen."""
    if is_chosen.all():
        return column
    zero = pa.scalar("0" if pa.types.is_string(column.type) else 0).cast(column.type)
    return pc.if_else(pa.array(is_chosen), column, zero)


def _with_column(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
