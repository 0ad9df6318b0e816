"""`Text`: the mean of the embeddings of a text's words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.bags import FIRST, PADDING, padded_rows
from twotower.features.base import Feature, require_fitted
from twotower.features.lookups import Table, embed_mean
from twotower.features.tables import embedding_table, vocabulary_of, wrong_kind


class Text(Feature):
    """A text as the mean of its words' embeddings.

    Words are lower-cased, stripped of punctuation and split at white space. The most frequent
    `max_tokens` of the training split have a row each, all others share one. Padding does not count
    in the mean; an empty or missing text is the zero vector.

    Args:
        column: The column to read: text.
        dim: Numbers in the embedding.
        max_tokens: Words in the vocabulary, at most.
        max_length: Words read of each text, at most: the first ones.

    Example:
        >>> import pyarrow as pa
        >>> title = Text("title", dim=2)
        >>> title.fit(pa.chunked_array([["Toy Story", "Toy Soldiers!"]]))
        >>> title.encode(pa.chunked_array([["soldiers' toy", "Heat", ""]]))
        tensor([[3, 2],
                [1, 0],
                [0, 0]], dtype=torch.int32)
    """

    kind = "text"

    def __init__(self, column: str, dim: int = 32, max_tokens: int = 10_000, max_length: int = 64) -> None:
        super().__init__()
        if min(dim, max_tokens, max_length) < 1:
            raise ConfigError(
                f"text {column!r}: dim={dim}, max_tokens={max_tokens}, max_length={max_length}; "
                f"expected each at least 1"
            )
        self.column, self.dim, self.max_tokens, self.max_length = column, dim, max_tokens, max_length
        self.width = dim
        self.vocabulary: pa.Array | None = None
        self.table: Table | None = None

    @property
    def look_ups(self) -> Sequence[tuple[Table, int]]:
        """The table, up to `max_length` rows."""
        return [] if self.table is None else [(self.table, self.max_length)]

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the vocabulary."""
        words, _ = self._words(column)
        self._take(vocabulary_of(words, self.max_tokens))

    def learned(self) -> pa.Table:
        """The vocabulary, one column `word`."""
        return pa.table({"word": self.vocabulary})

    def restore(self, state: pa.Table) -> None:
        """Takes the vocabulary back."""
        self._take(state["word"].combine_chunks())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, padded with 0: int32 `[N, longest text]`."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        words, lengths = self._words(column)
        return padded_rows(words, lengths, self.vocabulary, self.max_length)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n, length]` rows as `[n, dim]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        return embed_mean(encoded, self.table, PADDING)

    def _words(self, column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """All words one after the other, and how many each text has, `[N]`."""
        if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
            raise wrong_kind(column, self.column, "text")
        texts = pc.fill_null(column.cast(pa.string()), "").combine_chunks()
        plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[\p{P}\p{S}]", ""))
        split = pc.utf8_split_whitespace(plain)
        words = split.flatten()
        lengths = pc.list_value_length(split).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths[np.asarray(pc.equal(plain, "").to_numpy(zero_copy_only=False))] = 0
        return words.filter(pc.not_equal(words, "")), lengths

    def _take(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary
        self.table = embedding_table(FIRST + len(vocabulary), self.dim)
        with torch.no_grad():
            self.table[:FIRST] = 0.0  # a word never seen says nothing until training finds otherwise
