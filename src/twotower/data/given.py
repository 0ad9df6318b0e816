"""Predefined splits: test and validation events in their own tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from twotower.data.checks import UnknownCandidates, check_ids, require_columns
from twotower.data.dataset import Dataset
from twotower.data.lookup import IdRows, distinct_ids
from twotower.data.place import Place
from twotower.data.sources import CsvFormat, Decimal, TableSource, read_source, with_ids_like
from twotower.data.tables import LogTables, cast_ids
from twotower.errors import DataError


def given_parts(
    train: Dataset,
    sources: Mapping[str, TableSource],
    *,
    own_queries: bool,
    unknown_candidates: UnknownCandidates = "refuse",
    delimiter: str | None = None,
    decimal: Decimal = ".",
    time_format: str | None = None,
) -> tuple[Dataset, dict[str, Dataset]]:
    """Reads parts that share the query and candidate tables with train.

    Args:
        train: The training events.
        sources: The events of each part by name, with the same columns as train.
        own_queries: Whether train's query table was built from the ids in its log; if so, queries that occur only in
            a part are added to it.
        unknown_candidates: What to do with events whose candidate is not in train's catalogue.
        delimiter: Delimiter of CSV files; default: detected from the header of each.
        decimal: Decimal mark of CSV files: `.` or `,`.
        time_format: How times are written; see `from_tables`.

    Returns:
        Train with the query table of all parts, and the parts.

    Raises:
        DataError: As `from_tables`; the message names the part.

    Example:
        >>> from twotower.data import from_tables
        >>> log = from_tables(pa.table({"who": [1, 2], "what": [5, 6]}), query_id="who", candidate_id="what")
        >>> train, parts = given_parts(log, {"test": pa.table({"who": [3], "what": [5]})}, own_queries=True)
        >>> train.queries["who"].to_pylist(), len(parts["test"])
        ([1, 2, 3], 1)
    """
    csv = CsvFormat(delimiter, decimal)
    read = {part: _read(train, source, part, csv) for part, source in sources.items()}
    logs = {part: log for part, (log, _) in read.items()}
    if own_queries:
        train = _with_queries(train, list(logs.values()))
    tables = LogTables(
        train.name,
        train.queries,
        train.candidates,
        train.query_id,
        train.candidate_id,
        train.time,
        train.weight,
        unknown_candidates,
        chosen=None if train.exposures is None else train.exposures.chosen,
        request=None if train.exposures is None else train.exposures.request,
        time_format=time_format,
        limits=train.limits,
    )
    return train, {part: _events(tables, log, part, place) for part, (log, place) in read.items()}


def overlap(part: Dataset, train: Dataset) -> int:
    """How many events of a part are also in train: same query, same candidate and, if the log has times, same time.

    Example:
        >>> from twotower.data import simulated
        >>> data = simulated(20, 30, 100)
        >>> overlap(data.take(np.arange(60)), data.take(np.arange(50, 100)))
        10
    """
    codes = part.query_index * train.candidates.num_rows + part.candidate_index
    known = train.query_index * train.candidates.num_rows + train.candidate_index
    if train.time is not None:
        moments = np.unique(train.times)
        at = np.searchsorted(moments, part.times)
        found = at < len(moments)
        found[found] = moments[at[found]] == part.times[found]
        codes, known = codes[found] * len(moments) + at[found], known * len(moments)
        known += np.searchsorted(moments, train.times)
    return int(np.isin(codes, known).sum())


def _read(train: Dataset, source: TableSource, part: str, csv: CsvFormat) -> tuple[pa.Table, Place]:
    """The rows of a part, with ids cast to train's types, and where they come from."""
    read = read_source(source, part, csv)
    log, place = read.table, Place(origin=read.origin)
    shown = train.exposures
    others = (train.time, train.weight, *(() if shown is None else (shown.chosen, shown.request)))
    wanted = [train.query_id, train.candidate_id, *filter(None, others)]
    require_columns(log, wanted, part)
    if log.num_rows == 0:
        raise DataError(f"{part} has no rows; expected at least one event")
    for column, table in ((train.query_id, train.queries), (train.candidate_id, train.candidates)):
        check_ids(log[column], column, part, place=place)
        kind = table.schema.field(column).type
        ids = cast_ids(with_ids_like(read, kind, column).table[column], kind, column, part)
        log = log.set_column(log.column_names.index(column), column, ids)
    return log, place


def _with_queries(train: Dataset, logs: list[pa.Table]) -> Dataset:
    """Train with a query table that has the ids of all logs."""
    column = train.query_id
    ids = [train.queries[column], *(log[column] for log in logs)]
    queries = pa.table({column: distinct_ids(pa.chunked_array([chunk for one in ids for chunk in one.chunks]))})
    rows = IdRows(queries[column]).of(train.queries[column])
    return replace(train, queries=queries, query_index=rows[train.query_index])


def _events(tables: LogTables, log: pa.Table, part: str, place: Place) -> Dataset:
    """The events of a part, checked."""
    try:
        return tables.events(log, place)
    except DataError as error:
        raise DataError(f"the {part} part: {error}") from error
