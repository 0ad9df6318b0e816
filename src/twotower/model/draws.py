"""The probability that an event of a batch names each candidate, for the correction of in-batch softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.data.log import Log
from twotower.data.place import Place, cell_errors_in
from twotower.errors import DataError
from twotower.features.numeric import numbers_of

TINY = torch.finfo(torch.float64).tiny
"""Replaces 0 so that the logarithm is finite; only for candidates that no batch contains."""


def share_of_events(train: Log) -> Tensor:
    """Each candidate's share of the training events, float64 `[C]`."""
    counts = torch.from_numpy(train.candidate_counts()).double()
    return (counts / counts.sum()).clamp_min(TINY)


def probability_column(column: str, train: Log) -> Tensor:
    """The probabilities in a column of the candidate table, float64 `[C]`, normalised to sum to 1.

    Raises:
        DataError: The column is missing, is not numeric, or holds an invalid number; see `checked_probability`.
    """
    with cell_errors_in(Place(table="candidates")):
        values = numbers_of(train.candidate_column(column), column)
    return checked_probability(torch.tensor(values), train, f"draw_probability, candidate column {column!r}")


def checked_probability(probability: Tensor, train: Log, name: str) -> Tensor:
    """Probabilities, or numbers proportional to them, divided by their sum, float64 `[C]`.

    Args:
        probability: One number per candidate, `[C]`.
        train: The events that batches are drawn from.
        name: The name used in error messages.

    Raises:
        DataError: There is not one number per candidate, or one is not finite, below 0, or 0 for a candidate that an
            event names, whose corrected logit would be infinite.

    Example:
        >>> from twotower.data import simulated
        >>> checked_probability(torch.ones(4), simulated(5, 4, 100), "draw_probability")
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    if tuple(probability.shape) != (train.candidates.num_rows,):
        raise DataError(
            f"{name} has the shape {list(probability.shape)}; expected [{train.candidates.num_rows}], one per candidate"
        )
    probability = probability.detach().cpu().double()
    counts = torch.from_numpy(train.candidate_counts())
    wrong = ~probability.isfinite() | (probability < 0) | ((probability == 0) & (counts > 0))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        candidate = train.candidates[train.candidate_id][row].as_py()
        raise DataError(
            f"{name}, row {row} ({train.candidate_id} {candidate!r}, {int(counts[row]):,} training events): "
            f"{probability[row].item()}; expected a finite number, above 0 where a training event names the candidate"
        )
    return (probability / probability.sum()).clamp_min(TINY)
