"""Exposed negatives: candidates that were shown with an event and not chosen, as logits of that event's row alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.data.dataset import Dataset, IntArray
from twotower.data.log import Log, require_in_memory
from twotower.errors import ConfigError, DataError


def exposed_with(train: Log, count: int) -> Tensor | None:
    """Up to `count` candidates that were shown with each event, int64 `[N, count]`, −1 where there are fewer.

    They are those shown nearest in time to the event; of equally near ones, those that come first in their list. A
    candidate that the query has chosen in any event of `train` is not among them.

    Returns:
        None if `count` is 0.

    Raises:
        ConfigError: The log is streamed, or does not say what was shown.
        DataError: Nothing was shown with any event of `train`, other than what its query has chosen.
    """
    if count == 0:
        return None
    events = require_in_memory(train, f"exposed_negatives={count}", "exposed_negatives=0")
    if events.exposures is None:
        raise ConfigError(
            f"exposed_negatives={count}, but {events.name!r} does not say what was shown and not chosen; expected "
            f"chosen=…, the column that does, or exposed_negatives=0",
            field="exposed_negatives",
        )
    position, candidates = _shown(events)
    place = np.arange(len(position)) - np.searchsorted(position, position)
    nearest = np.full((len(events), count), -1, dtype=np.int64)
    kept = place < count
    nearest[position[kept], place[kept]] = candidates[kept]
    if not kept.any():
        raise DataError(
            f"exposed_negatives={count}, but nothing was shown with the {len(events):,} events of train beside what "
            f"their queries have chosen; expected some, or exposed_negatives=0"
        )
    return torch.from_numpy(nearest)


def exposed_logits(query: Tensor, candidates: Tensor, exposed: Tensor, log_weight: float) -> Tensor:
    """`q·c + log_weight` for the exposed candidates of each row, −∞ where there are fewer, `[B, n]`.

    Args:
        query: Query embeddings, `[B, d]`.
        candidates: Candidate embeddings, `[C, d]`.
        exposed: Rows of `candidates`, −1 for none, `[B, n]`.
        log_weight: Added to each logit.
    """
    # The gradient of an embedding is summed in the same order on every run; that of an index need not be.
    shown = F.embedding(exposed.clamp_min(0), candidates)  # [B, n, d]
    logits = torch.einsum("bd,bnd->bn", query, shown) + log_weight
    return logits.masked_fill(exposed < 0, -torch.inf)


class ExposedNegatives:
    """The exposed negatives of a loss, bound to its training data.

    Args:
        train: The training data.
        count: How many candidates each event gets at most.
        weight: How much each counts.
    """

    def __init__(self, train: Log, count: int, weight: float) -> None:
        self.nearest, self.log_weight = exposed_with(train, count), math.log(weight)

    def of(self, events: Tensor | None, device: torch.device) -> Tensor | None:
        """Rows of the candidate table for the events of a batch, `[B, n]`; None if the loss has no such negatives.

        Args:
            events: Number of each event in the training data, `[B]`.
            device: Device of the batch.

        Raises:
            ConfigError: The batch does not have the numbers of its events.
        """
        if self.nearest is None:
            return None
        if events is None:
            raise ConfigError("exposed negatives need Batch.events; expected the number of each event in the log")
        if self.nearest.device != device:
            self.nearest = self.nearest.to(device)
        return self.nearest.index_select(0, events)


def _shown(events: Dataset) -> tuple[IntArray, IntArray]:
    """Every (event, candidate shown with it) pair without choices of its query; by event, nearest in time first."""
    shown = events.exposures
    assert shown is not None
    position, entry = shown.pairs(np.arange(len(events)))
    candidates = shown.candidates[entry]
    size = events.candidates.num_rows
    own = events.query_index * size + events.candidate_index
    kept = ~np.isin(events.query_index[position] * size + candidates, own)
    position, entry, candidates = position[kept], entry[kept], candidates[kept]
    if shown.times is None or events.time is None:
        return position, candidates
    order = np.lexsort((np.abs(shown.times[entry] - events.times[position]), position))
    return position[order], candidates[order]
