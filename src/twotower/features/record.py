"""`Record`: each query's training events in chronological order, and how to find the place of a time in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.log import Log
from twotower.data.ordered import SortedEvents
from twotower.data.scratch import scratch
from twotower.errors import CellError, ConfigError
from twotower.features.base import Columns, RecordKey
from twotower.features.numeric import numbers_of
from twotower.features.tables import cast_like, look_up, places_of, vocabulary_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNKNOWN, PADDING, FIRST = 0, 1, 2
"""Rows of an item table: an item unseen in training, no item, and the first item of the vocabulary."""

SEPARATE_SEARCH_LIMIT = 64
"""Search up to this many ranges one by one, as when serving a request; more are searched together."""


@dataclass(frozen=True)
class Places:
    """Where given times fall among the events of their queries: places in the record, `[n]` each.

    Attributes:
        begin: The query's first event.
        instant: The first event at or after the time.
        later: The first event after the time.
        end: One past the query's last event.
    """

    begin: IntArray
    instant: IntArray
    later: IntArray
    end: IntArray

    def __getitem__(self, rows: slice) -> Places:
        """The places of some of the rows."""
        return Places(self.begin[rows], self.instant[rows], self.later[rows], self.end[rows])


@dataclass(frozen=True, eq=False)
class Record:
    """The training events, grouped by query, earliest first.

    Attributes:
        key: The columns it is built from.
        ids: Id of every query that has events, ascending.
        offsets: Where each query's events begin, `[queries + 1]`.
        times: Seconds of each event, `[events]`; zeros if the key has no time.
        vocabulary: The distinct items, most frequent first; empty if the key has no item.
        items: Row of each event's item in a table, from `FIRST`, int32 `[events]`.
    """

    key: RecordKey
    ids: pa.Array
    offsets: IntArray
    times: FloatArray
    vocabulary: pa.Array
    items: npt.NDArray[np.int32]

    @classmethod
    def of(cls, columns: Columns, key: RecordKey, vocabulary: pa.Array | None = None) -> Record:
        """Builds the record of these events.

        Args:
            columns: One row per event.
            key: The columns to read.
            vocabulary: Items that already have a row; default: the distinct items of these events.

        Raises:
            DataError: A time is missing.
        """
        ids = columns[key.by]
        seconds = np.zeros(len(ids)) if key.time is None else _training_times(columns[key.time], key.time)
        known = pc.unique(ids)
        known = known.take(pc.array_sort_indices(known))
        query = pc.index_in(ids, value_set=known).to_numpy().astype(np.int64)
        if key.item is None:
            vocabulary, items = pa.array([], pa.null()), np.full(len(ids), UNKNOWN, dtype=np.int32)
        else:
            vocabulary = vocabulary_of(columns[key.item]) if vocabulary is None else vocabulary
            chosen = cast_like(columns[key.item], vocabulary.type, key.item)
            items = look_up(chosen, vocabulary, first=FIRST, missing=UNKNOWN).numpy()
        order = np.lexsort((items, seconds, query))
        counts = np.bincount(query, minlength=len(known))
        return cls(key, known, np.concatenate([[0], np.cumsum(counts)]), seconds[order], vocabulary, items[order])

    @classmethod
    def of_log(cls, log: Log, key: RecordKey, vocabulary: pa.Array | None = None) -> Record:
        """Builds the record of a log; for a log on disk, the arrays are memory-mapped.

        Args:
            log: The log.
            key: The columns to read; for a log on disk they must be its ids and time, by which it is sorted.
            vocabulary: Items that already have a row; default: the distinct items of the log.

        Raises:
            ConfigError: The log is on disk and the key names other columns, or it cannot be prepared.
            DataError: A column or a time is missing.
        """
        if (events := log.in_memory) is None:
            return _mapped(log, key, vocabulary)
        sources = {name: events.query_column(name) for name in key.columns}
        return cls.of({name: column.take(pa.array(rows)) for name, (column, rows) in sources.items()}, key, vocabulary)

    @classmethod
    def restored(cls, events: pa.Table, vocabulary: pa.Table, key: RecordKey) -> Record:
        """Restores a record from the result of `tables`."""
        ids = events["id"].combine_chunks()
        known = pc.unique(ids)
        counts = np.bincount(pc.index_in(ids, value_set=known).to_numpy(), minlength=len(known))
        return cls(
            key,
            known,
            np.concatenate([[0], np.cumsum(counts)]),
            events["time"].to_numpy(),
            vocabulary["item"].combine_chunks(),
            events["item"].to_numpy(),
        )

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The events, with `id`, `time` and row of the `item`, in the record's order; and the vocabulary, `item`."""
        query = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))
        events = {"id": self.ids.take(pa.array(query)), "time": self.times, "item": self.items}
        return pa.table(events), pa.table({"item": self.vocabulary})

    def places(self, ids: pa.ChunkedArray, times: FloatArray) -> Places:
        """Where given times fall among the events of their queries.

        A missing time comes after all events of the query; an unknown query has no events.
        """
        row = places_of(cast_like(ids, self.ids.type, self.key.by), self.ids)
        known = row >= 0
        row = np.maximum(row, 0)
        begin, end = self.offsets[row], self.offsets[row + 1]
        moments = np.where(np.isnan(times), np.inf, times)
        instant = first_place(self.times, begin, end, moments, "left")
        later = first_place(self.times, instant, end, moments, "right")
        return Places(*(np.where(known, place, 0) for place in (begin, instant, later, end)))

    def own(self, places: Places, items: pa.ChunkedArray) -> IntArray:
        """The place of each event itself, given the item it chose, `[n]`; −1 if the record does not hold it."""
        assert self.key.item is not None
        rows = look_up(items, self.vocabulary, first=FIRST, missing=UNKNOWN).numpy()
        # The record is sorted by query, time and item.
        place = first_place(self.items, places.instant, places.later, rows, "left")
        there = place < places.later
        is_own_event = there & (self.items[np.where(there, place, 0)] == rows)
        return np.where(is_own_event, place, -1)


