"""Exact search: the candidates with the highest dot products, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
BLOCK = 1 << 16
"""Candidates scored at once."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What a search found, the best first.

    Attributes:
        candidates: Rows of the candidate table, `[n, k]`; −1 where nothing is left.
        scores: Their scores, `[n, k]`; −inf where nothing is left.
    """

    candidates: Tensor
    scores: Tensor


class ExactIndex:
    """All candidates' embeddings, searched in full.

    Args:
        embeddings: Candidate embeddings, float32 `[C, d]`.
    """

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    def search(self, queries: Tensor, k: int, excluded: tuple[IntArray, IntArray] | None = None) -> Hits:
        """The k best candidates of each query that are not excluded, equal scores by row.

        Args:
            queries: Query embeddings, `[n, d]`.
            k: How many; fewer are found where fewer are left.
            excluded: (query, candidate) pairs that may not be found, as places in `queries` and rows of the
                candidate table. They are left out inside the search, so that k others are found.
        """
        best_scores = queries.new_full((len(queries), 0), -torch.inf)
        best = torch.zeros((len(queries), 0), dtype=torch.int64)
        for start in range(0, len(self.embeddings), BLOCK):
            block = self.embeddings[start : start + BLOCK]
            scores = queries @ block.t()  # [n, block]
            if excluded is not None:
                rows, columns = excluded
                inside = (columns >= start) & (columns < start + len(block))
                scores[torch.from_numpy(rows[inside]), torch.from_numpy(columns[inside] - start)] = -torch.inf
            found = scores.topk(min(k, len(block)), dim=1)
            merged = torch.cat([best_scores, found.values], dim=1)
            rows_found = torch.cat([best, found.indices + start], dim=1)
            kept = merged.topk(min(k, merged.shape[1]), dim=1)
            best_scores, best = kept.values, rows_found.gather(1, kept.indices)
        return Hits(best.masked_fill(best_scores == -torch.inf, -1), best_scores)
