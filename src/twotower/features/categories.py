"""`Categories`: several labels per row, such as genres, embedded as their mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import ConfigError
from twotower.features.bags import Bag
from twotower.features.tables import wrong_kind


class Categories(Bag):
    """Several labels per row, embedded as their mean; the zero vector for a row without labels.

    The `max_labels` most frequent labels of the training split get a row each; all others share one.

    Args:
        column: The column to read: lists of integers or text.
        dim: Embedding dimension.
        max_labels: Maximum size of the vocabulary.
        max_length: Labels read per row; the rest are ignored.

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
    read_as = "lists of labels"
    value_name = "label"

    def __init__(self, column: str, dim: int = 16, max_labels: int = 10_000, max_length: int = 64) -> None:
        if min(dim, max_labels, max_length) < 1:
            raise ConfigError(
                f"categories {column!r}: dim={dim}, max_labels={max_labels}, max_length={max_length}; "
                f"expected each at least 1"
            )
        super().__init__(column, dim, max_labels, max_length)
        self.max_labels = max_labels

    def bags(self, column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """The labels of all rows, concatenated, and how many each row has, `[N]`."""
        lists = self._lists(column)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return lists.flatten(), lengths

    def _lists(self, column: pa.ChunkedArray) -> pa.ListArray:
        kind = column.type
        if pa.types.is_null(kind):
            return pa.array([None] * len(column), pa.list_(pa.string()))
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise wrong_kind(column, self.column, "a list of labels")
        lists = column.combine_chunks()
        return lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
