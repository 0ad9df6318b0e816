"""Parity: the recall of an approximate index against exact search."""

from __future__ import annotations

import msgspec
from torch import Tensor

from twotower.errors import ParityError
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.index import Index

K = 100
THRESHOLD = 0.95
"""The default for the lowest accepted recall of an approximate index."""

MARGIN = 0.4
"""Widen the search until recall closes 40% of the gap from the threshold to 1; unmeasured queries may find less."""

QUERIES = 256
"""Measure recall on at most this many queries."""


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recall of an index, measured when it was built.

    Attributes:
        k: Number of candidates per query.
        queries: Number of queries.
        recall: Share of the exact results that the index finds, too.
        threshold: The required recall; None if none was required.
    """

    k: int
    queries: int
    recall: float
    threshold: float | None


def measure_parity(index: Index, queries: Tensor, threshold: float | None, k: int = K) -> Parity:
    """Recall@k of an index against exact search.

    A candidate that scores as high as the last exact result counts as found, so that ties cost nothing.

    Args:
        index: The index.
        queries: Query embeddings, `[n, d]`.
        threshold: The required recall; None for any.
        k: Number of candidates per query.

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
    """Widen an index's search until recall exceeds the threshold by a margin; returns the index and its parity.

    Args:
        index: The index, at its initial width.
        queries: Query embeddings, `[n, d]`.
        threshold: The required recall; None to aim for the default without raising an error.

    Raises:
        ParityError: Recall is below the threshold even with the widest search.
    """
    k = min(K, len(index))
    lowest = _lowest(index, queries, k)
    least = THRESHOLD if threshold is None else threshold
    aim = least + MARGIN * (1 - least)
    while (recall := _recall(index, queries, k, lowest)) < aim and (wider := index.wider()) is not None:
        index = wider
    return index, _checked(index, Parity(k, len(queries), recall, threshold))


def _lowest(index: Index, queries: Tensor, k: int) -> Tensor:
    """The lowest score among each query's k best, minus an allowance for rounding, `[n, 1]`."""
    true = ExactIndex.over(index.embeddings).search(queries, k).scores  # [n, k]
    return true[:, -1:] - 1e-5 * true.abs().amax(dim=1, keepdim=True)


def _recall(index: Index, queries: Tensor, k: int, lowest: Tensor) -> float:
    return (index.search(queries, k).scores >= lowest).float().mean().item()


def _checked(index: Index, parity: Parity) -> Parity:
    recall, k, threshold = parity.recall, parity.k, parity.threshold
    if threshold is not None and recall < threshold:
        raise ParityError(
            f"the {index.kind} index finds {recall:.3f} of the {k} best candidates of {parity.queries} queries; "
            f"expected at least {threshold}: widen the search, lower the threshold (parity), or search exactly"
        )
    return parity
