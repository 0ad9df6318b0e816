"""`Record`: what each query did in training, in order of time, and where a moment lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import CellError
from twotower.features.base import Columns, RecordKey
from twotower.features.numeric import numbers_of
from twotower.features.tables import cast_like, look_up, places_of, vocabulary_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNKNOWN, PADDING, FIRST = 0, 1, 2
"""Rows of an item table: what training did not see, no item at all, and the first of the vocabulary."""


@dataclass(frozen=True)
class Places:
    """Where moments lie among the events of their queries: places in the record, `[n]` each.

    Attributes:
        begin: The query's first event.
        instant: The first event that is not earlier than the moment.
        later: The first event that is later than the moment.
        end: One past the query's last event.
    """

    begin: IntArray
    instant: IntArray
    later: IntArray
    end: IntArray


@dataclass(frozen=True, eq=False)
class Record:
    """The events of training, one query after the other, the earliest first.

    Attributes:
        key: The columns it is made of.
        ids: Id of every query that has events, ascending.
        offsets: Where each query's events begin, `[queries + 1]`.
        times: Seconds of each event, `[events]`.
        vocabulary: The distinct items, the most frequent first; empty where items do not matter.
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
        """The record of these events.

        Args:
            columns: One row an event.
            key: The columns to read.
            vocabulary: Items that have a row already; default: the distinct items of these events.

        Raises:
            DataError: A time is missing.
        """
        seconds = numbers_of(columns[key.time], key.time)
        if np.isnan(seconds).any():
            row = int(np.flatnonzero(np.isnan(seconds))[0])
            raise CellError(key.time, row, "a training event has no time; expected one in every row")
        ids = columns[key.by]
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
    def restored(cls, events: pa.Table, vocabulary: pa.Table, key: RecordKey) -> Record:
        """The record that `tables` gave."""
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
        """One row an event, in the record's order: `id`, `time`, row of the `item`; and the vocabulary: `item`."""
        query = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))
        events = {"id": self.ids.take(pa.array(query)), "time": self.times, "item": self.items}
        return pa.table(events), pa.table({"item": self.vocabulary})

    def places(self, ids: pa.ChunkedArray, times: FloatArray) -> Places:
        """Where moments lie among the events of their queries.

        Where the time is missing, all events of the query lie before; a query that is not known has none.
        """
        row = places_of(cast_like(ids, self.ids.type, self.key.by), self.ids)
        known = row >= 0
        row = np.maximum(row, 0)
        instants, keys = self._instants, self._keys
        moment = np.searchsorted(instants, np.nan_to_num(times))
        there = instants[np.minimum(moment, len(instants) - 1)] == times
        moment = np.where(np.isnan(times), len(instants), moment)
        instant = np.searchsorted(keys, row * self._width + moment)
        later = np.where(there, np.searchsorted(keys, row * self._width + moment + 1), instant)
        found_places = self.offsets[row], instant, later, self.offsets[row + 1]
        return Places(*(np.where(known, place, 0) for place in found_places))

    def own(self, places: Places, items: pa.ChunkedArray) -> IntArray:
        """The place of each event itself, given what it chose: −1 where the record does not have it, `[n]`."""
        assert self.key.item is not None
        rows = look_up(items, self.vocabulary, first=FIRST, missing=UNKNOWN).numpy()
        width = FIRST + len(self.vocabulary)
        _, group = np.unique(self._keys, return_inverse=True)
        keys = group * width + self.items  # ascending, as the record is sorted by query, time and item
        last = len(keys) - 1
        place = np.searchsorted(keys, group[np.minimum(places.instant, last)] * width + rows)
        there = places.instant < places.later
        itself = there & (place < places.later) & (self.items[np.minimum(place, last)] == rows)
        return np.where(itself, place, -1)

    @cached_property
    def _instants(self) -> FloatArray:
        return np.unique(self.times)

    @property
    def _width(self) -> int:
        return len(self._instants) + 1

    @cached_property
    def _keys(self) -> IntArray:
        """(query, time) of each event as one whole number, ascending: times become places among all times."""
        query = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))
        return query * self._width + np.searchsorted(self._instants, self.times)