def _training_times(column: pa.ChunkedArray, name: str) -> FloatArray:
    seconds = numbers_of(column, name)
    if np.isnan(seconds).any():
        row = int(np.flatnonzero(np.isnan(seconds))[0])
        raise CellError(name, row, "a training event has no time; expected one in every row")
    return seconds


def first_place(
    values: npt.NDArray[Any], begin: IntArray, end: IntArray, wanted: npt.NDArray[Any], side: Literal["left", "right"]
) -> IntArray:
    """`numpy.searchsorted` in many ranges: where to insert a value, before its equals (`left`) or after (`right`).

    All ranges are bisected together, so only the compared entries of `values`, which may be memory-mapped, are read.

    Args:
        values: Ascending within each range, `[events]`.
        begin: Where each range begins, `[n]`.
        end: One past the last place of each range, `[n]`.
        wanted: The value to search for in each range, `[n]`.
        side: As in `numpy.searchsorted`.

    Example:
        >>> begin, end = np.array([0, 3]), np.array([3, 5])
        >>> first_place(np.array([1, 2, 2, 0, 5]), begin, end, np.array([2, 9]), "left").tolist()
        [1, 5]
    """
    if len(begin) <= SEPARATE_SEARCH_LIMIT:
        ranges = zip(begin.tolist(), end.tolist(), wanted, strict=True)
        found = [first + int(np.searchsorted(values[first:last], value, side)) for first, last, value in ranges]
        return np.array(found, dtype=np.int64)
    low, high = begin.astype(np.int64), end.astype(np.int64)
    open_ranges = np.flatnonzero(low < high)
    while len(open_ranges):
        middle = (low[open_ranges] + high[open_ranges]) // 2
        at = values[middle]
        below = at < wanted[open_ranges] if side == "left" else at <= wanted[open_ranges]
        low[open_ranges[below]] = middle[below] + 1
        high[open_ranges[~below]] = middle[~below]
        open_ranges = open_ranges[low[open_ranges] < high[open_ranges]]
    return low


def _mapped(log: Log, key: RecordKey, vocabulary: pa.Array | None) -> Record:
    """Builds the record of a log on disk over memory-mapped arrays."""
    _check_key(log, key)
    events = log.sorted_events()
    if key.time is None:
        events = replace(events, times=scratch(len(events), np.float64, events.folder))
    assert events.times is not None
    counts = np.diff(events.offsets)
    ids = log.queries[log.query_id].combine_chunks().take(pa.array(events.queries[counts > 0]))
    offsets = np.concatenate([[0], np.cumsum(counts[counts > 0])])
    if key.item is None:
        return Record(key, ids, offsets, events.times, pa.array([], pa.null()), np.zeros(len(events), dtype=np.int32))
    candidates = log.candidates[log.candidate_id]
    if vocabulary is None:
        vocabulary = _most_frequent(candidates, log.candidate_counts())
    chosen = cast_like(candidates, vocabulary.type, key.item)
    row_of = look_up(chosen, vocabulary, first=FIRST, missing=UNKNOWN).numpy()
    return Record(key, ids, offsets, events.times, vocabulary, _items(events, row_of))


def _check_key(log: Log, key: RecordKey) -> None:
    """Checks that a log on disk is sorted by the key's columns.

    Raises:
        ConfigError: The key names other columns than the log's ids and time.
    """
    roles = (key.by == log.query_id, key.time in (None, log.time), key.item in (None, log.candidate_id))
    if not all(roles):
        raise ConfigError(
            f"{log.name!r} is streamed, and a feature reads its events by {key.by!r} and time {key.time!r}"
            f"{'' if key.item is None else f', with item {key.item!r}'}; expected by={log.query_id!r}, time "
            f"{log.time!r} and item {log.candidate_id!r}, by which the log is sorted"
        )


def _most_frequent(ids: pa.ChunkedArray, counts: IntArray) -> pa.Array:
    """The ids that have events, most frequent first, ties in ascending order."""
    there = pa.array(np.flatnonzero(counts))
    table = pa.table({"id": ids.take(there), "count": counts[counts > 0]})
    order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("id", "ascending")])
    return table["id"].combine_chunks().take(order)


def _items(events: SortedEvents, row_of: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The row of each event's item, in an unnamed scratch file; ascending among events of one query and instant."""
    assert events.times is not None
    items = scratch(len(events), np.int32, events.folder)
    for piece in events.pieces():
        own, times, query = row_of[events.candidates[piece.events]], events.times[piece.events], None
        if (times[1:] == times[:-1]).any():
            query = events.query_numbers(piece)
            own = own[np.lexsort((own, times, query))]
        items[piece.events] = own
    return items
