"""`Unified`: several columns of ids or labels that share one hashed embedding table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Columns, Feature
from twotower.features.lookups import Table, embed
from twotower.features.tables import embedding_table

IntArray = npt.NDArray[np.int32]


class Unified(Feature):
    """Several columns of ids or labels, embedded from one shared table and concatenated.

    Each column has its own hash, so equal values of two columns get different rows. Collisions differ between columns,
    and the layers above can tell columns apart by their position (Coleman et al., *Unified embedding: battle-tested
    feature representations for web-scale ML systems*, NeurIPS 2023). Columns with few values leave rows to those with
    many, and `buckets` alone sets the memory of all columns. Unseen and missing values have rows like any other. The
    hashes are the same on every machine and in every version.

    Args:
        columns: The columns to read, two or more: integers, text or booleans.
        buckets: Rows of the table.
        dim: Embedding dimension of a row.
        look_ups_each: How many rows are looked up per value, each by its own hash; with two, values that collide in
            both are rare.

    Example:
        >>> place = Unified(["country", "city"], buckets=1000, dim=8)
        >>> place.width
        16
        >>> same = pa.chunked_array([["Luxembourg"]])
        >>> place.encode_columns({"country": same, "city": same}).tolist()
        [[564, 117]]
    """

    kind = "unified"
    read_as = "hashed labels"

    def __init__(self, columns: Sequence[str], buckets: int = 100_000, dim: int = 16, look_ups_each: int = 1) -> None:
        super().__init__()
        self.columns = list(columns)
        if len(self.columns) < 2 or len(set(self.columns)) < len(self.columns):
            raise ConfigError(f"unified: columns={self.columns}; expected two or more, each once", field="columns")
        if min(buckets, dim, look_ups_each) < 1:
            raise ConfigError(
                f"unified: buckets={buckets}, dim={dim}, look_ups_each={look_ups_each}; expected all at least 1"
            )
        self.column, self.buckets, self.dim, self.look_ups_each = self.columns[0], buckets, dim, look_ups_each
        self.width = len(self.columns) * look_ups_each * dim
        self.table = Table(torch.empty(buckets, dim))  # takes no memory until filled

    @property
    def reads(self) -> tuple[str, ...]:
        """All of its columns."""
        return tuple(self.columns)

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The shared table, with one row looked up per column and hash."""
        return [(self.table, len(self.columns) * self.look_ups_each)]

    def fit_columns(self, columns: Columns) -> None:
        """Reinitialises the table; there is nothing to learn."""
        del columns
        self.table = embedding_table(self.buckets, self.dim)

    def encode_columns(self, columns: Columns) -> Tensor:
        """Rows of the table, int32 `[N, columns · look_ups_each]`."""
        hashings = range(self.look_ups_each)
        rows = [self._rows(name, hashing, columns[name]) for name in self.columns for hashing in hashings]
        return torch.from_numpy(np.stack(rows, axis=1))

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds rows `[n, columns · look_ups_each]`, concatenated to `[n, width]`."""
        return embed(encoded, self.table).flatten(1)

    def _rows(self, name: str, hashing: int, column: pa.ChunkedArray) -> IntArray:
        distinct = pc.unique(column)
        values = distinct.cast(pa.string()).to_pylist()
        rows = np.array([self._row(name, hashing, value) for value in values], dtype=np.int32)
        found: IntArray = rows[pc.index_in(column, value_set=distinct).to_numpy()]
        return found

    def _row(self, name: str, hashing: int, value: str | None) -> int:
        key = f"{name}\0{hashing}" if value is None else f"{name}\0{hashing}\0{value}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.buckets
