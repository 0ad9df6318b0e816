"""`IdRows`: maps ids to their rows in a table, built once for many lookups; and the entries of concatenated lists."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]

MAX_SLOTS_PER_ID = 16
"""Integer ids are looked up in an array if it needs fewer than this many slots per id."""


class IdRows:
    """Finds the rows of ids in the id column of a table.

    Dense integer ids index an array that is built once. That is ten times as fast as the hash table used for all
    other ids, which Arrow rebuilds for every call.

    Args:
        ids: The table's id column; ids are unique and not null.

    Example:
        >>> rows = IdRows(pa.chunked_array([[30, 10, 20]]))
        >>> rows.of(pa.chunked_array([[10, 40, 30]])).tolist()
        [1, -1, 0]
    """

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self._ids = ids.combine_chunks()
        self._low = 0
        self._row_at: npt.NDArray[np.int32] | None = None
        if pa.types.is_integer(ids.type) and len(ids):
            low, high = (bound.as_py() for bound in pc.min_max(ids).values())
            if high - low < MAX_SLOTS_PER_ID * len(ids) and -(2**62) < low <= high < 2**62:
                self._low = low
                self._row_at = np.full(high - low + 1, -1, dtype=np.int32)
                self._row_at[ids.to_numpy().astype(np.int64) - low] = np.arange(len(ids), dtype=np.int32)

    def of(self, ids: pa.ChunkedArray) -> IntArray:
        """Row of each id, −1 for ids that the table does not have, `[N]`.

        Args:
            ids: Ids of the same type as the table's, none null.
        """
        if self._row_at is None:
            found = pc.fill_null(pc.index_in(ids, value_set=self._ids), -1)
            return np.asarray(found.to_numpy(), dtype=np.int64)
        place = ids.to_numpy().astype(np.int64) - self._low
        there = (place >= 0) & (place < len(self._row_at))
        return np.where(there, self._row_at[np.where(there, place, 0)], np.int64(-1))


def distinct_ids(column: pa.ChunkedArray) -> pa.Array:
    """The distinct values of an id column in ascending order, whatever the order of the rows."""
    values = pc.unique(column)
    return values.take(pc.array_sort_indices(values))


def entries_of(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Every (position in `rows`, entry) pair, where the entries of a row are `offsets[row]` to `offsets[row + 1] − 1`.

    Example:
        >>> [pairs.tolist() for pairs in entries_of(np.array([0, 2, 2, 5]), np.array([2, 0, 1]))]
        [[0, 0, 0, 1, 1], [2, 3, 4, 0, 1]]
    """
    begin, count = offsets[rows], offsets[rows + 1] - offsets[rows]
    position = np.repeat(np.arange(len(rows)), count)
    within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
    return position, np.repeat(begin, count) + within
