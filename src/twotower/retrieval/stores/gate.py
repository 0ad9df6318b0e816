"""The parity gate of a store: widen the search until recall@100 against exact search is high enough."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from twotower.errors import ParityError
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.parity import MARGIN, THRESHOLD, K, Parity
from twotower.retrieval.stores.store import Publication, Store

BATCH = 32
"""Search this many queries at once."""

S = TypeVar("S", bound="Widens")


class Widens(Store, Protocol):
    """A store whose `wider` returns the same class."""

    def wider(self: S) -> S | None:
        """See `Store.wider`."""
        ...


def fitted_store(store: S, publication: Publication) -> tuple[S, Parity]:
    """Widen a store's search until recall exceeds the threshold by a margin; returns the store and its parity.

    Raises:
        ParityError: Recall is below the threshold even with the widest search.
    """
    queries, threshold = publication.queries, publication.threshold
    k = min(K, len(publication.candidates))
    true = ExactIndex.over(publication.embeddings).search(queries, k).scores  # [n, k]
    lowest = true[:, -1:] - 1e-5 * true.abs().amax(dim=1, keepdim=True)
    least = THRESHOLD if threshold is None else threshold
    aim = least + MARGIN * (1 - least)
    while (recall := _recall(store, queries, k, lowest)) < aim and (wider := store.wider()) is not None:
        store = wider
    if threshold is not None and recall < threshold:
        raise ParityError(
            f"the {store.kind} store finds {recall:.3f} of the {k} best candidates of {len(queries)} queries with its "
            f"widest search; expected at least {threshold}: build a larger graph (neighbours, build), or lower the "
            f"threshold (parity)"
        )
    return store, Parity(k, len(queries), recall, threshold)


def _recall(store: Store, queries: Tensor, k: int, lowest: Tensor) -> float:
    if len(queries) == 0:
        return 1.0
    parts = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    found = [one.scores for part in parts for one in store.search(part, k)]
    return float((torch.from_numpy(np.stack(found)) >= lowest).float().mean())
