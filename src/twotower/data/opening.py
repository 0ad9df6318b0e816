"""`stream_parquet`: opens a log in Parquet files, and checks and counts it without holding it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import checks_arguments
from twotower.data.checks import (
    Place,
    UnknownCandidates,
    check_ids,
    refuse_no_weight,
    require_columns,
    roles_of,
)
from twotower.data.fingerprints import Fingerprint
from twotower.data.lookup import distinct_ids
from twotower.data.notes import warn_of_dropped
from twotower.data.parquet import BoolArray, ParquetRows, ParquetSource
from twotower.data.sources import TableSource, read_source
from twotower.data.stream import PIECES_OF_THE_BUFFER, ParquetLog
from twotower.data.tables import LogTables, no_event_left, side_table
from twotower.errors import ConfigError, DataError

BUFFER = 4_000_000
"""Events held at once, unless the caller says otherwise."""


@checks_arguments
def stream_parquet(
    interactions: ParquetSource,
    *,
    query_id: str,
    candidate_id: str,
    time: str | None = None,
    weight: str | None = None,
    queries: TableSource | None = None,
    candidates: TableSource | None = None,
    unknown_candidates: UnknownCandidates = "refuse",
    delimiter: str | None = None,
    name: str = "data",
    buffer: int = BUFFER,
) -> ParquetLog:
    """Opens a log in Parquet files that is larger than memory, and checks it in one pass, or two.

    Memory holds the query table, the candidate table and at most `buffer` events, however many there are.

    Args:
        interactions: One row an event: Parquet files, by the path of one, of a folder, a pattern with `*`, or several.
        query_id: The column that says who chose; this and the next ones as in `from_tables`.
        candidate_id: The column that says what was chosen.
        time: The column that says when.
        weight: The column that says how much an event counts.
        queries: One row a query. Default: the distinct ids of the log, for which it is read once more.
        candidates: One row a candidate: the catalogue. Default: likewise.
        unknown_candidates: `"refuse"` or `"drop"` events whose candidate is not in `candidates`.
        delimiter: What stands between the cells of the side tables where they are CSV; default: told from the header.
        name: What reports call the data.
        buffer: How many events are held at once. The more, the better the order of training is mixed.

    Raises:
        ConfigError: The buffer holds no event, or `unknown_candidates` is none of what it may be.
        DataError: As `from_tables`; rows are numbered over all files.

    Example:
        >>> import tempfile
        >>> import pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"who": [1, 2, 1], "what": ["tea", "tea", "rum"]}), f"{folder}/log.parquet")
        ...     log = stream_parquet(folder, query_id="who", candidate_id="what")
        >>> len(log), log.candidate_counts().tolist()  # rum, tea
        (3, [1, 2])
    """
    rows = _opened(interactions, roles_of(query_id, candidate_id, time, weight), buffer)
    sides = _sides(rows, {query_id: queries, candidate_id: candidates}, delimiter, buffer // 2)
    tables = LogTables(name, *sides, query_id, candidate_id, time, weight, unknown_candidates)
    return _checked(tables, rows, buffer, own_queries=queries is None)


def narrowed(log: ParquetLog, kept: BoolArray) -> ParquetLog:
    """The same log with some of its rows.

    Args:
        log: The log.
        kept: Which, `[rows of its files]`: events of the log, whose candidates are known.

    Raises:
        DataError: The files cannot be read any more, or have changed.
    """
    return replace(_checked(log.tables, log.rows.only(kept), log.buffer, log.own_queries), dropped=log.dropped)


def _opened(interactions: ParquetSource, wanted: Sequence[str], buffer: int) -> ParquetRows:
    """The files, which have the wanted columns and some rows."""
    if buffer < PIECES_OF_THE_BUFFER:
        raise ConfigError(f"buffer={buffer}; expected at least {PIECES_OF_THE_BUFFER} events")
    rows = ParquetRows.open(interactions)
    require_columns(rows.schema.empty_table(), wanted, "interactions")
    if len(rows) == 0:
        raise DataError("the interactions have no rows; expected at least one event")
    return rows


def _sides(
    rows: ParquetRows, sources: Mapping[str, TableSource | None], delimiter: str | None, at_once: int
) -> tuple[pa.Table, pa.Table]:
    """The tables of queries and candidates, by their id columns; of ids alone where there is no source."""
    distinct = _distinct(rows, [column for column, source in sources.items() if source is None], at_once)
    tables = []
    for (column, source), which in zip(sources.items(), ("queries", "candidates"), strict=True):
        if source is None:
            tables.append(pa.table({column: distinct[column]}))
        else:
            side = read_source(source, which, delimiter=delimiter)
            tables.append(side_table(side, rows.schema.field(column).type, column, which))
    return tables[0], tables[1]


def _distinct(rows: ParquetRows, columns: list[str], at_once: int) -> dict[str, pa.Array]:
    """The distinct ids of columns, ascending."""
    found: dict[str, list[pa.Array]] = {column: [] for column in columns}
    if columns:
        for first_row, table in rows.in_order(columns, at_once):
            for column in columns:
                check_ids(table[column], column, "interactions", place=Place(first_row, whole=False))
                found[column] = [pc.unique(pa.chunked_array([*found[column], pc.unique(table[column])]))]
    return {column: distinct_ids(pa.chunked_array(ids)) for column, ids in found.items()}


def _checked(tables: LogTables, rows: ParquetRows, buffer: int, own_queries: bool) -> ParquetLog:
    """Checks and counts all events."""
    digits, sums = Fingerprint(tables), np.zeros(2, dtype=np.uint64)
    query_counts = np.zeros(tables.queries.num_rows, dtype=np.int64)
    candidate_counts = np.zeros(tables.candidates.num_rows, dtype=np.int64)
    weights = np.zeros(tables.candidates.num_rows)
    size, dropped, latest, whole_times = 0, 0, -np.inf, True
    lacking: tuple[object, ...] = ()
    for first_row, table in rows.in_order(tables.columns, buffer // 2):
        events = tables.dataset(table, Place(first_row, whole=False))
        size, dropped = size + len(events), dropped + events.dropped
        lacking = lacking or events.dropped_candidates
        sums = sums + digits.sums(events)
        query_counts += events.query_counts()
        candidate_counts += events.candidate_counts()
        weights += np.bincount(events.candidate_index, events.weights, minlength=len(weights))
        if tables.time is not None and len(events):
            latest = max(latest, float(events.times.max()))
            whole_times &= pa.types.is_integer(events.interactions.schema.field(tables.time).type)
    if size == 0:
        raise no_event_left(dropped, tables.candidate_id)
    warn_of_dropped(dropped, size + dropped, tables.candidate_id, lacking)
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
