"""Diverse lists: candidates that are both good and unlike those above them, by maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower.retrieval.index import IntArray

POOL = 5
"""Candidates that a diverse list of k is chosen from, in multiples of k."""

LEAST_POOL = 100
"""Candidates that a short diverse list is chosen from."""


def pool_of(k: int, diversity: float) -> int:
    """How many candidates to retrieve for a list of k.

    Example:
        >>> pool_of(10, 0.0), pool_of(10, 0.3), pool_of(50, 0.3)
        (10, 100, 250)
    """
    return k if diversity == 0 else max(LEAST_POOL, POOL * k)


def marginal_relevance(
    scores: npt.NDArray[np.floating], embeddings: npt.NDArray[np.float32], k: int, diversity: float
) -> IntArray:
    """Places of k retrieved candidates in the order of maximal marginal relevance.

    One after the other, the candidate is taken that has the highest

        (1 − diversity) · relevance(i) − diversity · max_{j taken} cos(i, j)

    (Carbonell and Goldstein, *The use of MMR, diversity-based reranking for reordering documents and producing
    summaries*, SIGIR 1998, whose λ is 1 − diversity). The relevance is the score on a scale from 0, the lowest of those
    retrieved, to 1, the highest; the cosine is that of the candidates' embeddings.

    Args:
        scores: Scores of the candidates, the best first, `[n]`.
        embeddings: Their embeddings, `[n, d]`.
        k: How many; all where there are fewer.
        diversity: From 0, the order of the scores, to 1, which looks at the scores for the first candidate alone.

    Returns:
        Places, `[min(k, n)]`; equal ones in order of their places.

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
    nearest = np.full(len(scores), -np.inf)  # the highest cosine with one that is taken
    worth = relevance.copy()
    for place in range(len(taken)):
        best = taken[place] = int(np.argmax(worth))
        np.maximum(nearest, units @ units[best], out=nearest)
        worth = (1 - diversity) * relevance - diversity * nearest
        worth[taken[: place + 1]] = -np.inf
    return taken
