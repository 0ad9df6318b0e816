"""Creates embedding tables and looks values up in a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import CellError
from twotower.features.lookups import Table
from twotower.ranks import Ranks
from twotower.shards import Shard

LINEAR_SCAN_LIMIT = 4
"""Look up at most this many values one by one, as for a request; for more, build a hash table of the vocabulary."""

INITIAL_BOUND = 0.05
"""Embeddings are initialised uniformly in ±0.05, as in Keras."""


_sharding: ContextVar[tuple[Ranks, int] | None] = ContextVar("sharding", default=None)


@contextmanager
def sharded_tables(ranks: Ranks, least: int) -> Iterator[None]:
    """Inside the block, new large tables are sharded: each rank holds only its part of the rows.

    Args:
        ranks: The ranks to shard over; with one rank, nothing is sharded.
        least: Shard tables of at least this many numbers.
    """
    token = _sharding.set((ranks, least) if ranks.size > 1 else None)
    try:
        yield
    finally:
        _sharding.reset(token)


def shard_of(rows: int, dim: int) -> Shard | None:
    """The shard of a table of this size created now; None if it is not sharded."""
    if (sharding := _sharding.get()) is None:
        return None
    ranks, least = sharding
    return Shard(rows, ranks) if rows >= ranks.size and rows * dim >= least else None


def embedding_table(rows: int, dim: int, zeros: int = 0) -> Table:
    """Creates a table `[rows, dim]`, uniform in ±0.05, with the first rows zero.

    If the table is sharded, each rank draws the whole table, block by block, and keeps its own rows, so the numbers are
    those of a single process.

    Args:
        rows: Number of rows.
        dim: Embedding dimension.
        zeros: How many leading rows are zero.
    """
    if (shard := shard_of(rows, dim)) is None:
        whole = torch.empty(rows, dim).uniform_(-INITIAL_BOUND, INITIAL_BOUND)
        whole[:zeros] = 0.0
        return Table(whole)
    held = torch.empty(shard.held, dim)
    for block in shard.blocks(dim):
        drawn = torch.empty(block.stop - block.start, dim).uniform_(-INITIAL_BOUND, INITIAL_BOUND)
        drawn[: max(0, zeros - block.start)] = 0.0
        own = shard.take(drawn)
        held[block.start // shard.ranks.size :][: len(own)] = own
    table = Table(held)
    table.shard = shard
    return table


def vocabulary_of(values: pa.ChunkedArray | pa.Array, size: int | None = None) -> pa.Array:
    """The distinct values, most frequent first, ties in ascending order; at most `size` of them."""
    counted = pc.value_counts(pc.drop_null(values))
    order = pc.sort_indices(
        pa.table({"count": counted.field("counts"), "value": counted.field("values")}),
        sort_keys=[("count", "descending"), ("value", "ascending")],
    )
    vocabulary = counted.field("values").take(order)
    return vocabulary if size is None else vocabulary[:size]


def look_up(column: pa.ChunkedArray | pa.Array, vocabulary: pa.Array, *, first: int, missing: int) -> Tensor:
    """The row of each value in a table: `first` + its place in the vocabulary, 0 if unknown, `missing` if null.

    Returns:
        int32 `[N]`.
    """
    places = places_of(column, vocabulary)
    rows = np.where(places < 0, 0, places + first)
    if column.null_count:
        rows[np.asarray(column.is_null())] = missing
    return torch.from_numpy(rows.astype(np.int32))


def places_of(column: pa.ChunkedArray | pa.Array, vocabulary: pa.Array) -> npt.NDArray[np.int64]:
    """Place of each value in a vocabulary of the same type, `[N]`; −1 if absent or null."""
    if len(column) <= LINEAR_SCAN_LIMIT:
        return np.array([_place(value, vocabulary) for value in column], dtype=np.int64)
    found = pc.fill_null(pc.index_in(column, value_set=vocabulary), -1)
    array = found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
    return np.asarray(array, dtype=np.int64)


def _place(value: pa.Scalar, vocabulary: pa.Array) -> int:
    return int(pc.index(vocabulary, value).as_py()) if value.is_valid else -1


def cast_like(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """Casts the column to the type seen in training, so that "42" matches 42.

    Raises:
        DataError: A value cannot be cast to that type; names the first.
    """
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    row = next(row for row, value in enumerate(column) if not _can_cast(value, kind))
    raise CellError(name, row, f"{column[row].as_py()!r} is {column.type}; expected {kind}, as in training")


def wrong_kind(column: pa.ChunkedArray, name: str, expected: str, row: int | None = None) -> CellError:
    """The error for a column of the wrong type, which quotes the value of a row; default: the first one present."""
    if row is None:
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
