"""Diverse lists by maximal marginal relevance: candidates that score well and differ from those above them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower.retrieval.index import IntArray

POOL_FACTOR = 5
"""Choose a diverse list of k from this many times k candidates."""

MIN_POOL = 100
"""Choose a diverse list from at least this many candidates."""


def pool_of(k: int, diversity: float) -> int:
    """How many candidates to retrieve for a list of k.

    Example:
        >>> pool_of(10, 0.0), pool_of(10, 0.3), pool_of(50, 0.3)
        (10, 100, 250)
    """
    return k if diversity == 0 else max(MIN_POOL, POOL_FACTOR * k)


def marginal_relevance(
    scores: npt.NDArray[np.floating], embeddings: npt.NDArray[np.float32], k: int, diversity: float
) -> IntArray:
    """Places of k retrieved candidates in the order of maximal marginal relevance.

    Each step takes the candidate with the highest

        (1 − diversity) · relevance(i) − diversity · max_{j taken} cos(i, j)

    (Carbonell and Goldstein, *The use of MMR, diversity-based reranking for reordering documents and producing
    summaries*, SIGIR 1998, whose λ is 1 − diversity). The relevance is the score, rescaled so that the lowest retrieved
    score is 0 and the highest 1; the cosine is between the candidates' embeddings.

    Args:
        scores: Scores of the candidates, best first, `[n]`.
        embeddings: Their embeddings, `[n, d]`.
        k: How many to take; all if there are fewer.
        diversity: From 0, which keeps the order of the scores, to 1, which uses the scores only for the first
            candidate.

    Returns:
        Places, `[min(k, n)]`; ties in order of place.

    Example:
        >>> embeddings = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
        >>> marginal_relevance(np.array([3.0, 2.9, 1.0]), embeddings, 2, diversity=0.5).tolist()
        [0, 2]
    """
    if len(scores) == 0:
        return np.empty(0, dtype=np.int64)
    relevance = scores.astype(np.float64)
    relevance = (relevance - relevance.min()) / (np.ptp(relevance) or 1.0)
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    taken = np.empty(min(k, len(scores)), dtype=np.int64)
    nearest = np.full(len(scores), -np.inf)  # highest cosine with a candidate already taken
    worth = relevance.copy()
    for place in range(len(taken)):
        best = taken[place] = int(np.argmax(worth))
        np.maximum(nearest, units @ units[best], out=nearest)
        worth = (1 - diversity) * relevance - diversity * nearest
        worth[taken[: place + 1]] = -np.inf
    return taken
