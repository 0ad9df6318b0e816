"""Columns that tasks learn from: a number per event, NaN where it is missing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import DataError

FloatArray = npt.NDArray[np.float64]

SAMPLE = 1_000_000
"""Means and baselines learn from at most this many events of a log on disk."""


def targets_of(events: Dataset, column: str) -> FloatArray:
    """The column of the interactions as numbers, NaN where a value is missing, `[N]`.

    Raises:
        DataError: The column does not exist, does not hold numbers, or has an infinite one.

    Example:
        >>> from twotower.data import from_tables
        >>> log = pa.table({"who": [1, 2], "what": [1, 2], "stars": [4, None]})
        >>> targets_of(from_tables(log, query_id="who", candidate_id="what"), "stars").tolist()
        [4.0, nan]
    """
    require_target(events, column)
    values = events.interactions[column]
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise DataError(f"column {column!r} is {values.type}; expected numbers to learn from", column=column)
    numbers: FloatArray = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    if (infinite := np.flatnonzero(np.isinf(numbers))).size:
        row = int(infinite[0])
        raise DataError(
            f"events, column {column!r}, row {row}: {numbers[row]}; expected a finite number or null",
            column=column,
            row=row,
        )
    return numbers


def require_target(events: Log, column: str) -> None:
    """Refuses a log whose interactions lack a column.

    Raises:
        DataError: The column is missing.
    """
    if events.exposures is not None and events.exposures.chosen == column:
        raise DataError(
            f"column {column!r} says which rows were chosen, so it is the same for all events; only Rating learns from "
            f"it, with what was shown",
            column=column,
        )
    if column not in events.columns:
        raise DataError(
            f"column {column!r} is not in the interactions, which have {', '.join(events.columns)}", column=column
        )


def target_columns(events: Dataset, names: Iterable[str]) -> dict[str, Tensor]:
    """The columns as tensors, float32 `[N]` each, by name."""
    return {name: torch.from_numpy(targets_of(events, name)).float() for name in names}


def known_targets(train: Log, column: str) -> tuple[Dataset, FloatArray]:
    """The events of train with a target and a weight above 0, and the targets, `[n]`; a sample if the log is on disk.

    Raises:
        DataError: There are no such events.
    """
    require_target(train, column)
    events = train.events_to_learn(SAMPLE, [column], seed=0)
    targets = targets_of(events, column)
    known = ~np.isnan(targets) & (events.weights > 0)
    if not known.any():
        raise DataError(f"column {column!r} has no value in train; expected some to learn from", column=column)
    return events.take(known), targets[known]
