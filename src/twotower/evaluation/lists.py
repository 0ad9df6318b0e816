"""Metrics of lists with graded relevance: NDCG and mean average precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def padded(groups: IntArray) -> tuple[IntArray, BoolArray]:
    """The members of each group in a padded matrix, `[groups, longest]`, and a mask of the real ones.

    Args:
        groups: Group of each member, `[N]`; the rows of the matrix are the groups in ascending order.

    Example:
        >>> members, mask = padded(np.array([7, 3, 7]))
        >>> members.tolist(), mask.tolist()
        ([[1, 0], [0, 2]], [[True, False], [True, True]])
    """
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    column = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    members = np.zeros((len(sizes), int(sizes.max(initial=0))), dtype=np.int64)
    mask = np.zeros(members.shape, dtype=bool)
    members[place[order], column] = order
    mask[place[order], column] = True
    return members, mask


def ndcg(scores: FloatArray, relevance: FloatArray, mask: BoolArray, k: int | None = None) -> FloatArray:
    """NDCG of each list, `[L]`: Σ (2^relevance − 1) / log2(1 + rank), divided by that of the ideal order.

    Tied members share the mean discount of their ranks (McSherry and Najork, *Computing information retrieval
    performance measures efficiently in the presence of tied scores*, ECIR 2008). A list without relevant members
    has 0.

    Args:
        scores: `[L, n]`.
        relevance: At least 0, `[L, n]`.
        mask: False for padding, `[L, n]`.
        k: How many ranks count; None: all.

    Example:
        >>> everything = np.ones((1, 3), dtype=bool)
        >>> ndcg(np.array([[3.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 0.0]]), everything).round(4).tolist()
        [0.6309]
    """
    gains = np.where(mask, np.exp2(np.where(mask, relevance, 0.0)) - 1, 0.0)
    places = np.arange(scores.shape[1])
    discounts = np.where(places < (len(places) if k is None else k), 1 / np.log2(2 + places), 0.0)
    found = _gained(np.where(mask, scores, -np.inf), gains, discounts)
    best = (-np.sort(-gains, axis=1)) @ discounts
    share: FloatArray = np.divide(found, best, out=np.zeros(len(found)), where=best > 0)
    return share


def average_precision(scores: FloatArray, relevant: BoolArray, mask: BoolArray) -> FloatArray:
    """Average precision of each list, `[L]`: the mean of the precision at the ranks of its relevant members.

    Tied members get their mean rank, as in `query_metrics`. A list without relevant members has 0.

    Example:
        >>> everything = np.ones((1, 3), dtype=bool)
        >>> relevant = np.array([[True, False, True]])
        >>> average_precision(np.array([[3.0, 2.0, 1.0]]), relevant, everything).round(4).tolist()
        [0.8333]
    """
    ranks = np.empty(scores.shape)
    for row in range(scores.shape[1]):
        own = scores[:, row : row + 1]
        higher = ((scores > own) & mask).sum(axis=1)
        ranks[:, row] = 1 + higher + (((scores == own) & mask).sum(axis=1) - 1) / 2
    chosen = relevant & mask
    sorted_ranks = np.sort(np.where(chosen, ranks, np.inf), axis=1)
    precision = np.minimum(1.0, np.arange(1, scores.shape[1] + 1) / sorted_ranks)
    count = chosen.sum(axis=1)
    total = np.where(np.isfinite(sorted_ranks), precision, 0.0).sum(axis=1)
    mean: FloatArray = np.divide(total, count, out=np.zeros(len(total)), where=count > 0)
    return mean


def _gained(scores: FloatArray, gains: FloatArray, discounts: FloatArray) -> FloatArray:
    """Σ gain · discount of each list in score order, with the discounts of ties averaged."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    starts = np.ones(ordered.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    tie = np.cumsum(starts.reshape(-1)) - 1  # the run of equal scores that each rank belongs to
    shared = np.bincount(tie, np.tile(discounts, len(scores))) / np.bincount(tie)
    found: FloatArray = (np.take_along_axis(gains, order, axis=1) * shared[tie].reshape(ordered.shape)).sum(axis=1)
    return found
