"""`part_of`: other events, such as a validation part, over the tables of a log on disk."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.checks import check_data_name, check_ids, require_columns
from twotower.data.dataset import Dataset
from twotower.data.lookup import distinct_ids
from twotower.data.place import Place
from twotower.data.sources import CsvFormat, TableSource, read_source, with_ids_like
from twotower.data.tables import LogTables, cast_ids
from twotower.errors import DataError


def part_of(
    tables: LogTables,
    schema: pa.Schema,
    interactions: TableSource,
    csv: CsvFormat,
    name: str | None,
    own_queries: bool,
) -> Dataset:
    """The events, checked.

    Args:
        tables: The tables of the log.
        schema: Columns of its files.
        interactions: The events, with the log's columns.
        csv: How CSV files are written.
        name: Name in reports; default: the log's name.
        own_queries: Whether the query table was built from the ids in the log; new ones are then appended to it.

    Raises:
        ConfigError: The name is blank.
        DataError: As `from_tables`.
    """
    check_data_name(name)
    read = read_source(interactions, "interactions", csv)
    log, place = read.table, Place(origin=read.origin)
    require_columns(log, tables.columns, "interactions")
    if log.num_rows == 0:
        raise DataError("the interactions have no rows; expected at least one event")
    for column in (tables.query_id, tables.candidate_id):
        kind = schema.field(column).type
        ids = cast_ids(with_ids_like(read, kind, column).table[column], kind, column, "the part")
        log = log.set_column(log.column_names.index(column), column, ids)
    if own_queries:
        known = tables.queries[tables.query_id].combine_chunks()
        check_ids(log[tables.query_id], tables.query_id, "interactions", place=place)
        found = distinct_ids(log[tables.query_id])
        new = found.filter(pc.invert(pc.is_in(found, value_set=known)))
        tables = tables.with_queries(pa.table({tables.query_id: pa.chunked_array([known, new])}))
    return replace(tables.events(log, place), name=name or tables.name)
