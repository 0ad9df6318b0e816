"""Extends the record of a trained model with more events."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.features.growth import Vocabulary
from twotower.features.record import FIRST, UNKNOWN, IntArray, Record
from twotower.features.tables import cast_like, places_of


def grown_record(record: Record, log: Log, limit: float = -math.inf) -> Record:
    """Extends or replaces a record with the events of a log.

    The log's events are added if all of them are later than the record's; otherwise they replace the record's events.
    Items keep their rows; new items are appended, most frequent first.

    Args:
        record: The record so far.
        log: More events, or all events up to now.
        limit: Drop queries and items without an event since this time, in seconds.

    Raises:
        ConfigError: The log is streamed and holds only new events, or the record's columns are not its ids and time.
        DataError: A column or a time is missing.
    """
    vocabulary = record.vocabulary
    if record.key.item is not None:
        column = _items_of(log, record.key.item)
        vocabulary = Vocabulary(vocabulary).grown(cast_like(column, vocabulary.type, record.key.item)).values
    later = Record.of_log(log, record.key, vocabulary)
    if len(record.times) and len(later.times) and later.times.min() > record.times.max():
        if log.in_memory is None:
            raise ConfigError(
                f"{log.name!r} is streamed and has none of the events that the model learned from; expected all events "
                f"up to now, or only the new ones, in memory"
            )
        later = _joined(record, later)
    return later if limit == -math.inf else _without_retired(later, limit)


def _items_of(log: Log, item: str) -> pa.ChunkedArray:
    """The item of each event; for a log on disk, each item that has events, most frequent first."""
    if (events := log.in_memory) is not None:
        column, rows = events.query_column(item)
        return column.take(pa.array(rows))
    counts = log.candidate_counts()
    order = np.argsort(-counts, kind="stable")
    return log.candidates[log.candidate_id].take(pa.array(order[counts[order] > 0]))


def _joined(record: Record, later: Record) -> Record:
    """The events of two records: those of `later` are all later, and its vocabulary extends that of `record`."""
    ids = pa.concat_arrays([record.ids, later.ids.cast(record.ids.type)]).unique()
    ids = ids.take(pc.array_sort_indices(ids))
    queries = np.concatenate([np.repeat(places_of(one.ids, ids), np.diff(one.offsets)) for one in (record, later)])
    order = np.argsort(queries, kind="stable")  # each query's own events are in order already
    return replace(
        later,
        ids=ids,
        offsets=_offsets(queries, len(ids)),
        times=np.concatenate([record.times, later.times])[order],
        items=np.concatenate([record.items, later.items])[order],
    )


def _without_retired(record: Record, limit: float) -> Record:
    """The record without the queries and items that have had no event since the limit."""
    queries = np.repeat(np.arange(len(record.ids)), np.diff(record.offsets))
    latest = np.full(len(record.ids), -np.inf)
    np.maximum.at(latest, queries, record.times)
    kept = latest[queries] >= limit
    ids, rows = record.ids.filter(pa.array(latest >= limit)), np.cumsum(latest >= limit) - 1
    queries, times, items = rows[queries[kept]], record.times[kept], record.items[kept]
    seen = np.full(FIRST + len(record.vocabulary), -np.inf)
    np.maximum.at(seen, record.items, record.times)
    stays = seen[FIRST:] >= limit
    row_of = np.concatenate([np.arange(FIRST), np.where(stays, FIRST + np.cumsum(stays) - 1, UNKNOWN)]).astype(np.int32)
    items = row_of[items]
    order = np.lexsort((items, times, queries))
    vocabulary = record.vocabulary.filter(pa.array(stays))
    return Record(record.key, ids, _offsets(queries, len(ids)), times[order], vocabulary, items[order])


def _offsets(queries: IntArray, count: int) -> IntArray:
    """Where the events of each of `count` queries begin, `[count + 1]`."""
    offsets: IntArray = np.concatenate([[0], np.cumsum(np.bincount(queries, minlength=count))])
    return offsets
