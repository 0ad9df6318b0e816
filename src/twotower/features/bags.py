"""Bags: rows with several values each, as padded rows of an embedding table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.features.tables import look_up

PADDING, UNKNOWN, FIRST = 0, 1, 2


def padded_rows(values: pa.Array, lengths: npt.NDArray[np.int64], vocabulary: pa.Array, max_length: int) -> Tensor:
    """Rows of a table, padded with 0 at the end: int32 `[N, longest]`.

    Args:
        values: All values one after the other, none of them null.
        lengths: How many belong to each row, `[N]`.
        vocabulary: What has a row of its own, from row 2; all else has row 1.
        max_length: Values read of each row, at most: the first ones.
    """
    rows = look_up(values, vocabulary, first=FIRST, missing=PADDING).numpy()
    rows = np.where(rows == 0, UNKNOWN, rows)  # every value is there, so 0 can only be "not in the vocabulary"
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < max_length
    row = np.repeat(np.arange(len(lengths)), lengths)
    padded = np.full((len(lengths), min(lengths.max(initial=1), max_length)), PADDING, dtype=np.int32)
    padded[row[kept], place[kept]] = rows[kept]
    return torch.from_numpy(padded)


def mean_of_rows(rows: Tensor, table: Tensor) -> Tensor:
    """The mean of a table's rows `[n, longest]`, padding left out, as `[n, dim]`; zeros where there is only padding.

    A CPU is spared the padding, of which there is often more than all else; other devices would have to wait until it
    is known how much there is.
    """
    if rows.device.type != "cpu":
        return F.embedding_bag(rows, table, mode="mean", padding_idx=PADDING)
    there = rows != PADDING
    lengths = there.sum(dim=1)
    begins = lengths.cumsum(dim=0).sub_(lengths)
    return F.embedding_bag(rows.masked_select(there).long(), table, begins, mode="mean")
