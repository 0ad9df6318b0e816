"""`stream_parquet`: opens a log in Parquet files, and checks and counts it without loading it into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import checks_arguments
from twotower.data.availability import Limits, limits_in
from twotower.data.checks import (
    UnknownCandidates,
    check_data_name,
    check_ids,
    refuse_no_weight,
    refuse_none_chosen,
    require_columns,
    roles_of,
)
from twotower.data.fingerprints import Fingerprint
from twotower.data.lookup import distinct_ids
from twotower.data.notes import warn_of_dropped, warn_of_unavailable
from twotower.data.origin import Origin
from twotower.data.parquet import ROW, BoolArray, ParquetRows, ParquetSource
from twotower.data.place import Place
from twotower.data.scratch import scratch
from twotower.data.shown import ShownRows, request_keys, shown_in
from twotower.data.sources import CsvFormat, Decimal, TableSource, read_source
from twotower.data.stream import PIECES_PER_BUFFER, ParquetLog
from twotower.data.tables import LogTables, no_event_left, side_table
from twotower.data.time_format import check_time_format
from twotower.errors import ConfigError, DataError
from twotower.extras import require

BUFFER = 4_000_000
"""Default number of events held in memory."""


@checks_arguments
def stream_parquet(
    interactions: ParquetSource,
    *,
    query_id: str,
    candidate_id: str,
    time: str | None = None,
    weight: str | None = None,
    chosen: str | None = None,
    request: str | None = None,
    queries: TableSource | None = None,
    candidates: TableSource | None = None,
    unknown_candidates: UnknownCandidates = "refuse",
    delimiter: str | None = None,
    decimal: Decimal = ".",
    time_format: str | None = None,
    available_from: str | None = None,
    available_until: str | None = None,
    name: str = "data",
    buffer: int = BUFFER,
) -> ParquetLog:
    """Opens a log in Parquet files that is larger than memory, and checks it in one or two passes.

    Memory holds the query table, the candidate table and at most `buffer` events, whatever the size of the log.
    With `chosen`, there is one more pass.

    Args:
        interactions: One row per event: the path of a Parquet file or folder, a pattern with `*`, or several of these.
        query_id: The user (query) column; this and the following columns work as in `from_tables`.
        candidate_id: The item (candidate) column.
        time: The time column.
        weight: The column of event weights.
        chosen: The column that is false for rows that were shown and not chosen; see `from_tables`. What was shown is
            matched to events at once, which prepares the files; see `ParquetLog.sorted_events`.
        request: With `chosen`, the column of request ids.
        queries: One row per query. Default: the distinct ids of the log, which takes a second pass.
        candidates: One row per candidate: the catalogue. Default: the distinct ids of the log, likewise.
        unknown_candidates: Whether to `"refuse"` or `"drop"` events whose candidate is not in `candidates`.
        delimiter: Delimiter of CSV side tables; default: detected from the header.
        decimal: Decimal mark of CSV side tables: `.` or `,`.
        time_format: How times are written; see `from_tables`.
        available_from: The column of `candidates` with the time from which each is available; see `from_tables`.
        available_until: The column with the time until which each is available.
        name: Name of the data in reports.
        buffer: How many events are held at once. A larger buffer shuffles the training order more thoroughly.

    Raises:
        ConfigError: The buffer is too small, `unknown_candidates` is not an allowed value, the name is blank, a column
            has two roles, or candidates have limits although the log has no times.
        DataError: As `from_tables`; rows are numbered across all files.
        MissingExtraError: `chosen` is set, and DuckDB is not installed.

    Example:
        >>> import tempfile
        >>> import pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"who": [1, 2, 1], "what": ["tea", "tea", "rum"]}), f"{folder}/log.parquet")
        ...     log = stream_parquet(folder, query_id="who", candidate_id="what")
        >>> len(log), log.candidate_counts().tolist()  # rum, tea
        (3, [1, 2])
    """
    check_data_name(name)
    check_time_format(time_format)
    if chosen is not None:
        require("duckdb", "large")
    rows = _opened(interactions, roles_of(query_id, candidate_id, time, weight, chosen, request), buffer)
    csv = CsvFormat(delimiter, decimal)
    sides = {query_id: queries, candidate_id: candidates}
    query_table, candidate_table, origin = _sides(rows, sides, csv, buffer // 2)
    tables = LogTables(
        name,
        query_table,
        candidate_table,
        query_id,
        candidate_id,
        time,
        weight,
        unknown_candidates,
        time_format=time_format,
        limits=limits_in(candidate_table, time, Limits(available_from, available_until, time_format), origin),
    )
    if chosen is None:
        return _checked(tables, rows, buffer, own_queries=queries is None)
    return _with_exposures(tables.with_chosen(chosen, request), rows, buffer, own_queries=queries is None)


def _with_exposures(tables: LogTables, rows: ParquetRows, buffer: int, own_queries: bool) -> ParquetLog:
    """The log of the chosen rows, with what was shown beside them."""
    own, given = _shown_rows(tables, rows, buffer // 2)
    log = _checked(tables.with_chosen(None, None), rows.only(given.is_chosen), buffer, own_queries)
    warn_of_dropped(own.dropped, len(log) + own.dropped, tables.candidate_id, own.dropped_candidates)
    known = replace(log, rows=rows, size=own.known).sorted_events()
    return replace(log, dropped=own.dropped, exposures=shown_in(known, given, tables.candidates.num_rows))


@dataclass(frozen=True)
class _Counted:
    """Rows of the files in numbers.

    Attributes:
        known: Rows whose candidate is in the candidate table.
        dropped: Chosen rows whose candidate is not.
        dropped_candidates: Some of their candidates.
    """

    known: int
    dropped: int
    dropped_candidates: tuple[object, ...]


def _shown_rows(tables: LogTables, rows: ParquetRows, at_once: int) -> tuple[_Counted, ShownRows]:
    """Checks all rows in one pass, and keeps which of them are events and which request they belong to."""
    assert tables.chosen is not None
    is_chosen = scratch(rows.in_files, np.bool_)
    requests = None if tables.request is None else scratch(rows.in_files, np.uint64)
    known = dropped = chosen = 0
    examples: tuple[object, ...] = ()
    for first_row, table in rows.in_order([*tables.columns, ROW], at_once):
        here, own = tables.rows(table, Place(first_row, whole=False))
        numbers = here.interactions[ROW].to_numpy()
        is_chosen[numbers[own]] = True
        if requests is not None and tables.request is not None:
            requests[numbers] = request_keys(here.interactions[tables.request], tables.request)
        known, dropped, chosen = known + len(here), dropped + here.dropped, chosen + int(own.sum()) + here.dropped
        examples = examples or here.dropped_candidates
    refuse_none_chosen(chosen, rows.in_files, tables.chosen)
    if chosen == dropped:
        raise no_event_left(dropped, tables.candidate_id)
    return _Counted(known, dropped, examples), ShownRows(is_chosen, requests, tables.chosen, tables.request)


def narrowed(log: ParquetLog, kept: BoolArray) -> ParquetLog:
    """The log restricted to some of its events.

    Args:
        log: The log.
        kept: Mask of the rows to keep, `[rows of its files]`; all of them must be events of the log.

    Raises:
        DataError: The files can no longer be read, or have changed.
    """
    own = _checked(log.tables, log.rows.only(kept), log.buffer, log.own_queries, warns=False)
    return replace(own, dropped=log.dropped, exposures=log.exposures)


def _opened(interactions: ParquetSource, wanted: Sequence[str], buffer: int) -> ParquetRows:
    """Opens the files; they must have the wanted columns and at least one row."""
    if buffer < PIECES_PER_BUFFER:
        raise ConfigError(f"buffer={buffer}; expected at least {PIECES_PER_BUFFER} events")
    rows = ParquetRows.open(interactions)
    require_columns(rows.schema.empty_table(), wanted, "interactions")
    if len(rows) == 0:
        raise DataError("the interactions have no rows; expected at least one event")
    return rows


def _sides(
    rows: ParquetRows, sources: Mapping[str, TableSource | None], csv: CsvFormat, at_once: int
) -> tuple[pa.Table, pa.Table, Origin]:
    """The query and candidate tables, given their sources by id column, and the files of the latter.

    Without a source, a table has ids alone.
    """
    distinct = _distinct(rows, [column for column, source in sources.items() if source is None], at_once)
    tables, origin = list[pa.Table](), Origin()
    for (column, source), which in zip(sources.items(), ("queries", "candidates"), strict=True):
        if source is None:
            tables.append(pa.table({column: distinct[column]}))
            origin = Origin()
        else:
            side = read_source(source, which, csv)
            tables.append(side_table(side, rows.schema.field(column).type, column, which))
            origin = side.origin
    return tables[0], tables[1], origin


def _distinct(rows: ParquetRows, columns: list[str], at_once: int) -> dict[str, pa.Array]:
    """The distinct ids of each column, ascending."""
    found: dict[str, list[pa.Array]] = {column: [] for column in columns}
    if columns:
        for first_row, table in rows.in_order(columns, at_once):
            for column in columns:
                check_ids(table[column], column, "interactions", place=Place(first_row, whole=False))
                found[column] = [pc.unique(pa.chunked_array([*found[column], pc.unique(table[column])]))]
    return {column: distinct_ids(pa.chunked_array(ids)) for column, ids in found.items()}


def _checked(tables: LogTables, rows: ParquetRows, buffer: int, own_queries: bool, warns: bool = True) -> ParquetLog:
    """Checks and counts all events in one pass."""
    digits, sums = Fingerprint(tables), np.zeros(2, dtype=np.uint64)
    query_counts = np.zeros(tables.queries.num_rows, dtype=np.int64)
    candidate_counts = np.zeros(tables.candidates.num_rows, dtype=np.int64)
    weights = np.zeros(tables.candidates.num_rows)
    size, dropped, latest, whole_times = 0, 0, -np.inf, True
    unknown: tuple[object, ...] = ()
    available = None if tables.limits is None else tables.limits.of(tables.candidates)
    outside, examples = 0, list[object]()
    for first_row, table in rows.in_order(tables.columns, buffer // 2):
        events = tables.dataset(table, Place(first_row, whole=False))
        size, dropped = size + len(events), dropped + events.dropped
        unknown = unknown or events.dropped_candidates
        sums = sums + digits.sums(events)
        query_counts += events.query_counts()
        candidate_counts += events.candidate_counts()
        weights += np.bincount(events.candidate_index, events.weights, minlength=len(weights))
        if tables.time is not None and len(events):
            latest = max(latest, float(events.times.max()))
            if available is not None:
                wrong = events.candidate_index[available.lacks(events.candidate_index, events.times)]
                outside += len(wrong)
                examples = examples or tables.candidates[tables.candidate_id].take(wrong[:1]).to_pylist()
            whole_times &= pa.types.is_integer(events.interactions.schema.field(tables.time).type)
    if size == 0:
        raise no_event_left(dropped, tables.candidate_id)
    if warns:
        warn_of_dropped(dropped, size + dropped, tables.candidate_id, unknown)
        warn_of_unavailable(outside, size, examples)
    if tables.weight is not None:
        refuse_no_weight(float(weights.sum()), tables.weight)
    digits.add(size, sums)
    return ParquetLog(
        tables=tables,
        rows=rows,
        buffer=buffer,
        size=size,
        dropped=dropped,
        fingerprint=str(digits),
        _candidate_weights=weights,
        latest_time=None if tables.time is None else latest,
        _candidate_counts=candidate_counts,
        _query_counts=query_counts,
        _time_type=pa.int64() if whole_times else pa.float64(),
        own_queries=own_queries,
        sums=sums,
    )
