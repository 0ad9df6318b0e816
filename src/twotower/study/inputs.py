"""Which features a model gets when a config names none: what the columns of the data offer."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.features import Bucketized, Category, Feature, Normalized, Text

WORDS_OF_A_TEXT = 1.5
"""Words a row, on average, from which a column of strings counts as text rather than as labels."""


def query_inputs(data: Dataset, dim: int, unknown_rate: float) -> list[Feature]:
    """The query id and, where the log has one, the time: bucketed and normalised."""
    features: list[Feature] = [Category(data.query_id, dim, unknown_rate)]
    if data.time is not None:
        features += [Bucketized(data.time, dim=dim), Normalized(data.time)]
    return features


def candidate_inputs(data: Dataset, dim: int, unknown_rate: float) -> list[Feature]:
    """The candidate id and the words of every text column."""
    texts = [name for name in data.candidates.column_names if is_text(data.candidates[name])]
    return [Category(data.candidate_id, dim, unknown_rate), *(Text(name, dim) for name in texts)]


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds words rather than labels, numbers or dates."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return False
    words = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(column))).as_py()
    return bool(words >= WORDS_OF_A_TEXT)
