"""`Bag`: what features of several values a row share, from the vocabulary to the mean of the embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from twotower.features.base import Columns, Feature, require_fitted
from twotower.features.growth import Rows, SeenAt, Vocabulary
from twotower.features.lookups import Table, embed_mean
from twotower.features.tables import embedding_table, look_up, vocabulary_of

PADDING, UNKNOWN, FIRST = 0, 1, 2


class Bag(Feature):
    """Several values a row as the mean of their embeddings; the zero vector where there are none.

    A subclass says in `bags` which values a row has. The most frequent ones of the training split have a row of the
    table each, all others share one.

    Args:
        column: The column to read.
        dim: Numbers in the embedding.
        max_values: Values in the vocabulary, at most.
        max_length: Values read of each row, at most: the first ones.
    """

    value_name: ClassVar[str]
    """What the saved vocabulary's column is called."""

    def __init__(self, column: str, dim: int, max_values: int, max_length: int) -> None:
        super().__init__()
        self.column, self.dim, self.width, self.max_length = column, dim, dim, max_length
        self._max_values = max_values
        self.vocabulary: pa.Array | None = None
        self.table: Table | None = None

    @abstractmethod
    def bags(self, column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """All values one after the other, none of them null, and how many each row has, `[N]`.

        Raises:
            DataError: The column is not of the right type.
        """

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The table, up to `max_length` rows."""
        return [] if self.table is None else [(self.table, self.max_length)]

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the vocabulary."""
        values, _ = self.bags(column)
        self._take(vocabulary_of(values, self._max_values))

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Takes new values in as long as there are rows for them; none is given up."""
        del seen_at
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        assert self.table is not None
        values, _ = self.bags(columns[self.column])
        old = self.vocabulary.cast(values.type) if len(self.vocabulary) == 0 else self.vocabulary
        self.vocabulary = Vocabulary(old).grown(values.cast(old.type), size=self._max_values).values
        rows = Rows.between(old, self.vocabulary, FIRST, UNKNOWN)
        self.table = rows.weights(self.table)
        return {"table": rows}

    def learned(self) -> pa.Table:
        """The vocabulary."""
        return pa.table({self.value_name: self.vocabulary})

    def restore(self, state: pa.Table) -> None:
        """Takes the vocabulary back."""
        self._take(state[self.value_name].combine_chunks())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, padded with 0 at the end: int32 `[N, most values]`."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        values, lengths = self.bags(column)
        rows = look_up(values.cast(self.vocabulary.type), self.vocabulary, first=FIRST, missing=PADDING).numpy()
        rows = np.where(rows == 0, UNKNOWN, rows)  # every value is there, so 0 can only be "not in the vocabulary"
        place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = place < self.max_length
        row = np.repeat(np.arange(len(lengths)), lengths)
        padded = np.full((len(lengths), min(lengths.max(initial=1), self.max_length)), PADDING, dtype=np.int32)
        padded[row[kept], place[kept]] = rows[kept]
        return torch.from_numpy(padded)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n, length]` rows as `[n, dim]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        return embed_mean(encoded, self.table, PADDING)

    def _take(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary
        # a value never seen says nothing until training finds otherwise
        self.table = embedding_table(FIRST + len(vocabulary), self.dim, zeros=FIRST)
