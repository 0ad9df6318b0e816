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

MARGIN = 0.4
"""How much nearer to 1 the recall is to be than the threshold, as other queries may find less than those measured."""

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
    recall = _recall(index, queries, k, _lowest(index, queries, k))
    return _checked(index, Parity(k, len(queries), recall, threshold))


def fitted(index: Index, queries: Tensor, threshold: float | None) -> tuple[Index, Parity]:
    """The index, made to look more widely until it finds a little more than is demanded, and what it then finds.

    Args:
        index: The index, as narrow as it is at first.
        queries: Query embeddings, `[n, d]`.
        threshold: The least recall; None for what is usual, and no error.

    Raises:
        ParityError: The recall is below the threshold, however widely it looks.
    """
    k = min(K, len(index))
    lowest = _lowest(index, queries, k)
    least = THRESHOLD if threshold is None else threshold
    aim = least + MARGIN * (1 - least)
    while (recall := _recall(index, queries, k, lowest)) < aim and (wider := index.wider()) is not None:
        index = wider
    return index, _checked(index, Parity(k, len(queries), recall, threshold))


def _lowest(index: Index, queries: Tensor, k: int) -> Tensor:
    """What a candidate of each query has to score to be among the k best, less what rounding may cost, `[n, 1]`."""
    true = ExactIndex.over(index.embeddings).search(queries, k).scores  # [n, k]
    return true[:, -1:] - 1e-5 * true.abs().amax(dim=1, keepdim=True)


def _recall(index: Index, queries: Tensor, k: int, lowest: Tensor) -> float:
    return (index.search(queries, k).scores >= lowest).float().mean().item()


def _checked(index: Index, parity: Parity) -> Parity:
    recall, k, threshold = parity.recall, parity.k, parity.threshold
    if threshold is not None and recall < threshold:
        raise ParityError(
            f"the {index.kind} index finds {recall:.3f} of the {k} best candidates of {parity.queries} queries; "
            f"expected at least {threshold}: let it search more widely, lower the threshold (parity), or search exactly"
        )
    return parity
