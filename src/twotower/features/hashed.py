"""`Hashed`: a category without a vocabulary, for ids that are numerous or change all the time."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Feature
from twotower.features.lookups import Table, embed
from twotower.features.tables import embedding_table

MISSING, FIRST = 0, 1


class Hashed(Feature):
    """An id or label as the row of an embedding table selected by its hash; some values share a row.

    Nothing is learned from the data: an unseen value has a row like any other, and the table's size does not
    depend on the number of distinct values. The hash is the same on every machine and in every version.

    Args:
        column: The column to read: integers, text or booleans.
        buckets: Rows of the table.
        dim: Embedding dimension.

    Example:
        >>> device = Hashed("device", buckets=100, dim=4)
        >>> device.encode(pa.chunked_array([["phone", None, "phone", "tablet"]])).tolist()
        [76, 0, 76, 44]
    """

    kind = "hashed"

    def __init__(self, column: str, buckets: int = 10_000, dim: int = 32) -> None:
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ConfigError(f"hashed {column!r}: buckets={buckets}, dim={dim}; expected both at least 1")
        self.column, self.buckets, self.dim, self.width = column, buckets, dim, dim
        self.table = Table(torch.empty(FIRST + buckets, dim))  # takes no memory until filled

    def fit(self, column: pa.ChunkedArray) -> None:
        """Reinitialises the table; there is nothing to learn."""
        del column
        self.table = embedding_table(FIRST + self.buckets, self.dim)

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, int32 `[N]`."""
        distinct = pc.unique(column)
        rows = np.array([self._row(value) for value in distinct.cast(pa.string()).to_pylist()], dtype=np.int32)
        return torch.from_numpy(rows[pc.index_in(column, value_set=distinct).to_numpy()])

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` rows as `[n, dim]`."""
        return embed(encoded, self.table)

    def _row(self, value: str | None) -> int:
        if value is None:
            return MISSING
        digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
        return FIRST + int.from_bytes(digest, "little") % self.buckets
