"""`Record`: what each query did in training, in order of time, and how much of it came before a moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import DataError
from twotower.features.numeric import numbers_of
from twotower.features.tables import cast_like

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Record:
    """The events of training, one query after the other, the earliest first.

    Attributes:
        ids: Id of every query that has events, ascending.
        offsets: Where each query's events begin, `[queries + 1]`.
        times: Seconds of each event.
        items: Row of each event's item in a vocabulary; zeros where items do not matter.
    """

    ids: pa.Array
    offsets: IntArray
    times: FloatArray
    items: IntArray

    @classmethod
    def of(cls, ids: pa.ChunkedArray, times: pa.ChunkedArray, items: IntArray, name: str) -> Record:
        """The record of these events.

        Raises:
            DataError: A time is missing.
        """
        seconds = numbers_of(times, name)
        if np.isnan(seconds).any():
            row = int(np.flatnonzero(np.isnan(seconds))[0])
            raise DataError(f"column {name!r}, row {row}: a training event has no time; expected one in every row")
        known = pc.unique(ids)
        known = known.take(pc.array_sort_indices(known))
        query = pc.index_in(ids, value_set=known).to_numpy().astype(np.int64)
        order = np.lexsort((items, seconds, query))
        counts = np.bincount(query, minlength=len(known))
        return cls(known, np.concatenate([[0], np.cumsum(counts)]), seconds[order], items[order])

    @classmethod
    def restored(cls, table: pa.Table) -> Record:
        """The record that `table` gave."""
        items = table["item"].to_numpy().astype(np.int64)
        return cls.of(table["id"].combine_chunks(), table["time"], items, "time")

    def table(self) -> pa.Table:
        """One row an event: `id`, `time`, `item`."""
        query = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))
        return pa.table({"id": self.ids.take(pa.array(query)), "time": self.times, "item": self.items})

    def before(self, ids: pa.ChunkedArray, times: FloatArray, name: str) -> tuple[IntArray, IntArray]:
        """Which events of each query lie strictly before a moment: from where, up to where, `[n]` each.

        An event is never before itself, nor is any other of the same instant. Where the time is missing,
        all events of the query lie before; a query that is not known has none.
        """
        found = pc.index_in(cast_like(ids, self.ids.type, name), value_set=self.ids)
        row = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        known = row >= 0
        row = np.maximum(row, 0)
        # Times become places among all times, so that (query, time) is one sortable whole number.
        instants = np.unique(self.times)
        width = len(instants) + 1
        keys = np.repeat(np.arange(len(self.ids)), np.diff(self.offsets)) * width + np.searchsorted(
            instants, self.times
        )
        moment = np.where(np.isnan(times), width - 1, np.searchsorted(instants, np.nan_to_num(times)))
        end = np.searchsorted(keys, row * width + moment)
        begin = self.offsets[row]
        return np.where(known, begin, 0), np.where(known, end, 0)
