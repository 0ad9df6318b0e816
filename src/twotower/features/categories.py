"""`Categories`: several labels a row, such as genres, as the mean of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.bags import FIRST, PADDING, padded_rows
from twotower.features.base import Feature, require_fitted
from twotower.features.lookups import Table, embed_mean
from twotower.features.tables import embedding_table, vocabulary_of, wrong_kind


class Categories(Feature):
    """Several labels a row as the mean of their embeddings; the zero vector where there are none.

    The most frequent `max_labels` of the training split have a row each, all others share one.

    Args:
        column: The column to read: lists of integers or text.
        dim: Numbers in the embedding.
        max_labels: Labels in the vocabulary, at most.
        max_length: Labels read of each row, at most: the first ones.

    Example:
        >>> genres = Categories("genres", dim=2)
        >>> genres.fit(pa.chunked_array([[["Drama", "War"], ["Drama"]]]))
        >>> genres.encode(pa.chunked_array([[["War", "Drama"], ["Musical"], [], None]]))
        tensor([[3, 2],
                [1, 0],
                [0, 0],
                [0, 0]], dtype=torch.int32)
    """

    kind = "categories"

    def __init__(self, column: str, dim: int = 16, max_labels: int = 10_000, max_length: int = 64) -> None:
        super().__init__()
        if min(dim, max_labels, max_length) < 1:
            raise ConfigError(
                f"categories {column!r}: dim={dim}, max_labels={max_labels}, max_length={max_length}; "
                f"expected each at least 1"
            )
        self.column, self.dim, self.max_labels, self.max_length = column, dim, max_labels, max_length
        self.width = dim
        self.vocabulary: pa.Array | None = None
        self.table: Table | None = None

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The table, up to `max_length` rows."""
        return [] if self.table is None else [(self.table, self.max_length)]

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the vocabulary."""
        self._take(vocabulary_of(self._lists(column).flatten(), self.max_labels))

    def learned(self) -> pa.Table:
        """The vocabulary, one column `label`."""
        return pa.table({"label": self.vocabulary})

    def restore(self, state: pa.Table) -> None:
        """Takes the vocabulary back."""
        self._take(state["label"].combine_chunks())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, padded with 0: int32 `[N, most labels]`."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        lists = self._lists(column)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = lists.flatten().cast(self.vocabulary.type)
        return padded_rows(values, lengths, self.vocabulary, self.max_length)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n, length]` rows as `[n, dim]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        return embed_mean(encoded, self.table, PADDING)

    def _lists(self, column: pa.ChunkedArray) -> pa.ListArray:
        kind = column.type
        if pa.types.is_null(kind):
            return pa.array([None] * len(column), pa.list_(pa.string()))
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise wrong_kind(column, self.column, "a list of labels")
        lists = column.combine_chunks()
        return lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists

    def _take(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary
        self.table = embedding_table(FIRST + len(vocabulary), self.dim)
        with torch.no_grad():
            self.table[:FIRST] = 0.0  # a label never seen says nothing until training finds otherwise
