"""`Category`: an id or label, embedded in a table with trained rows for unknown and missing values."""

from __future__ import annotations

import pyarrow as pa
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import BoolArray, Columns, Feature, require_fitted
from twotower.features.growth import FloatArray, Rows, SeenAt, Vocabulary
from twotower.features.lookups import Table, embed
from twotower.features.tables import cast_like, embedding_table, look_up, places_of, vocabulary_of
from twotower.randomness import uniform

UNKNOWN, MISSING, FIRST = 0, 1, 2


class Category(Feature):
    """An id or label as a row of an embedding table.

    Row 0 stands for every value that training did not see, row 1 for a missing value. The other rows are the
    vocabulary, most frequent value first; `grow` appends new values. Row 0 is trained: during training a value is
    replaced by the unknown one with probability `unknown_rate`, so that a new user or item gets a sensible embedding.

    Args:
        column: The column to read: integers, text or booleans.
        dim: Embedding dimension.
        unknown_rate: Probability of treating a value as unknown during training.

    Example:
        >>> import pyarrow as pa
        >>> users = Category("user_id", dim=4)
        >>> users.fit(pa.chunked_array([["ann", "bob", "ann"]]))
        >>> users.encode(pa.chunked_array([["bob", "eve", None, "ann"]]))
        tensor([3, 0, 1, 2], dtype=torch.int32)
    """

    kind = "category"
    read_as = "labels"

    def __init__(self, column: str, dim: int = 32, unknown_rate: float = 0.02) -> None:
        super().__init__()
        if dim < 1 or not 0 <= unknown_rate < 1:
            raise ConfigError(
                f"category {column!r}: dim={dim}, unknown_rate={unknown_rate}; expected dim ≥ 1 and a rate in [0, 1)"
            )
        self.column, self.dim, self.unknown_rate, self.width = column, dim, unknown_rate, dim
        self.vocabulary: pa.Array | None = None
        self.last_seen: FloatArray | None = None
        self.table: Table | None = None

    def knows(self, column: str, values: pa.ChunkedArray) -> BoolArray | None:
        """Which values of its column are in the vocabulary."""
        if column != self.column:
            return None
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        known: BoolArray = places_of(cast_like(values, self.vocabulary.type, self.column), self.vocabulary) >= 0
        return known

    def fit(self, column: pa.ChunkedArray) -> None:
        """Learns the vocabulary."""
        self.last_seen = None
        self._take(vocabulary_of(column))

    def grow(self, columns: Columns, seen_at: SeenAt | None = None) -> dict[str, Rows]:
        """Adds new values, each initialised from the unknown row, and retires those not seen since the limit."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        assert self.table is not None
        old, column = self.vocabulary, columns[self.column]
        known = old.cast(column.type) if pa.types.is_null(old.type) else old  # training had no values
        grown = Vocabulary(known, self.last_seen).grown(cast_like(column, known.type, self.column), seen_at)
        rows = Rows.between(known, grown.values, FIRST, UNKNOWN)
        self.vocabulary, self.last_seen, self.table = grown.values, grown.last_seen, rows.weights(self.table)
        return {"table": rows}

    def learned(self) -> pa.Table:
        """The vocabulary in one column, `value`; once grown with times, also when each value was `last_seen`."""
        seen = {} if self.last_seen is None else {"last_seen": self.last_seen}
        return pa.table({"value": self.vocabulary} | seen)

    def restore(self, state: pa.Table) -> None:
        """Restores the vocabulary."""
        self.last_seen = state["last_seen"].to_numpy() if "last_seen" in state.column_names else None
        self._take(state["value"].combine_chunks())

    def encode(self, column: pa.ChunkedArray) -> Tensor:
        """Rows of the table, int32 `[N]`."""
        require_fitted(self, self.vocabulary)
        assert self.vocabulary is not None
        return look_up(
            cast_like(column, self.vocabulary.type, self.column), self.vocabulary, first=FIRST, missing=MISSING
        )

    def as_unknown(self, encoded: Tensor, unknown: Tensor) -> Tensor:
        """Replaces these rows by row 0, the unknown value."""
        return encoded.masked_fill(unknown, UNKNOWN)

    def forward(self, encoded: Tensor) -> Tensor:
        """Embeds `[n]` rows as `[n, dim]`."""
        require_fitted(self, self.table)
        assert self.table is not None
        if self.training and self.unknown_rate > 0:
            dropped = uniform(encoded.shape, encoded.device) < self.unknown_rate
            encoded = encoded.masked_fill(dropped, UNKNOWN)
        return embed(encoded, self.table)

    def _take(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary
        self.table = embedding_table(FIRST + len(vocabulary), self.dim)
