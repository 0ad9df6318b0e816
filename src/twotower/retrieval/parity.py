"""Parity: how many of the candidates that exact search finds an approximate index finds as well."""

from __future__ import annotations

import msgspec
from torch import Tensor

from twotower.errors import ParityError
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.index import Index

K = 100
THRESHOLD = 0.95
"""The least recall of an approximate index, unless another is asked for."""

QUERIES = 256
"""Queries that recall is measured on, at most."""


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured when the index was made.

    Attributes:
        k: Candidates asked for.
        queries: Queries asked.
        recall: Share of what exact search finds that the index finds, too.
        threshold: What was demanded; None where nothing was.
    """

    k: int
    queries: int
    recall: float
    threshold: float | None


def measure_parity(index: Index, queries: Tensor, threshold: float | None, k: int = K) -> Parity:
    """Recall@k of an index against exact search.

    A candidate that scores as high as the last one of the exact answer counts as found, so that ties cost nothing.

    Args:
        index: The index.
        queries: Query embeddings, `[n, d]`.
        threshold: The least recall.
        k: How many candidates to ask for.

    Raises:
        ParityError: The recall is below the threshold.

    Example:
        >>> import torch
        >>> index = ExactIndex(torch.randn(50, 4))
        >>> measure_parity(index, torch.randn(9, 4), threshold=0.95, k=5)
        Parity(k=5, queries=9, recall=1.0, threshold=0.95)
    """
    k = min(k, len(index))
    true = ExactIndex.over(index.embeddings).search(queries, k).scores  # [n, k]
    found = index.search(queries, k).scores
    rounding = 1e-5 * true.abs().amax(dim=1, keepdim=True)
    recall = (found >= true[:, -1:] - rounding).float().mean().item()
    if threshold is not None and recall < threshold:
        raise ParityError(
            f"the {index.kind} index finds {recall:.3f} of the {k} best candidates of {len(queries)} queries; expected "
            f"at least {threshold}: let it search more widely, lower the threshold (parity), or use exact search"
        )
    return Parity(k, len(queries), recall, threshold)
