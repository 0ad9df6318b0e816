"""Embedding tables as every feature makes them, and looking values up in a vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import CellError
from twotower.features.lookups import Table

LINEAR_SCAN_LIMIT = 4
"""Look up at most this many values one by one, as for a request; for more, build a hash table of the vocabulary."""

INITIAL_BOUND = 0.05
"""Embeddings start uniform in ±0.05, as Keras's do."""


def embedding_table(rows: int, dim: int) -> Table:
    """A table `[rows, dim]`, uniform in ±0.05."""
    return Table(torch.empty(rows, dim).uniform_(-INITIAL_BOUND, INITIAL_BOUND))


def vocabulary_of(values: pa.ChunkedArray | pa.Array, size: int | None = None) -> pa.Array:
    """The distinct values, the most frequent first and equally frequent ones in ascending order."""
    counted = pc.value_counts(pc.drop_null(values))
    order = pc.sort_indices(
        pa.table({"count": counted.field("counts"), "value": counted.field("values")}),
        sort_keys=[("count", "descending"), ("value", "ascending")],
    )
    vocabulary = counted.field("values").take(order)
    return vocabulary if size is None else vocabulary[:size]


def look_up(column: pa.ChunkedArray | pa.Array, vocabulary: pa.Array, *, first: int, missing: int) -> Tensor:
    """Row of each value in a table: `first` + its place in the vocabulary, 0 if unknown, `missing` if null.

    Returns:
        int32 `[N]`.
    """
    places = places_of(column, vocabulary)
    rows = np.where(places < 0, 0, places + first)
    if column.null_count:
        rows[np.asarray(column.is_null())] = missing
    return torch.from_numpy(rows.astype(np.int32))


def places_of(column: pa.ChunkedArray | pa.Array, vocabulary: pa.Array) -> npt.NDArray[np.int64]:
    """Place of each value in the vocabulary, whose type it has; −1 where it is not there or null, `[N]`."""
    if len(column) <= LINEAR_SCAN_LIMIT:
        return np.array([_place(value, vocabulary) for value in column], dtype=np.int64)
    found = pc.fill_null(pc.index_in(column, value_set=vocabulary), -1)
    array = found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
    return np.asarray(array, dtype=np.int64)


def _place(value: pa.Scalar, vocabulary: pa.Array) -> int:
    return int(pc.index(vocabulary, value).as_py()) if value.is_valid else -1


def cast_like(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """The column in the type that was learned from, so that "42" finds 42.

    Raises:
        DataError: A value cannot be read as that type; names the first.
    """
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    row = next(row for row, value in enumerate(column) if not _can_cast(value, kind))
    raise CellError(name, row, f"{column[row].as_py()!r} is {column.type}; expected {kind}, as in training")


def wrong_kind(column: pa.ChunkedArray, name: str, expected: str) -> CellError:
    """The error for a column of another type, with the first value that it has."""
    present = np.flatnonzero(np.asarray(pc.is_valid(column).to_numpy()))
    row = int(present[0]) if len(present) else 0
    value = column[row].as_py() if len(column) else None
    return CellError(name, row, f"{value!r} is {column.type}; expected {expected}")


def _can_cast(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
