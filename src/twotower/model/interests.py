"""Several embeddings of a query, its interests: a candidate's score is the highest of its dot products with them.

The embeddings of one query are side by side, `[n, K·d]`, so that code which stores, moves or gathers rows need not know
how many there are. With K = 1, everything here is the plain dot product. Multi-interest models are from Li et al.,
*Multi-interest network with dynamic routing for recommendation at Tmall*, CIKM 2019, and Cen et al., *Controllable
multi-interest framework for recommendation*, KDD 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_INTERESTS = 64
"""Most embeddings of a query."""


def best_scores(queries: Tensor, candidates: Tensor) -> Tensor:
    """The score of every candidate for every query, `[n, m]`.

    Args:
        queries: Query embeddings, `[n, K·d]`.
        candidates: Candidate embeddings, `[m, d]`.

    Example:
        >>> two_interests = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
        >>> best_scores(two_interests, torch.eye(2))
        tensor([[1., 2.]])
    """
    if queries.shape[1] == candidates.shape[1]:
        return queries @ candidates.T
    scores: Tensor = (apart(queries, candidates.shape[1]) @ candidates.T).amax(dim=1)  # [n, K, m] -> [n, m]
    return scores


def write_best_scores(queries: Tensor, transposed: Tensor, out: Tensor) -> None:
    """Writes `best_scores` to existing memory `[n, m]`, given the transposed candidate embeddings `[d, m]`."""
    first, *others = apart(queries, len(transposed)).unbind(1)
    torch.mm(first, transposed, out=out)
    for other in others:
        torch.maximum(out, other @ transposed, out=out)


def best_of_pairs(queries: Tensor, candidates: Tensor) -> Tensor:
    """Of each query, the embedding that scores its own candidate highest, `[n, d]`.

    Args:
        queries: Query embeddings, `[n, K·d]`.
        candidates: One candidate embedding for each, `[n, d]`.

    Example:
        >>> two_interests = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
        >>> best_of_pairs(two_interests, torch.tensor([[0.0, 1.0]]))
        tensor([[0., 2.]])
    """
    if candidates.shape[1] in (0, queries.shape[1]):  # without embeddings, there is nothing to choose by
        return queries
    each = apart(queries, candidates.shape[1])
    best = (each * candidates.unsqueeze(1)).sum(dim=2).argmax(dim=1)  # [n]
    return each.gather(1, best[:, None, None].expand(-1, 1, each.shape[2])).squeeze(1)


def apart(queries: Tensor, width: int) -> Tensor:
    """Query embeddings `[n, K·d]`, each interest by itself, `[n, K, d]`, given the `width` d."""
    return queries.reshape(len(queries), queries.shape[1] // max(1, width), width)
