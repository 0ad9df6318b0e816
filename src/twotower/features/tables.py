"""Embedding tables as every feature makes them, and looking values up in a vocabulary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.features.lookups import Table

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
    places = pc.index_in(column, value_set=vocabulary)
    rows = pc.add(pc.fill_null(places, -first), first)
    rows = pc.if_else(pc.is_null(column), missing, rows)
    array: np.ndarray = rows.to_numpy(zero_copy_only=False) if isinstance(rows, pa.Array) else rows.to_numpy()
    return torch.from_numpy(array.astype(np.int32))


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
    raise DataError(
        f"column {name!r}, row {row}: {column[row].as_py()!r} is {column.type}; expected {kind}, as in training"
    )


def _can_cast(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
