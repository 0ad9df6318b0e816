"""`Bag`: base class of features with several values per row, from the vocabulary to the mean of the embeddings."""

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
    """Several values per row, embedded as their mean; the zero vector for a row without values.

    A subclass extracts the values of each row in `bags`. The most frequent values of the training split get a row of
    the table each; all others share one.

    Args:
        column: The column to read.
        dim: Embedding dimension.
        max_values: Maximum size of the vocabulary.
        max_length: Values read per row; the rest are ignored.
    """

    value_name: ClassVar[str]
    """Name of the column in the saved vocabulary."""

    def __init__(self, column: str, dim: int, max_values: int, max_length: int) -> None:
        super().__init__()
        self.column, self.dim, self.width, self.max_length = column, dim, dim, max_length
        self._max_values = max_values
        self.vocabulary: pa.Array | None = None
        self.table: Table | None = None

    @abstractmethod
    def bags(self, column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """The values of all rows, concatenated and without nulls, and how many each row has, `[N]`.

        Raises:
            DataError: The column has the wrong type.
        """

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The table, with up to `max_length` rows looked up."""
        return [] if self.table is None else [(self.table, self.max_length)]

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the vocabulary."""
        values, _ = self.bags(column)
        self._take(vocabulary_of(values, self._max_values))

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Adds new values until the vocabulary is full; none is dropped."""
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
        """Restores the vocabulary."""
        self._take(state[self.value_name].combine_chunks())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, padded with 0 at the end, int32 `[N, longest row]`."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        values, lengths = self.bags(column)
        rows = look_up(values.cast(self.vocabulary.type), self.vocabulary, first=FIRST, missing=PADDING).numpy()
        rows = np.where(rows == 0, UNKNOWN, rows)  # no value is null, so 0 can only mean "not in the vocabulary"
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
        # an unknown value contributes zero until training moves its row
        self.table = embedding_table(FIRST + len(vocabulary), self.dim, zeros=FIRST)
