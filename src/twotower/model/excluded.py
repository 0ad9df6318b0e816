"""`Excluded`: the logits that a loss leaves out of its softmax."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twotower.data.availability import Availability, FloatArray, IntArray
from twotower.data.log import Log, require_in_memory
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.model.softmax import Removed


class Excluded:
    """What is no negative of an event: candidates not available at its time and, if asked for, known choices.

    Args:
        train: The training events.
        mask_known: Whether to leave out the other candidates that an event's query has chosen in train.

    Raises:
        ConfigError: `mask_known` is set and the log is streamed.
    """

    def __init__(self, train: Log, mask_known: bool) -> None:
        self.known = Seen.of(require_in_memory(train, "mask_known=True", "mask_known=False")) if mask_known else None
        self.available = train.availability
        self.catalogue = train.candidates.num_rows

    def of(self, queries: Tensor, candidates: Tensor, times: Tensor | None, columns: Tensor) -> Removed | None:
        """The logits of a batch to leave out, never an event's own candidate; None if there are none to look for.

        Args:
            queries: Row of each event's query, `[B]`.
            candidates: Row of each event's candidate, `[B]`.
            times: Time of each event in seconds, `[B]`; None if the log has no limits.
            columns: The candidates of the softmax, distinct and ascending, `[C]`.

        Raises:
            TwoTowerError: The log has limits, and no times are given.
        """
        if self.known is None and self.available is None:
            return None
        own, distinct = candidates.cpu().numpy(), columns.cpu().numpy()
        pairs = []
        if self.known is not None:
            pairs.append(self._known(self.known, queries.cpu().numpy(), own, distinct))
        if self.available is not None:
            if times is None:
                raise TwoTowerError("the log says when candidates are available; expected a batch with times")
            pairs.append(self._unavailable(self.available, times.cpu().numpy(), own, distinct))
        rows, places = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        if len(pairs) > 1:
            order = np.argsort(rows, kind="stable")
            rows, places = rows[order], places[order]
        return Removed(torch.from_numpy(rows).to(columns.device), torch.from_numpy(places).to(columns.device))

    def _known(self, known: Seen, queries: IntArray, own: IntArray, distinct: IntArray) -> tuple[IntArray, IntArray]:
        """(row, column) of the other candidates that each row's query has chosen."""
        rows, candidates = known.pairs(queries)
        column_of = np.full(self.catalogue, -1, dtype=np.int64)
        column_of[distinct] = np.arange(len(distinct))
        columns = column_of[candidates]
        kept = (columns >= 0) & (candidates != own[rows])
        return rows[kept], columns[kept]

    def _unavailable(
        self, available: Availability, times: FloatArray, own: IntArray, distinct: IntArray
    ) -> tuple[IntArray, IntArray]:
        """(row, column) of the candidates that were not available at each row's time."""
        missing = available.lacks(distinct, times[:, np.newaxis])
        missing[np.arange(len(own)), np.searchsorted(distinct, own)] = False
        rows, columns = np.nonzero(missing)
        return rows, columns
