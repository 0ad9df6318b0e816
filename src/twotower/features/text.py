"""`Text`: a text as the mean of its words' embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.errors import ConfigError
from twotower.features.bags import Bag
from twotower.features.tables import wrong_kind


class Text(Bag):
    """A text as the mean of its words' embeddings.

    Texts are lower-cased, stripped of punctuation and split at white space. The `max_tokens` most frequent
    words of the training split get a row each; all others share one. Padding does not count in the mean; an
    empty or missing text is the zero vector.

    Args:
        column: The column to read: text.
        dim: Embedding dimension.
        max_tokens: Maximum size of the vocabulary.
        max_length: Words read per text; the rest are ignored.

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
    read_as = "words"
    value_name = "word"

    def __init__(self, column: str, dim: int = 32, max_tokens: int = 10_000, max_length: int = 64) -> None:
        if min(dim, max_tokens, max_length) < 1:
            raise ConfigError(
                f"text {column!r}: dim={dim}, max_tokens={max_tokens}, max_length={max_length}; "
                f"expected each at least 1"
            )
        super().__init__(column, dim, max_tokens, max_length)
        self.max_tokens = max_tokens

    def bags(self, column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """The words of all texts, concatenated, and how many each text has, `[N]`."""
        if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
            raise wrong_kind(column, self.column, "text")
        texts = pc.fill_null(column.cast(pa.string()), "").combine_chunks()
        plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[\p{P}\p{S}]", ""))
        split = pc.utf8_split_whitespace(plain)
        words = split.flatten()
        lengths = pc.list_value_length(split).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths[np.asarray(pc.equal(plain, "").to_numpy(zero_copy_only=False))] = 0
        return words.filter(pc.not_equal(words, "")), lengths
