"""Exposed negatives: candidates that were shown with an event and not chosen, as logits of that event's row alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.data.dataset import IntArray
from twotower.data.exposures import Exposures
from twotower.data.log import Log
from twotower.data.ordered import QueryRange, SortedEvents
from twotower.data.scratch import scratch
from twotower.errors import ConfigError, DataError


def exposed_with(train: Log, count: int) -> Tensor | None:
    """Up to `count` candidates that were shown with each event, int64 `[N, count]`, −1 where there are fewer.

    They are those shown nearest in time to the event; of equally near ones, those that come first in their list. A
    candidate that the query has chosen in any event of `train` is not among them.

    Returns:
        Indexed by the number of the event, see `Exposures`; for a log on disk, an unnamed file. None if `count` is 0.

    Raises:
        ConfigError: The log does not say what was shown.
        DataError: Nothing was shown with any event of `train`, other than what its query has chosen.
    """
    if count == 0:
        return None
    shown = train.exposures
    if shown is None:
        raise ConfigError(
            f"exposed_negatives={count}, but {train.name!r} does not say what was shown and not chosen; expected "
            f"chosen=…, the column that does, or exposed_negatives=0",
            field="exposed_negatives",
        )
    size = len(shown.lists) * count
    nearest = np.empty(size, dtype=np.int64) if train.in_memory is not None else scratch(size, np.int64)
    nearest[:] = -1
    nearest, found = nearest.reshape(-1, count), False
    events = train.sorted_events()
    for piece in events.pieces():
        position, candidates = _shown(events, piece, shown, train.candidates.num_rows)
        place = np.arange(len(position)) - np.searchsorted(position, position)
        kept = place < count
        nearest[events.rows[piece.events][position[kept]], place[kept]] = candidates[kept]
        found |= bool(kept.any())
    if not found:
        raise DataError(
            f"exposed_negatives={count}, but nothing was shown with the {len(train):,} events of train beside what "
            f"their queries have chosen; expected some, or exposed_negatives=0"
        )
    return torch.from_numpy(nearest)


def exposed_logits(query: Tensor, candidates: Tensor, exposed: Tensor, log_weight: float) -> Tensor:
    """`q·c + log_weight` for the exposed candidates of each row, −∞ where there are fewer, `[B, n]`.

    Args:
        query: Query embeddings, `[B, d]`, or `[B, K, d]` for several of each query.
        candidates: Candidate embeddings, `[C, d]`.
        exposed: Rows of `candidates`, −1 for none, `[B, n]`.
        log_weight: Added to each logit.
    """
    # The gradient of an embedding is summed in the same order on every run; that of an index need not be.
    shown = F.embedding(exposed.clamp_min(0), candidates)  # [B, n, d]
    each = query.unsqueeze(1) if query.dim() == 2 else query  # [B, K, d]
    logits = torch.einsum("bkd,bnd->bkn", each, shown).amax(dim=1) + log_weight
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
        self.on_disk = train.in_memory is None

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
        if self.on_disk:
            return self.nearest.index_select(0, events.cpu()).to(device)
        if self.nearest.device != device:
            self.nearest = self.nearest.to(device)
        return self.nearest.index_select(0, events)


def _shown(events: SortedEvents, piece: QueryRange, shown: Exposures, catalogue: int) -> tuple[IntArray, IntArray]:
    """Every (position in the piece, candidate shown with that event) pair, nearest in time first.

    Candidates that the event's query has chosen are left out.
    """
    position, entry = shown.pairs(events.rows[piece.events])
    candidates, queries = shown.candidates[entry], events.query_numbers(piece)
    own = queries * catalogue + events.candidates[piece.events]
    kept = ~np.isin(queries[position] * catalogue + candidates, own)
    position, entry, candidates = position[kept], entry[kept], candidates[kept]
    if shown.times is None or events.times is None:
        return position, candidates
    order = np.lexsort((np.abs(shown.times[entry] - events.times[piece.events][position]), position))
    return position[order], candidates[order]
